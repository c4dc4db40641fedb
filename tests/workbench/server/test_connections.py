"""Clients that open connections and never finish a request."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest

from tests.workbench.served import Served, serve
from workbench.server.connections import MOST_CONNECTIONS, Connection, most_connections

HALF = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "
HALF_BODY = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhalf"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("connections")) as app:
        yield app


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give slow clients less time, so that the tests are fast."""
    monkeypatch.setattr(Connection, "head_seconds", 1.0)
    monkeypatch.setattr(Connection, "body_seconds", 1.0)


def opened(app: Served, count: int, sent: bytes) -> list[socket.socket]:
    place = urlsplit(app.address)
    connections = [socket.create_connection((place.hostname, place.port), timeout=300) for _ in range(count)]
    for connection in connections:
        try:
            connection.sendall(sent)
        except OSError:  # closed already
            continue
    return connections


def ended(connection: socket.socket) -> bool:
    """Wait for the server to close the connection, and return whether it does."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    finally:
        connection.close()
    return True


def status(app: Served) -> int:
    """Return the status of the page; a busy machine may make the test so slow that the server closes its connection."""
    while True:
        with suppress(httpx.TransportError):
            return httpx.get(app.address, timeout=300).status_code


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("sent", [HALF, HALF_BODY, b""])
def test_half_requests_end_by_themselves(app: Served, sent: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    connections = opened(app, 200, sent)
    assert status(app) == 200
    assert all([ended(connection) for connection in connections])
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("quick")
def test_a_slow_head_is_not_prolonged_by_each_byte(app: Served) -> None:
    (connection,) = opened(app, 1, HALF)
    with pytest.raises(OSError):
        while True:
            connection.sendall(b"x")
            connection.settimeout(0.05)
            try:
                if not connection.recv(1):
                    raise ConnectionResetError
            except TimeoutError:
                continue


def test_there_are_only_so_many(app: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "most", 20)
    connections = opened(app, 60, HALF)
    refused = connections[30:]
    assert all([ended(connection) for connection in refused])
    for connection in connections[:30]:
        connection.close()
    assert status(app) == 200  # once the server has noticed the closed connections


def test_a_malformed_request_leaves_no_line(app: Served, capfd: pytest.CaptureFixture[str]) -> None:
    (connection,) = opened(app, 1, b"\0\0\0\r\n\r\n")
    assert ended(connection)
    assert capfd.readouterr().err == ""


def test_the_limit_leaves_files_to_open() -> None:
    assert 0 < most_connections() <= MOST_CONNECTIONS
