"""The list of comparisons and the selected one: what it compares, its progress and its actions.

`workbench.compare.tab` handles the events of this component.
"""

import asyncio
import hashlib
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio.to_thread
import gradio as gr

from jola.data.assets import ASSETS, DEFAULT_MODEL
from jola.errors import InputError
from jola.system.formatting import counted, duration_text
from workbench.service.comparisons import Comparisons
from workbench.service.processes import log_tail
from workbench.service.stored_comparison import StoredComparison
from workbench.ui import work_list
from workbench.ui.server_functions import takes

_HERE = Path(__file__).parent

EVENTS = ("choose", "more", "redraw", "remove", "restore", "resumework", "small", "stopwork")
"""Events of the component. Those about a comparison that is not on the page have its id. ``small`` and ``more`` ask to
fill in the form, with a small comparison or with the one on the page."""

HOLD_SECONDS = 2.0
"""A request without news is answered after this time; longer waits would delay the shutdown of the server."""
_LOOK_SECONDS = 0.7
_AT_REST_SECONDS = 5.0
"""A comparison that is not running in the app is read again after this time, because it may be running in a shell."""

STYLE = work_list.style("cv") + (_HERE / "compare_view.css").read_text(encoding="utf-8")
_MARKUP = (_HERE / "compare_view.html").read_text(encoding="utf-8")
_SCRIPT = work_list.SCRIPT + (_HERE / "compare_view.js").read_text(encoding="utf-8")


def compare_view(comparisons: Comparisons) -> gr.HTML:
    """Create the component. Its value is the id of the comparison on the page; its events are `EVENTS`.

    ``redraw`` means that the results of that comparison differ from those that were drawn last. Requests that the page
    sends by itself change nothing, because any page in the browser can send them.
    """

    rows: Rows = {}

    @takes(str, str)
    async def news(id: str, token: str) -> dict[str, Any]:
        end = time.monotonic() + HOLD_SECONDS
        while True:
            found = await anyio.to_thread.run_sync(snapshot, comparisons, id, rows)
            if found["token"] != token:
                return found
            if time.monotonic() > end:
                return {"token": token}
            await asyncio.sleep(_LOOK_SECONDS)

    return gr.HTML(
        "",
        html_template=_MARKUP,
        js_on_load=f"(() => {{\n{_SCRIPT}\n}})();",
        apply_default_css=False,
        server_functions=[news],
        elem_id="compare-view",
    )


Rows = dict[str, tuple[float, dict[str, Any]]]
"""Rows of the list by id, each with the time at which it was read."""


def snapshot(comparisons: Comparisons, id: str, known: Rows | None = None) -> dict[str, Any]:
    """Return everything that the component shows, and a token that changes with it; ``known`` caches inactive rows."""
    known = {} if known is None else known
    chosen, now, rows = comparisons.find(id), time.monotonic(), []
    for found in comparisons.list():
        read, row = known.get(found.id, (-_AT_REST_SECONDS, {}))
        if found.id == id or found.working or row.get("state") == "working" or now - read >= _AT_REST_SECONDS:
            row = _row(found)
            known[found.id] = (now, row)
        rows.append(row)
    view: dict[str, Any] = {"list": rows, "chosen": _chosen(chosen) if chosen is not None else None}
    view["token"] = hashlib.sha256(json.dumps(view).encode()).hexdigest()[:24]
    return view


def _row(found: StoredComparison) -> dict[str, Any]:
    planned = found.planned()
    done = found.ended_cells()
    return {
        "id": found.id,
        "about": about(found),
        "words": words(found),
        "methods": methods(found),
        "label": found.label,
        "state": found.state,
        "done": sum(name in done for name in planned),
        "planned": len(planned),
        "created": f"{datetime.fromtimestamp(found.created):%d %b %H:%M}",
    }


def _chosen(found: StoredComparison) -> dict[str, Any]:
    state, now, left = found.state, found.now(), found.seconds_left()
    return {
        **_row(found),
        "message": found.message,
        "now": now.words if now else "",
        "now_done": now.done if now else 0,
        "now_total": now.total if now else 0,
        "left": f"about {duration_text(left)} left" if left is not None else "",
        "log": log_tail(found) if state in ("failed", "stopped") else "",
        "note": found.note,
        "folder": str(found.folder),
        "mark": found.mark(),
    }


def about(found: StoredComparison) -> str:
    """Describe data, model and size of a comparison in one line."""
    try:
        config = found.config()
    except InputError:
        return found.id
    model = ASSETS[DEFAULT_MODEL].title if config.model.model == "default" else Path(config.model.model).name
    examples = f"{config.data.train_size:,} training examples" if config.data.train_size else "all training examples"
    return f"{Path(config.data.task).name} · {model} · {examples} · {counted(config.training.epochs, 'epoch')}"


def words(found: StoredComparison) -> str:
    """Describe what is compared in one line."""
    try:
        return found.plan().words()
    except InputError as error:
        return str(error)


def methods(found: StoredComparison) -> str:
    """Return the titles of all methods that are compared."""
    try:
        return ", ".join(found.plan().names())
    except InputError:
        return ""
