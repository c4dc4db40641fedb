"""Visitors leave little memory and no files behind in the app."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests import ROOT
from tests.soak.test_calls import first_event
from tests.workbench.edited import edited_run
from tests.workbench.started import Started, started

MB = 2**20
MOST_GROWTH = 50 * MB
"""Maximum growth of memory in bytes, for any number of sessions."""
MOST_EACH = MB // 64
"""Maximum growth of memory per session in bytes; a stored session takes more than twice as much."""
KEPT = 10
"""Number of sessions that the app of these tests stores, instead of 200, so that it soon drops old ones."""
WARM_UP = 2 * KEPT
"""Number of sessions after which code and caches are loaded, and each new session replaces an old one."""
SHORT = 50
"""Minimum number of further sessions, with few ``--examples``."""
APP = f"""
import sys
from workbench import app
from workbench.server import serve

assert serve._SESSIONS == 200
serve._SESSIONS = {KEPT}
sys.exit(app.main())
"""
# Exports as the page starts them, within the app's handling of its temporary folder.
EXPORTING = """
import pathlib, sys
import gradio
from workbench import app
from workbench.service.bench import Workbench
from workbench.service.exports import FORMS, Exports
from workbench.settings import Settings

with app._private_temporary_folder():
    bench = Workbench.from_settings(Settings(runs=pathlib.Path(sys.argv[1])))
    exports = Exports(bench.settings)
    for _ in range(int(sys.argv[2])):
        *_, written = exports.export("page", bench.store.get("one"), FORMS["Plain checkpoint"], "float32")
        print(written.place)
    bench.session.close()
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("memory")
    with started(folder / "home", folder / "tmp", program=("-c", APP)) as app:
        yield app
    assert list((folder / "tmp").iterdir()) == []


@pytest.fixture
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Write a line to the terminal if output is shown (``-s``)."""
    return pytestconfig.get_terminal_writer().line if pytestconfig.getoption("capture") == "no" else lambda line: None


def test_sessions_are_forgotten(app: Started, examples: int, say: Callable[[str], None]) -> None:
    """Sends the first event of the page, from a new session each time."""
    count = max(SHORT, 40 * examples)
    with httpx.Client(base_url=app.address, timeout=120) as http:
        load = first_event(http.get("/config").json())
        body = {"fn_index": load["id"], "data": [None] * len(load["inputs"])}
        sizes = []
        for number in range(WARM_UP + count):
            answer = http.post("/gradio_api/run/predict", json={**body, "session_hash": f"visitor {number}"})
            assert answer.status_code == 200, answer.text
            if number >= WARM_UP - 1:
                sizes.append(app.memory)
    grown = (sizes[-1] - sizes[0]) / MB
    most = (max(sizes) - sizes[0]) / MB
    say(f"{count} new sessions: {grown:+.2f} MB, at most {most:+.2f} MB in between")
    assert max(sizes) - sizes[0] < min(MOST_GROWTH, count * MOST_EACH)


@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_is_refused_before_it_is_read(app: Started, announced: bool, say: Callable[[str], None]) -> None:
    size, piece, before = 100 * MB, b"x" * MB, app.memory
    host, _, port = app.address.removeprefix("http://").partition(":")
    length = f"Content-Length: {size}" if announced else "Transfer-Encoding: chunked"
    lines = ("POST /gradio_api/component_server HTTP/1.1", f"Host: {host}:{port}", "Content-Type: text/plain", length)
    begin, sent = time.perf_counter(), 0
    with socket.create_connection((host, int(port)), timeout=300) as connection:
        try:
            connection.sendall("\r\n".join((*lines, "", "")).encode())
            while sent < size:
                connection.sendall(piece if announced else b"%x\r\n%s\r\n" % (len(piece), piece))
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        status = connection.recv(1000)
    grown = (app.memory - before) / MB
    say(f"refused after {sent / MB:.0f} of 100 MB and {time.perf_counter() - begin:.2f} s: {grown:+.1f} MB")
    assert status.startswith(b"HTTP/1.1 413 "), status
    assert app.memory - before < MOST_GROWTH
    assert sent < size // 2
    assert httpx.get(app.address).status_code == 200


def test_exports_leave_no_files(tmp_path: Path, tiny_folder: Path, examples: int) -> None:
    temporary, count = tmp_path / "tmp", min(3, 1 + examples // 50)
    temporary.mkdir()
    edited_run(tmp_path / "runs" / "one", tiny_folder)
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", EXPORTING, str(tmp_path / "runs"), str(count)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stderr[-3000:]
    written = [Path(line) for line in ended.stdout.split()]
    assert len(set(written)) == count and all(temporary in place.parents for place in written)
    assert list(temporary.iterdir()) == []
