"""Test of the edits that are on: their accuracy on test examples of the run, and the examples that flip."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from jola.errors import InputError
from jola.evaluation.confusion import change_of
from jola.runs.answers import TestAnswer
from jola.system.formatting import sample_text, score_title, short_score_text
from workbench.playground.wiring import EXPECTED, PRIVATE, Wiring, failed, page_of
from workbench.service.answering import MaskTest, Step, compare_stack, judged
from workbench.service.calls import Stops, Superseded
from workbench.service.page_state import chosen_run, open_gates
from workbench.ui import markup
from workbench.ui.example_table import Row, example_table, table

MOST_EXAMPLES = 500
_HINT = (
    '<p class="jw-hint">The first test examples of the run, answered with the edits that are on, with all edits, and '
    "by the base model. Stored answers of the run are not computed again.</p>"
)
_TITLES = ("Base model", "All edits", "These edits")

Values = Iterator[tuple[Any, ...]]


@dataclass(frozen=True)
class MaskTestPanel:
    """The components; ``examples.open`` is an event with the ``number`` of a tested example."""

    go: gr.Button
    count: gr.Number
    stop: gr.Button
    words: gr.HTML
    examples: gr.HTML


def build(wiring: Wiring, page: gr.Blocks) -> MaskTestPanel:
    """Lay out the view and connect its own events."""
    gr.HTML(_HINT, apply_default_css=False)
    with gr.Row(elem_classes="jw-actions"):
        go = gr.Button("Test these edits on the test examples", size="sm", scale=0, elem_id="mask-test")
        count = gr.Number(
            100, minimum=1, maximum=MOST_EXAMPLES, precision=0, label="Examples", show_label=False, container=False,
            elem_id="mask-test-examples", elem_classes="jw-count",
        )  # fmt: skip
        stop = gr.Button("Stop", size="sm", scale=0, visible=False, elem_id="mask-test-stop")
    words = gr.HTML("", apply_default_css=False, elem_id="mask-test-words")
    examples = example_table("mask-test-flips")
    panel = MaskTestPanel(go, count, stop, words, examples)
    wiring.empty.update({words: "", examples: ""})
    MaskTestEvents(wiring, panel).connect(page)
    return panel


@dataclass(frozen=True)
class MaskTestEvents:
    """The listeners of the panel."""

    wiring: Wiring
    panel: MaskTestPanel
    stops: Stops = field(default_factory=Stops)

    def connect(self, page: gr.Blocks) -> None:
        """Connect all events of the panel."""
        panel = self.panel
        panel.go.click(self.on_test, panel.count, [panel.words, panel.examples, panel.go, panel.stop], **PRIVATE)
        panel.stop.click(self.on_stop, None, None, **PRIVATE)
        page.unload(self.on_stop)

    def on_test(self, count: float | None, request: gr.Request) -> Values:
        """Test the edits that are on."""
        working = gr.Button(interactive=False), gr.Button(visible=True)
        ready = gr.Button(interactive=True), gr.Button(visible=False)
        wiring, page = self.wiring, page_of(request)
        state = wiring.state(request)
        yield markup.note("Reading the test examples …", "busy"), "", *working
        try:
            run, way = chosen_run(wiring.bench, state.run), wiring.columns_of(state)[0]
            number = max(1, min(int(count or 1), MOST_EXAMPLES))
            for found in compare_stack(wiring.bench, run, way.stack, number, page=page, stops=self.stops):
                if not wiring.shows(request, state):
                    self.stops.stop(page)
                    raise Superseded
                if isinstance(found, Step):
                    yield markup.note(found.words(), "busy"), gr.skip(), *working
                    continue
                wiring.pages.change(page, lambda s, found=found: replace(s, tested=found))
                on = state.mask.describe(open_gates(state, wiring.bench))
                yield summary(found, on), flips(found), *ready
        except EXPECTED as error:
            yield failed(error), "", *ready

    def on_stop(self, request: gr.Request) -> None:
        """Stop the test of this page."""
        self.stops.stop(page_of(request))


def opened_example(tested: MaskTest | None, run: str, payload: Any) -> TestAnswer:
    """Return the example that an ``open`` event names. Raises `InputError` if it does not exist."""
    number = payload.get("number") if isinstance(payload, dict) else None
    known = tested.answers if tested is not None and tested.run == run else ()
    if not isinstance(number, int) or not 0 <= number < len(known):
        raise InputError("There is no such example; test the edits again.")
    return known[number]


# Content


def summary(found: MaskTest, on: str) -> str:
    """Return the scores of the base model, all edits, and those that are on, as HTML; ``on`` describes the latter."""
    from jola.evaluation.answers import score_answers  # imports scipy, which the page does not need at startup

    rows, title = [], ""
    for name, answers in zip(_TITLES, _said(found), strict=True):
        (score,) = (score.to_dict() for score in score_answers(answers, [found.metric]))
        title = score_title(score)
        detail = f'<span class="jw-hint">{markup.escape(on)}</span>' if name == _TITLES[-1] else ""
        rows.append(
            f'<tr><th scope="row">{name} {detail}</th><td>{short_score_text(score)}</td>'
            f"<td>{sample_text(score, percent=True)}</td></tr>"
        )
    head = f'<th scope="col">Edits</th><th scope="col">{markup.escape(title)}</th><th scope="col">n and interval</th>'
    return (
        f'<table class="jw-rank"><caption>Scores on test examples</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def flips(found: MaskTest) -> str:
    """Return the examples whose value differs between all edits and those that are on, as HTML."""
    said = _said(found)
    values = [judged(answers, found.metric) for answers in said]
    rows = []
    for number, answer in enumerate(found.answers):
        each = tuple(one.edited[number] for one in values)
        change = change_of(each[1], each[2])
        if change:
            texts = tuple((kept[number].answer, value) for kept, value in zip(said, each, strict=True))
            prompt, expected = answer.example.prompt[-1].content, answer.example.completion
            rows.append(Row(number, prompt, expected, texts, values[0].is_share, change))
    total = len(found.answers)
    if not rows:
        return markup.note(f"No example flips: all {total:,} are answered as well as with all edits.")
    gained = sum(row.change == "gained" for row in rows)
    caption = f"Flips against all edits: {gained:,} gained, {len(rows) - gained:,} lost of {total:,}"
    return table(rows, _TITLES, 1, len(rows), caption)


def _said(found: MaskTest) -> tuple[list[TestAnswer], list[TestAnswer], list[TestAnswer]]:
    """Return the answers of the base model, with all edits, and with those that are on."""
    base = [replace(answer, answer=answer.base_answer or "") for answer in found.answers]
    chosen = [replace(answer, answer=text) for answer, text in zip(found.answers, found.chosen, strict=True)]
    return base, list(found.answers), chosen
