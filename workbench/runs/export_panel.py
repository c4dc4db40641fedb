"""The panel that exports the edits of a run: format, size, exactness, download, and the code that loads them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from jola.errors import InputError
from jola.runs.summary import method_in
from workbench.service.bench import Workbench, short_name
from workbench.service.exports import FORMS, Exported, Exports, Form
from workbench.service.opened import OpenedRuns
from workbench.ui import markup
from workbench.ui.events import PRIVATE

STYLE = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")

_SHOW = """() => {
  let looks = 0;
  const show = () => {
    const chosen = document.querySelector("#export-form input:checked");
    if (!chosen && ++looks < 2400) {
      setTimeout(show, 50);
      return;
    }
    document.querySelector("#export")?.scrollIntoView({ block: "end" });
    chosen?.focus({ preventScroll: true });
  };
  setTimeout(show, 60);
}"""
"""Shows the panel and focuses its first choice, once the page has loaded the scripts of its components."""
_FETCH = """() => {
  const link = () => document.querySelector("#export-download:not([disabled]), #export-download a");
  const number = window.exportNumber = (window.exportNumber ?? 0) + 1;
  let looks = 0;
  const fetch = () => {
    if (number !== window.exportNumber) return;
    if (!link()) {
      if (++looks < 2400) setTimeout(fetch, 50);
      return;
    }
    document.querySelector("#export-code")?.scrollIntoView({ block: "end" });
    setTimeout(() => link()?.click(), 60);
  };
  fetch();
}"""
"""Starts the download once the button exists, up to two minutes after the event that shows it, unless there is a newer
export.
"""


@dataclass(frozen=True)
class ExportPanel:
    """The panel; `opened` fills `outputs` for a run."""

    exports: Exports
    runs: OpenedRuns
    column: gr.Column
    run: gr.State
    title: gr.HTML
    status: gr.HTML
    download: gr.DownloadButton
    code: gr.Code

    def outputs(self) -> list[Any]:
        """Outputs of `opened`."""
        return [self.column, self.run, self.title, self.status, self.download, self.code]

    @property
    def after(self) -> str:
        """Script to run after `opened`: scrolls the panel into view."""
        return _SHOW

    def opened(self, bench: Workbench, id: str, page: str) -> tuple[Any, ...]:
        """Return values for `outputs` that open the panel for a run; the export of another run is stopped."""
        if self.runs.open(page, id):
            self.exports.stop(page)
        return shown(bench, id)


def shown(bench: Workbench, id: str) -> tuple[Any, ...]:
    """Return values for `ExportPanel.outputs` that open the panel for a run, or hide it if the run does not exist."""
    run = bench.find(id)
    if run is None:
        return gr.Column(visible=False), "", *[gr.skip()] * 4
    title = f'<h2 class="jw-export-title">Export {markup.escape(short_name(run))}</h2>'
    return gr.Column(visible=True), id, title, "", gr.DownloadButton(visible=False), gr.Code(visible=False)


def choices(form: Form, refusal: str | None = None) -> tuple[Any, str]:
    """Return (radio of formats, help) for a form, or the reason why the method of the run does not support it."""
    if refusal:
        return gr.Radio(choices=[], value=None, visible=False), markup.note(refusal, "plain")
    formats = gr.Radio(
        choices=list(form.formats), value=form.formats[0] if form.formats else None, visible=bool(form.formats)
    )
    return formats, f'<p class="jw-export-help">{markup.escape(form.help)}</p>'


def refusal_of(bench: Workbench, id: str, form: Form) -> str | None:
    """Return in one sentence why the edits of a run cannot be exported in this form; None if they can."""
    run = bench.find(id)
    return method_in(run.raw_config()).export_refusal(form.kind) if run is not None and form.kind else None


def measured(found: Exported) -> str:
    """Return size and exactness of an export as HTML."""
    rows = [("Size", _bytes(found.size)), *_exactness(found.report)]
    if not found.download:
        rows.insert(0, ("Written to", str(found.place)))
    body = "".join(f"<dt>{markup.escape(name)}</dt><dd>{markup.escape(words)}</dd>" for name, words in rows)
    return f'<dl class="jw-export-facts" role="status">{body}</dl>'


def _exactness(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    n = f"n = {report.get('prompts', 0)} prompts, {report.get('tokens', 0)} tokens"
    if "after_cast" in report:
        before, after = report["before_cast"], report["after_cast"]
        yield (
            "Exactness",
            f"max |Δlogit| {before['largest']:.2g} before the cast to {report['dtype']}, {after['largest']:.2g} after; "
            f"the edits change up to {report['effect']:.3g}, and {100 * after['lost']:.2g} % of it is lost ({n})",
        )
        yield (
            "Same most likely token",
            f"{after['same_top']} of {report['tokens']} positions",
        )
        if report["converted_from"]:
            yield "Architecture", f"{report['architecture']}, converted from {report['converted_from']}"
    if "without_biases" in report:
        yield (
            "Exactness",
            f"max |Δlogit| {report['exact']['largest']:.2g}, {100 * report['exact']['lost']:.2g} % of the edits' "
            f"effect lost ({n})",
        )
    if "kept" in report:
        yield "Open", f"{report['kept']:,} of {report['total']:,} halves of edits; the other vectors are left out"
    if "offsets_left_out" in report:
        yield "Left out", f"offsets at {report['offsets_left_out']} sites of layers, which IA3 cannot represent"
    if "model_included" in report:
        yield "Base model", "in the folder" if report["model_included"] else "loaded by its name"
    if "rows" in report:
        yield "Rows", f"{report['rows']:,}, of which {report['open']:,} are open"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def build(bench: Workbench, exports: Exports | None = None) -> ExportPanel:
    """Lay out the panel, hidden, and connect its own events."""
    exports = exports or Exports(bench.settings)
    first = next(iter(FORMS.values()))
    with gr.Column(visible=False, elem_id="export") as column:
        run = gr.State("")
        title = gr.HTML("", apply_default_css=False)
        form = gr.Radio(list(FORMS), value=first.title, label="Form", elem_id="export-form", show_label=False)
        help = gr.HTML(choices(first)[1], apply_default_css=False)
        formats = gr.Radio([], label="Format", visible=False, elem_id="export-format", show_label=False)
        folder = gr.Textbox(
            label="Folder on this computer",
            placeholder="Empty: download",
            visible=exports.writes,
            elem_id="export-folder",
            max_lines=1,
            max_length=1000,
        )
        with gr.Row(elem_classes="jw-export-actions"):
            go = gr.Button("Export", variant="primary", elem_id="export-go")
            stop = gr.Button("Stop", visible=False, elem_id="export-stop")
            download = gr.DownloadButton("Download", visible=False, elem_id="export-download")
            close = gr.Button("Close", elem_id="export-close")
        status = gr.HTML("", apply_default_css=False, elem_id="export-status")
        code = gr.Code(language="python", visible=False, interactive=False, elem_id="export-code", show_label=False)
    runs = OpenedRuns()
    panel = ExportPanel(exports, runs, column, run, title, status, download, code)
    private: dict[str, Any] = {**PRIVATE, "concurrency_limit": None}

    def on_form(chosen: str, id: str, request: gr.Request) -> tuple[Any, ...]:
        picked = FORMS.get(chosen, first)
        refusal = refusal_of(bench, id, picked)
        working = exports.working(request.session_hash or "")
        buttons = gr.Button(interactive=refusal is None and not working), gr.Button(visible=working)
        return *choices(picked, refusal), "", gr.DownloadButton(visible=False), gr.Code(visible=False), *buttons

    def working(words: str) -> tuple[Any, ...]:
        busy = gr.Button(interactive=False), gr.Button(visible=True)
        return *busy, markup.note(words, "busy"), gr.DownloadButton(visible=False), gr.Code(visible=False)

    def on_go(id: str, chosen: str, wanted: str | None, into: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        idle = gr.Button(interactive=True), gr.Button(visible=False)
        page = request.session_hash or ""
        try:
            yield working("Starting …")
            picked = FORMS.get(chosen, first)
            found = exports.export(page, bench.must_find(id), picked, wanted if picked.formats else None, into or "")
            for said in found:
                if not runs.shows(page, id):
                    return
                if isinstance(said, str):
                    yield working(said)
                    continue
                button = gr.DownloadButton(visible=False)
                if said.download:
                    button = gr.DownloadButton(f"Download {said.place.name}", value=str(said.place), visible=True)
                language: Any = "shell" if picked.kind == "gguf" else "python"
                yield *idle, measured(said), button, gr.Code(said.code, language=language, visible=True)
        except InputError as error:
            if not runs.shows(page, id):
                return
            yield *idle, markup.note(str(error), "error"), gr.DownloadButton(visible=False), gr.Code(visible=False)

    def on_stop(request: gr.Request) -> None:
        exports.stop(request.session_hash or "")

    gr.on([form.change, run.change], on_form, [form, run], [formats, help, status, download, code, go, stop], **private)
    go.click(on_go, [run, form, formats, folder], [go, stop, status, download, code], **private).then(
        None, None, None, js=_FETCH
    )
    stop.click(on_stop, None, None, **private)
    close.click(lambda: gr.Column(visible=False), None, column, **private)
    return panel
