"""The table of all runs and the selected run: markup, script, style and the events of the script.

`workbench.runs.tab` handles the events.
"""

import secrets
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import anyio.to_thread
import gradio as gr

from jola.data.assets import ASSETS, DEFAULT_MODEL
from jola.runs.notes import read_notes
from jola.runs.store import RunStore
from jola.runs.summary import RunSummary
from workbench.ui import BASICS
from workbench.ui.server_functions import takes

_HERE = Path(__file__).parent

EVENTS = ("annotate", "answers", "compare", "export", "playground", "remove", "restore", "train")
"""Events of the component, each with the id of a run (``compare`` with ids) and whether the page is dark."""

STYLE = (_HERE / "run_table.css").read_text(encoding="utf-8")
_MARKUP = (_HERE / "run_table.html").read_text(encoding="utf-8")
_SCRIPTS = ("rows.js", "messages.js", "run_table.js")
_SCRIPT = BASICS + "\n".join((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS)

_REMEMBERED = 8
_DELETED = 50


class Listing:
    """The runs of a store for pages that follow it; each page gets only the changes since its last request."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._told: OrderedDict[str, tuple[dict[str, RunSummary], list[dict[str, Any]], int]] = OrderedDict()
        self._last = ""

    def news(self, token: str) -> dict[str, Any]:
        """Return the changes since the answer with this token.

        Only ``{"token"}`` if nothing changed; otherwise also ``runs``, the new or changed rows, ``gone``, the ids that
        no longer exist, ``whole``, whether ``runs`` has all rows, ``deleted``, the last deleted runs that can be
        restored, and ``deleted_count``, the number of all of them.
        """
        with self._lock:
            rows = {row["id"]: row for row in self._store.summaries()}
            trashed = self._store.trash.runs()
            deleted = [
                {"id": run.id, "label": read_notes(run.path).label, "removed": run.removed}
                for run in trashed[:_DELETED]
            ]
            state = rows, deleted, len(trashed)
            if self._last not in self._told or self._told[self._last] != state:
                self._last = secrets.token_hex(8)
                self._told[self._last] = state
                while len(self._told) > _REMEMBERED:
                    self._told.popitem(last=False)
            if token == self._last:
                return {"token": token}
            before = self._told[token][0] if token in self._told else {}
            return {
                "token": self._last,
                "runs": [_shown(row) for id, row in rows.items() if before.get(id) != row],
                "gone": [id for id in before if id not in rows],
                "whole": token not in self._told,
                "deleted": deleted,
                "deleted_count": len(trashed),
            }


def _shown(row: RunSummary) -> dict[str, Any]:
    """Return a row for the page, with the default model by its title."""
    return {**row, "model": ASSETS[DEFAULT_MODEL].title if row["model"] == "default" else row["model"]}


def run_table(store: RunStore) -> gr.HTML:
    """Create the component. Its events are `EVENTS`; its values come from `answer` and `saved`."""
    listing = Listing(store)

    @takes(str)
    async def news(token: str) -> dict[str, Any]:
        return await anyio.to_thread.run_sync(listing.news, token)

    return gr.HTML(
        None,
        html_template=_MARKUP,
        js_on_load=_SCRIPT,
        apply_default_css=False,
        server_functions=[news],
        elem_id="run-table",
    )


def answer(words: str, kind: str = "good", *, undo: str = "", chosen: str = "") -> dict[str, Any]:
    """Return a value that shows a sentence; ``undo`` is a run that can be restored, ``chosen`` one to select."""
    return {"serial": secrets.token_hex(8), "words": words, "kind": kind, "undo": undo, "chosen": chosen}


def saved(run: str, words: str, kind: str = "good") -> dict[str, Any]:
    """Return a value that shows a sentence below the name and the note of a run, while it is selected."""
    return {"serial": secrets.token_hex(8), "run": run, "saved": words, "kind": kind}
