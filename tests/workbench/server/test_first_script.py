"""The script that runs before the scripts of Gradio."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from workbench.server.first_script import FirstScript

PAGE = "<!doctype html><html><head><title>é</title></head><body><head></body></html>"


def client(answer: Response, path: str = "/") -> TestClient:
    def reply(request: Request) -> Response:
        return answer

    return TestClient(Starlette(routes=[Route(path, reply)], middleware=[Middleware(FirstScript)]))


@pytest.mark.parametrize("parts", [1, 7])
def test_it_is_the_first_thing_in_the_head_of_the_page(parts: int) -> None:
    whole = PAGE.encode()
    size = len(whole) // parts + 1
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    answer = HTMLResponse(PAGE) if parts == 1 else StreamingResponse(iter(pieces), media_type="text/html")
    found = client(answer).get("/")
    before, script, after = found.text.partition('<script nonce="">')
    assert before == "<!doctype html><html><head>" and script
    assert after.split("</script>", 1)[1] == PAGE.split("<head>", 1)[1]
    assert int(found.headers.get("content-length", len(found.content))) == len(found.content)


def test_nothing_else_is_changed() -> None:
    assert client(JSONResponse({"head": "<head>"})).get("/").json() == {"head": "<head>"}
    assert client(HTMLResponse(PAGE), "/other").get("/other").text == PAGE
