"""Hostile requests to the running app."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import strategies as st

from tests.soak.attacks import JSON, NAMES, attack
from tests.workbench.served import Served, serve
from workbench.api.endpoints import ENDPOINTS

LEAKS = ("Traceback", "gradio", " object at 0x", "didn't receive enough input", "site-packages")
"""Texts that no answer to a malformed call may contain."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("calls")) as app:
        app.run("one")
        yield app


@pytest.fixture(scope="module")
def page(app: Served) -> dict[str, Any]:
    """The components and events of the page."""
    return httpx.get(f"{app.address}/config").json()


@pytest.fixture
def http(app: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{app.address}/gradio_api/", timeout=120) as client:
        yield client


def sent(http: httpx.Client, path: str, body: Any) -> httpx.Response:
    """Send a body as JSON, including values that only Python accepts as JSON, and return the answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return http.post(path, content=content, headers={"Content-Type": "application/json"})


def first_event(page: dict[str, Any]) -> dict[str, Any]:
    """Return the event that fills the page when it is opened."""
    loads = [event for event in page["dependencies"] if any(kind == "load" for _, kind in event["targets"])]
    return max((event for event in loads if event["backend_fn"]), key=lambda event: len(event["outputs"]))


def assert_clean(answer: httpx.Response) -> None:
    assert not [leak for leak in LEAKS if leak in answer.text], answer.text[:500]
    if answer.status_code >= 500:  # how Gradio sends a sentence to the caller of an event
        assert answer.json()["error"].strip(), answer.text[:500]


def assert_whole(app: Served, capfd: pytest.CaptureFixture[str]) -> None:
    """Assert that no traceback was printed, and that the page and its runs are still available."""
    assert "Traceback" not in (printed := capfd.readouterr().err), printed[-3000:]
    assert httpx.get(app.address).status_code == 200
    assert "one" in [run["id"] for run in app.bench.store.summaries()]


def test_server_functions(
    app: Served, http: httpx.Client, page: dict[str, Any], examples: int, capfd: pytest.CaptureFixture[str]
) -> None:
    known = [(c["id"], name) for c in page["components"] for name in c["props"].get("server_fns") or ()]
    assert len(known) >= 9
    ids = st.sampled_from(known) | st.tuples(JSON, JSON)
    texts = st.sampled_from(["one", "heads", "", "mlp", "../one"])
    data_of = st.lists(JSON | texts | st.integers(-1, 5), max_size=4) | JSON

    def call(data: Any) -> None:
        id, name = data.draw(ids)
        body = {"data": data.draw(data_of), "component_id": id, "fn_name": name, "session_hash": "soak"}
        answer = sent(http, "component_server", body if data.draw(st.integers(0, 9)) else data.draw(JSON))
        assert answer.status_code < 500, (body, answer.text)
        assert_clean(answer)

    attack(examples, call)
    assert_whole(app, capfd)


def test_endpoints(app: Served, http: httpx.Client, examples: int, capfd: pytest.CaptureFixture[str]) -> None:
    values = JSON | NAMES | st.sampled_from(["one", "heads", "A film", [], "", 1.0, 1, True])

    def call(data: Any) -> None:
        name = data.draw(st.sampled_from(ENDPOINTS))
        given = data.draw(st.lists(values, max_size=8))
        if name == "start":
            given = [data.draw(NAMES), "no/model", data.draw(JSON)]
        assert_clean(sent(http, f"run/{name}", {"data": given}))

    attack(examples, call)
    assert_whole(app, capfd)


def test_links(app: Served, page: dict[str, Any], examples: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Random addresses of the page, and its first event with each address."""
    names = st.sampled_from(["run", "tab", "masks", "step", "site", "compare", "strength", "others", "x"])
    load = first_event(page)

    def follow(data: Any) -> None:
        values = NAMES | st.sampled_from(["one", "train", "playground", "heads:0", "heads:1&x", "-1", "9" * 400, "١"])
        pairs = data.draw(st.lists(st.tuples(names, values), max_size=5))
        query = "&".join(f"{name}={quote(value.encode('utf-8', 'replace'))}" for name, value in pairs)
        assert httpx.get(f"{app.address}/?{query}").status_code in (200, 303)
        body = {"fn_index": load["id"], "data": [None] * len(load["inputs"]), "session_hash": "link"}
        answer = httpx.post(f"{app.address}/gradio_api/run/predict?{query}", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        assert_clean(answer)

    attack(examples, follow)
    assert_whole(app, capfd)


def test_requests(app: Served, http: httpx.Client, examples: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Any path and any body."""
    routes = ["queue/join", "queue/data", "call/predict", "run/nothing", "cancel", "reset", "stream/x", "upload"]
    routes += ["file=", "file/", "proxy=", "component_server", "info", "heartbeat", "assets/", "static/", "theme.css"]

    def ask(data: Any) -> None:
        end = quote(data.draw(NAMES).encode("utf-8", "replace"), safe=data.draw(st.sampled_from(["", "/:"])))
        path = data.draw(st.sampled_from(routes)) + data.draw(st.sampled_from(["", end]))
        body = data.draw(st.binary(max_size=60) | JSON)
        answer = sent(http, path, body)
        if answer.status_code >= 500:
            assert_clean(answer)
        with http.stream("GET", f"file={end}") as answer:
            assert answer.status_code < 500

    attack(examples, ask)
    assert_whole(app, capfd)
