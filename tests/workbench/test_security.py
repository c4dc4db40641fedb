"""What crosses the boundary to the app, one class for each threat in SECURITY.md, tried at the app's own doors."""

import ast
import io
import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fastapi import HTTPException
from gradio_client import Client
from gradio_client.exceptions import AppError
from safetensors.torch import load_file, save

from jola.adapters.directory import CONFIG_NAME, WEIGHTS_NAME
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.runs.archive import export_archive, import_archive
from jola.runs.run import Run
from jola.system.paths import is_there
from jola.system.spreadsheet import csv_text
from tests import ROOT
from tests.workbench.coroutines import finish
from tests.workbench.figures.examples import all_figures
from tests.workbench.served import Served, serve, write_task
from workbench.api.endpoints import Endpoints
from workbench.playground import results
from workbench.playground import tab as playground
from workbench.runs import tab as runs
from workbench.server.attempts import Attempts
from workbench.service import examples, views
from workbench.service.bench import Workbench, describe_run, keep_upload
from workbench.service.calls import Ticket
from workbench.service.exports import FORMS, Exported, Exports
from workbench.service.page_state import Column
from workbench.service.session import Prompt, Use
from workbench.settings import Limits, Settings
from workbench.train import tab as train
from workbench.train.run_view import run_view

TAG = "<img src=x onerror=alert(1)>"
HEADER_LIMIT = 1 << 20
HUGE = 10**400
PASSWORD = ("ada", "correct horse")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app as it starts by default, with a finished run."""
    with serve(tmp_path_factory.mktemp("local")) as app:
        app.run("one")
        yield app


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app on all addresses of this computer, with a password; ``open`` is the folder that is open to its users."""
    folder = tmp_path_factory.mktemp("exposed")
    (folder / "open").mkdir()
    with serve(folder, host="0.0.0.0", auth=":".join(PASSWORD), folders=(folder / "open",)) as app:
        app.run("one")
        yield app


@pytest.fixture
def bench(app: Served) -> Workbench:
    return app.bench


