"""Runs that test the base model: no steps and no adapter, but answers and scores like any run."""

import json
from pathlib import Path

import pytest
import torch

from jola.adapters.directory import CONFIG_NAME
from jola.cli.common import find_adapter
from jola.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from jola.data.examples import Template
from jola.data.tasks import load_task
from jola.errors import InputError
from jola.evaluation.scoring import exact_match
from jola.jola_model import JoLAModel
from jola.methods.zero_shot import ZeroShotConfig
from jola.runs.archive import export_archive
from jola.runs.run import Run
from jola.system.progress import Quiet
from jola.training.run import run_training
from tests.tiny import make_model, make_tokenizer

IDS = torch.tensor([[5, 9, 17, 33, 8, 21, 40]])


class Told(Quiet):
    """Records phases and notes."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.notes: list[str] = []

    def phase(self, name: str, total: int | None = None) -> None:
        self.phases.append(name)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.fixture
def config(tmp_path: Path, tiny_folder: Path) -> RunConfig:
    data = tmp_path / "task"
    data.mkdir()
    for part, count in (("train", 8), ("validation", 4), ("test", 6)):
        rows = [{"prompt": f"Good or bad? Film {n}", "completion": ("good", "bad")[n % 2]} for n in range(count)]
        (data / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return RunConfig(
        method="zero-shot",
        model=ModelConfig(model=str(tiny_folder), dtype="float32", device="cpu"),
        data=DataConfig(task=str(data)),
        training=TrainingConfig(output=str(tmp_path / "run")),
    )


def test_a_run_tests_the_base_model(config: RunConfig, tiny_folder: Path) -> None:
    told = Told()
    run = run_training(config, progress=told)
    assert run.state == "finished" and told.phases == ["load", "evaluate"]
    assert [note for note in told.notes if "trains nothing" in note]
    result = run.result()
    assert result is not None and (result["steps"], result["n_train"], result["test"]["n"]) == (0, 0, 6)
    model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32", device="cpu")
    task = load_task(config.data, config.training.seed)
    with model.disable_edits():
        expected = exact_match(model, task.test, Template(model.tokenizer)).answers
    answers = run.answers()
    assert answers is not None and [answer.answer for answer in answers] == expected
    assert not run.sites() and not run.metrics() and not run.adapter_dir.exists()
    summary = run.summary()
    assert (summary["method"], summary["step"], summary["adapter"], summary["open"]) == ("Zero-shot", 0, False, None)


def test_it_can_be_tested_again_and_read(config: RunConfig) -> None:
    run = run_training(config)
    test = run.result()["test"]
    run.write_status(state="cancelled")
    again = run_training(config, resume=True)
    assert again.state == "finished" and again.result()["test"] == test
    assert Run.open(run.path).run_config().method == "zero-shot"
    assert RunConfig.from_dict(run.run_config().to_dict()).training.learning_rate is None


def test_there_is_no_adapter_and_one_sentence_says_why(config: RunConfig, tmp_path: Path) -> None:
    run = run_training(config)
    for needs in (lambda: find_adapter(str(run.path)), lambda: export_archive(run, tmp_path / "run.zip")):
        with pytest.raises(InputError, match="has no adapter, because zero-shot runs test the base model") as caught:
            needs()
        assert "\n" not in str(caught.value)
    assert not (run.adapter_dir / CONFIG_NAME).exists() and not (tmp_path / "run.zip").exists()


@torch.no_grad()
def test_nothing_is_attached() -> None:
    plain = make_model("llama")(IDS).logits
    model = JoLAModel(make_model("llama"), make_tokenizer(), ZeroShotConfig())
    assert torch.equal(model(IDS).logits, plain) and model.trainable_parameters()[0] == 0
    assert not list(model.parameters()) and not model.own_interventions()
    assert model.method.shapes(ZeroShotConfig(), model.geometry) == {}


def test_settings_of_training_are_none_of_its_flags() -> None:
    assert RunConfig(method="zero-shot").flags() == ["--method", "zero-shot"]
    used = RunConfig(method="zero-shot", training=TrainingConfig(seed=3, epochs=9)).flags()
    assert used == ["--method", "zero-shot", "--seed", "3"]
