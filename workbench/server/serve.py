"""The server of the app: Gradio's page behind `Door`, in a separate thread."""

import tempfile
import threading
import time
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from jola.errors import InputError
from workbench.server.attempts import Attempts
from workbench.server.connections import Connection
from workbench.server.door import Door, Token
from workbench.settings import Settings

if TYPE_CHECKING:
    import gradio as gr

_QUEUE_SECONDS = 0.01
_SESSIONS = 200
"""Maximum number of sessions whose state is stored; the least recently used one is dropped first."""


class Server:
    """A page that is being served, until `close` is called."""

    def __init__(
        self, page: "gr.Blocks", door: Door, address: str, server: uvicorn.Server, thread: threading.Thread
    ) -> None:
        self.page, self.door = page, door
        self.address = address
        """Includes the token if one is required."""
        self._server, self._thread = server, thread

    def close(self) -> None:
        """Stop answering requests."""
        self.page.close(verbose=False)  # first: it ends the streams that the server would wait for
        self._server.should_exit = True
        self._thread.join(timeout=10)


def serve(page: "gr.Blocks", settings: Settings) -> Server:
    """Serve a page in separate threads. Raises `InputError` if the port is taken."""
    port = settings.claim_port()
    token = Token.fresh(port) if settings.asks_token else None
    door = _behind_door(page, settings, port, token)
    # "error": a warning for each malformed request would let any client fill the log.
    # No proxy headers: uvicorn trusts those of local clients, which could give every password guess its own address.
    config = uvicorn.Config(
        door,
        host=settings.host,
        port=port,
        http=Connection,
        log_level="error",
        server_header=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=_run, args=(server,), name="jola-server", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    if not server.started:
        raise InputError(f"Port {settings.port} on {settings.host} is taken; choose another with --port.")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{port}/" + (f"?token={token.secret}" if token else "")
    if settings.open_browser:
        webbrowser.open(_leading_to(address) if token else address)
    return Server(page, door, address, server, thread)


def _run(server: uvicorn.Server) -> None:
    with suppress(SystemExit):  # raised by uvicorn if it cannot start; `serve` reports it
        server.run()


def _leading_to(address: str) -> str:
    """Return the URI of a new file that redirects to ``address``.

    Only this user can read the file. Passed to the browser directly, the address would be visible in command lines.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".html", encoding="utf-8", delete=False) as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={address}">\n')
    return Path(file.name).as_uri()


def _behind_door(page: "gr.Blocks", settings: Settings, port: int, token: Token | None) -> Door:
    """Return the page as an ASGI application: Gradio inside `Door`."""
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware import Middleware
    from starlette.routing import Mount

    from workbench.server import faults
    from workbench.server.first_script import FirstScript
    from workbench.server.sessions import Sessions
    from workbench.theme import ICON, STYLE, theme

    page.queue(default_concurrency_limit=8, max_size=64)
    # By default Gradio polls its queue a thousand times a second, on a processor that may be busy training.
    page._queue.sleep_when_free = _QUEUE_SECONDS
    page._queue.progress_update_sleep_when_free = 10 * _QUEUE_SECONDS
    page.state_session_capacity = _SESSIONS
    outer = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        outer,
        page,
        path="/",
        server_name=settings.host,
        server_port=port,
        auth=settings.credentials,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        show_error=settings.loopback,
        max_file_size=settings.limits.upload_bytes,
        allowed_paths=[],
        favicon_path=str(ICON),
        theme=theme(),
        head=f"<style>{STYLE}</style>",
        app_kwargs={"middleware": [Middleware(FirstScript)], "exception_handlers": {Exception: faults.answer}},
    )
    # `Blocks.launch` would set these; `Blocks.close` and the queue use them.
    inner: Any = next(route.app for route in outer.routes if isinstance(route, Mount))
    page.app = page.server_app = inner
    inner.state_holder = Sessions()
    inner.state_holder.set_blocks(page)
    page._queue.set_server_app(inner)
    attempts = Attempts() if settings.credentials else None
    hosts = ("127.0.0.1", "localhost", "[::1]", "::1", settings.host.lower()) if settings.loopback else None
    return Door(outer, hosts, settings.limits.upload_bytes, token, attempts=attempts, record=faults.record)
