"""A local package index with one small package, and the asset built from it."""

import base64
import hashlib
import io
import json
import os
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jola.data import assets
from jola.data.catalogue import Asset
from jola.data.package_index import PipSettings, Release
from jola.system.paths import cache_home

FILENAME = "some_thing-1.0-py3-none-any.whl"
CONTENT = os.urandom(600_000)


def make_wheel() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("some_thing/data.bin", CONTENT)
        wheel.writestr("LICENSE", "do what you like")
    return file.getvalue()


WHEEL = make_wheel()


def build(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as wheel:
        (folder / "data.bin").write_bytes(wheel.read("some_thing/data.bin"))
        (folder / "LICENSE").write_bytes(wheel.read("LICENSE"))


RELEASE = Release("Some.Thing", "1.0", FILENAME, len(WHEEL), hashlib.sha256(WHEEL).hexdigest())
ASSET = Asset("thing", "Some thing", "data", "MIT", RELEASE, 2_000_000, build)


class Index(ThreadingHTTPServer):
    """A package index with one project. Attributes set how it misbehaves; ``requests`` records what was requested."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {FILENAME: WHEEL}
        self.json = True
        self.ranges = True
        self.cuts: list[int] = []
        self.login: str | None = None
        self.file_host = ""
        self.requests: list[tuple[str, str | None, str | None]] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/simple"

    def downloads(self) -> list[str | None]:
        """Return the Range header of each request for a file."""
        return [wanted for path, wanted, _ in self.requests if path.startswith("/files/")]


class _Handler(BaseHTTPRequestHandler):
    server: Index

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        index, login = self.server, self.headers.get("Authorization")
        index.requests.append((self.path, self.headers.get("Range"), login))
        name = self.path.rpartition("/")[2]
        if index.login and login != f"Basic {base64.b64encode(index.login.encode()).decode()}":
            self.send_error(401)
        elif self.path == "/simple/some-thing/":
            self._page()
        elif self.path.startswith("/files/") and name in index.files:
            self._file(index.files[name])
        else:
            self.send_error(404)

    def _page(self) -> None:
        links = {name: f"{self.server.file_host}/files/{name}" for name in self.server.files}
        if self.server.json:
            kind = "application/vnd.pypi.simple.v1+json"
            files = [{"filename": name, "url": link, "hashes": {}} for name, link in links.items()]
            page = json.dumps({"meta": {"api-version": "1.0"}, "name": "some-thing", "files": files})
        else:
            kind = "text/html"
            anchors = "".join(f'<a href="{link}#sha256=0">{name}</a><br>' for name, link in links.items())
            page = f"<!DOCTYPE html><html><body><a href='..'>up</a>{anchors}</body></html>"
        self._answer(200, kind, page.encode())

    def _file(self, content: bytes) -> None:
        start = 0
        if self.server.ranges and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(content):
            self.send_error(416)
            return
        extra = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self._answer(206 if start else 200, "application/octet-stream", content[start:], extra)

    def _answer(self, status: int, kind: str, body: bytes, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(extra or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.path.startswith("/files/") and self.server.cuts:
            body = body[: self.server.cuts.pop(0)]
        self.wfile.write(body)


def use(monkeypatch: pytest.MonkeyPatch, settings: PipSettings) -> None:
    """Pretend that pip has these settings, with more time for a busy machine unless they have a time of their own."""
    patient = replace(settings, timeout=600.0) if settings.timeout == PipSettings.timeout else settings
    monkeypatch.setattr(PipSettings, "read", classmethod(lambda cls: patient))


def home_files() -> set[str]:
    """Return the names of all assets and downloads, without locks."""
    return {path.name for path in (cache_home() / "assets").iterdir() if path.suffix != ".lock"}


def ensure() -> Path:
    """Fetch the asset quietly."""
    return assets.ensure("thing", progress=False)
