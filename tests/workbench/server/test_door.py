"""Requests that the door refuses and Gradio alone would answer."""

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import safehttpx
from starlette.testclient import TestClient

from tests import ROOT
from tests.workbench.served import Served, serve
from workbench.server.door import BODY_BYTES, Door

EVIL = "https://evil.example"

_HAS_NAMESPACES = bool(shutil.which("unshare") and shutil.which("ip")) and not subprocess.call(
    ["unshare", "--net", "--map-root-user", "true"], stderr=subprocess.DEVNULL
)
_AT_A_PUBLIC_ADDRESS = """
import json, pathlib, subprocess, sys
import httpx
from starlette.testclient import TestClient
from tests.workbench.served import serve
from tests.workbench.server.test_door import Stranger

for words in ("link set lo up", "addr add 93.184.215.14/32 dev lo"):
    subprocess.run(["ip", *words.split()], check=True)
stranger = Stranger("93.184.215.14")
with serve(pathlib.Path(sys.argv[1])) as app:
    routes = (f"file={stranger.address}/x.png", f"file/{stranger.address}/x.png", f"proxy={stranger.address}/x.png")
    answers = [httpx.get(f"{app.address}/gradio_api/{route}", timeout=120) for route in routes]
    found = {"through the door": [(answer.status_code, answer.text) for answer in answers]}
    found["asked through the door"] = list(stranger.asked)
    TestClient(app.server.page.app, base_url=app.address).get(f"/gradio_api/file={stranger.address}/past.png")
    found["asked past the door"] = stranger.asked
print(json.dumps(found))
"""


class Stranger:
    """A web server of a third party, which records its requests."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.asked: list[str] = []
        stranger = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stranger.asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(b"<script>alert(1)</script>")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.address = f"http://{host}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stranger]:
    """A stranger at a loopback address, which Gradio's patched fetch function treats like a public address."""

    async def fetch(url: str, **_: Any) -> httpx.Response:
        async with httpx.AsyncClient() as client:
            return await client.get(url)

    monkeypatch.setattr(safehttpx, "get", fetch)
    stranger = Stranger()
    yield stranger
    stranger.server.shutdown()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("door")) as app:
        yield app


class TestNoUrlIsFetched:
    """Otherwise, a link on any page could run a script as if it were the app's own."""

    @pytest.mark.parametrize("route", ["file=", "file/", "FILE=", "proxy="])
    @pytest.mark.parametrize(
        "target", ["{}", "{}?a=b", "%68ttp{rest}", "%2568ttp{rest}", "%0a{}", "//{place}", "HTTP{rest}"]
    )
    def test_through_the_door(self, app: Served, stranger: Stranger, route: str, target: str) -> None:
        rest, place = stranger.address.removeprefix("http"), stranger.address.removeprefix("http://")
        url = target.format(stranger.address + "/x.png", rest=rest + "/x.png", place=place + "/x.png")
        answer = httpx.get(f"{app.address}/gradio_api/{route}{url}")
        assert answer.status_code in (403, 404) and "<script>" not in answer.text
        assert stranger.asked == []

    def test_without_the_door_it_would_be(self, app: Served, stranger: Stranger) -> None:
        inside = TestClient(app.server.page.app, base_url=app.address)
        with pytest.MonkeyPatch.context() as patch:
            # The control: without the door, the same request reaches the stranger.
            from gradio import routes

            async def fetch(url: str, _: Any) -> Any:
                answer = await safehttpx.get(url)
                return routes.HTMLResponse(answer.text)

            patch.setattr(routes, "secure_url_stream_response", fetch)
            answer = inside.get(f"/gradio_api/file={stranger.address}/x.png")
        assert stranger.asked == ["/x.png"] and "<script>" in answer.text

    @pytest.mark.skipif(not _HAS_NAMESPACES, reason="this user may not make network namespaces")
    def test_at_a_public_address(self, tmp_path: Path) -> None:
        """Use a network namespace with a public address on its loopback interface, which passes Gradio's own checks."""
        command = ["unshare", "--net", "--map-root-user", sys.executable, "-c", _AT_A_PUBLIC_ADDRESS, str(tmp_path)]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
        assert ended.returncode == 0, ended.stderr[-3000:]
        found = json.loads(ended.stdout.splitlines()[-1])
        assert [status for status, _ in found["through the door"]] == [403] * 2 + [404]
        assert not any("<script>" in text for _, text in found["through the door"])
        assert found["asked through the door"] == []
        assert found["asked past the door"] == ["/past.png"]


