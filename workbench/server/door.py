"""Checks every request before Gradio receives it.

Gradio answers requests that this app never sends: it fetches URLs in its file routes and relays them from the app's own
origin, answers preflight requests of other origins, and reads bodies of any size. `Door` is the outermost layer of the
server and refuses all of this, independently of Gradio's own checks.
"""

import math
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workbench.server.attempts import Attempts

NONCE = "jola_nonce"
"""Key of the nonce for the page's own scripts in the scope of a request."""

BODY_BYTES = 4 * 2**20
"""Largest body of a request that uploads no file."""

_UPLOAD_ROUTE = "/gradio_api/upload"
_MULTIPART_BYTES = 2**20
_LOGIN_ROUTE = re.compile(r"/login/*$", re.IGNORECASE)
_FILE_ROUTE = re.compile(r"/file(=|/)", re.IGNORECASE)
_URL = re.compile(r"^\W*[a-z][a-z0-9+.-]*:|^[/\\]{2}|://", re.IGNORECASE)
_ONE_LETTER_DRIVE = re.compile(r"^[a-z]:[/\\]", re.IGNORECASE)
_ASKS_TOKEN = "Open the address that the app printed when it started, or start the app with --no-token."
_DEFAULT_PORTS = {"http": 80, "https": 443}

# Routes of Gradio that the app does not use, but anybody could call.
_UNUSED = re.compile(
    r"/(proxy=|vibe-|undo-vibe-|run-history|deep_link|process_recording|monitoring|profiling|mcp|dev/)", re.IGNORECASE
)

# 'unsafe-eval': Gradio compiles the scripts of gr.HTML components and of `js=` arguments from their text.
# 'unsafe-inline' for styles only: components and figures set style attributes.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' 'nonce-{nonce}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; connect-src 'self'; "
    "worker-src 'self' blob:; manifest-src 'self'; form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
)
_OTHER_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


@dataclass(eq=False)  # not frozen: Python sets the traceback of an exception
class _Refusal(Exception):
    status: int
    sentence: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Token:
    """The secret in the printed address, which the browser stores as a cookie.

    Loopback is open to every user of the computer; only the user who sees the output of the app knows the token.
    """

    secret: str
    cookie: str
    """Name of the cookie, which includes the port because browsers share cookies between ports."""

    @classmethod
    def fresh(cls, port: int) -> "Token":
        """Create a new secret for the app at a port."""
        return cls(secrets.token_urlsafe(24), f"jola-token-{port}")

    def admits(self, headers: Headers, query: list[tuple[str, str]] | None = None) -> bool:
        """Whether a request contains the secret in its query, its cookie, or as ``Authorization: Bearer``."""
        kind, _, sent = headers.get("authorization", "").partition(" ")
        given = [sent.strip()] if kind.lower() == "bearer" else []
        given += [value for text in headers.getlist("cookie") if (value := cookie_parser(text).get(self.cookie))]
        given += [value for name, value in query or () if name == "token"]
        secret = self.secret.encode()
        return any([secrets.compare_digest(value.encode("utf-8", "replace"), secret) for value in given])

    def remembered(self, answer: Response) -> Response:
        """Add the secret to an answer as a session cookie, and return the answer."""
        answer.set_cookie(self.cookie, self.secret, path="/", httponly=True, samesite="strict")
        return answer


