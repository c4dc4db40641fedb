"""Runs of tasks with other metrics than exact match, from training to result and stored answers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from jola.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from jola.data.records import Example, Message
from jola.data.tasks import REGISTRY
from jola.data.tasks.info import Parts
from jola.errors import InputError
from jola.evaluation import metrics
from jola.evaluation.answers import score_answers
from jola.runs.scores import own_score, scores_in
from jola.training import trainer
from jola.training.run import run_training
from tests.tiny import make_model


@pytest.fixture
def model(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    make_model("llama").save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return str(tmp_path / "tiny")


def provide(patch: pytest.MonkeyPatch, task: str, examples: list[Example]) -> None:
    """Replace the data of a task by these examples: all for training, two for validation, three for testing."""
    parts = Parts(examples, examples[:2], examples[:3], revision="0" * 40)
    patch.setitem(REGISTRY, task, replace(REGISTRY[task], load=lambda: parts))


def settings(task: str, model: str, output: Path) -> RunConfig:
    return RunConfig(
        ModelConfig(model=model, dtype="float32"),
        None,
        DataConfig(task=task),
        TrainingConfig(epochs=1, batch_size=4, output=str(output)),
    )


def question(number: int, options: int) -> Example:
    answers = tuple(f"answer{n}" for n in range(1, options + 1))
    return Example((Message("user", f"Which of {options}, case {number}?"),), answers[number % options], (), answers)


def test_a_task_with_options_by_example(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provide(monkeypatch, "arc_easy", [question(number, 3 + number % 3) for number in range(6)])
    run = run_training(settings("arc_easy", model, tmp_path / "run"))
    result, answers = run.result(), run.answers()
    assert result is not None and result["metric"] == "exact_match"
    assert [score["metric"] for score in scores_in(result)] == ["exact_match", "options", "first_label"]
    assert {score["n"] for score in scores_in(result)} == {3} and result["test"]["n"] == 3
    assert [len(answer.log_likelihoods or ()) for answer in answers] == [len(a.example.options) for a in answers]
    assert sorted(len(answer.example.options) for answer in answers) == [3, 4, 5]
    assert all(value < 0 for answer in answers for value in answer.log_likelihoods or ())
    assert run.raw_config()["task"]["revision"] == "0" * 40
    again = score_answers(answers, ["exact_match", "options", "first_label"])
    assert [score.to_dict() for score in again] == scores_in(result)


def test_a_generation_task(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [
        Example((Message("user", f"Describe {n}."),), f"this is the number {n}", (f"a number {n} it is",))
        for n in range(6)
    ]
    provide(monkeypatch, "common_gen", examples)
    run = run_training(settings("common_gen", model, tmp_path / "run"))
    result, answers = run.result(), run.answers()
    assert result is not None and (result["metric"], result["test"]) == ("bleu", None)
    found = scores_in(result)
    assert [(score["metric"], score["n"]) for score in found] == [("bleu", 3), ("rouge_l", 3)]
    assert all(0 <= score["low"] <= score["value"] <= score["high"] <= 1 for score in found)
    assert "nrefs:2" in found[0]["signature"] and own_score(result) == found[0]
    assert all(len(answer.expected) == 2 and answer.example.options == () for answer in answers)
    assert "Test score, BLEU: 0." in (run.adapter_dir / "README.md").read_text()


def test_a_metric_whose_package_is_missing_is_refused_before_training(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise InputError(f"The metrics of generated texts need {name}.")

    provide(monkeypatch, "xsum", [question(number, 2) for number in range(6)])
    monkeypatch.setattr("jola.evaluation.answers.required_package", refuse)
    with pytest.raises(InputError, match=r"need rouge_score"):
        run_training(settings("xsum", model, tmp_path / "run"))
    assert metrics.METRICS["rouge_l"].package == "rouge_score.rouge_scorer"


def test_results_of_earlier_versions_have_scores() -> None:
    accuracy = {"accuracy": 0.5, "n": 4, "low": 0.2, "high": 0.8}
    found = scores_in({"test_options": accuracy, "test": accuracy | {"accuracy": 0.75}})
    assert [(score["metric"], score["value"]) for score in found] == [("exact_match", 0.75), ("options", 0.5)]
    assert (own_score({"test_options": accuracy}), own_score(None), scores_in({})) == (None, None, [])


def test_a_generation_task_keeps_the_epoch_with_the_lowest_cross_entropy(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = [Example((Message("user", f"Describe {n}."),), f"this is the number {n}") for n in range(6)]
    provide(monkeypatch, "common_gen", examples)
    # One exact answer, in the first epoch only.
    correct = iter([1.0, 0.0, 0.0])
    monkeypatch.setattr(trainer, "rows_correct", lambda *_: torch.tensor([next(correct), 0.0]))
    config = settings("common_gen", model, tmp_path / "run")
    config.training.epochs, config.training.learning_rate = 3, 0.05
    run = run_training(config)
    losses = {e["step"]: e["validation_cross_entropy"] for e in run.metrics() if "validation_cross_entropy" in e}
    kept = (run.result() or {})["kept_step"]
    assert kept == min(losses, key=lambda step: losses[step]) > 2
    assert run.run_config().training.keep == "best"
