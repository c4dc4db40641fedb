"""Train: choose model, data and settings at the left, watch the gates close at the right."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from jola.assets import ASSETS, DEFAULT_MODEL
from jola.errors import InputError
from jola.records import SUFFIXES
from jola.tasks import REGISTRY
from workbench import form, markup
from workbench.bench import Workbench, keep_upload
from workbench.run_view import run_view

_GROUPS = {"model": "Model", "edits": "Edits", "data": "Data", "training": "Training"}

_PUT_RUN_IN_ADDRESS = """(run) => {
  const address = new URL(location);
  if (run) address.searchParams.set("run", run); else address.searchParams.delete("run");
  history.replaceState(null, "", address);
}"""


# What the buttons do


def start(bench: Workbench, values: Mapping[str, Any]) -> tuple[str | None, str]:
    """Start a run with the values of the form: (its id, nothing), or (None, why not)."""
    try:
        return bench.jobs.start(form.read_form(values)).id, ""
    except InputError as error:
        return None, form.in_form_words(str(error))


def cancel(bench: Workbench, id: str) -> str:
    """Ask a run to stop; what to tell the user."""
    try:
        bench.jobs.cancel(id)
    except InputError as error:
        return str(error)
    return "The run stops at its next step and keeps the best edits so far."


def accept_upload(path: str) -> tuple[str | None, str]:
    """(the file to train on, what is in it), or (None, why it cannot be used)."""
    name = Path(path).name
    try:
        kept, count = keep_upload(Path(path))
    except InputError as error:
        return None, str(error).replace(path, name)
    return str(kept), f"{name}: {count:,} examples."


# The page


@dataclass(frozen=True)
class TrainTab:
    """The parts that the app connects with other places."""

    view: gr.HTML
    picker: gr.Dropdown
    start: gr.Button
    cancel: gr.Button
    remembered: gr.BrowserState

    def showing(self) -> list[Any]:
        """The outputs of `show`."""
        return [self.view, self.picker, self.start, self.cancel, self.remembered]


def show(bench: Workbench, id: str) -> tuple[Any, ...]:
    """Put a run on the page: updates for `TrainTab.showing`."""
    run = bench.find(id)
    active = run is not None and run.alive
    choices = bench.run_choices()
    picker = gr.Dropdown(choices=choices, value=id if run else None, visible=bool(choices))
    ready = gr.Button(visible=not active, interactive=True)
    return id, picker, ready, gr.Button(visible=active, interactive=True), id


def build(bench: Workbench, remembered: gr.BrowserState) -> TrainTab:
    """Lay the place out and connect its own events."""
    with gr.Row(elem_classes="jw-place"):
        with gr.Column(elem_classes="jw-settings", scale=0):
            inputs = _basic_settings(bench)
            with gr.Accordion("More settings", open=False, elem_classes="jw-more"):
                inputs |= _more_settings()
            with gr.Column(elem_classes="jw-go"):
                message = gr.HTML("", apply_default_css=False, elem_id="start-message")
                # Waits for the page's first answer, which would overwrite what a click before it brought.
                start_button = gr.Button("Start training", variant="primary", interactive=False, elem_id="start")
                cancel_button = gr.Button("Cancel", visible=False, elem_id="cancel")
        with gr.Column(elem_classes="jw-work", scale=1):
            picker = gr.Dropdown(
                [], label="Run", container=False, filterable=False, visible=False, elem_id="run-picker"
            )
            view = run_view(bench.followers)
    tab = TrainTab(view, picker, start_button, cancel_button, remembered)

    def on_start(*values: Any) -> tuple[Any, ...]:
        id, sentence = start(bench, dict(zip(inputs, values, strict=True)))
        if id is None:
            return markup.note(sentence, "error"), *[gr.skip()] * len(tab.showing())
        return "", *show(bench, id)

    def on_cancel(id: str) -> tuple[str, Any]:
        return markup.note(cancel(bench, id), "busy"), gr.Button(interactive=False)

    def on_ended(id: str) -> tuple[Any, ...]:
        return "", *show(bench, id)

    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    address: dict[str, Any] = {"fn": None, "inputs": remembered, "outputs": None, "js": _PUT_RUN_IN_ADDRESS}
    start_button.click(on_start, list(inputs.values()), [message, *tab.showing()], **private).then(**address)
    cancel_button.click(on_cancel, view, [message, cancel_button], **private)
    picker.input(lambda id: show(bench, id), picker, tab.showing(), **private).then(**address)
    view.ended(on_ended, view, [message, *tab.showing()], **private)
    return tab


def _basic_settings(bench: Workbench) -> dict[str, gr.components.Component]:
    """The few settings that matter, by name."""
    inputs: dict[str, gr.components.Component] = {}
    group = ""
    for setting in form.settings():
        if setting.advanced:
            continue
        if setting.group != group:
            group = setting.group
            gr.HTML(markup.section(_GROUPS[group]), apply_default_css=False)
        if setting.name == "model":
            inputs["model"] = _open_choice(setting, [(f"{ASSETS[DEFAULT_MODEL].title} (default)", "default")])
        elif setting.name == "task":
            tasks = [(info.title, info.name) for info in REGISTRY.values()]
            inputs["task"] = _open_choice(setting, tasks)
            _upload(inputs["task"])
        else:
            inputs[setting.name] = form.component(setting)
    return inputs


def _open_choice(setting: form.Setting, choices: list[tuple[str, str]]) -> gr.Dropdown:
    """A list that also takes what is typed, such as a path."""
    return gr.Dropdown(
        choices,
        value=setting.default,
        allow_custom_value=True,
        label=setting.label,
        info=setting.help,
        elem_id=f"setting-{setting.name}",
        elem_classes=["setting", "jw-wide"],
    )


def _upload(task: gr.components.Component) -> None:
    button = gr.UploadButton(
        "Upload a file …", file_types=list(SUFFIXES), size="sm", elem_id="upload", elem_classes="jw-upload"
    )
    note = gr.HTML("", apply_default_css=False, elem_id="upload-message")

    def on_upload(path: str) -> tuple[Any, str]:
        kept, sentence = accept_upload(path)
        if kept is None:
            return gr.skip(), markup.note(sentence, "error")
        return kept, markup.note(sentence, "good")

    button.upload(on_upload, button, [task, note], show_progress="hidden", api_visibility="private")


def _more_settings() -> dict[str, gr.components.Component]:
    """The rest, under the heading of its group."""
    inputs: dict[str, gr.components.Component] = {}
    group = ""
    for setting in form.settings():
        if not setting.advanced:
            continue
        if setting.group != group:
            group = setting.group
            gr.HTML(markup.section(_GROUPS[group]), apply_default_css=False)
        inputs[setting.name] = form.component(setting)
    return inputs
