"""What the page of the app sends for the results of a generator."""

from typing import Any

import gradio as gr

from workbench.server.blocks import Blocks


def sent(*results: list[Any], **options: Any) -> list[list[Any]]:
    """Return what is sent for the results of a generator with two outputs."""
    with Blocks() as page:
        gr.Button().click(lambda: None, None, [gr.Textbox(), gr.Textbox()])
    listener = next(iter(page.fns.values()))
    return [page.handle_streaming_diffs(listener, list(result), "page", "run", False, **options) for result in results]


def test_later_results_replace_whole_values() -> None:
    first = [{"choices": ["a", "b"], "value": "a"}, "same"]
    second = [{"value": "a", "label": "Runs"}, "same"]
    assert sent(first, second, first) == [first, [[["replace", [], second[0]]], []], [[["replace", [], first[0]]], []]]


def test_calls_without_edits_get_whole_values() -> None:
    assert sent(["a", "b"], ["c", "b"], simple_format=True) == [["a", "b"], ["c", "b"]]


def test_the_end_repeats_the_last_result() -> None:
    with Blocks() as page:
        gr.Button().click(lambda: None, None, gr.Textbox())
    listener = next(iter(page.fns.values()))
    page.handle_streaming_diffs(listener, ["a"], "page", "run", False)
    assert page.handle_streaming_diffs(listener, [None], "page", "run", True) == ["a"]
