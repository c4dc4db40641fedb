"""The Studies tab: grids of cells. Form on the left; studies, their cells and their results on the right."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from jola.errors import InputError
from workbench.service.bench import Workbench
from workbench.studies import study_form
from workbench.studies.panel import Panel, build_results
from workbench.studies.study_view import study_view
from workbench.ui import markup, work_list
from workbench.ui.details import details_box
from workbench.ui.events import DARK, PRIVATE, said, text_of

# Actions of the buttons


def open_folder(bench: Workbench, folder: str) -> tuple[str | None, str]:
    """Show the grid in a folder; return (id, empty), or (None, error)."""
    try:
        return bench.studies.open(folder).id, ""
    except InputError as error:
        return None, str(error)


# The page


@dataclass(frozen=True)
class StudiesTab:
    """The components that the app connects with other tabs.

    The events ``view.playground``, ``view.answers`` and ``view.train`` ask to open the run of a cell; `text_of` returns
    its ``id``.
    """

    view: gr.HTML
    start: gr.Button

    def showing(self) -> list[Any]:
        """The outputs of `show`."""
        return [self.view, self.start]


def show(bench: Workbench, asked: str | None) -> tuple[Any, ...]:
    """Show a study: return updates for `StudiesTab.showing`."""
    return work_list.first(bench.studies, asked), gr.Button(interactive=True)


def build(bench: Workbench, place: gr.Tab) -> StudiesTab:
    """Lay out the tab and connect its own events."""
    with gr.Row(elem_classes="jw-place"):
        with gr.Column(elem_classes="jw-settings", scale=0):
            inputs = study_form.basic_fields()
            preset = study_form.preset_field()
            with gr.Accordion("More settings", open=False, elem_classes="jw-more"):
                inputs |= study_form.more_fields()
            with gr.Column(elem_classes="jw-go"):
                cost_box = details_box("studies-cost")
                message = gr.HTML("", apply_default_css=False, elem_id="studies-message")
                with gr.Row(elem_classes="jw-buttons"):
                    # Disabled until the first response, which would overwrite the result of an earlier click.
                    start = gr.Button("Start study", variant="primary", interactive=False, elem_id="studies-start")
        with gr.Column(elem_classes=["jw-work", "jw-studies"], scale=1):
            view = study_view(bench.studies)
            panel = build_results()
    _connect_form(bench, place, view, inputs, preset, start, message, cost_box)
    _connect_view(bench, view, message)
    _connect_results(bench, view, panel)
    return StudiesTab(view, start)


def _connect_form(
    bench: Workbench,
    place: gr.Tab,
    view: gr.HTML,
    inputs: dict[str, gr.components.Component],
    preset: gr.Dropdown,
    start: gr.Button,
    message: gr.HTML,
    cost_box: gr.HTML,
) -> None:
    """Connect the start button, the estimate of the size, and everything that fills in the form."""
    fields: list[Any] = list(inputs.values())
    events: Any = view

    def on_start(shown: str, *values: Any) -> tuple[Any, ...]:
        id, sentence = study_form.start(bench, study_form.given(inputs, values), shown)
        if id is None:  # show the error once, not in place of the size as well
            return gr.skip(), markup.note(sentence, "error"), ""
        return id, "", gr.skip()

    def on_cost(shown: str, *values: Any) -> str:
        return study_form.cost(bench, study_form.given(inputs, values), shown)

    def filled(values: dict[str, Any], sentence: str) -> list[Any]:
        return [markup.note(sentence, "good"), *(values.get(name, gr.skip()) for name in inputs)]

    def refused(error: InputError) -> list[Any]:
        return [markup.note(str(error), "error"), *(gr.skip() for _ in inputs)]

    def on_more(id: str) -> list[Any]:
        try:
            return filled(*study_form.more(bench, id))
        except InputError as error:
            return refused(error)

    def on_preset(name: str) -> list[Any]:
        if not name:
            return [gr.skip()] * (1 + len(inputs))
        try:
            return filled(study_form.of_preset(name), "The form has the axes of the preset; change what you like.")
        except InputError as error:
            return refused(error)

    def on_small() -> list[Any]:
        return filled(study_form.SMALL, "")

    start.click(on_start, [view, *fields], [view, message, cost_box], **PRIVATE)
    changes = [change for one in fields if (change := getattr(one, "change", None)) is not None]
    costing: dict[str, Any] = {"fn": on_cost, "inputs": [view, *fields], "outputs": cost_box, **PRIVATE}
    gr.on([place.select, *changes], trigger_mode="always_last", **costing)
    events.redraw(trigger_mode="always_last", **costing)  # another study is shown, or it has new results
    # Not `input`, which also happens when the list is left without a choice, and would undo what was changed since.
    gr.on([preset.select, preset.change], on_preset, preset, [message, *fields], **PRIVATE)
    events.more(on_more, view, [message, *fields], **PRIVATE)
    events.small(on_small, None, [message, *fields], **PRIVATE)


def _connect_view(bench: Workbench, view: gr.HTML, message: gr.HTML) -> None:
    """Connect selecting, opening, stopping, continuing, retrying and deleting."""
    events: Any = view

    def on_open(event: gr.EventData) -> tuple[Any, str]:
        id, sentence = open_folder(bench, text_of(event, "folder"))
        return (gr.skip() if id is None else id), markup.note(sentence, "error")

    def on_retry(id: str, event: gr.EventData) -> str:
        try:
            begun = bench.studies.retry(id, text_of(event, "cell"))
        except InputError as error:
            return markup.note(str(error), "error")
        return (
            ""
            if begun
            else markup.note("The study is running; press Continue when it has ended to run the cell again.")
        )

    work_list.connect(view, message, bench.studies)
    events.openfolder(on_open, None, [view, message], **PRIVATE)
    events.retry(on_retry, view, message, trigger_mode="multiple", **PRIVATE)


def _connect_results(bench: Workbench, view: gr.HTML, panel: Panel) -> None:
    """Redraw for new results, and when another view, table, task, metric or cost is chosen."""
    # One at a time, so that the figure of an earlier choice does not arrive last.
    drawing = {"concurrency_limit": 1, "concurrency_id": "draw studies"}
    always = {**PRIVATE, "trigger_mode": "always_last", **drawing}
    chosen = [view, *panel.choices()]

    def draw(id: str, *choice: Any, dark: bool) -> dict[Any, Any]:
        return panel.by_component(panel.draw(bench.studies.find(id), *choice, dark=dark))

    # Gradio passes the event only to listeners with this annotation.
    def on_news(
        id: str, view: str, best: bool, metric: Any, task: Any, model: Any, size: Any, cost: Any, table: Any,
        event: gr.EventData,
    ) -> dict[Any, Any]:  # fmt: skip
        return draw(id, view, best, metric, task, model, size, cost, table, dark=bool(said(event).get("dark")))

    def on_choice(id: str, *choice: Any) -> dict[Any, Any]:
        *rest, dark = choice
        return draw(id, *rest, dark=bool(dark))

    events: Any = view
    events.redraw(on_news, chosen, panel.outputs(), **always)
    lists = (panel.best, panel.metric, panel.task, panel.model, panel.size, panel.cost, panel.table)
    gr.on([one.input for one in lists], on_choice, [*chosen, panel.dark], panel.outputs(), js=DARK, **always)
    for name, tab in panel.tabs.items():

        def on_view(id: str, _: str, *choice: Any, name: str = name) -> dict[Any, Any]:
            *rest, dark = choice
            return {**draw(id, name, *rest, dark=bool(dark)), panel.view: name}

        tab.select(on_view, [*chosen, panel.dark], panel.outputs(), js=DARK, **always)
