"""Every endpoint of a running app, called through `gradio_client` as a user's program would."""

import re
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError

from jola.edits.intervention import EditMask
from jola.edits.masks import HeadMask
from jola.insight import edit_effects
from jola.jola_model import JoLAModel
from tests import ROOT
from tests.workbench.recorded import Recorder
from tests.workbench.served import Served, serve, write_task
from workbench.api import endpoints as api
from workbench.api import schema as api_schema

DOCS = ROOT / "docs" / "api.md"
PROMPT = "A fine film about small things."
PATIENCE = 300.0

Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One app for all tests, with the finished run ``sample``."""
    with serve(tmp_path_factory.mktemp("app")) as app:
        app.run("sample")
        yield app


@pytest.fixture(scope="module")
def client(app: Served) -> Client:
    return Client(app.address, verbose=False)


@pytest.fixture
def ask(client: Client) -> Ask:
    """Call an endpoint, as in ``ask("predict", "sample", PROMPT)``."""
    return lambda endpoint, *args, **named: client.predict(*args, api_name=f"/{endpoint}", **named)


@pytest.fixture
def model(app: Served) -> JoLAModel:
    return JoLAModel.from_adapter(app.bench.store.get("sample").adapter_dir, dtype="float32")


def described(client: Client) -> dict[str, Any]:
    found: Any = client.view_api(print_info=False, return_format="dict")
    return found


def until(ask: Ask, run: str, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE
    while not done(status := ask("status", run)):
        assert status["state"] != "failed", status["message"]
        assert time.monotonic() < end, status
        time.sleep(0.2)
    return status


class TestDescription:
    def test_the_endpoints_are_those_and_no_others(self, client: Client) -> None:
        found = described(client)
        assert list(found["named_endpoints"]) == [f"/{name}" for name in api.ENDPOINTS]
        assert found["unnamed_endpoints"] == {}

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("start", api_schema.Job),
            ("status", api_schema.RunStatus),
            ("cancel", api_schema.Job),
            ("gates", api_schema.Gates),
            ("predict", api_schema.Prediction),
            ("generate", api_schema.Answers),
            ("effects", api_schema.Effects),
        ],
    )
    def test_each_tells_the_shape_of_its_answer(self, client: Client, name: str, kind: Any) -> None:
        endpoint = httpx.get(f"{client.src.rstrip('/')}/gradio_api/info").json()["named_endpoints"][f"/{name}"]
        (answer,) = endpoint["returns"]
        assert set(answer["type"]["properties"]) == set(typing.get_type_hints(kind))
        assert endpoint["description"]

    def test_everything_is_documented(self, client: Client) -> None:
        text = DOCS.read_text("utf-8")
        sections = dict(re.findall(r"^## `([a-z]+)`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
        assert list(sections) == list(api.ENDPOINTS)
        for name, endpoint in described(client)["named_endpoints"].items():
            section = sections[name.strip("/")]
            assert "```python" in section
            for parameter in endpoint["parameters"]:
                assert f"| `{parameter['parameter_name']}` |" in section, (name, parameter["parameter_name"])

    def test_the_documented_examples_run(self, app: Served, tmp_path: Path) -> None:
        names = {
            "http://127.0.0.1:7860": app.address,
            'task="sentiment"': f"task={str(write_task(tmp_path / 'reviews'))!r}",
            'model="default"': f"model={str(app.model)!r}",
        }
        text = "\n".join(re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL))
        for written, here in names.items():
            assert written in text
            text = text.replace(written, here)
        said: list[Any] = []
        known: dict[str, Any] = {"print": lambda *values: said.append(values)}
        exec(compile(text, str(DOCS), "exec"), known)
        assert len(said) >= len(api.ENDPOINTS) - 1
        assert until(lambda _, run: known["app"].predict(run, api_name="/status"), known["run"], _ended)


def _ended(status: dict[str, Any]) -> bool:
    return status["state"] in ("finished", "cancelled")


class TestRuns:
    def test_a_run_without_gates_says_so(self, app: Served, ask: Ask) -> None:
        run = Recorder(app.bench.store.root / "norms", steps=2, layers=3, units=1).run
        with run.gate_writer("mlp", 3, 1, ("update_norm",)) as writer:
            writer.append(1, {"update_norm": np.ones((3, 1))})
        run.write_status(state="finished")
        try:
            with pytest.raises(AppError, match="The run norms has no gates: its method edits without them"):
                ask("gates", "norms", site="mlp")
        finally:
            app.bench.store.remove("norms")

    def test_a_run_from_start_to_its_gates(self, app: Served, ask: Ask, tmp_path: Path) -> None:
        task = write_task(tmp_path / "reviews")
        settings = {"epochs": 2, "batch_size": 8, "test_size": 2, "dtype": "float32"}
        long = ask("start", str(task), str(app.model), {**settings, "epochs": 5000, "patience": 0})
        assert long["state"] in ("queued", "starting", "training")
        started = ask("start", str(task), str(app.model), settings)
        assert started["state"] == "queued" and ask("status", started["run"])["before"] == 0

        until(ask, long["run"], lambda status: status["step"] > 0)
        assert ask("cancel", long["run"])["run"] == long["run"]
        ended = until(ask, long["run"], lambda status: status["state"] == "cancelled")
        assert 0 < ended["step"] < ended["total_steps"] and ended["before"] is None
        assert ask("cancel", long["run"])["state"] == "cancelled"

        status = until(ask, started["run"], lambda status: status["state"] == "finished")
        assert (status["step"], status["adapter"], status["metrics"]["step"]) == (6, True, 6)
        assert status["result"]["test"]["n"] == 2
        gates = ask("gates", started["run"])
        assert gates["steps"] == list(range(7)) and gates["step"] == 6
        assert [len(gates["scale"]), *{len(row) for row in gates["scale"]}] == [3, 4]
        assert ask("gates", started["run"], step=3)["step"] == 3
        recorded = app.bench.store.get(started["run"]).gates().at(3)["offset_gate"]
        assert ask("gates", started["run"], step=3)["offset"] == pytest.approx(recorded, abs=1e-6)

        assert [row["id"] for row in ask("runs")][:2] == [started["run"], long["run"]]

    def test_a_half_that_is_not_trained_is_null(self, app: Served, ask: Ask) -> None:
        run = app.run("half")
        history = run.gates_dir / "heads.f32"
        history.write_bytes(history.read_bytes())
        with run.gate_writer("heads", 3, 4) as writer:
            fields = {name: values.copy() for name, values in run.gates().at(4).items()}
            fields["scale_gate"][:] = float("nan")
            writer.append(5, fields)
        gates = ask("gates", "half")
        assert gates["step"] == 5 and gates["scale"] == [[None] * 4] * 3
        assert all(0 <= value <= 1 for row in gates["offset"] for value in row)


class TestModel:
    def test_predictions_are_the_model_s_own(self, ask: Ask, model: JoLAModel) -> None:
        off = [{"layer": 0, "unit": 1}, {"layer": 2, "unit": 3, "half": "scale", "site": "heads"}]
        found = ask("predict", "sample", PROMPT, off=off, count=5, plain=True)
        ids = torch.tensor([model.tokenizer(PROMPT)["input_ids"]])
        mask = EditMask.all(model.edits)
        mask.offset[0, 1] = mask.scale[0, 1] = mask.scale[2, 3] = 0
        with torch.no_grad():
            edited = model.forward(ids, mask=mask).logits[0, -1].softmax(-1)
            base = model.base(ids).logits[0, -1].softmax(-1)
        top = torch.maximum(base, edited).topk(5).indices
        assert [token["edited"] for token in found["tokens"]] == pytest.approx(edited[top].tolist(), abs=1e-5)
        assert [token["base"] for token in found["tokens"]] == pytest.approx(base[top].tolist(), abs=1e-5)
        assert found["kl"] == pytest.approx(float((edited * (edited / base).log()).sum()), abs=1e-4)
        assert found["prompt_tokens"] == ids.shape[1]

    def test_a_mask_switches_as_the_list_does(self, ask: Ask) -> None:
        listed = ask("predict", "sample", PROMPT, off=[{"layer": 1, "unit": 2}])
        mask = HeadMask.all(3, 4).switched([(1, 2)], "both", False).to_text()
        assert ask("predict", "sample", PROMPT, mask=mask) == listed
        assert ask("predict", "sample", PROMPT) != listed
        none = ask("predict", "sample", PROMPT, strength=0)
        assert none["kl"] == 0 and all(token["base"] == token["edited"] for token in none["tokens"])

    def test_both_answers(self, ask: Ask, model: JoLAModel) -> None:
        found = ask("generate", "sample", PROMPT, new_tokens=6, plain=True)
        ids = torch.tensor([model.tokenizer(PROMPT)["input_ids"]])
        with torch.no_grad():
            edited = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
            base = model.base.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        ends = [model.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (base, edited)]
        assert ends[0].startswith(found["base"]) and ends[1].startswith(found["edited"])
        assert found["base"] and found["edited"] and found["base"] != found["edited"]

    def test_effects_are_the_model_s_own_and_are_what_switching_off_takes(self, ask: Ask, model: JoLAModel) -> None:
        found = ask("effects", "sample", PROMPT, "good")
        own = edit_effects(model, PROMPT, "good")
        assert len(found["effects"]) == len(own.edits) and found["n"] == 1
        assert (found["base"], found["edited"]) == pytest.approx((own.base, own.edited), abs=1e-4)
        sizes = [abs(row["effect"]) for row in found["effects"]]
        assert sizes == sorted(sizes, reverse=True)
        strongest = found["effects"][0]
        without = ask("effects", "sample", PROMPT, "good", off=[strongest])
        assert found["edited"] - without["edited"] == pytest.approx(strongest["effect"], abs=1e-3)
        assert len(without["effects"]) == len(found["effects"]) - 1

    def test_effects_by_another_measure(self, ask: Ask, model: JoLAModel) -> None:
        found = ask("effects", "sample", PROMPT, "good", measure="logit_difference", wrong="bad")
        own = edit_effects(model, PROMPT, "good", measure="logit_difference", wrong="bad")
        assert found["edited"] == pytest.approx(own.edited, abs=1e-4)
        divergences = ask("effects", "sample", PROMPT, "", measure="kl")
        assert divergences["edited"] == 0 and all(row["effect"] >= 0 for row in divergences["effects"])


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("status", {"run": "absent"}, "There is no run 'absent'"),
    ("status", {"run": "../sample"}, "There is no run"),
    ("status", {"run": 5}, "run is '5'; it must be a text."),
    ("status", {"run": ""}, "There is no run"),
    ("status", {"run": "a\0b"}, "There is no run"),
    ("cancel", {"run": None}, "run is 'None'; it must be a text."),
    ("gates", {"run": "sample", "step": -5}, "step is -5; it must be at least -1."),
    ("gates", {"run": "sample", "step": "3"}, "step is '3'; it must be a whole number."),
    ("gates", {"run": "sample", "step": True}, "step is 'True'; it must be a whole number."),
    ("gates", {"run": "sample", "site": "mlp"}, "has recorded no gates of the site mlp; it has heads."),
    ("gates", {"run": "sample", "site": "../x"}, "site is '../x'; it must be 'heads' or 'mlp'."),
    ("predict", {"run": "sample", "prompt": " \n"}, "The prompt is empty"),
    ("predict", {"run": "sample", "prompt": "film " * 5000}, "at most 1,024 are allowed"),
    ("predict", {"run": "sample", "prompt": PROMPT, "strength": 3}, "strength is 3; it must be from -2 to 2."),
    ("predict", {"run": "sample", "prompt": PROMPT, "strength": "x"}, "strength is 'x'; it must be a number."),
    ("predict", {"run": "sample", "prompt": PROMPT, "count": 0}, "count is 0; it must be from 1 to 50."),
    ("predict", {"run": "sample", "prompt": PROMPT, "plain": 1}, "plain is '1'; it must be true or false."),
    ("predict", {"run": "sample", "prompt": PROMPT, "mask": "nonsense"}, "text of the mask is damaged"),
    ("predict", {"run": "sample", "prompt": PROMPT, "off": {"layer": 1}}, "it must be a list."),
    ("predict", {"run": "sample", "prompt": PROMPT, "off": [3]}, "off contains 3; write"),
    ("predict", {"run": "sample", "prompt": PROMPT, "off": [{"layer": 1}]}, "off contains"),
    ("predict", {"run": "sample", "prompt": PROMPT, "off": [{"layer": 3, "unit": 0}]}, "layer is 3; it must be from 0"),
    ("predict", {"run": "sample", "prompt": PROMPT, "off": [{"layer": 0, "unit": "0"}]}, "unit is '0'"),
    ("predict", {"run": "sample", "prompt": PROMPT, "off": [{"layer": 0, "unit": 0, "half": "x"}]}, "half is 'x'"),
    ("predict", {"run": "sample", "prompt": PROMPT, "off": [{"layer": 0, "unit": 0, "site": "mlp"}]}, "no site 'mlp'"),
    ("predict", {"run": "sample", "prompt": PROMPT, "off": [{"layer": 0, "unit": 0, "site": []}]}, "no site '[]'"),
    ("generate", {"run": "sample", "prompt": PROMPT, "new_tokens": 257}, "new_tokens is 257; it must be from 1 to 256"),
    ("effects", {"run": "sample", "prompt": PROMPT, "answer": " "}, "The answer is empty"),
    ("effects", {"run": "sample", "prompt": PROMPT, "answer": "a", "measure": "none"}, "it must be 'log_probability'"),
    ("effects", {"run": "sample", "prompt": PROMPT, "answer": "a", "measure": "logit_difference"}, "a wrong answer"),
    ("start", {"settings": 3}, "settings is '3'; it must be an object of names and values."),
    ("start", {"settings": {"foo": 1}}, "There is no setting 'foo'"),
    ("start", {"settings": {"output": "/tmp/x"}}, "There is no setting 'output'"),
    ("start", {"settings": {"model": "x"}}, "Pass model as arguments of their own"),
    ("start", {"settings": {"epochs": "eight"}}, "epochs is 'eight'; it must be of type int."),
    ("start", {"settings": {"epochs": [1]}}, "epochs is [1]; it must be of type int."),
    ("start", {"settings": {"epochs": 0}}, "epochs is 0; it must be at least 1."),
    ("start", {"settings": {"gates": "three"}}, "gates is 'three'; choose one of two, shared, none."),
    ("start", {"settings": {"l0_weight": -1}}, "l0_weight is -1; it must be at least 0."),
]


class TestErrors:
    @pytest.mark.parametrize(("endpoint", "values", "words"), BAD)
    def test_bad_input_is_one_sentence(
        self, app: Served, ask: Ask, capfd: pytest.CaptureFixture[str], endpoint: str, values: dict, words: str
    ) -> None:
        before = len(app.bench.store.list())
        with pytest.raises(AppError) as raised:
            ask(endpoint, **values)
        sentence = str(raised.value)
        assert words in sentence
        assert sentence.endswith(".") and "\n" not in sentence and str(app.bench.store.root) not in sentence
        assert "Traceback" not in capfd.readouterr().err
        assert len(app.bench.store.list()) == before

    def test_a_number_that_is_none_is_refused(self, app: Served) -> None:
        """NaN is not valid JSON, but servers accept it."""
        call = f"{app.address}/gradio_api/call/predict"
        body = '{"data": ["sample", "A film", [], "", NaN, 10, true]}'
        answer = httpx.post(call, content=body, headers={"Content-Type": "application/json"})
        if answer.status_code == 200:
            said = httpx.get(f"{call}/{answer.json()['event_id']}", timeout=300).text
            assert "event: error" in said and "strength is nan" in said
        else:
            assert answer.status_code == 422

    def test_a_run_without_edits_is_a_sentence(self, app: Served, ask: Ask) -> None:
        run = app.run("bare")
        (run.adapter_dir / "adapter_model.safetensors").unlink()
        with pytest.raises(AppError, match="Choose a run that has edits"):
            ask("predict", "bare", PROMPT)
        assert ask("status", "bare")["adapter"] is False

    def test_the_app_answers_after_all_that(self, ask: Ask) -> None:
        assert ask("predict", "sample", PROMPT)["tokens"]
