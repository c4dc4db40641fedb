"""The state that is stored for each visitor."""

from collections.abc import Iterator

import httpx
import pytest
from gradio.state_holder import SessionState

from tests.soak.test_calls import first_event
from tests.workbench.served import Served, serve


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("sessions")) as app:
        yield app


def test_a_session_has_no_copy_of_the_page(app: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    page = app.server.page
    holder = page.app.state_holder
    assert holder.capacity == 200  # as SECURITY.md says
    monkeypatch.setattr(holder, "capacity", 2)
    assert len(SessionState(page).config_values) > 100  # what Gradio would store
    with httpx.Client(base_url=app.address, timeout=120) as http:
        load = first_event(http.get("/config").json())
        body = {"fn_index": load["id"], "data": [None] * len(load["inputs"])}
        answers = []
        for name in ("one", "two", "three", "three"):
            answer = http.post("/gradio_api/run/predict", json={**body, "session_hash": name})
            answers.append(len(answer.json()["data"]))
    assert set(answers) == {len(load["outputs"])}
    assert list(holder.session_data) == ["two", "three"]
    assert [len(session.config_values) for session in holder.session_data.values()] == [0, 0]
