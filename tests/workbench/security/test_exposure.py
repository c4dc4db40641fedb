"""Threats in SECURITY.md: access to the app, and what its page and its processes show."""

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from jola.errors import InputError
from jola.runs.archive import export_archive
from jola.runs.run import Run
from tests import ROOT
from tests.workbench.figures.examples import all_figures
from tests.workbench.security.password import PASSWORD
from tests.workbench.served import Served, write_task
from workbench.playground import results
from workbench.playground import tab as playground
from workbench.server.attempts import Attempts
from workbench.service import views
from workbench.service.bench import Workbench, describe_run
from workbench.settings import Settings

# The two apps are started once, in one worker.
pytestmark = pytest.mark.xdist_group("security")


TAG = "<img src=x onerror=alert(1)>"


class TestMarkup:
    """Text of others in the page."""

    def test_runs_tokens_and_answers_are_text(self, bench: Workbench) -> None:
        run = bench.store.get("one")
        run.annotate(label=TAG, note=TAG)
        config = json.loads((run.path / "config.json").read_text())
        config["model"]["model"] = config["task"]["name"] = TAG
        other = Run(bench.store.root / "hostile")
        other.path.mkdir(exist_ok=True)
        (other.path / "config.json").write_text(json.dumps(config))
        view = views.NextTokens((TAG,), (views.NextToken(TAG, 0.5, (0.5,)),), (0.1,), 3)
        shares = views.AnswerShares((TAG,), (TAG, "b"), (-1.0, -2.0), ((-1.0, -2.0),))
        shown = [
            playground.about_run(bench, "hostile"),
            playground.about_run(bench, TAG),
            results.token_table(view),
            results.answer_table(shares, TAG),
            results.answers(views.Writings((TAG,), (TAG, TAG))),
        ]
        assert all("<img" not in html for html in shown)
        assert sum("&lt;img" in html for html in shown) >= 4
        assert TAG in describe_run(run)  # plain text; the component of the list escapes it
        (other.path / "config.json").unlink()
        other.path.rmdir()
        run.annotate(label="", note="")

    def test_texts_in_figures_are_text(self) -> None:
        shown = json.dumps([figure.to_dict() for figure in all_figures(dark=False).values()], default=str)
        assert "<img" not in shown and "&lt;img" in shown

    def test_scripts_put_no_text_of_others_into_markup(self) -> None:
        scripts = list(ROOT.glob("workbench/**/*.js"))
        assert len(scripts) > 5
        for script in scripts:
            assert not re.search(r"insertAdjacentHTML|document\.write|\beval\(", script.read_text("utf-8")), script


