"""Shared parts of the views of comparisons and studies: a script, a style and listeners."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from jola.errors import InputError
from workbench.service.stored_work import WorkStore
from workbench.ui import BASICS, markup
from workbench.ui.events import PRIVATE, text_of

_HERE = Path(__file__).parent
SCRIPT = BASICS + (_HERE / "work_list.js").read_text(encoding="utf-8")
_STYLE = (_HERE / "work_list.css").read_text(encoding="utf-8")


def style(prefix: str) -> str:
    """Return the style of a view whose classes begin with ``prefix``."""
    return _STYLE.replace("wl", prefix)


Works = WorkStore[Any]
"""The store of comparisons or of studies."""


def connect(view: gr.HTML, message: gr.HTML, works: Works) -> None:
    """Connect selecting, stopping, continuing, deleting and restoring in a view; errors are shown in ``message``."""
    events: Any = view

    def on_choose(event: gr.EventData) -> Any:
        found = works.find(text_of(event, "id"))
        return found.id if found is not None else gr.skip()

    def on_stop(id: str) -> str:
        return markup.note(refusal(lambda: works.stop(id)), "error")

    def on_resume(id: str) -> str:
        return markup.note(refusal(lambda: works.resume(id)), "error")

    def on_remove(event: gr.EventData) -> tuple[Any, str]:
        id = text_of(event, "id")
        shown, sentence = remove(works, id)
        return removal(id, shown, sentence), markup.note(sentence, "error")

    def on_restore(event: gr.EventData) -> tuple[str, str]:
        shown, sentence = restore(works, text_of(event, "id"))
        return shown, markup.note(sentence, "error")

    events.choose(on_choose, None, view, trigger_mode="multiple", concurrency_limit=1, **PRIVATE)
    events.stopwork(on_stop, view, message, **PRIVATE)
    events.resumework(on_resume, view, message, **PRIVATE)
    events.remove(on_remove, None, [view, message], trigger_mode="multiple", **PRIVATE)
    events.restore(on_restore, None, [view, message], trigger_mode="multiple", **PRIVATE)


def refusal(action: Callable[[], Any]) -> str:
    """Call ``action``, and return the message of its `InputError`; empty if it succeeded."""
    try:
        action()
    except InputError as error:
        return str(error)
    return ""


def remove(works: Works, id: str) -> tuple[str, str]:
    """Move a work to the trash; return (id of the work to show, error)."""
    sentence = refusal(lambda: works.remove(id))
    return (id, sentence) if sentence else (first(works), "")


def restore(works: Works, id: str) -> tuple[str, str]:
    """Restore a work; return (id of the work to show, error)."""
    try:
        return works.restore(id).id, ""
    except InputError as error:
        return first(works), str(error)


def first(works: Works, asked: str | None = None) -> str:
    """Return the id of the work to show: the one in the address, the running one, or the newest; empty without work."""
    found = works.find(asked) or works.active()
    listed = [] if found else works.list()
    return found.id if found else listed[0].id if listed else ""


def removal(id: str, shown: str, sentence: str) -> Any:
    """Return the update of the view after ``remove``: the id of the work to show, or that ``id`` still exists.

    Args:
        sentence: Why the work was not removed; empty if it was.
    """
    # The serial number distinguishes a second refusal from the first.
    return gr.HTML(refused={"id": id, "serial": secrets.token_hex(8)}) if sentence else shown
