"""The test answers of a run: confused labels, wrong examples, and the effect of the edits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr

from jola.errors import InputError
from jola.evaluation.confusion import cell_of, confusion, labels_of
from jola.runs.answers import TestAnswer
from jola.runs.run import Run
from jola.system.formatting import score_text, score_title
from workbench.service.answering import Judged, complete, judged_answers, kept_answers
from workbench.service.bench import Workbench, short_name
from workbench.service.calls import Stops, Superseded
from workbench.service.opened import OpenedRuns
from workbench.ui import markup
from workbench.ui.events import PRIVATE
from workbench.ui.example_table import PAGE, Row, example_table, matrix, table

STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")

ALL, WRONG, GAINED, LOST = "all", "wrong", "gained", "lost"
_FILTERS = {
    True: {
        ALL: ("All, wrong first", "All test examples, wrong first"),
        WRONG: ("Wrong", "Answered wrong with the edits"),
        GAINED: ("Gained by the edits", "Right only with the edits"),
        LOST: ("Lost by the edits", "Right only without the edits"),
    },
    False: {
        ALL: ("All, lowest score first", "All test examples, lowest score first"),
        GAINED: ("Raised by the edits", "A higher score with the edits"),
        LOST: ("Lowered by the edits", "A lower score with the edits"),
    },
}
"""Label and table caption of each filter, for answers that are right or wrong (True) or have a score (False)."""
_NONE = "This run has no stored answers to its test examples: it was imported, or trained before answers were stored."
_SHOW = '() => setTimeout(() => document.querySelector("#answers-panel")?.scrollIntoView({ block: "start" }), 60)'


@dataclass(frozen=True)
class Shown:
    """The content of the panel: a run, a filter or a cell of the confusion matrix, and a page counted from 0."""

    run: str = ""
    kind: str = ALL
    cell: tuple[int, int] | None = None
    page: int = 0


# Content


def matching(found: Judged, shown: Shown) -> list[int]:
    """Return the indices of the answers that match the filter or the cell, lowest values first."""
    answers, values = found.answers, found.edited
    if shown.cell is not None:
        labels = labels_of(answers)
        return [i for i, a in enumerate(answers) if labels and cell_of(a, a.answer, labels) == shown.cell]
    order = sorted(range(len(answers)), key=lambda i: values[i] or 0.0)
    if shown.kind == WRONG:
        return [i for i in order if not values[i]]
    return [i for i in order if shown.kind == ALL or found.change(i) == shown.kind]


def content(found: Judged, shown: Shown) -> str:
    """Return scores, confusion matrices and a page of examples, as HTML."""
    indices = matching(found, shown)
    first = min(shown.page, max(0, (len(indices) - 1) // PAGE)) * PAGE
    rows = [_row(index, found) for index in indices[first : first + PAGE]]
    listed = table(rows, ("Base model", "With the edits"), first + 1, len(indices), _caption(found, shown))
    return scores(found) + _matrices(found.answers, shown) + listed


def _row(index: int, found: Judged) -> Row:
    answer = found.answers[index]
    said = (answer.base_answer, found.base[index]), (answer.answer, found.edited[index])
    example = answer.example
    return Row(index, example.prompt[-1].content, example.completion, said, found.is_share, found.change(index))


def _caption(found: Judged, shown: Shown) -> str:
    if shown.cell is None:
        filters = _FILTERS[found.is_share]
        return filters.get(shown.kind, filters[ALL])[1]
    labels = labels_of(found.answers)
    row, column = shown.cell
    said = labels[column] if column < len(labels) else "something that is not a label"
    return f"Expected {labels[row]}, answered {said} with the edits"


def _matrices(answers: Sequence[TestAnswer], shown: Shown) -> str:
    edited = confusion(answers)
    if edited is None:
        return ""
    tables = matrix(edited, "With the edits", shown.cell)
    base = confusion(answers, base=True)
    if base is not None and base.n:
        tables = matrix(base, "Base model", clicks=False) + tables
    return f'<div class="et-matrices">{tables}</div>'


def scores(found: Judged) -> str:
    """Return the score with and without the edits, and the number of changed examples, as one line of HTML."""
    from jola.evaluation.answers import score_answers  # imports scipy, which the page does not need at startup

    (edited,) = (score.to_dict() for score in score_answers(found.answers, [found.metric]))
    words = [f"with the edits {score_text(edited, percent=True)}"]
    if None in found.base:
        words.append("the base model was not tested")
    else:
        (base,) = (score.to_dict() for score in score_answers(found.answers, [found.metric], base=True))
        changes = [found.change(index) for index in range(len(found.answers))]
        names = ("gained", "lost") if found.is_share else ("raised", "lowered")
        words.append(f"base model {score_text(base, percent=True)}")
        words += [f"{name} {changes.count(kind):,}" for name, kind in zip(names, (GAINED, LOST), strict=True)]
    return f'<p class="jw-about">{markup.escape(score_title(edited))}: {markup.escape(" · ".join(words))}</p>'


def _choices(is_share: bool) -> list[tuple[str, str]]:
    return [(words, kind) for kind, (words, _) in _FILTERS[is_share].items()]


def lacking(run: Run, answers: Sequence[TestAnswer]) -> str:
    """Return the label of a button that computes missing answers; empty if none is missing or can be computed."""
    if not run.has_adapter or run.alive:
        return ""
    if not answers:
        return "Answer the test examples"
    return "Also answer with the base model" if any(answer.base_answer is None for answer in answers) else ""


# The panel


@dataclass(frozen=True)
class AnswersPanel:
    """The components; ``examples.open`` is an event with the ``number`` of an example of the run in ``shown``."""

    bench: Workbench
    column: gr.Column
    shown: gr.State
    title: gr.HTML
    examples: gr.HTML
    kind: gr.Radio
    back: gr.Button
    on: gr.Button
    compute: gr.Button
    stop: gr.Button
    message: gr.HTML
    runs: OpenedRuns = field(default_factory=OpenedRuns)

    def outputs(self) -> list[Any]:
        """The outputs of `updates`."""
        return [
            self.shown, self.title, self.examples, self.kind, self.back, self.on, self.compute, self.stop, self.message
        ]  # fmt: skip

    @property
    def after(self) -> str:
        """A script to run after opening the panel, which scrolls it into view."""
        return _SHOW

    def opened(self, id: str, page: str) -> tuple[Any, ...]:
        """Return values for the column and `outputs` that open the panel for a run."""
        run = self.bench.find(id)
        if run is None:
            return gr.Column(visible=False), *[gr.skip()] * len(self.outputs())
        self.runs.open(page, run.id)
        return gr.Column(visible=True), *self.updates(Shown(run.id))

    def updates(self, shown: Shown, message: str = "") -> tuple[Any, ...]:
        """Return values for `outputs`."""
        off = gr.Button(visible=False)
        try:
            run = self.bench.must_find(shown.run)
            found = judged_answers(run)
        except InputError as error:
            note = markup.note(str(error), "error")
            return shown, "", "", gr.Radio(visible=False), off, off, off, off, note
        title = f'<h2 class="jw-answers-title">Test answers of {markup.escape(short_name(run))}</h2>'
        answers = found.answers
        words = lacking(run, answers)
        compute = gr.Button(words or "–", visible=bool(words))
        if not answers:
            note = message or markup.note(_NONE)
            return shown, title, "", gr.Radio(visible=False), off, off, compute, off, note
        pages = max(1, -(-len(matching(found, shown)) // PAGE))
        shown = replace(shown, page=min(max(shown.page, 0), pages - 1))
        return (
            shown,
            title,
            content(found, shown),
            gr.Radio(choices=_choices(found.is_share), value=None if shown.cell else shown.kind, visible=True),
            gr.Button(visible=pages > 1, interactive=shown.page > 0),
            gr.Button(visible=pages > 1, interactive=shown.page + 1 < pages),
            compute,
            off,
            message,
        )


def build(bench: Workbench, page: gr.Blocks | None) -> AnswersPanel:
    """Lay out the panel, hidden, and connect its own events."""
    with gr.Column(visible=False, elem_id="answers-panel") as column:
        shown = gr.State(Shown())
        with gr.Row(elem_classes="jw-actions"):
            title = gr.HTML("", apply_default_css=False)
            compute = gr.Button("Answer the test examples", size="sm", scale=0, elem_id="answers-compute")
            stop = gr.Button("Stop", size="sm", scale=0, visible=False, elem_id="answers-stop")
            close = gr.Button("Close", size="sm", scale=0, elem_id="answers-close")
        message = gr.HTML("", apply_default_css=False, elem_id="answers-message")
        kind = gr.Radio(
            _choices(True), value=ALL, show_label=False, label="Examples", container=False, elem_id="answers-kind",
            elem_classes="jw-radio",
        )  # fmt: skip
        examples = example_table("answers-examples")
        with gr.Row(elem_classes="jw-actions"):
            back = gr.Button("Previous", size="sm", scale=0, elem_id="answers-back")
            on = gr.Button("Next", size="sm", scale=0, elem_id="answers-next")
    panel = AnswersPanel(bench, column, shown, title, examples, kind, back, on, compute, stop, message)
    AnswersEvents(panel).connect(close, page)
    return panel


@dataclass(frozen=True)
class AnswersEvents:
    """The listeners of the panel."""

    panel: AnswersPanel
    stops: Stops = field(default_factory=Stops)

    def connect(self, close: gr.Button, page: gr.Blocks | None) -> None:
        """Connect all events of the panel."""
        panel, outputs = self.panel, self.panel.outputs()
        panel.kind.input(self.on_kind, [panel.shown, panel.kind], outputs, **PRIVATE)
        examples: Any = panel.examples
        examples.cell(self.on_cell, panel.shown, outputs, **PRIVATE)
        panel.back.click(self.on_back, panel.shown, outputs, **PRIVATE)
        panel.on.click(self.on_next, panel.shown, outputs, **PRIVATE)
        waits: dict[str, Any] = {**PRIVATE, "concurrency_limit": None}
        panel.compute.click(self.on_compute, panel.shown, outputs, **waits)
        panel.stop.click(self.on_stop, None, None, **waits)
        close.click(lambda: gr.Column(visible=False), None, panel.column, **PRIVATE)
        if page is not None:
            page.unload(self.on_stop)

    def on_kind(self, shown: Shown, kind: str) -> tuple[Any, ...]:
        """Apply another filter."""
        return self.panel.updates(Shown(shown.run, kind if kind in (WRONG, GAINED, LOST) else ALL))

    def on_cell(self, shown: Shown, event: gr.EventData) -> tuple[Any, ...]:
        """Show the examples of a cell of the matrix, or of all cells if it is clicked again."""
        cell = _cell(event._data, labels_of(kept_answers(self.panel.bench.must_find(shown.run))))
        return self.panel.updates(Shown(shown.run, cell=None if cell == shown.cell else cell))

    def on_back(self, shown: Shown) -> tuple[Any, ...]:
        """Show the previous page."""
        return self.panel.updates(replace(shown, page=shown.page - 1))

    def on_next(self, shown: Shown) -> tuple[Any, ...]:
        """Show the next page."""
        return self.panel.updates(replace(shown, page=shown.page + 1))

    def on_compute(self, shown: Shown, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Compute and store missing answers, also while the panel shows another run."""
        for outputs in self._computed(shown, request.session_hash or ""):
            if self.panel.runs.shows(request.session_hash or "", shown.run):
                yield outputs

    def _computed(self, shown: Shown, page: str) -> Iterator[tuple[Any, ...]]:
        kept = (gr.skip(),) * (len(self.panel.outputs()) - 3)
        working = gr.Button(visible=False), gr.Button(visible=True)
        try:
            run = self.panel.bench.must_find(shown.run)
            yield *kept, *working, markup.note("Reading the test examples …", "busy")
            for step in complete(self.panel.bench, run, page=page, stops=self.stops):
                yield *kept, *working, markup.note(step.words(), "busy")
            yield self.panel.updates(shown)
        except Superseded:
            yield self.panel.updates(shown, markup.note("Stopped; no answers were saved."))
        except InputError as error:
            yield self.panel.updates(shown, markup.note(str(error), "error"))

    def on_stop(self, request: gr.Request) -> None:
        """Stop the calls of this page."""
        self.stops.stop(request.session_hash or "")


def opened_example(bench: Workbench, shown: Shown, payload: Any) -> TestAnswer:
    """Return the answer whose example an ``open`` event names. Raises `InputError` if it does not exist."""
    number = payload.get("number") if isinstance(payload, dict) else None
    answers = kept_answers(bench.must_find(shown.run))
    if not isinstance(number, int) or not 0 <= number < len(answers):
        raise InputError("There is no such example; open the test answers of the run again.")
    return answers[number]


def _cell(payload: Any, labels: Sequence[str]) -> tuple[int, int] | None:
    """Return the cell that a ``cell`` event names; None if it does not exist."""
    row, column = (payload.get("row"), payload.get("column")) if isinstance(payload, dict) else (None, None)
    if not isinstance(row, int) or not isinstance(column, int):
        return None
    return (row, column) if 0 <= row < len(labels) and 0 <= column <= len(labels) else None
