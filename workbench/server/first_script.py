"""Adds scripts that run before gradio's scripts, which gradio's own options do not allow.

Each of the ``first_scripts`` changes one behavior of gradio's page.
"""

import re
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench.server.door import NONCE

_FILES = sorted((Path(__file__).parent / "first_scripts").glob("*.js"))
_SCRIPT = b"<script>%s</script>" % b"\n".join(file.read_bytes() for file in _FILES)
_HEAD = b"<head>"
_ANY_SCRIPT = re.compile(rb"<script(?=[\s>])")


class FirstScript:
    """Middleware that inserts the ``first_scripts`` at the beginning of the head and adds the nonce to all scripts."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body: list[bytes] = []

        async def whole(message: Message) -> None:
            """Buffer the answer until it is complete, because its length is sent first."""
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body.append(message.get("body", b""))
            if message.get("more_body") or start is None:
                return
            content, headers = b"".join(body), MutableHeaders(raw=start["headers"])
            if headers.get("content-type", "").startswith("text/html"):
                content = content.replace(_HEAD, _HEAD + _SCRIPT, 1)
                # Gradio escapes every "<" in the data that it inserts into the page, so that all scripts are its own.
                content = _ANY_SCRIPT.sub(b'<script nonce="%s"' % scope.get(NONCE, "").encode(), content)
                if "content-length" in headers:
                    headers["content-length"] = str(len(content))
            await send(start)
            await send({"type": "http.response.body", "body": content})

        await self.app(scope, receive, whole)