class TestExposure:
    """Access to the app."""

    def test_by_default_nobody_but_this_computer(self) -> None:
        assert Settings().validate().loopback and Settings().host == "127.0.0.1"
        for host in ("0.0.0.0", "::", "192.168.1.20"):
            with pytest.raises(InputError, match="--auth"):
                Settings(host=host).validate()

    def test_without_the_password_nothing_is_answered(self, exposed: Served) -> None:
        paths = ("config", "gradio_api/info", "gradio_api/queue/data?session_hash=x", "gradio_api/file=/etc/passwd")
        for path in paths:
            assert httpx.get(f"{exposed.address}/{path}").status_code in (401, 403), path
        call = httpx.post(f"{exposed.address}/gradio_api/call/runs", json={"data": []})
        join = httpx.post(f"{exposed.address}/gradio_api/queue/join", json={"data": [], "fn_index": 0})
        upload = httpx.post(f"{exposed.address}/gradio_api/upload", files={"files": b"x"})
        assert {answer.status_code for answer in (call, join, upload)} == {401}
        wrong = httpx.post(f"{exposed.address}/login", data={"username": "ada", "password": "guess"})
        assert wrong.status_code == 400
        assert Client(exposed.address, auth=PASSWORD, verbose=False).predict(api_name="/runs")

    def test_wrong_passwords_make_the_next_attempt_wait(self, exposed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exposed.server.door, "attempts", Attempts(clock=lambda: 1000.0))
        guess = {"username": "ada", "password": "guess"}
        codes = [httpx.post(f"{exposed.address}/login", data=guess).status_code for _ in range(30)]
        assert codes == [400] * 5 + [429] * 25
        # No header changes the address of a client.
        forged = ({"X-Forwarded-For": f"192.0.2.{n}", "Forwarded": f"for=192.0.2.{n}"} for n in range(5))
        codes = [httpx.post(f"{exposed.address}/login", data=guess, headers=headers).status_code for headers in forged]
        assert codes == [429] * 5
        # Users who are logged in stay logged in.
        monkeypatch.setattr(exposed.server.door, "attempts", Attempts())
        client = Client(exposed.address, auth=PASSWORD, verbose=False)
        for _ in range(30):
            httpx.post(f"{exposed.address}/login", data=guess)
        assert client.predict(api_name="/runs")

    def test_a_fault_is_not_explained_to_others(self, exposed: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: Any) -> Any:
            raise RuntimeError("the secret of /home/ada")

        monkeypatch.setattr(type(exposed.bench.store), "summaries", fail)
        with pytest.raises(AppError) as raised:
            Client(exposed.address, auth=PASSWORD, verbose=False).predict(api_name="/runs")
        assert "secret" not in str(raised.value)

    def test_pages_of_others_do_not_reach_it(self, app: Served) -> None:
        assert httpx.get(app.address, headers={"Host": "evil.example"}).status_code == 400
        origin = {"Origin": "https://evil.example"}
        answer = httpx.options(
            f"{app.address}/gradio_api/call/runs", headers={**origin, "Access-Control-Request-Method": "POST"}
        )
        assert answer.headers.get("access-control-allow-origin") not in ("*", origin["Origin"])

    @pytest.mark.parametrize("target", ["http://127.0.0.1:9/", "https://example.org/", "//example.org/", "/etc/passwd"])
    def test_the_file_routes_neither_fetch_nor_redirect(self, app: Served, target: str) -> None:
        for route in ("file=", "proxy=", "file/"):
            answer = httpx.get(f"{app.address}/gradio_api/{route}{target}")
            assert answer.status_code in (400, 403, 404), (route, answer.status_code)
            assert "location" not in answer.headers

    def test_files_of_the_runs_and_of_the_app_are_not_served(self, app: Served) -> None:
        for path in (app.bench.store.root / "one" / "config.json", ROOT / "pyproject.toml"):
            assert httpx.get(f"{app.address}/gradio_api/file={path}").status_code == 403

    def test_no_tools_for_agents_and_no_statistics(self, app: Served) -> None:
        assert httpx.get(f"{app.address}/gradio_api/mcp/sse").status_code == 404
        assert httpx.get(f"{app.address}/monitoring", follow_redirects=True).status_code in (403, 404)
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


class TestSecrets:
    """Tokens in the environment of the app."""

    def test_a_token_appears_nowhere(self, app: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        token = "hf_" + "s3cr3t" * 6
        monkeypatch.setenv("HF_TOKEN", token)
        client = Client(app.address, verbose=False)
        settings = {"epochs": 1, "dtype": "float32"}
        started = client.predict(str(write_task(tmp_path / "task")), str(app.model), settings, api_name="/start")
        run = app.bench.store.get(started["run"])
        assert app.bench.jobs.wait(run.id, 300) and run.state == "finished"
        seen = [path for path in run.path.rglob("*") if path.is_file()]
        assert len(seen) > 5
        assert not [path for path in seen if token.encode() in path.read_bytes()]
        told = [client.predict(run.id, api_name="/status"), httpx.get(f"{app.address}/config").text]
        assert token not in str(told)
        with zipfile.ZipFile(export_archive(run, tmp_path / "gift.zip")) as archive:
            assert not any(token.encode() in archive.read(name) for name in archive.namelist())
