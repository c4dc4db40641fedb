"""The Runs tab: the table of all runs, to label, compare, delete, restore, export and import them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from jola.data.assets import ASSETS, DEFAULT_MODEL
from jola.errors import InputError
from jola.runs.compare import ComparedValues, RunComparison, compare_runs
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.runs.summary import gates_in
from jola.system.formatting import accuracy_text, score_text, score_title
from workbench import figures
from workbench.runs import answers_panel, export_panel
from workbench.runs.answers_panel import AnswersPanel
from workbench.runs.run_table import answer, run_table, saved
from workbench.service.bench import Workbench
from workbench.service.follow import clock
from workbench.ui import markup
from workbench.ui.events import PRIVATE, said, text_of

_FIGURES = {
    "accuracy": "Test accuracy",
    "accuracy_options": "Choosing among the options",
    "validation_accuracy": "Validation accuracy of the kept edits",
    "validation_cross_entropy": "Lowest validation cross-entropy",
    "open_offset": "Open offset gates",
    "open_scale": "Open scale gates",
    "steps": "Steps",
    "kept_step": "Edits kept from step",
    "seconds": "Time",
}
_NOTHING = "–"
_TIME = re.compile(r"^[0-9]{8}-[0-9]{6}-(?=.)")


# Actions on runs


def annotate(bench: Workbench, id: str, label: str, note: str) -> dict[str, Any]:
    """Give a run a label and a note; return the value for the table."""
    try:
        bench.must_find(id).annotate(label=label, note=note)
    except InputError as error:
        return saved(id, str(error), "error")
    return saved(id, "Saved.")


def remove(bench: Workbench, id: str) -> dict[str, Any]:
    """Move a run to the trash; return the value for the table, which offers to undo this."""
    try:
        name = _name(bench.store.get(id))
        bench.store.remove(id)
    except InputError as error:
        return answer(str(error), "error")
    return answer(f"Deleted {name}.", "plain", undo=id)


def restore(bench: Workbench, id: str) -> dict[str, Any]:
    """Restore a deleted run, and select it."""
    try:
        run = bench.store.restore(id)
    except InputError as error:
        return answer(str(error), "error")
    if run.state == "queued":
        bench.jobs.continue_queue()
    return answer(f"Restored {_name(run)}.", chosen=run.id)


def take_in(store: RunStore, path: str) -> dict[str, Any]:
    """Import an uploaded zip file as a run, and select it."""
    from jola.runs.archive import import_archive  # imports PyTorch, which the page does not need at startup

    try:
        run = import_archive(Path(path), store)
    except InputError as error:
        return answer(str(error), "error")
    return answer(f"Imported {_name(run)}.", chosen=run.id)


def _name(run: Run) -> str:
    return run.notes().label or run.id


# Comparison of two runs


@dataclass(frozen=True)
class ComparedRuns:
    """The comparison of two runs for the page."""

    tables: str
    """Figures and settings that differ, as HTML."""
    validation: figures.Figure
    training: figures.Figure
    gates: figures.Figure | None
    """Maps of the gates of both; None if one has no gates, or if they edit different sites."""


def compare(bench: Workbench, ids: Sequence[str], *, dark: bool = False) -> ComparedRuns | None:
    """Compare two runs; None unless two of the ids exist."""
    runs = [run for id in ids if (run := bench.find(id)) is not None]
    if len(runs) != 2:
        return None
    names = _names(runs)
    metrics = {name: run.metrics() for name, run in zip(names, runs, strict=True)}
    comparison, gates, site = compare_runs(runs), None, _shared_site(runs)
    if site and all(gates_in(run.raw_config()) != "none" for run in runs):
        first, second = (_kept_gates(run, site) for run in runs)
        gates = figures.compare_gates(first, second, (names[0], names[1]), site=site, dark=dark)
    return ComparedRuns(
        tables=comparison_tables(comparison, names),
        validation=figures.compare_curves(metrics, "validation_cross_entropy", dark=dark),
        training=figures.compare_curves(metrics, "cross_entropy", dark=dark),
        gates=gates,
    )


def _names(runs: Sequence[Run]) -> list[str]:
    """Return distinct names of the runs: the label, or the id without the time at its beginning."""
    names = [run.notes().label or _TIME.sub("", run.id) for run in runs]
    return [f"{name} ({run.id})" if names.count(name) > 1 else name for name, run in zip(names, runs, strict=True)]


def _shared_site(runs: Sequence[Run]) -> str:
    """Return the site whose gates are compared; empty if the runs recorded none in common.

    A run without records may still record any site.
    """
    recorded = [set(sites) for run in runs if (sites := run.sites())]
    shared = set.intersection(*recorded) if recorded else {"heads"}
    return min(shared, key=lambda name: (name != "heads", name), default="")


def _kept_gates(run: Run, site: str) -> Mapping[str, Any]:
    """Return the gates of the kept edits of a run, or of its last record; empty before the first record."""
    try:
        history = run.gates(site)
        kept = (run.result() or {}).get("kept_step")
        return history.at(kept if isinstance(kept, int) else int(history.steps[-1]))
    except (InputError, IndexError):
        return {}


def comparison_tables(comparison: RunComparison, names: Sequence[str]) -> str:
    """Return the results of two runs and the settings that differ, as two HTML tables."""
    heads = "".join(f'<th scope="col">{markup.escape(name)}</th>' for name in names)
    units = next(row.values for row in comparison.figures if row.name == "units")
    examples = next(row.values for row in comparison.figures if row.name == "n_validation")
    rows = [(title, row) for row in comparison.figures if (title := _figure_title(row))]
    ends = "".join(
        _table_row(title, list(map(_figure_words, [row.name] * len(names), row.values, units, examples)))
        for title, row in rows
    )
    settings = "".join(_setting_row(row) for row in comparison.settings)
    if not settings:
        settings = f'<tr><td colspan="{len(names) + 1}">All settings are the same.</td></tr>'
    warning = ""
    if comparison.same_test is False:
        warning = markup.note("The runs were tested on different examples; their scores are not comparable.")
    table = '<table class="jw-compared"><thead><tr><th scope="col"></th>{}</tr></thead><tbody>{}</tbody></table>'
    return (
        '<h2 class="jw-compared-head">Two runs compared</h2>'
        f'<div class="jw-compared-tables"><section>{markup.section("Results")}{_filled(table, heads, ends)}'
        f"{warning}</section><section>{markup.section('Settings that differ')}{_filled(table, heads, settings)}"
        "</section></div>"
    )


def _filled(table: str, heads: str, rows: str) -> str:
    before, between, after = table.split("{}")
    return before + heads + between + rows + after


def _table_row(name: str, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{markup.escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _setting_row(row: ComparedValues) -> str:
    cells = [f"<code>{markup.escape(_setting_words(row.name, value))}</code>" for value in row.values]
    return _table_row(row.name.replace("_", " "), cells)


def _setting_words(name: str, value: Any) -> str:
    if name == "model" and value == "default":
        return ASSETS[DEFAULT_MODEL].title
    return _NOTHING if value is None else str(value)


def _figure_title(row: ComparedValues) -> str:
    """Return the title of a figure; empty for one that is not shown."""
    known = [value for value in row.values if value is not None]
    if known and isinstance(known[0], Mapping) and "metric" in known[0]:
        return score_title(known[0])
    return _FIGURES.get(row.name, "") if known else ""


def _figure_words(name: str, value: Any, units: Any, examples: Any) -> str:
    if value is None:
        return _NOTHING
    if isinstance(value, Mapping):
        return score_text(value, percent=True) if "metric" in value else accuracy_text(value, percent=True)
    if name == "validation_cross_entropy":
        return f"{value:.3f} nats" + (f" (n = {examples:,})" if examples else "")
    if name == "seconds":
        return clock(value)
    return f"{value:,}" + (f" of {units:,}" if name.startswith("open") and units else "")


# The page


@dataclass(frozen=True)
class RunsTab:
    """The components that the app connects with other tabs.

    The events ``table.train`` and ``table.playground`` ask to open a run in that tab; `chosen` returns its id.
    ``answers.examples.open`` asks to open an example in the Playground.
    """

    table: gr.HTML
    compared: gr.Column
    answers: AnswersPanel


def chosen(event: gr.EventData) -> str:
    """Return the id of the run of an event of the table."""
    return text_of(event, "id")


@dataclass(frozen=True)
class _ComparedView:
    """The components that show two runs side by side."""

    column: gr.Column
    tables: gr.HTML
    validation: gr.Plot
    training: gr.Plot
    gates: gr.Plot

    def outputs(self) -> list[Any]:
        return [self.column, self.tables, self.validation, self.training, self.gates]


def build(bench: Workbench, page: gr.Blocks | None = None) -> RunsTab:
    """Lay out the tab and connect its own events."""
    with gr.Row(elem_classes="jw-place"), gr.Column(elem_classes=["jw-work", "jw-runs"], scale=1):
        table = run_table(bench.store)
        upload = gr.UploadButton("Import …", file_types=[".zip"], size="sm", elem_id="runs-import")
        exporting = export_panel.build(bench)
        answers = answers_panel.build(bench, page)
        compared = _build_compared()
    _connect_table(bench, table, upload)
    _connect_panels(bench, table, exporting, answers, compared)
    return RunsTab(table, compared.column, answers)


def _build_compared() -> _ComparedView:
    with gr.Column(visible=False, elem_id="runs-compared") as column:
        tables = gr.HTML("", apply_default_css=False)
        with gr.Row(elem_classes="jw-compared-curves"):
            validation = gr.Plot(show_label=False, elem_id="runs-validation")
            training = gr.Plot(show_label=False, elem_id="runs-training")
        gates = gr.Plot(show_label=False, elem_id="runs-gates")
    return _ComparedView(column, tables, validation, training, gates)


def _connect_table(bench: Workbench, table: gr.HTML, upload: gr.UploadButton) -> None:
    """Connect the actions on runs."""

    def on_annotate(event: gr.EventData) -> Any:
        told = said(event)
        return annotate(bench, chosen(event), str(told.get("label", "")), str(told.get("note", "")))

    def on_remove(event: gr.EventData) -> Any:
        return remove(bench, chosen(event))

    def on_restore(event: gr.EventData) -> Any:
        return restore(bench, chosen(event))

    def on_upload(path: str) -> Any:
        return take_in(bench.store, path)

    # "multiple": an action is not lost while the response to the previous one is pending.
    events: Any = table
    # One at a time, so that the last note of a run is the one that stays.
    events.annotate(on_annotate, None, table, trigger_mode="multiple", concurrency_limit=1, **PRIVATE)
    events.remove(on_remove, None, table, trigger_mode="multiple", **PRIVATE)
    events.restore(on_restore, None, table, trigger_mode="multiple", **PRIVATE)
    upload.upload(on_upload, upload, table, **PRIVATE)


def _connect_panels(
    bench: Workbench,
    table: gr.HTML,
    exporting: export_panel.ExportPanel,
    answers: AnswersPanel,
    compared: _ComparedView,
) -> None:
    """Connect the panels that open below the table."""

    def on_export(event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        return exporting.opened(bench, chosen(event), request.session_hash or "")

    def on_answers(event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        return answers.opened(chosen(event), request.session_hash or "")

    def on_compare(event: gr.EventData) -> tuple[Any, ...]:
        told = said(event)
        found = compare(bench, [str(id) for id in told.get("ids", [])], dark=bool(told.get("dark")))
        if found is None:
            return gr.Column(visible=False), *[gr.skip()] * 4
        shown = gr.Plot(found.gates, visible=found.gates is not None)
        return gr.Column(visible=True), found.tables, found.validation, found.training, shown

    events: Any = table
    events.export(on_export, None, exporting.outputs(), **PRIVATE).then(None, None, None, js=exporting.after)
    opening = [answers.column, *answers.outputs()]
    events.answers(on_answers, None, opening, **PRIVATE).then(None, None, None, js=answers.after)
    # One at a time, so that the response to the last change of the selection arrives last.
    once: dict[str, Any] = {**PRIVATE, "trigger_mode": "multiple", "concurrency_limit": 1}
    events.compare(on_compare, None, compared.outputs(), **once)
