"""Adapters in the evaluation harness, on tasks from a file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from jola.config import RunConfig
from jola.errors import InputError
from jola.evaluation import harness
from jola.export import export_merged
from jola.jola_model import JoLAModel
from jola.methods.loreft import LoReFTConfig
from jola.runs.run import Run
from jola.runs.store import RunStore
from tests import ROOT
from tests.conftest import spread_edits

QUESTIONS = [
    {"text": f"Is the sentiment of sentence {i} positive or negative?", "choices": ["positive", "negative", "fine"]}
    for i in range(9)
]
CHOICE = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""
ANSWER = """
task: tiny_answer
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "positive"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture
def lm_eval() -> Any:
    return pytest.importorskip("lm_eval", reason="the harness comes with the extra 'lm-eval'")


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two tasks over nine questions."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "data.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    for name, text in (("choice", CHOICE), ("answer", ANSWER)):
        (folder / f"{name}.yaml").write_text(text.format(file=folder / "data.jsonl"))
    return folder


@pytest.fixture
def model(tiny_folder: Path) -> JoLAModel:
    model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32", device="cpu")
    spread_edits(model)
    return model


def samples(lm_eval: Any, tasks: Path, kind: str, **arguments: Any) -> dict[str, Any]:
    """Return the responses of a model to each question of each task."""
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model=kind,
        model_args={"dtype": "float32", **arguments},
        tasks=["tiny_choice", "tiny_answer"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        device="cpu",
        batch_size=4,
        bootstrap_iters=0,
    )
    return {name: [s["filtered_resps"] for s in entries] for name, entries in found["samples"].items()}


def likelihoods(found: dict[str, Any]) -> torch.Tensor:
    return torch.tensor([[float(pair[0]) for pair in row] for row in found["tiny_choice"]])


class TestTheModelType:
    def test_gives_the_numbers_of_the_folded_model(
        self, lm_eval: Any, tasks: Path, model: JoLAModel, tiny_folder: Path, tmp_path: Path
    ) -> None:
        harness.register()
        adapter = model.save_pretrained(tmp_path / "adapter")
        export_merged(model, tmp_path / "merged", "float32", ("a prompt",))
        edited = samples(lm_eval, tasks, "jola", adapter=str(adapter))
        folded = samples(lm_eval, tasks, "hf", pretrained=str(tmp_path / "merged"))
        frozen = samples(lm_eval, tasks, "hf", pretrained=str(tiny_folder))
        assert likelihoods(edited).shape == (9, 3)
        assert (likelihoods(edited) - likelihoods(folded)).abs().max() < 1e-3
        assert edited["tiny_answer"] == folded["tiny_answer"]
        assert (likelihoods(edited) - likelihoods(frozen)).abs().max() > 0.1
        assert edited["tiny_answer"] != frozen["tiny_answer"]
        off = samples(lm_eval, tasks, "jola", adapter=str(adapter), strength=0.0)
        assert (likelihoods(off) - likelihoods(frozen)).abs().max() < 1e-3
        assert off["tiny_answer"] == frozen["tiny_answer"]

    @torch.no_grad()
    def test_tells_edits_of_prompts_where_contexts_end(
        self, lm_eval: Any, tasks: Path, tiny_folder: Path, tmp_path: Path
    ) -> None:
        harness.register()
        model = JoLAModel.from_pretrained(
            str(tiny_folder), edits=LoReFTConfig(rank=3, start="published"), dtype="float32", device="cpu"
        )
        adapter = model.save_pretrained(tmp_path / "adapter")
        found = likelihoods(samples(lm_eval, tasks, "jola", adapter=str(adapter)))
        made: Any = harness.JoLAHarness(str(adapter), dtype="float32", device="cpu", batch_size=2)
        for question, scores in zip(QUESTIONS, found, strict=True):
            for choice, score in zip(question["choices"], scores, strict=True):
                context, answer = made._encode_pair(str(question["text"]), f" {choice}")
                ids = torch.tensor([context + answer])
                each = model(ids, prompt_lengths=len(context)).logits[0].log_softmax(-1)
                total = sum(float(each[len(context) + i - 1, token]) for i, token in enumerate(answer))
                assert float(score) == pytest.approx(total, abs=1e-3)

    def test_a_run_goes_by_its_id(self, lm_eval: Any, model: JoLAModel) -> None:
        run = Run.create(RunStore().root / "20260101-000000-tiny-0000", RunConfig())
        model.save_pretrained(run.adapter_dir)
        for name in (run.id, str(run.path)):
            made: Any = harness.JoLAHarness(name, dtype="float32", device="cpu", batch_size=2)
            assert made.batch_size == 2 and made.max_length == 256
            assert made.get_model_info()["model_num_parameters"] == sum(p.numel() for p in model.base.parameters())

    def test_is_an_entry_point(self, lm_eval: Any) -> None:
        import tomllib

        text = (ROOT / "pyproject.toml").read_text("utf-8")
        place = tomllib.loads(text)["project"]["entry-points"]["lm_eval.models"]["jola"]
        module, _, name = place.partition(":")
        assert module == harness.__name__
        from lm_eval.models.huggingface import HFLM

        assert issubclass(getattr(harness, name), HFLM)


class TestTheCommand:
    def run(self, *arguments: str, without: str = "") -> "subprocess.CompletedProcess[str]":
        hide = f"sys.modules[{without!r}] = None; " if without else ""
        program = f"import sys, runpy; {hide}runpy.run_module('jola.evaluation.harness', run_name='__main__')"
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ)

    def test_bad_input_is_one_sentence(self, lm_eval: Any, tasks: Path) -> None:
        done = self.run(
            "run", "--model", "jola", "--model_args", "adapter=nowhere", "--tasks", "tiny_choice",
            "--include_path", str(tasks),
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("error: There is neither an adapter nor a run nowhere")

    def test_without_the_harness(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done = self.run("run", without="lm_eval")
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "pip install 'jola-workbench[lm-eval]'" in done.stderr
        monkeypatch.setitem(sys.modules, "lm_eval", None)
        with pytest.raises(InputError, match="not installed"):
            harness.register()
