"""A run from settings to result."""

import json
import os
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from jola.cli.main import main
from jola.config import EditConfig
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.runs.history import GATE_FIELDS
from jola.runs.run import Run
from jola.training.run import run_training
from jola.training.trainer import JoLATrainer
from tests.jola.training.tiny_runs import STEPS, Place, StopAt, assert_equal_runs, tensors
from tests.tiny import make_model

# The fixtures that most of these tests use are created once, in one worker.
pytestmark = pytest.mark.xdist_group("training")


def test_a_training_that_diverges_says_so_and_leaves_no_broken_edits(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = 1.0
    compute = JoLATrainer.compute_loss

    def growing(self: JoLATrainer, model: Any, inputs: Any, return_outputs: bool = False, **named: Any) -> Any:
        nonlocal scale
        scale *= 1e8 if model.training else 1
        loss = compute(self, model, inputs, return_outputs, **named)
        return (loss[0] * scale, loss[1]) if return_outputs else loss * scale

    monkeypatch.setattr(JoLATrainer, "compute_loss", growing)
    with pytest.raises(InputError, match=r"The training diverged: .*lower --learning-rate"):
        run_training(place.settings(tmp_path / "run"))
    run = Run.open(tmp_path / "run")
    assert run.state == "failed" and "The training diverged" in run.status()["message"]
    model = (
        JoLAModel.from_adapter(run.adapter_dir) if run.adapter_dir.exists() else JoLAModel.from_pretrained(place.model)
    )
    with torch.no_grad():
        model.edits.offset[0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"diverged: heads.offset contains"):
        model.save_pretrained(tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


class TestRun:
    def test_what_a_finished_run_leaves(self, unbroken: Run, place: Place) -> None:
        assert unbroken.state == "finished"
        status, metrics, result = unbroken.status(), unbroken.metrics(), unbroken.result()
        assert (status["step"], status["total_steps"], status["message"]) == (STEPS, STEPS, "")
        steps = [entry for entry in metrics if "loss" in entry]
        assert [entry["step"] for entry in steps] == list(range(1, STEPS + 1))
        names = {"cross_entropy", "penalty", "l0_weight", "learning_rate", "gate_learning_rate", "epoch", "time"}
        assert all(names <= set(entry) for entry in steps)
        assert steps[-1]["learning_rate"] == 0.0
        validations = [entry for entry in metrics if "validation_cross_entropy" in entry]
        assert [entry["step"] for entry in validations] == [6, 12, 18]
        assert unbroken.gates().steps.tolist() == list(range(STEPS + 1))
        assert result is not None
        assert result["test"]["n"] == 6
        assert result["test"]["low"] <= result["test"]["accuracy"] <= result["test"]["high"]
        assert (result["n_train"], result["steps"]) == (24, STEPS)
        assert set(result["closed"]) == {"offset", "scale"}
        config = unbroken.config()
        assert unbroken.run_config() == place.settings(unbroken.path)
        assert config["task"] | {"fingerprint": "", "notes": []} == {
            "name": "task", "n_train": 24, "n_validation": 8, "n_test": 6, "labels": ["bad", "good"],
            "fingerprint": "", "notes": [], "revision": None, "metrics": ["exact_match", "first_label"],
        }  # fmt: skip
        assert config["geometry"]["num_layers"] == 3
        assert config["versions"]["torch"] == version("torch")
        assert config["parameters"]["trainable"] == sum(tensor.numel() for tensor in tensors(unbroken).values())

    def test_its_answers_are_kept_and_give_its_score(self, unbroken: Run) -> None:
        answers, result = unbroken.answers(), unbroken.result()
        assert result is not None and len(answers) == result["test"]["n"] == 6
        assert len({answer.id for answer in answers}) == 6
        assert {answer.example.options for answer in answers} == {("bad", "good")}
        right = [answer.answer in answer.expected for answer in answers]
        assert sum(right) / len(right) == result["test"]["accuracy"]

    def test_its_adapter_is_the_trained_model(self, unbroken: Run, place: Place) -> None:
        model = JoLAModel.from_adapter(unbroken.adapter_dir, model=place.model, dtype="float32")
        last = unbroken.gates()
        result = unbroken.result()
        assert result is not None
        gates = model.edits.gate_values()
        closed = {half: float((gates[half] == 0).float().mean()) for half in ("offset", "scale")}
        assert result["closed"] == closed
        # The best epoch of this run is its last, so the kept gates are those of the last record.
        validations = [e["validation_cross_entropy"] for e in unbroken.metrics() if "validation_cross_entropy" in e]
        assert min(validations) == validations[-1]
        np.testing.assert_array_equal(last.at(STEPS)["scale_gate"], gates["scale"].numpy())

    def test_the_adapter_knows_its_model(self, unbroken: Run) -> None:
        model = JoLAModel.from_adapter(unbroken.adapter_dir, dtype="float32")
        assert model.geometry.num_layers == 3

    @pytest.mark.parametrize(
        ("arguments", "start"),
        [({"dtype": torch.int8}, "dtype is 'int8'"), ({"device": "toaster"}, "There is no device 'toaster'")],
    )
    def test_an_argument_that_is_wrong_is_not_blamed_on_the_base_model(
        self, unbroken: Run, arguments: dict[str, Any], start: str
    ) -> None:
        with pytest.raises(InputError, match=f"^{start}"):
            JoLAModel.from_adapter(unbroken.adapter_dir, **arguments)

    def test_the_same_seed_gives_the_same_run_in_another_process(
        self, unbroken: Run, place: Place, tmp_path: Path
    ) -> None:
        assert_equal_runs(run_training(place.settings(tmp_path / "again")), unbroken)

    def test_another_seed_gives_other_edits(self, unbroken: Run, place: Place, tmp_path: Path) -> None:
        other = tensors(run_training(place.settings(tmp_path / "other", seed=8, epochs=1)))
        assert not any(torch.equal(tensor, other[name]) for name, tensor in tensors(unbroken).items())

    def test_its_start_is_that_of_its_process(self, place: Place, tmp_path: Path) -> None:
        began: list[float] = []

        def choose(*_: Any) -> str:
            began.append(Run(tmp_path / "run").status()["started"])
            return "1:0,2:3"

        run = run_training(place.settings(tmp_path / "run", EditConfig(heads="random@2"), epochs=1), choose=choose)
        assert [run.status()["started"]] == began  # grids count the time of loading and choosing
        assert run.config()["chosen_heads"] == "1:0,2:3" and run.config()["task"]["n_train"] == 24

    def test_what_is_refused_before_training_leaves_no_run(self, place: Place, tmp_path: Path) -> None:
        settings = place.settings(tmp_path / "run")
        settings.data.max_length = 8
        with pytest.raises(InputError):
            run_training(settings)
        assert not (tmp_path / "run").exists()

    def test_a_directory_that_was_there_keeps_the_sentence(self, place: Place, tmp_path: Path) -> None:
        settings = place.settings(tmp_path / "run", learning_rate=0.01)
        settings.data.max_length = 8
        (tmp_path / "run").mkdir()
        with pytest.raises(InputError) as error:
            run_training(settings)
        run = Run.open(tmp_path / "run")
        assert (run.state, run.status()["message"]) == ("failed", str(error.value))

    def test_resuming_what_cannot_be_used_keeps_the_run(self, place: Place, unbroken: Run, tmp_path: Path) -> None:
        path = Path(shutil.copytree(unbroken.path, tmp_path / "run"))
        settings = place.settings(path)
        config = json.loads((path / "config.json").read_text())
        config["data"]["task"] = str(tmp_path / "nowhere.jsonl")
        (path / "config.json").write_text(json.dumps(config))
        Run(path).write_status(state="cancelled")
        settings.data.task = config["data"]["task"]
        with pytest.raises(InputError):
            run_training(settings, resume=True)
        assert (path / "adapter" / "adapter_model.safetensors").is_file()

    def test_examples_that_are_too_long_are_counted_and_left_out(self, place: Place, tmp_path: Path) -> None:
        task = tmp_path / "task"
        shutil.copytree(place.task, task)
        with open(task / "train.jsonl", "a") as file:
            file.write(json.dumps({"prompt": "long " * 200, "completion": "good"}) + "\n")
        settings = place.settings(tmp_path / "run", epochs=1)
        settings.data = replace(settings.data, task=str(task), max_length=128)
        progress = StopAt(step=-1)
        run = run_training(settings, progress=progress)
        assert any("1 of 25 training examples are longer than 128 tokens" in note for note in progress.notes)
        result = run.result()
        assert result is not None
        assert result["n_train"] == run.config()["task"]["n_train"] == 24

    def test_texts_beyond_the_positions_of_the_model(
        self, place: Place, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        make_model("gpt2").save_pretrained(tmp_path / "gpt2")
        tokenizer.save_pretrained(tmp_path / "gpt2")
        task = Path(shutil.copytree(place.task, tmp_path / "task"))
        settings = place.settings(tmp_path / "run", epochs=1)
        settings.model = replace(settings.model, model=str(tmp_path / "gpt2"))
        settings.data = replace(settings.data, task=str(task), max_length=4000)
        long = json.dumps({"prompt": "long " * 200, "completion": "good"}) + "\n"

        for part in ("train", "validation"):
            with open(task / f"{part}.jsonl", "a") as file:
                file.write(long)
        progress = StopAt(step=-1)
        assert run_training(settings, progress=progress).state == "finished"
        notes = " ".join(progress.notes)
        assert "Examples may have up to 256 tokens, because the model has no more positions." in notes
        assert "1 of 25 training examples are longer than 256 tokens and are left out." in notes
        assert "1 of 9 validation examples are longer than 256 tokens and are left out." in notes

        # Test prompts are not left out, and are refused before the training.
        with open(task / "test.jsonl", "a") as file:
            file.write(long)
        settings.training.output = str(tmp_path / "other")
        with pytest.raises(
            InputError, match=r"^1 of 7 test prompts are too long: .* this gpt2 model has positions for"
        ):
            run_training(settings, progress=StopAt(step=-1))
        assert not (tmp_path / "other").exists()
        settings.model = replace(settings.model, model=place.model)
        progress = StopAt(step=-1)
        run = run_training(settings, progress=progress)
        assert run.config()["task"]["n_train"] == 25 and not [note for note in progress.notes if "tokens" in note]

    # PyTorch's message if the disk is full while it writes a checkpoint; None: while the run appends a line.
    @pytest.mark.parametrize("message", ["[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534", None])
    def test_a_full_disk_ends_a_run_with_one_sentence(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str | None
    ) -> None:
        if message is None:
            write = os.write

            def full(descriptor: int, data: bytes) -> int:
                if data.startswith(b'{"step": 4'):
                    raise OSError(28, "No space left on device")
                return write(descriptor, data)

            monkeypatch.setattr(os, "write", full)
        else:

            def full_save(*args: Any, **kwargs: Any) -> None:
                raise RuntimeError(message)

            monkeypatch.setattr(torch, "save", full_save)
        with pytest.raises(InputError, match=r"^There is no space left on the disk for .*free some") as error:
            run_training(place.settings(tmp_path / "run"))
        assert str(error.value).count("\n") == 0
        run = Run.open(tmp_path / "run")
        assert (run.state, run.status()["message"]) == ("failed", str(error.value))
        if message is None:
            assert [entry["step"] for entry in run.metrics()] == [1, 2, 3]


class TestUntrainedHalf:
    def test_it_is_neither_open_nor_closed(self, place: Place, tmp_path: Path) -> None:
        run = run_training(place.settings(tmp_path / "run", EditConfig(operation="offset", layers="0,2"), epochs=1))
        result = run.result()
        assert result is not None
        assert result["closed"]["scale"] is None and 0 <= result["closed"]["offset"] <= 1
        fields = run.gates().fields
        for name in GATE_FIELDS:
            trained = np.isfinite(fields[name])
            assert trained[:, [0, 2]].all() == name.startswith("offset")
            assert not trained[:, 1].any()
        assert np.isnan(run.gates().closed()["scale"])

    def test_the_command_line_says_so(self, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        settings = place.settings(tmp_path / "run", EditConfig(operation="scale"), epochs=1)
        main(["train", *settings.flags()])
        assert "closed    offset not trained  scale " in capsys.readouterr().out
        settings = place.settings(tmp_path / "other", EditConfig(operation="scale"), epochs=1)
        main(["train", "--json", *settings.flags()])
        assert json.loads(capsys.readouterr().out)["closed"]["offset"] is None
        main(["runs", "show", str(tmp_path / "run")])


def test_gradient_checkpointing_changes_no_number(place: Place, unbroken: Run, tmp_path: Path) -> None:
    main(["train", "--json", *place.settings(tmp_path / "run").flags(), "--gradient-checkpointing"])
    run = Run.open(tmp_path / "run")
    assert run.run_config().training.gradient_checkpointing
    assert_equal_runs(run, unbroken)
