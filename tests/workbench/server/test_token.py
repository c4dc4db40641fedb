"""The token in the printed address: access with it, and none without it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from starlette.testclient import TestClient

from tests.workbench.served import Served, serve
from tests.workbench.server.test_door import page
from workbench.server.door import Door, Token
from workbench.server.serve import serve as serve_page
from workbench.settings import Settings

SENTENCE = "Open the address that the app printed when it started, or start the app with --no-token."


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("token"), token=True) as app:
        app.run("one")
        yield app


@pytest.fixture(scope="module")
def place(app: Served) -> str:
    """The address without the token."""
    return app.address.partition("?")[0].rstrip("/")


@pytest.fixture(scope="module")
def secret(app: Served) -> str:
    return app.address.partition("?token=")[2]


class TestRefused:
    @pytest.mark.parametrize(
        "path",
        [
            "", "config", "gradio_api/info", "gradio_api/queue/data?session_hash=x", "gradio_api/file=/etc/passwd",
            "gradio_api/heartbeat/x", "login", "theme.css", "nothing", "?token=", "?token=x", "?token=é", "?run=one",
        ],
    )  # fmt: skip
    def test_whatever_is_asked_without_it(self, place: str, path: str) -> None:
        answer = httpx.get(f"{place}/{path}")
        assert (answer.status_code, answer.text) == (401, SENTENCE)
        assert "set-cookie" not in answer.headers

    @pytest.mark.parametrize("route", ["call/runs", "queue/join", "upload", "component_server", "run/runs"])
    def test_what_is_sent_without_it(self, place: str, route: str) -> None:
        assert httpx.post(f"{place}/gradio_api/{route}", json={"data": []}).status_code == 401

    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}, {"Authorization": "Bearer \xff"},
            {"Cookie": "jola-token=wrong"}, {"Authorization": "Basic {secret}"}, {"X-Token": "{secret}"},
        ],
    )  # fmt: skip
    def test_a_wrong_one(self, place: str, secret: str, headers: dict[str, str]) -> None:
        sent = {name.encode(): v.replace("{secret}", secret).encode("latin-1") for name, v in headers.items()}
        assert httpx.get(f"{place}/config", headers=sent).status_code == 401

    def test_the_address_of_anything_but_the_page(self, place: str, secret: str) -> None:
        assert httpx.get(f"{place}/config?token={secret}").status_code == 401
        assert httpx.post(f"{place}/?token={secret}").status_code == 401

    def test_the_cookie_of_another_app_on_this_computer(self, place: str) -> None:
        other = Token.fresh(1)
        assert httpx.get(f"{place}/config", headers={"Cookie": f"{other.cookie}={other.secret}"}).status_code == 401


class TestLetIn:
    def test_the_printed_address_leads_to_the_page_once_and_for_all(self, app: Served, place: str, secret: str) -> None:
        with httpx.Client() as browser:
            first = browser.get(f"{place}/?run=one&token={secret}&masks=heads:1%26x")
            assert (first.status_code, first.headers["location"]) == (303, "./?run=one&masks=heads%3A1%26x")
            (cookie,) = first.headers.get_list("set-cookie")
            port = urlsplit(place).port
            assert cookie == f"jola-token-{port}={secret}; HttpOnly; Path=/; SameSite=strict"
            page = browser.get(first.headers["location"].replace("./", f"{place}/"))
            assert page.status_code == 200 and "JoLA Workbench" in page.text
            assert secret not in page.text and "set-cookie" not in page.headers
            assert browser.get(f"{place}/config").status_code == 200
            # The address of an earlier start does not lock out a user who is logged in.
            assert browser.get(f"{place}/?token=old").headers["location"] == "./"

    def test_a_link_on_another_page_is_asked_again_from_here(self, place: str, secret: str) -> None:
        """Browsers do not send a strict cookie when a link on another page is followed, even after a redirect."""
        followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
        answer = httpx.get(f"{place}/?token={secret}&run=one", headers=followed)
        assert (answer.status_code, answer.text, answer.headers["refresh"]) == (200, "", "0; url=./?run=one")
        assert secret in answer.headers["set-cookie"]
        without = httpx.get(f"{place}/?run=one", headers=followed)
        assert without.headers["refresh"] == "0; url=./?run=one" and "set-cookie" not in without.headers

    def test_programs_send_a_header(self, place: str, secret: str) -> None:
        client = Client(place, headers={"Authorization": f"Bearer {secret}"}, verbose=False)
        assert [run["id"] for run in client.predict(api_name="/runs")] == ["one"]

    def test_programs_upload_and_download(self, tmp_path: Path) -> None:
        with gr.Blocks(analytics_enabled=False) as page:
            gr.api(_twice, api_name="twice")
        server = serve_page(page, Settings(port=0))
        try:
            place, _, secret = server.address.partition("?token=")
            file = tmp_path / "text.txt"
            file.write_text("film ")
            with pytest.raises(ValueError, match="credentials were not provided"):
                Client(place, verbose=False)
            client = Client(
                place, headers={"Authorization": f"Bearer {secret}"}, verbose=False, download_files=tmp_path / "down"
            )
            found = client.predict(handle_file(file), api_name="/twice")
            assert Path(found).read_text() == "film film "
        finally:
            server.close()

    def test_who_wants_none_is_asked_for_none(self) -> None:
        client = TestClient(Door(page, None, 1000), base_url="http://models.example")
        assert client.get("/").status_code == 200
        assert Settings().asks_token and not Settings(token=False).asks_token
        assert not Settings(auth="ada:secret").asks_token


def test_every_start_has_a_token_of_its_own() -> None:
    tokens = {Token.fresh(7860).secret for _ in range(50)}
    assert len(tokens) == 50 and min(map(len, tokens)) >= 32


def test_the_browser_is_given_a_file_and_not_the_token(
    app: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Markdown("page")
    server = serve_page(page, Settings(port=0, open_browser=True))
    server.close()
    (uri,) = opened
    file = Path(uri.removeprefix("file://"))
    assert server.address in file.read_text() and file.stat().st_mode & 0o077 == 0
    file.unlink()
    assert server.address.partition("=")[2] not in uri


def _twice(file: gr.FileData) -> gr.FileData:
    given: Any = file  # a dictionary
    place = Path(given["path"]).with_name("twice.txt")
    place.write_text(Path(given["path"]).read_text() * 2)
    return gr.FileData(path=str(place))
