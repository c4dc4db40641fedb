"""Whether an exception is the fault of the request or ours."""

import logging
from typing import Any

import gradio as gr
import pytest

from tests.workbench.coroutines import finish
from workbench.server import faults
from workbench.server.blocks import Blocks


def process(answer: Any) -> None:
    """Answer an event with a function that returns ``answer`` for two components."""
    with Blocks() as page:
        button = gr.Button()
        button.click(lambda: answer, None, [gr.Number(precision=0), gr.Textbox()])
    finish(page.process_api(next(iter(page.fns.values())), []))


@pytest.mark.parametrize("answer", [("no number", ""), 5])
def test_an_output_that_cannot_be_shown_is_our_fault(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(faults.OutputError, match="cannot be shown") as raised:
        process(answer)
    assert not faults.is_of_the_request(raised.value)
    with caplog.at_level(logging.ERROR):
        faults.record(raised.value)
    assert "not answered" in caplog.text
    process((5, "text"))


def test_values_of_other_types_are_the_fault_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    with Blocks() as page:
        gr.Button().click(lambda number: number, gr.Number(precision=0), gr.Number(precision=0))
    with pytest.raises(gr.Error, match=faults.SENTENCE):
        finish(page.process_api(next(iter(page.fns.values())), [{"no": "number"}]))
    assert not caplog.records