class TestAdapters:
    """1. Whoever gives away an adapter writes every byte of it."""

    @staticmethod
    def packed(files: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                info = zipfile.ZipInfo(name)
                info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        return buffer.getvalue()

    @pytest.mark.parametrize(
        "what",
        [
            "header", "missing", "extra", "shape", "nan", "key", "large", "climbing", "absolute", "link", "bomb",
            "pickle", "encrypted name",
        ],
    )  # fmt: skip
    def test_what_is_not_right_is_refused_in_one_sentence(self, app: Served, tmp_path: Path, what: str) -> None:
        adapter = app.bench.store.get("one").adapter_dir
        files = {name: (adapter / name).read_bytes() for name in (CONFIG_NAME, WEIGHTS_NAME)}
        tensors, mode = load_file(adapter / WEIGHTS_NAME), stat.S_IFREG | 0o644
        first = next(iter(tensors))
        if what == "header":
            files[WEIGHTS_NAME] = (HEADER_LIMIT + 1).to_bytes(8, "little") + b"{}"
        elif what == "missing":
            del tensors[first]
        elif what == "extra":
            tensors["heads.more"] = torch.zeros(1)
        elif what == "shape":
            tensors[first] = tensors[first][:, :1].contiguous()
        elif what == "nan":
            tensors[first][0] = float("nan")
        elif what == "key":
            files[CONFIG_NAME] = json.dumps({**json.loads(files[CONFIG_NAME]), "auto_map": "x.y"}).encode()
        elif what == "large":
            files[CONFIG_NAME] += b" " * (1 << 20)
        elif what == "climbing":
            files["../evil.py"] = b"1"
        elif what == "absolute":
            files["/evil.py"] = b"1"
        elif what == "link":
            mode = stat.S_IFLNK | 0o777
        elif what == "bomb":
            files["README.md"] = b"\0" * (1 << 26)
        elif what == "pickle":
            files["adapter_model.bin"] = b"\x80\x04."
        elif what == "encrypted name":
            files["a\\b"] = b"1"
        if what in ("missing", "extra", "shape", "nan"):
            files[WEIGHTS_NAME] = save(tensors)
        file = tmp_path / "gift.zip"
        file.write_bytes(self.packed(files, mode))
        before = sorted(path.name for path in app.bench.store.root.iterdir())
        said = runs.take_in(app.bench.store, str(file))
        assert said["kind"] == "error" and said["words"].endswith(".") and "\n" not in said["words"]
        assert str(tmp_path) not in said["words"] and str(app.bench.store.root) not in said["words"]
        assert sorted(path.name for path in app.bench.store.root.iterdir()) == before

    def test_the_untouched_one_is_taken(self, app: Served, tmp_path: Path) -> None:
        adapter = app.bench.store.get("one").adapter_dir
        file = tmp_path / "gift.zip"
        file.write_bytes(self.packed({n: (adapter / n).read_bytes() for n in (CONFIG_NAME, WEIGHTS_NAME)}))
        said = runs.take_in(app.bench.store, str(file))
        assert said["kind"] != "error", said
        app.bench.store.remove(said["chosen"])


class TestNames:
    """2. Names of runs come from the browser."""

    @pytest.mark.parametrize("name", ["../one", "/etc", ".", "..", ".trash", "one/adapter", "one\0", "link", "a" * 300])
    def test_a_name_never_leads_out_of_the_store(
        self, app: Served, tmp_path_factory: pytest.TempPathFactory, name: str
    ) -> None:
        store, outside = app.bench.store, tmp_path_factory.getbasetemp() / "outside"
        outside.mkdir(exist_ok=True)
        (outside / "config.json").write_text("{}")
        link = store.root / "link"
        if not link.is_symlink():
            link.symlink_to(outside, target_is_directory=True)
        assert app.bench.find(name) is None
        for refuse in (store.remove, store.restore, app.bench.jobs.cancel, app.bench.jobs.resume):
            with pytest.raises(InputError):
                refuse(name)
        assert "link" not in [run.id for run in store.list()]
        assert (outside / "config.json").exists()

    def test_a_label_is_data(self, app: Served) -> None:
        runs.annotate(app.bench, "one", "../../etc", "")
        run = app.bench.store.get("one")
        assert run.notes().label == "../../etc" and run.path.name == "one"
        *_, exported = Exports(app.bench.settings).export("page", run, FORMS["Whole run"])
        assert isinstance(exported, Exported) and exported.place.parent.name.startswith("jola-export-")

    def test_the_id_of_a_new_run_is_made_here(self, app: Served) -> None:
        id = app.bench.store.new_id("../../<b>")
        assert set(id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        (app.bench.store.root / id / "status.json").unlink()
        (app.bench.store.root / id).rmdir()


class TestPaths:
    """Paths of Import and Export are any text."""

    @pytest.mark.parametrize("path", ["~nobodyx/x", "x" * 5000, "/" + "x" * 5000, "/" + "x/" * 3000, "\0", "/\0"])
    def test_a_text_that_is_no_path_is_one_sentence(self, app: Served, exposed: Served, path: str) -> None:
        for served in (app, exposed):
            exports, run = Exports(served.bench.settings), served.bench.store.get("one")
            with pytest.raises(InputError, match=r"no folder|not open to this page") as raised:
                list(exports.export("page", run, FORMS["Whole run"], folder=path))
            assert len(str(raised.value)) < 500
        with pytest.raises(InputError, match="no file or folder") as raised:
            import_archive(Path(os.path.expanduser(path)), app.bench.store)
        assert len(str(raised.value)) < 500
        assert not is_there(path)


class TestModels:
    """3. The name of a model, and what lies in its folder."""

    @pytest.mark.parametrize("model", ["evil/model", "/etc", "~", "../..", "\0", "x" * 5000, "~nobody/x", ""])
    def test_others_may_name_no_model_but_those_that_are_open(self, exposed: Served, model: str) -> None:
        check = exposed.bench.settings.check_model
        with pytest.raises(InputError, match="not open to this page"):
            check(model)
        check("default")

    def test_a_folder_is_open_with_what_is_in_it_and_not_through_a_link(self, exposed: Served) -> None:
        folder, check = exposed.bench.settings.folders[0], exposed.bench.settings.check_model
        (folder / "mine").mkdir(exist_ok=True)
        check(str(folder / "mine"))
        (folder / "out").unlink(missing_ok=True)
        (folder / "out").symlink_to(exposed.model)
        for path in (folder / "out", folder / ".." / "tiny-llama", folder / "absent"):
            with pytest.raises(InputError):
                check(str(path))

    def test_an_adapter_is_taken_from_open_folders_alone(self, exposed: Served, app: Served) -> None:
        folder = exposed.bench.settings.folders[0]
        check = exposed.bench.settings.check_path
        (folder / "gift").mkdir(exist_ok=True)
        check(str(folder / "gift"))
        for path in (str(exposed.bench.store.root / "one" / "adapter"), "/etc", "../..", "~", "\0", "x" * 5000):
            with pytest.raises(InputError):
                check(path)
        app.bench.settings.check_path("/etc")  # whoever opens the page on this computer may read its files anyway

    def test_neither_form_nor_programs_train_or_preview_others(self, exposed: Served) -> None:
        client = Client(exposed.address, auth=PASSWORD, verbose=False)
        before = len(exposed.bench.store.list())
        for model, task in (("evil/model", "sentiment"), (str(exposed.model), "sentiment"), ("default", "/etc")):
            values = {"model": model, "task": task}
            with pytest.raises(AppError, match="not open to this page"):
                client.predict(task, model, api_name="/start")
            assert "not open to this page" in train.start(exposed.bench, values)[1]
            html, words = train.preview(exposed.bench, values)
            assert html == "" and "not open to this page" in words
            assert "not open to this page" in train.cost(exposed.bench, values)
        assert len(exposed.bench.store.list()) == before

    def test_the_playground_loads_no_other_model_and_reads_no_other_data(self, exposed: Served) -> None:
        """Also not for a run that is there: an imported one names what its author liked."""
        client = Client(exposed.address, auth=PASSWORD, verbose=False)
        for endpoint, more in (("predict", ()), ("generate", ()), ("effects", ("good",))):
            with pytest.raises(AppError, match="not open to this page"):
                client.predict("one", "A film", *more, api_name=f"/{endpoint}")
        run = exposed.bench.store.get("one")
        assert not exposed.bench.session.is_loaded(run)
        with pytest.raises(InputError, match="not open to this page"):
            examples.test_examples(exposed.bench, run)

    def test_what_is_open_is_used(self, exposed: Served) -> None:
        inside = exposed.bench.settings.folders[0] / "tiny"
        shutil.copytree(exposed.model, inside)
        Served(exposed.bench, exposed.address, inside, exposed.server).run("open")
        client = Client(exposed.address, auth=PASSWORD, verbose=False)
        assert client.predict("open", "A film", api_name="/predict")["tokens"]

    def test_code_in_the_folder_of_a_model_is_not_run(self, tiny_folder: Path, tmp_path: Path) -> None:
        mark = tmp_path / "ran"
        config = json.loads((tiny_folder / "config.json").read_text())
        config |= {
            "model_type": "evil",
            "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
            "_attn_implementation_internal": "evil/kernel",
        }
        (tiny_folder / "config.json").write_text(json.dumps(config))
        (tiny_folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
        with pytest.raises(InputError):
            JoLAModel.from_pretrained(str(tiny_folder), dtype="float32")
        assert not mark.exists()
        for path, value in keywords("trust_remote_code"):
            assert isinstance(value, ast.Constant) and value.value is False, path


class TestData:
    """4. Data files that are uploaded."""

    LIMITS = Limits(upload_bytes=10_000, upload_examples=20, upload_characters=500)

    @staticmethod
    def rows(count: int, size: int = 5) -> list[dict[str, str]]:
        return [{"prompt": f"{n} " + "x" * size, "completion": "good"} for n in range(count)]

    @pytest.mark.parametrize(("count", "size", "words"), [(21, 5, "at most 20"), (3, 600, "at most 500")])
    def test_rows_and_characters_have_a_limit(self, tmp_path: Path, count: int, size: int, words: str) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, self.rows(count, size))))
        with pytest.raises(InputError, match=words):
            keep_upload(file, self.LIMITS)
        assert keep_upload(file)[1] == count

    def test_a_small_file_that_unpacks_to_a_large_one_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(self.rows(20, 100_000)), file, use_dictionary=False, compression="zstd")
        assert file.stat().st_size < self.LIMITS.upload_bytes
        with pytest.raises(InputError, match="unpacks to more than"):
            keep_upload(file, self.LIMITS)
        assert keep_upload(file)[1] == 20

    def test_bytes_have_a_limit(self, app: Served) -> None:
        limit = app.bench.settings.limits.upload_bytes
        files = {"files": ("large.jsonl", b" " * (limit + 1))}
        answer = httpx.post(f"{app.address}/gradio_api/upload", files=files, timeout=60)
        assert answer.status_code == 413

    def test_only_utf8_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "latin.csv"
        file.write_bytes("prompt,completion\né,b\n".encode("latin-1"))
        with pytest.raises(InputError, match="UTF-8"):
            keep_upload(file)

    def test_a_formula_is_a_text_in_what_is_exported(self) -> None:
        assert csv_text([["=HYPERLINK(1)", "+1", "-1", "@x", -1.5]]) == "'=HYPERLINK(1),'+1,'-1,'@x,-1.5\n"


