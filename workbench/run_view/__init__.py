"""One run on the page: the live map of its gates, its figures and curves, and a slider over its history."""

import asyncio
import time
from pathlib import Path
from typing import Any

import anyio.to_thread
import gradio as gr

from jola.errors import InputError
from workbench import gate_map
from workbench.follow import Followers

_HERE = Path(__file__).parent

UPDATE_SECONDS = 0.2
"""Shortest time between two updates of the page."""
HOLD_SECONDS = 2.0
"""A question without news is answered after this time: longer would hold up the end of the server."""
_LOOK_SECONDS = 0.1

STYLE = gate_map.STYLE + (_HERE / "run_view.css").read_text(encoding="utf-8")
_SCRIPT = "\n".join(
    (gate_map.SCRIPT, *((_HERE / name).read_text(encoding="utf-8") for name in ("curves.js", "run_view.js")))
)

_MARKUP = (_HERE / "run_view.html").read_text(encoding="utf-8").replace("<!-- gate map -->", gate_map.MARKUP)


async def _follow(followers: Followers, data: Any) -> dict[str, Any]:
    """Answer the page's question for news of a run: ``[id, token it knows, site it shows]``.

    ``{"snapshot": …}`` as soon as there is something that the token does not cover, and every two seconds while the
    run is at work, for its clock; ``{"idle": true}`` when nothing happened to a run that has ended; ``{"gone": true}``
    when there is no such run.
    """
    id, token, site = (str(part) for part in data)
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
        return {"snapshot": await anyio.to_thread.run_sync(follower.snapshot, site)}
    except (InputError, OSError):  # the directory was removed or damaged in between
        return {"gone": True}


def run_view(followers: Followers) -> gr.HTML:
    """The component. Its value is the id of the run on the page; its event ``ended`` tells that this run ended."""

    async def follow(data: Any) -> dict[str, Any]:
        return await _follow(followers, data)

    async def frame(data: Any) -> dict[str, Any] | None:
        id, site, record = data
        follower = await anyio.to_thread.run_sync(followers.get, str(id))
        if follower is None:
            return None
        try:
            return await anyio.to_thread.run_sync(follower.frame, str(site), int(record))
        except InputError:
            return None

    return gr.HTML(
        "",
        html_template=_MARKUP,
        js_on_load=_SCRIPT,
        apply_default_css=False,
        server_functions=[follow, frame],
        elem_id="run-view",
    )
