"""A training that goes badly is recognized by its validation accuracy."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from jola.config import RunConfig
from jola.data.records import Example, Message
from jola.evaluation.scoring import Accuracy
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.system.files import json_bytes
from jola.training.validation_warning import Expected, ValidationWarning, earlier_accuracies


def examples(*answers: str) -> list[Example]:
    return [Example((Message("user", f"Question {n}"),), answer) for n, answer in enumerate(answers)]


LABELS = examples(*["good"] * 12, *["bad"] * 8)


def test_an_accuracy_of_the_most_frequent_answer_is_a_problem() -> None:
    expected = Expected.of(LABELS, [])
    sentence = expected.problem(Accuracy(12, 20), "2 of 4 epochs")
    assert "always answering 'good' would give 0.600" in sentence
    assert "n = 20" in sentence
    assert expected.problem(Accuracy(13, 20), "2 of 4 epochs") == ""


def test_answers_that_hardly_repeat_have_no_baseline() -> None:
    assert Expected.of(examples(*"abcdefgh"), []).problem(Accuracy(0, 8), "1 of 1 epochs") == ""


def test_an_accuracy_far_below_that_of_earlier_runs_is_a_problem() -> None:
    expected = Expected.of(LABELS, [0.97, 0.9, 0.3])
    assert "3 earlier runs (median) on the same data reached 0.900" in expected.problem(
        Accuracy(13, 20), "2 of 4 epochs"
    )
    # 0.9 is within the 95 % interval of 16 of 20.
    assert expected.problem(Accuracy(16, 20), "2 of 4 epochs") == ""
    assert "an earlier run on" in Expected.of(LABELS, [0.9]).problem(Accuracy(13, 20), "2 of 4 epochs")


def test_earlier_runs_are_those_with_the_same_method_model_and_data(tmp_path: Path) -> None:
    def made(name: str, accuracy: float | None, fingerprint: str = "abc", **settings: str) -> None:
        run = Run.create(tmp_path / name, RunConfig(**cast("Any", settings)), {"task": {"fingerprint": fingerprint}})
        found = None if accuracy is None else {"accuracy": accuracy, "n": 20, "low": 0.0, "high": 1.0}
        (run.path / "result.json").write_bytes(json_bytes({"validation": found}))

    made("same", 0.75)
    made("untested", None)
    made("other-data", 0.5, "abd")
    made("other-method", 0.25, method="red")
    Run.create(tmp_path / "unfinished", RunConfig(), {"task": {"fingerprint": "abc"}})
    assert earlier_accuracies(RunStore(tmp_path), "jola", "default", "abc") == [0.75]
    assert earlier_accuracies(RunStore(tmp_path), "red", "default", "abc") == [0.25]
    assert earlier_accuracies(RunStore(tmp_path), "jola", "another", "abc") == []


def test_it_watches_from_the_middle_and_takes_back_what_it_said() -> None:
    said: list[str] = []
    callback = ValidationWarning(Expected.of(LABELS, []), 20, said.append)
    history: list[dict[str, float]] = []
    for epoch, accuracy in enumerate((0.1, 0.2, 0.8), start=1):
        history.append({"eval_accuracy": accuracy})
        state = SimpleNamespace(
            global_step=10 * epoch, max_steps=40, epoch=float(epoch), log_history=history, is_world_process_zero=True
        )
        callback.on_evaluate(cast("Any", SimpleNamespace(num_train_epochs=4)), cast("Any", state), cast("Any", None))
    assert len(said) == 2
    assert "0.200" in said[0] and "2 of 4 epochs" in said[0]
    assert said[1] == ""