class Door:
    """Outermost ASGI layer: own host, own origin, token, no URL in file routes, bounded bodies, security headers.

    Args:
        app: Application that answers the accepted requests.
        hosts: Accepted host names, without port; None accepts every name.
        upload_bytes: Largest file that may be uploaded.
        token: Token that every request must contain; None if no token is required.
        attempts: Counts login attempts; None without a password.
        record: Called with exceptions that the app raises after its answer has begun.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: tuple[str, ...] | None,
        upload_bytes: int,
        token: Token | None = None,
        *,
        attempts: Attempts | None = None,
        record: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self.app = app
        self.hosts = hosts
        self.upload_bytes = upload_bytes
        self.token = token
        self.attempts = attempts
        self.record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it with one sentence."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket, which the app does not use
            await send({"type": "websocket.close", "code": 1008})
            return
        nonce = scope[NONCE] = secrets.token_urlsafe(16)
        dressed = _with_headers(send, scope["path"], nonce)
        try:
            self._check(scope)
            if self.token and (answer := _admitted(self.token, scope)):
                await answer(scope, receive, dressed)
                return
            await self._pass_on(scope, _Body(receive, self._limit(scope["path"])), dressed)
        except _Refusal as refusal:
            answer = PlainTextResponse(refusal.sentence, refusal.status, {"Connection": "close", **refusal.headers})
            await answer(scope, receive, dressed)

    async def _pass_on(self, scope: Scope, body: "_Body", send: Send) -> None:
        """Let the app answer; exceptions raised after its answer has begun are recorded and not raised.

        If the app answers a refused body with an error of its own, the refusal is sent instead.
        """
        begun = False
        address = await self._attempt(scope)

        async def sending(message: Message) -> None:
            nonlocal begun
            if body.refusal is not None and not begun:
                return
            begun = True
            if address is not None and self.attempts and message.get("status") == 200:
                self.attempts.right(address)
            await send(message)

        try:
            await self.app(scope, body.receive, sending)
        except Exception as error:
            if body.refusal is None:
                if not begun:
                    raise
                self.record(error)
        if body.refusal is not None and not begun:
            raise body.refusal

    async def _attempt(self, scope: Scope) -> str | None:
        """Return the client's address for a login attempt, which may be delayed or refused; None for other requests."""
        if self.attempts is None or scope["method"] != "POST" or not _LOGIN_ROUTE.search(_decoded(scope["path"])):
            return None
        address = str((scope.get("client") or ("",))[0])
        if wait := await self.attempts.begin(address):
            seconds = math.ceil(wait)
            raise _Refusal(429, f"Too many wrong passwords; try again in {seconds} s.", {"Retry-After": str(seconds)})
        return address

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise _Refusal(400, "This app only answers requests to its own address.")
        self._check_origin(scope, headers, host)
        self._check_route(scope)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > self._limit(scope["path"]):
            raise _Refusal(413, f"The request is larger than {self._limit(scope['path']) >> 20} MB.")

    @staticmethod
    def _check_origin(scope: Scope, headers: Headers, host: str) -> None:
        for origin in headers.getlist("origin"):
            if not _same_place(origin, host):
                raise _Refusal(403, "Requests from other web pages are refused.")
        # Sec-Fetch-Site covers requests without Origin. Following a link to the page itself is allowed.
        site = headers.get("sec-fetch-site", "none")
        follows_link = (
            scope["method"] == "GET"
            and scope["path"] == "/"
            and headers.get("sec-fetch-mode", "navigate") == "navigate"
        )
        if site not in ("none", "same-origin") and not follows_link:
            raise _Refusal(403, "Requests from other web pages are refused.")

    @staticmethod
    def _check_route(scope: Scope) -> None:
        path = _decoded(scope["path"])
        if _UNUSED.search(path):
            raise _Refusal(404, "Not found.")
        if found := _FILE_ROUTE.search(path):
            target = path[found.end() :].strip()
            if _URL.search(target) and not _ONE_LETTER_DRIVE.match(target):
                raise _Refusal(403, "This app does not fetch URLs.")
        if "deep_link" in parse_qs(scope["query_string"].decode("latin-1")):
            raise _Refusal(403, "This app has no deep links.")

    def _limit(self, path: str) -> int:
        return self.upload_bytes + _MULTIPART_BYTES if path.rstrip("/") == _UPLOAD_ROUTE else BODY_BYTES


def _admitted(token: Token, scope: Scope) -> Response | None:
    """Return None if a request contains the token, or an answer that redirects to the address without the token.

    Raises `_Refusal` for all other requests.
    """
    headers = Headers(scope=scope)
    for_page = scope["method"] == "GET" and scope["path"] == "/"
    query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True) if for_page else []
    rest = [(name, value) for name, value in query if name != "token"]
    place = f"./?{urlencode(rest)}" if rest else "./"
    admitted = token.admits(headers, query)
    answer: Response
    if for_page and headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
        # A link on another page was followed: the browser sends the cookie only with requests from the app's own pages.
        answer = PlainTextResponse("", headers={"Refresh": f"0; url={place}"})
    elif not admitted:
        raise _Refusal(401, _ASKS_TOKEN)
    elif len(rest) < len(query):
        answer = RedirectResponse(place, 303)
    else:
        return None
    return token.remembered(answer) if admitted else answer


def _name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    return re.sub(r":\d*$", "", host).lower()


def _same_place(origin: str, host: str) -> bool:
    """Whether an Origin names the host and port that the request was sent to.

    The scheme is not compared: behind a TLS proxy, the page uses https and the app http.
    """
    try:
        parts = urlsplit(origin)
        default = _DEFAULT_PORTS.get(parts.scheme)
        if default is None or not parts.hostname:
            return False
        target = urlsplit(f"{parts.scheme}://{host}")
        return (parts.hostname, parts.port or default) == (target.hostname, target.port or default)
    except ValueError:
        return False


def _decoded(path: str) -> str:
    """Remove up to eight layers of percent-encoding, and control characters, from a path."""
    for _ in range(8):
        plain = unquote(path)
        if plain == path:
            break
        path = plain
    return "".join(character for character in path if character.isprintable())


class _Body:
    """The body of a request; it is refused once it exceeds ``limit`` bytes, whatever its header says."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self.refusal: _Refusal | None = None
        self._receive, self._limit, self._seen = receive, limit, 0

    async def receive(self) -> Message:
        """Return the next part. Raises the refusal once the limit is exceeded."""
        if self.refusal is None:
            message = await self._receive()
            self._seen += len(message.get("body", b""))
            if self._seen <= self._limit:
                return message
            self.refusal = _Refusal(413, f"The request is larger than {self._limit >> 20} MB.")
        raise self.refusal


def _with_headers(send: Send, path: str, nonce: str) -> Send:
    """Wrap `send` to add the security headers and to remove Gradio's CORS headers."""
    policy = _PAGE_POLICY.format(nonce=nonce) if path == "/" else _OTHER_POLICY

    async def dressed(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            for name in [name for name in headers if name.startswith("access-control-")]:
                del headers[name]
            headers["Content-Security-Policy"] = policy
            headers["X-Frame-Options"] = "DENY"
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "same-origin"
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
        await send(message)

    return dressed