class TestOrigins:
    """Only the app's own page can call the app."""

    @pytest.mark.parametrize(
        "origin", [EVIL, "null", "http://127.0.0.1:1", "http://localhost", "file://", "http://[", ""]
    )
    @pytest.mark.parametrize("method", ["OPTIONS", "POST", "GET"])
    def test_others_are_refused(self, app: Served, origin: str, method: str) -> None:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        for path in ("gradio_api/call/runs", "gradio_api/queue/join", "gradio_api/upload", "config", ""):
            answer = httpx.request(method, f"{app.address}/{path}", headers=headers)
            assert answer.status_code == 403, path
            assert not [name for name in answer.headers if name.startswith("access-control-")]

    def test_its_own_is_answered(self, app: Served) -> None:
        answer = httpx.post(f"{app.address}/gradio_api/call/runs", json={"data": []}, headers={"Origin": app.address})
        assert answer.status_code == 200

    def test_behind_a_tls_proxy_the_scheme_may_differ(self) -> None:
        client = TestClient(Door(page, None, 1000), base_url="http://models.example")
        assert client.get("/", headers={"Origin": "https://models.example"}).status_code == 200
        assert client.get("/", headers={"Origin": "https://models.example:8443"}).status_code == 403

    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_requests_that_name_no_origin(self, app: Served, site: str) -> None:
        sent = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        assert httpx.get(f"{app.address}/config", headers=sent).status_code == 403
        assert httpx.get(app.address, headers=sent).status_code == 403
        followed = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
        assert httpx.get(f"{app.address}/?run=one", headers=followed).status_code == 200
        assert httpx.get(f"{app.address}/gradio_api/info", headers=followed).status_code == 403

    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:80"])
    def test_other_names_are_refused(self, app: Served, host: str) -> None:
        assert httpx.get(app.address, headers={"Host": host}).status_code == 400


class TestBodies:
    """A body is refused by its announced size before it is read, and by its real size while it is read."""

    def test_announced(self, app: Served) -> None:
        host = app.address.removeprefix("http://")
        name, _, port = host.partition(":")
        with socket.create_connection((name, int(port)), timeout=120) as connection:
            head = f"POST /gradio_api/queue/join HTTP/1.1\r\nHost: {host}\r\nContent-Length: {10**8}\r\n\r\n"
            connection.sendall(head.encode())
            assert b" 413 " in connection.recv(100)

    def test_not_announced(self) -> None:
        read: list[int] = []

        async def reader(scope: Any, receive: Any, send: Any) -> None:
            while True:
                message = await receive()
                read.append(len(message.get("body", b"")))
                if not message.get("more_body"):
                    break
            await answer(send)

        client = TestClient(Door(reader, None, 1000))
        assert client.post("/a", content=iter([b"x" * 2**20] * 3)).status_code == 200
        read.clear()
        assert client.post("/a", content=iter([b"x" * 2**20] * 400)).status_code == 413
        assert sum(read) <= BODY_BYTES

    def test_what_the_app_makes_of_a_body_that_is_too_large_is_not_sent(self, app: Served) -> None:
        """Gradio reports any exception that is raised while it reads a body as bad JSON."""
        answer = httpx.post(f"{app.address}/gradio_api/component_server", content=iter([b" " * 2**20] * 5))
        assert (answer.status_code, answer.text) == (413, "The request is larger than 4 MB.")
        assert answer.headers["connection"] == "close" and answer.headers["X-Frame-Options"] == "DENY"

    def test_uploads_have_a_limit_of_their_own(self) -> None:
        client = TestClient(Door(page, None, 10 * 2**20))
        assert client.post("/gradio_api/upload", content=b"x" * (9 * 2**20)).status_code == 200
        assert client.post("/gradio_api/upload", content=b"x" * (12 * 2**20)).status_code == 413

    @pytest.mark.parametrize("length", ["-1", "1e9", "9" * 400, "ten"])
    def test_lengths_that_are_none(self, length: str) -> None:
        client = TestClient(Door(page, None, 1000))
        assert client.post("/a", headers={"Content-Length": length}).status_code == 413


class TestHeaders:
    """Security headers of every answer."""

    @pytest.mark.parametrize("path", ["", "config", "gradio_api/file=x", "nothing", "gradio_api/proxy=x"])
    def test_no_frame_no_foreign_script(self, app: Served, path: str) -> None:
        headers = httpx.get(f"{app.address}/{path}").headers
        assert headers["X-Frame-Options"] == "DENY" and headers["X-Content-Type-Options"] == "nosniff"
        policy = headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy and "default-src 'none'" in policy and "http" not in policy

    def test_only_the_page_runs_scripts_and_only_its_own(self, app: Served) -> None:
        first, second = httpx.get(app.address), httpx.get(app.address)
        policies = [answer.headers["Content-Security-Policy"] for answer in (first, second)]
        assert policies[0] != policies[1], "a nonce is used once"
        nonce = policies[0].partition("'nonce-")[2].partition("'")[0]
        assert first.text.count("<script") == first.text.count(f'<script nonce="{nonce}"') > 1
        assert "sandbox" in httpx.get(f"{app.address}/gradio_api/file=x").headers["Content-Security-Policy"]

    @pytest.mark.parametrize(
        "path",
        [
            "gradio_api/vibe-code",
            "gradio_api/deep_link",
            "monitoring/summary",
            "?deep_link=../state",
            "gradio_api/dev/reload",
            "gradio_api/proxy=%00",
            "gradio_api/proxy=%ff",
            "gradio_api/proxy=http://é",
            "gradio_api/%2570roxy=x",
        ],
    )
    def test_parts_of_gradio_that_are_not_used_are_closed(self, app: Served, path: str) -> None:
        assert httpx.get(f"{app.address}/{path}").status_code in (403, 404)


async def page(scope: Any, receive: Any, send: Any) -> None:
    """ASGI application that answers every request."""
    while (await receive()).get("more_body"):
        pass
    await answer(send)


async def answer(send: Any) -> None:
    """Send a plain answer."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})
