"""Which values the page of the app accepts, and what it sends for the results of a generator."""

from collections.abc import Callable
from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from tests.workbench.coroutines import finish
from workbench.server.blocks import Blocks
from workbench.server.faults import SENTENCE


def taken(make: Callable[[], gr.components.Component], value: Any) -> Any:
    """Return what a listener gets for a value of its input."""
    with Blocks() as page:
        gr.Button().click(lambda value: value, make())
    (listener,) = page.fns.values()
    return finish(page.preprocess_data(listener, [value], SessionState(page)))[0]


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (gr.HTML, 5),
        (gr.HTML, {"id": "one"}),
        (lambda: gr.BrowserState(""), {}),
        (gr.Checkbox, [True]),
        (gr.Number, [1]),
        (lambda: gr.Dropdown(["one"]), ["one"]),
        (lambda: gr.Dropdown(["one"], allow_custom_value=True), {"one": 1}),
        (lambda: gr.Dropdown(["one"], multiselect=True), "one"),
    ],
)
def test_a_value_of_a_type_that_a_component_never_has_is_a_sentence(make: Any, value: Any) -> None:
    with pytest.raises(gr.Error, match=SENTENCE):
        taken(make, value)


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (gr.HTML, "one"),
        (lambda: gr.BrowserState(""), "one"),
        (gr.Checkbox, True),
        (gr.Number, 1.5),
        (lambda: gr.Dropdown(["one"]), "one"),
        (lambda: gr.Dropdown(["one"], multiselect=True), ["one"]),
        (lambda: gr.Dropdown(["one"]), None),
        (lambda: gr.CheckboxGroup(["one"]), ["one"]),
    ],
)
def test_values_of_components_are_accepted(make: Any, value: Any) -> None:
    assert taken(make, value) == value


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


@pytest.mark.parametrize(("visibility", "last"), [("public", "a"), ("private", gr.skip())])
def test_only_programs_get_the_last_result_again_at_the_end(visibility: Any, last: Any) -> None:
    with Blocks() as page:
        gr.Button().click(lambda: None, None, gr.Textbox(), api_visibility=visibility)
    listener = next(iter(page.fns.values()))
    page.handle_streaming_diffs(listener, ["a"], "page", "run", False)
    assert page.handle_streaming_diffs(listener, [None], "page", "run", True) == [last]
