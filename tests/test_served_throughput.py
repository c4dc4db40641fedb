"""The comparison of two servers, with servers of the tests."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from benchmarks import served_throughput


class Served(ThreadingHTTPServer):
    """Implements the part of OpenAI's API that the benchmark uses, and records the requests."""

    def __init__(self, model: str) -> None:
        self.model, self.requests = model, []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        self.answer({"data": [{"id": self.server.model}]})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(request)
        self.answer({"usage": {"completion_tokens": request["max_tokens"]}})

    def answer(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def servers() -> Iterator[list[Served]]:
    made = [Served("base"), Served("folded")]
    for one in made:
        threading.Thread(target=one.serve_forever, daemon=True).start()
    yield made
    for one in made:
        one.shutdown()
        one.server_close()


def test_pairs_of_batches(
    servers: list[Served], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = [f"http://127.0.0.1:{one.server_address[1]}" for one in servers]
    flags = ["--requests", "3", "--pairs", "4", "--new-tokens", "5", "--ignore-eos"]
    monkeypatch.setattr(sys, "argv", ["served_throughput.py", *addresses, *flags])
    served_throughput.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["n"] == 4 and 0 < result["low"] <= result["median"] <= result["high"]
    for one in servers:
        assert len(one.requests) == 3 * 5, "one batch warms up"
        assert {request["model"] for request in one.requests} == {one.model}
        assert all(request["ignore_eos"] and request["max_tokens"] == 5 for request in one.requests)
        assert len({request["prompt"] for request in one.requests}) == 3


def test_the_ratio_is_that_of_pairs() -> None:
    found = served_throughput.ratio([2.0, 3.0, 40.0], [1.0, 2.0, 20.0])
    assert found["median"] == 2.0 and found["n"] == 3
    assert found["low"] == 1.5 and found["high"] == 2.0
