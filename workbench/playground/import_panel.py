"""Import of an adapter as a run, from an uploaded zip file or a folder on the app's computer."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from jola.errors import InputError
from workbench.playground.wiring import PRIVATE
from workbench.service.bench import Workbench
from workbench.ui import markup

Opened = Callable[[gr.Request, str], Iterator[tuple[Any, ...]]]
"""Opens the run with an id; yields values for all components that show it."""


@dataclass(frozen=True)
class ImportPanel:
    """The components."""

    folder: gr.Textbox
    take: gr.Button
    upload: gr.UploadButton
    message: gr.HTML


def build() -> ImportPanel:
    """Lay out the components."""
    with gr.Accordion("Import an adapter", open=False, elem_classes="jw-more", elem_id="import-adapter"):
        folder = gr.Textbox(
            label="Folder or zip file", info="An adapter's folder on this computer; it is copied and listed as a run.",
            max_lines=1, elem_id="import-folder", elem_classes="jw-line",
        )  # fmt: skip
        with gr.Row(elem_classes="jw-buttons"):
            take = gr.Button("Open", size="sm", elem_id="import-take")
            upload = gr.UploadButton("Upload a zip …", file_types=[".zip"], size="sm", elem_id="import-upload")
        message = gr.HTML("", apply_default_css=False, elem_id="import-message")
    return ImportPanel(folder, take, upload, message)


def connect(bench: Workbench, panel: ImportPanel, opened: Opened, outputs: list[Any]) -> None:
    """Connect the events.

    Args:
        opened: Opens the imported run.
        outputs: The components that ``opened`` fills.
    """

    def taken(request: gr.Request, place: Path) -> Iterator[tuple[Any, ...]]:
        from jola.runs.archive import import_archive  # imports PyTorch, which the page does not need at startup

        try:
            run = import_archive(place, bench.store)
        except InputError as error:
            yield markup.note(str(error), "error"), *(gr.skip(),) * len(outputs)
            return
        message: Any = markup.note("Imported as a run; its edits are applied.", "good")
        for values in opened(request, run.id):
            yield message, *values
            message = gr.skip()

    def on_folder(text: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        name = text.strip()
        try:
            if not name:
                raise InputError("Write the path of an adapter's folder or zip file first.")
            bench.settings.check_path(name)
        except InputError as error:
            yield markup.note(str(error), "error"), *(gr.skip(),) * len(outputs)
            return
        yield from taken(request, Path(os.path.expanduser(name)))

    def on_upload(path: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        yield from taken(request, Path(path))

    shown = [panel.message, *outputs]
    gr.on([panel.take.click, panel.folder.submit], on_folder, panel.folder, shown, **PRIVATE)
    panel.upload.upload(on_upload, panel.upload, shown, **PRIVATE)
