"""One run in the Train tab: the live gate map, figures and curves, and a slider over its history."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
import gradio as gr

from jola.errors import InputError
from jola.settings import MAX_NUMBER
from workbench.service.follow import Follower, Followers
from workbench.service.tables import gates_csv, metrics_csv
from workbench.train.reproduce import reproduce
from workbench.ui import BASICS, maps
from workbench.ui.server_functions import takes

_HERE = Path(__file__).parent

UPDATE_SECONDS = 0.2
"""Minimum time between two updates of the page."""
HOLD_SECONDS = 2.0
"""A request without news is answered after this time; longer waits would delay the shutdown of the server."""
_LOOK_SECONDS = 0.25
"""Time between two reads of the files of a run, whose process needs the processor."""

STYLE = maps.STYLE + (_HERE / "run_view.css").read_text(encoding="utf-8")
_SCRIPTS = ("curves.js", "run_view.js", "run_tools.js")
_SCRIPT = "\n".join((BASICS, maps.SCRIPT, *((_HERE / name).read_text(encoding="utf-8") for name in _SCRIPTS)))

_MARKUP = (_HERE / "run_view.html").read_text(encoding="utf-8").replace("<!-- gate map -->", maps.MARKUP)


async def _follow(followers: Followers, id: str, token: str, site: str, curves: bool) -> dict[str, Any]:
    """Answer the page's request for news of a run, with its last token and the site it shows.

    Returns ``{"snapshot": …}``, itself as JSON text, as soon as the token changes, and every two seconds while the run
    is running, for its clock; ``{"idle": true}`` if nothing changed for a run that has ended; ``{"gone": true}`` if the
    run does not exist.
    """
    follower = await anyio.to_thread.run_sync(followers.get, id)
    if follower is None:
        return {"gone": True}
    try:
        if token:
            await asyncio.sleep(UPDATE_SECONDS)
        end = time.monotonic() + HOLD_SECONDS
        while token and await anyio.to_thread.run_sync(follower.token) == token:
            if time.monotonic() > end:
                if not await anyio.to_thread.run_sync(lambda: follower.run.alive):
                    return {"idle": True}
                break
            await asyncio.sleep(_LOOK_SECONDS)
        # As text, because the server inspects every number of a list before sending it.
        return {"snapshot": await anyio.to_thread.run_sync(lambda: json.dumps(follower.snapshot(site, curves=curves)))}
    except (InputError, OSError):  # the directory was removed or damaged meanwhile
        return {"gone": True}


def _count(value: int) -> int:
    """Return the number of a step or a record. Raises `InputError` for invalid numbers that a program may send."""
    if not 0 <= value <= MAX_NUMBER:
        raise InputError("Steps and records are whole numbers, counted from 0.")
    return value


Answer = TypeVar("Answer")


async def _ask(followers: Followers, id: str, question: Callable[[Follower], Answer]) -> Answer | None:
    """Return the answer to a question about a run; None if the run does not exist or the question has no answer."""

    def ask() -> Answer | None:
        follower = followers.get(id)
        try:
            return None if follower is None else question(follower)
        except (InputError, OSError, ValueError):
            return None

    return await anyio.to_thread.run_sync(ask)


def run_view(followers: Followers) -> gr.HTML:
    """Create the component. Its value is the id of the run on the page.

    Its events: ``began`` and ``ended`` mean that a process of this run began or ended; ``pauserun``, ``resumerun`` and
    ``cancelrun`` ask for that action, and ``cancelrun`` may name another, waiting run; ``openrun`` asks for the run in
    its data. Requests that the page sends by itself change nothing, because any page in the browser can send them.
    """

    @takes(str, str, str, bool)
    async def follow(id: str, token: str, site: str, curves: bool) -> dict[str, Any]:
        return await _follow(followers, id, token, site, curves)

    @takes(str, str, int)
    async def frame(id: str, site: str, record: int) -> dict[str, Any] | None:
        return await _ask(followers, id, lambda follower: follower.frame(site, _count(record)))

    @takes(str, str, int)
    async def frame_at(id: str, site: str, step: int) -> dict[str, Any] | None:
        return await _ask(followers, id, lambda follower: follower.frame_at(site, _count(step)))

    @takes(str, str)
    async def course(id: str, site: str) -> list[dict[str, Any]] | None:
        return await _ask(followers, id, lambda follower: follower.course(site))

    @takes(str)
    async def recipe(id: str) -> dict[str, str] | None:
        return await _ask(followers, id, lambda follower: reproduce(follower.run))

    @takes(str, str, int)
    async def gates_table(id: str, site: str, start: int) -> dict[str, Any] | None:
        def table(follower: Follower) -> dict[str, Any]:
            text, more = gates_csv(follower.run, site, _count(start))
            return {"text": text, "more": more}

        return await _ask(followers, id, table)

    @takes(str)
    async def metrics_table(id: str) -> str | None:
        return await _ask(followers, id, lambda follower: metrics_csv(follower.run))

    return gr.HTML(
        "",
        html_template=_MARKUP,
        js_on_load=_SCRIPT,
        apply_default_css=False,
        server_functions=[follow, frame, frame_at, course, recipe, gates_table, metrics_table],
        elem_id="run-view",
    )