class TestLimits:
    """5. What one user can ask for."""

    def test_prompts_answers_and_time_have_a_limit(self, app: Served) -> None:
        client = Client(app.address, verbose=False)
        with pytest.raises(AppError, match="at most 1,024 are taken"):
            client.predict("one", "film " * 2000, api_name="/predict")
        with pytest.raises(AppError, match="from 1 to 256"):
            client.predict("one", "film", new_tokens=100_000, api_name="/generate")
        assert app.bench.settings.limits.generation_seconds <= 120

    def test_an_answer_counts_as_the_prompt_does(self, app: Served) -> None:
        client = Client(app.address, verbose=False)
        with pytest.raises(AppError, match="at most 1,024 are taken"):
            client.predict("one", "film", "film " * 3000, api_name="/effects")

    @pytest.mark.parametrize("long", ["prompt", "answer", "both"])
    @pytest.mark.parametrize("ask", ["next", "answers", "effects", "direct", "text"])
    def test_characters_are_counted_before_anything_is_tokenized(
        self, bench: Workbench, monkeypatch: pytest.MonkeyPatch, ask: str, long: str
    ) -> None:
        run, text = bench.store.get("one"), "x" * 20_000_000
        stack, session = [Use(run)], bench.session
        session.prepare(run).result()
        prompt = Prompt.of(text if long != "answer" or ask in ("next", "text") else "film")
        answer = "good" if long == "prompt" else text
        tokenizer = type(next(iter(session._local.bases.values())).model.tokenizer)
        monkeypatch.setattr(tokenizer, "__call__", lambda *_, **__: pytest.fail("tokenized"))
        tickets: dict[str, Callable[[], Ticket[Any]]] = {
            "next": lambda: views.ask_next_tokens(session, [Column("", tuple(stack))], prompt)[0],
            "answers": lambda: views.ask_answer_scores(session, stack, prompt, ["good", answer]),
            "effects": lambda: views.ask_edit_effects(session, stack, prompt, answer, views.Progress()),
            "direct": lambda: views.ask_direct_effects(session, stack, prompt, answer),
            "text": lambda: views.ask_token_scores(session, stack, prompt.text),
        }
        with pytest.raises(InputError, match=r"characters and at most 100,000 are taken"):
            tickets[ask]().result()

    @pytest.mark.parametrize(
        ("endpoint", "values"),
        [
            ("predict", {"count": HUGE}),
            ("predict", {"strength": HUGE}),
            ("predict", {"off": [{"layer": HUGE, "unit": 0}]}),
            ("predict", {"off": [{"layer": 0, "unit": -HUGE}]}),
            ("generate", {"new_tokens": HUGE}),
            ("gates", {"step": HUGE}),
            ("gates", {"step": -HUGE}),
        ],
    )
    def test_huge_numbers_are_one_sentence(self, bench: Workbench, endpoint: str, values: dict[str, Any]) -> None:
        given = {"prompt": "film"} if endpoint != "gates" else {}
        with pytest.raises(InputError, match="too large; it must be") as raised:
            getattr(Endpoints(bench), endpoint)("one", **given, **values)
        assert len(str(raised.value)) < 200

    @pytest.mark.parametrize("name", ["epochs", "train_size", "max_length", "batch_size", "learning_rate", "seed"])
    def test_huge_settings_are_one_sentence(self, bench: Workbench, name: str) -> None:
        with pytest.raises(InputError, match=f"{name} has more than 15 digits"):
            Endpoints(bench).start(settings={name: HUGE})

    @pytest.mark.parametrize("number", [HUGE, -1, 0.5, "x", None, True])
    @pytest.mark.parametrize("question", ["frame", "frame_at", "gates_table"])
    def test_server_functions_take_counts_only(self, bench: Workbench, question: str, number: object) -> None:
        with gr.Blocks():
            view = run_view(bench.followers)
        ask = next(function for function in view.server_fns if function.__name__ == question)
        assert finish(ask(["one", "heads", 0])) is not None
        if type(number) is int:
            assert finish(ask(["one", "heads", number])) is None
        else:
            with pytest.raises(HTTPException, match=r"takes a list of 3 values: str, str, int\."):
                finish(ask(["one", "heads", number]))

    def test_a_full_queue_is_a_sentence_and_empties_again(self, app: Served) -> None:
        def work(ticket: Ticket[None]) -> None:
            while not ticket.stop.wait(0.05):
                pass

        held = app.bench.session._local.calls.submit(work)
        call, body = f"{app.address}/gradio_api/call/predict", {"data": ["one", "A film", [], "", 1.0, 1, True]}
        waiting: list[str] = []
        try:
            with httpx.Client(timeout=60) as http:
                for _ in range(200):
                    answer = http.post(call, json=body)
                    if answer.status_code != 200:
                        break
                    waiting.append(answer.json()["event_id"])
                assert answer.status_code == 503 and "Queue is full" in answer.text
                # What needs no model is answered all the same.
                page = http.get(app.address)
                assert page.status_code == 200
        finally:
            held.give_up()
        for id in waiting:
            assert "event: complete" in httpx.get(f"{call}/{id}", timeout=60).text

    def test_one_run_trains_and_cancelling_twice_is_the_same(self, app: Served, tmp_path: Path) -> None:
        client = Client(app.address, verbose=False)
        task = str(write_task(tmp_path / "task"))
        settings = {"epochs": 500, "patience": 0, "dtype": "float32"}
        ids = [client.predict(task, str(app.model), settings, api_name="/start")["run"] for _ in range(3)]
        assert len(app.bench.jobs.running()) == 1
        for id in [*reversed(ids), *ids]:
            client.predict(id, api_name="/cancel")
        assert all(app.bench.jobs.wait(id, 120) for id in ids)
        assert {app.bench.store.get(id).state for id in ids} == {"cancelled"}


