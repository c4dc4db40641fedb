"""What visitors leave behind in the app: little memory, and no files."""

import socket
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.soak.apps import Started, started
from tests.soak.test_calls import first_event

MB = 2**20
MOST_GROWTH = 50 * MB
WARM_UP = 20
"""Sessions after which code and caches are loaded."""
SHORT = 200
"""Sessions where few examples are asked for."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("memory")
    with started(folder / "home", folder / "tmp") as app:
        yield app
    assert list((folder / "tmp").iterdir()) == []


@pytest.fixture
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Write a line into the report, where output is shown (``-s``)."""
    return pytestconfig.get_terminal_writer().line if pytestconfig.getoption("capture") == "no" else lambda line: None


def test_sessions_are_forgotten(app: Started, examples: int, say: Callable[[str], None]) -> None:
    """The first event of the page, from a new session each time."""
    count = max(SHORT, 10 * examples)
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
    say(f"{count} new sessions: {grown:+.1f} MB, at most {most:+.1f} MB in between")
    assert max(sizes) - sizes[0] < MOST_GROWTH


@pytest.mark.parametrize("announced", [True, False])
def test_a_large_body_is_refused_before_it_is_read(app: Started, announced: bool, say: Callable[[str], None]) -> None:
    size, piece, before = 100 * MB, b"x" * MB, app.memory
    host, _, port = app.address.removeprefix("http://").partition(":")
    length = f"Content-Length: {size}" if announced else "Transfer-Encoding: chunked"
    lines = ("POST /gradio_api/component_server HTTP/1.1", f"Host: {host}:{port}", "Content-Type: text/plain", length)
    begin, sent = time.perf_counter(), 0
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        try:
            connection.sendall("\r\n".join((*lines, "", "")).encode())
            while sent < size:
                connection.sendall(piece if announced else b"%x\r\n%s\r\n" % (len(piece), piece))
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
    grown = (app.memory - before) / MB
    say(f"refused after {sent / MB:.0f} of 100 MB and {time.perf_counter() - begin:.2f} s: {grown:+.1f} MB")
    assert app.memory - before < MOST_GROWTH
    assert not announced or sent < size // 2
    assert httpx.get(app.address).status_code == 200
