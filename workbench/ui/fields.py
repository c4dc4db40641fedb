"""Form fields that several tabs use: a list that also accepts typed values, and an upload."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from jola.data.assets import ASSETS, DEFAULT_MODEL
from jola.data.records import SUFFIXES
from jola.data.tasks import REGISTRY
from jola.errors import InputError
from workbench.service.bench import keep_upload
from workbench.ui import form, markup

GROUP_TITLES = {"edits": "Method", "model": "Model", "data": "Data", "training": "Training"}
"""Headings of the groups of settings."""


def grouped_fields(settings: Iterable[form.Setting], prefix: str) -> dict[str, gr.components.Component]:
    """Build the inputs of settings by name, each group under its heading; ``prefix`` as for `field`."""
    inputs: dict[str, gr.components.Component] = {}
    group = ""
    for setting in settings:
        if setting.group != group:
            group = setting.group
            gr.HTML(markup.section(GROUP_TITLES[group]), apply_default_css=False)
        inputs[setting.name] = field(setting, prefix)
    return inputs


def accept_upload(path: str) -> tuple[str | None, str]:
    """Return (file to train on, its description), or (None, why it cannot be used)."""
    name = Path(path).name
    try:
        kept, count = keep_upload(Path(path))
    except InputError as error:
        return None, str(error).replace(path, name)
    return str(kept), f"{name}: {count:,} examples."


def field(setting: form.Setting, prefix: str = "setting", **options: Any) -> gr.components.Component:
    """Build the input of a setting: a list for model and task, with an upload below the task, or the one for its type.

    ``prefix`` begins the ids of the elements, which must differ between tabs.
    """
    if setting.name == "model":
        return _open_choice(setting, [(f"{ASSETS[DEFAULT_MODEL].title} (default)", "default")], prefix)
    if setting.name == "task":
        task = _open_choice(setting, [(info.title, info.name) for info in REGISTRY.values()], prefix)
        _upload(task, "" if prefix == "setting" else f"{prefix}-")
        return task
    if setting.name == "device":
        return _open_choice(setting, [("auto", "auto"), ("cpu", "cpu")], prefix)
    return form.component(setting, elem_id=form.element_id(setting, prefix), **options)


def _open_choice(setting: form.Setting, choices: list[tuple[str, str]], prefix: str) -> gr.Dropdown:
    """Build a list that also accepts typed values, such as a path."""
    return gr.Dropdown(
        choices,
        value=setting.default,
        allow_custom_value=True,
        label=setting.label,
        info=setting.help,
        elem_id=f"{prefix}-{setting.name}",
        elem_classes=["setting", "jw-wide"],
    )


def _upload(task: gr.components.Component, prefix: str) -> None:
    button = gr.UploadButton(
        "Upload a file …", file_types=list(SUFFIXES), size="sm", elem_id=f"{prefix}upload", elem_classes="jw-upload"
    )
    note = gr.HTML("", apply_default_css=False, elem_id=f"{prefix}upload-message")

    def on_upload(path: str) -> tuple[Any, str]:
        kept, sentence = accept_upload(path)
        if kept is None:
            return gr.skip(), markup.note(sentence, "error")
        return kept, markup.note(sentence, "good")

    button.upload(on_upload, button, [task, note], show_progress="hidden", api_visibility="private")