class TestMarkup:
    """6. Text of others in the page."""

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
        assert TAG in describe_run(run)  # plain text, for a list whose component escapes
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
    """7. Who reaches the app."""

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

    def test_wrong_passwords_make_the_next_attempt_wait(self, exposed: Served) -> None:
        exposed.server.door.attempts = Attempts(clock=lambda: 1000.0)
        guess = {"username": "ada", "password": "guess"}
        codes = [httpx.post(f"{exposed.address}/login", data=guess).status_code for _ in range(30)]
        assert codes == [400] * 5 + [429] * 25
        # No header gives a client another address.
        forged = ({"X-Forwarded-For": f"192.0.2.{n}", "Forwarded": f"for=192.0.2.{n}"} for n in range(5))
        codes = [httpx.post(f"{exposed.address}/login", data=guess, headers=headers).status_code for headers in forged]
        assert codes == [429] * 5
        # Whoever is in stays in.
        exposed.server.door.attempts = Attempts()
        client = Client(exposed.address, auth=PASSWORD, verbose=False)
        for _ in range(30):
            httpx.post(f"{exposed.address}/login", data=guess)
        assert client.predict(api_name="/runs")
        exposed.server.door.attempts = Attempts()

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
    """8. Tokens in the environment of the app."""

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


class TestOneModelForAll:
    """9. What one user chooses is nobody else's; see also test_many_users.py."""

    def test_no_call_changes_the_model(self, app: Served) -> None:
        client = Client(app.address, verbose=False)
        before = client.predict("one", "A film", api_name="/predict")
        loaded = next(iter(app.bench.session._local.bases.values())).model
        weights = {name: value.clone() for name, value in loaded.state_dict().items()}
        client.predict("one", "A film", off=[{"layer": 0, "unit": 0}], strength=-2, api_name="/predict")
        client.predict("one", "A film", off=[{"layer": 1, "unit": 1}], strength=0.5, new_tokens=3, api_name="/generate")
        client.predict("one", "A film", "good", strength=2, api_name="/effects")
        assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())
        assert client.predict("one", "A film", api_name="/predict") == before


class TestThirdParties:
    """10. Nothing is computed elsewhere unless the user asks for it: prompts and edits stay on this computer."""

    def test_no_call_of_nnsight_asks_for_remote_execution(self) -> None:
        for path in [*ROOT.glob("jola/**/*.py"), *ROOT.glob("workbench/**/*.py")]:
            tree = ast.parse(path.read_text("utf-8"))
            traces = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("trace", "session")
            ]
            given = {keyword.arg for call in traces for keyword in call.keywords}
            assert "remote" not in given
            assert "backend" not in given or path.name == "remote.py"


def keywords(name: str) -> list[tuple[str, ast.expr]]:
    """Every place in our packages where an argument of this name is given, and its value."""
    return [
        (path.name, node.value)
        for path in [*ROOT.glob("jola/**/*.py"), *ROOT.glob("workbench/**/*.py")]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.keyword) and node.arg == name
    ]
