"""A run from settings to result: repeated, interrupted, killed, resumed, and trained by several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, Trainer
from transformers.trainer_utils import EvalLoopOutput

from jola.cli.main import main
from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
from jola.errors import InputError
from jola.evaluation import answering
from jola.jola_model import JoLAModel
from jola.runs.history import GATE_FIELDS
from jola.runs.run import Run
from jola.training import trainer
from jola.training.fit import last_checkpoint
from jola.training.follower import request_pause
from jola.training.run import Quiet, run_training
from jola.training.trainer import JoLATrainer
from tests import ROOT
from tests.jola.training.printed import summaries
from tests.tiny import make_model

# The runs that most tests here compare are made once for the module.
pytestmark = pytest.mark.xdist_group("training")

TIMES = {"time", "seconds", "peak_memory"}
STEPS = 18
"""Three epochs of 24 examples in batches of 4."""

KILLED = """
import json, os, signal, sys
import jola.training.run
from jola.config import RunConfig

class Deadly(jola.training.run.Quiet):
    def __init__(self, phase, step):
        self.where, self.phase_now = (phase, step), ""
    def phase(self, name, total=None):
        self.phase_now = name
    def advance(self, done, **values):
        if (self.phase_now, done) == self.where:
            os.kill(os.getpid(), signal.SIGKILL)

for settings, phase, step in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        jola.training.run.run_training(RunConfig.from_dict(settings), progress=Deadly(phase, step))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""

TOGETHER = """
import os, sys
from safetensors.torch import save_file
import jola.training.run
from jola.cli.main import main

models, load = [], jola.training.run.JoLAModel.from_pretrained
jola.training.run.JoLAModel.from_pretrained = lambda *a, **k: models.append(load(*a, **k)) or models[-1]
for arguments in sys.argv[2:]:
    main(arguments.split("|"))
    file = f"{sys.argv[1]}/{len(models)}-{os.environ['RANK']}.safetensors"
    save_file({name: parameter.detach() for name, parameter in models[-1].named_parameters()}, file)
"""


def lines(start: int, count: int) -> str:
    answers = {"fine": "good", "warm": "good", "sad": "bad", "poor": "bad"}
    words = [(list(answers)[i % 4], i) for i in range(start, start + count)]
    rows = [{"prompt": f"Is film {i}, a {word} one, good or bad?", "completion": answers[word]} for word, i in words]
    return "".join(json.dumps(row) + "\n" for row in rows)


def environment(**more: str) -> dict[str, str]:
    """One thread, so that a process computes what this one does."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


@dataclass
class Place:
    """A task, a model, and settings that use them."""

    folder: Path

    @property
    def task(self) -> str:
        return str(self.folder / "task")

    @property
    def model(self) -> str:
        return str(self.folder / "tiny")

    def settings(self, output: Path | str, edits: EditConfig | None = None, **training: Any) -> RunConfig:
        options: dict[str, Any] = {
            "epochs": 3, "batch_size": 4, "seed": 7, "patience": 0,
            "learning_rate": 0.02, "gate_learning_rate": 0.1, "l0_weight": 1e-3,
        } | training  # fmt: skip
        return RunConfig(
            ModelConfig(model=self.model, dtype="float32"),
            edits or EditConfig(),
            DataConfig(task=self.task, train_size=0, validation_size=0, test_size=0),
            TrainingConfig(**options, output=str(output)),
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Place:
    """Built once: the files are read and never changed."""
    folder = tmp_path_factory.mktemp("place")
    make_model("llama").save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    (folder / "task").mkdir()
    for part, start, count in (("train", 0, 24), ("validation", 24, 8), ("test", 32, 6)):
        (folder / "task" / f"{part}.jsonl").write_text(lines(start, count))
    return Place(folder)


@pytest.fixture(scope="module")
def unbroken(place: Place) -> Run:
    """A run from the command line, in a process of its own."""
    output = place.folder / "unbroken"
    command = [sys.executable, "-m", "jola", "train", "--json", *place.settings(output).flags()]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(output)
    return Run.open(output)


@pytest.fixture(scope="module")
def killed(place: Place) -> dict[str, Path]:
    """Runs whose process was killed: before the first checkpoint, in the middle of an epoch, and while testing."""
    when = {"early": ("train", 3), "middle": ("train", 9), "testing": ("evaluate", 6)}
    jobs = [(place.settings(place.folder / name).to_dict(), *moment) for name, moment in when.items()]
    command = [sys.executable, "-c", KILLED, json.dumps(jobs)]
    subprocess.run(command, env=environment(), cwd=ROOT, check=True, timeout=600)
    return {name: place.folder / name for name in when}


@dataclass
class StopAt(Quiet):
    """Progress that asks the run to stop, as `kill` does, once a step of a phase is done."""

    step: int
    phase_wanted: str = "train"
    notes: list[str] = field(default_factory=list)
    now: str = ""

    def phase(self, name: str, total: int | None = None) -> None:
        self.now = name

    def advance(self, done: int, **values: float) -> None:
        if (self.now, done) == (self.phase_wanted, self.step):
            os.kill(os.getpid(), signal.SIGTERM)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def tensors(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.adapter_dir / "adapter_model.safetensors")


def timeless(entry: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (entry or {}).items() if name not in TIMES}


def assert_equal_runs(run: Run, other: Run) -> None:
    """Bit for bit the same edits, metrics, gates and result; only times may differ."""
    ours, theirs = tensors(run), tensors(other)
    assert set(ours) == set(theirs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert [timeless(entry) for entry in run.metrics()] == [timeless(entry) for entry in other.metrics()]
    assert run.sites() == other.sites()
    for site in run.sites():
        assert run.gates(site).steps.tolist() == other.gates(site).steps.tolist()
        for name in GATE_FIELDS:
            np.testing.assert_array_equal(run.gates(site).fields[name], other.gates(site).fields[name])
    assert timeless(run.result()) == timeless(other.result())
    assert (run.state, run.status()["step"]) == (other.state, other.status()["step"])


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
    with pytest.raises(InputError, match=r"diverged: heads.offset holds"):
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
        # The best epoch of this run is its last, so what is kept is what was recorded there.
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

    # What PyTorch says where it writes a checkpoint; None: where the run appends a line.
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


STILL: dict[str, Any] = {"learning_rate": 1e-12, "gate_learning_rate": 1e-12}
"""Rates that are lost in rounding, so that the validation cross-entropy stays what it is."""


class TestKeep:
    def checkpoint(self, run: Run, step: int) -> dict[str, torch.Tensor]:
        return load_file(run.checkpoints_dir / f"checkpoint-{step}" / "model.safetensors")

    def validations(self, monkeypatch: pytest.MonkeyPatch, counts: Sequence[int], losses: Sequence[float] = ()) -> None:
        """Let this many of the 8 validation answers be correct after each epoch, and the cross-entropy be these."""
        correct, cross_entropies, loop = iter(counts), iter(losses), Trainer.evaluation_loop

        def with_losses(*args: Any, **kwargs: Any) -> EvalLoopOutput:
            output = loop(*args, **kwargs)
            output.metrics.update(zip(("eval_loss",), cross_entropies, strict=False))
            return output

        monkeypatch.setattr(trainer, "rows_correct", lambda *_: (torch.arange(8) < next(correct)).float())
        monkeypatch.setattr(Trainer, "evaluation_loop", with_losses)

    @pytest.mark.parametrize(
        ("keep", "counts", "step"),
        [
            ("best", (2, 5, 3), 12),
            ("best", (5, 5, 4), 12),
            ("best", (0, 0, 1), 18),
            ("best", (0, 0, 0), 6),
            ("loss", (2, 5, 3), 6),
            ("last", (5, 3, 2), 18),
        ],
    )
    def test_the_epoch_that_is_kept(
        self,
        place: Place,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        keep: str,
        counts: tuple[int, ...],
        step: int,
    ) -> None:
        self.validations(monkeypatch, counts, losses=(1.0, 2.0, 3.0))
        run = run_training(place.settings(tmp_path / "run", keep=keep, learning_rate=0.05))
        validation = (run.result() or {})["validation"]
        assert (validation["accuracy"], validation["n"]) == (counts[step // 6 - 1] / 8, 8)
        result, kept = run.result(), tensors(run)
        assert result is not None
        assert result["kept_step"] == step
        expected = self.checkpoint(run, step)
        assert {name.removeprefix("interventions.0.") for name in expected} == {n.split(".", 1)[1] for n in kept}
        for name, tensor in expected.items():
            assert torch.equal(tensor, kept["heads." + name.removeprefix("interventions.0.")])
        # The history is that of training, whatever is kept of it.
        scale = run.gates().at(STEPS)["scale_norm"]
        last = self.checkpoint(run, 18)["interventions.0.scale"].norm(dim=-1).numpy()
        np.testing.assert_allclose(scale, last, rtol=1e-6)

    @pytest.mark.parametrize(("keep", "kept"), [("best", {7: 6, 13: 6, 18: 6}), ("last", {7: 6, 13: 12, 18: 12})])
    def test_a_run_at_work_has_its_best_edits_so_far(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, kept: dict[int, int]
    ) -> None:
        self.validations(monkeypatch, (5, 4, 3))
        run, seen = Run(tmp_path / "run"), []
        checkpoint = self.checkpoint

        class Look(Quiet):
            now = ""

            def phase(self, name: str, total: int | None = None) -> None:
                self.now = name

            def advance(self, done: int, **values: float) -> None:
                assert run.adapter_dir.exists() == (self.now == "evaluate" or done > 6)
                if self.now == "train" and done in kept:
                    seen.append(done)
                    held, expected = tensors(run), checkpoint(run, kept[done])
                    for name, tensor in expected.items():
                        assert torch.equal(tensor, held["heads." + name.removeprefix("interventions.0.")]), (done, name)
                    JoLAModel.from_adapter(run.adapter_dir, model=place.model)

        run_training(place.settings(run.path, keep=keep, learning_rate=0.05), progress=Look())
        assert seen == list(kept)

    def test_a_folder_that_was_moved_keeps_the_best_edits_when_it_is_resumed(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.validations(monkeypatch, (5, 4, 3))
        run = run_training(place.settings(tmp_path / "run", learning_rate=0.05))
        kept = tensors(run)
        moved = Run((tmp_path / "run").rename(tmp_path / "moved"))
        # As if the process had been killed while testing.
        (moved.path / "result.json").unlink()
        shutil.rmtree(moved.adapter_dir)
        moved.write_status(state="evaluating", pid=os.getpid(), pid_created=1.0)
        again = run_training(place.settings(moved.path, learning_rate=0.05), resume=True)
        assert (again.result() or {})["kept_step"] == 6
        assert (again.result() or {})["validation"]["accuracy"] == 5 / 8
        assert all(torch.equal(tensor, kept[name]) for name, tensor in tensors(again).items())

    def test_a_killed_run_keeps_its_best_edits(self, killed: dict[str, Path]) -> None:
        assert not Run(killed["early"]).adapter_dir.exists()
        run = Run(killed["middle"])
        assert run.state == "killed"
        readme = (run.adapter_dir / "README.md").read_text()
        assert "step 6 of 18, written while the run was training" in readme
        assert torch.equal(tensors(run)["heads.offset"], self.checkpoint(run, 6)["interventions.0.offset"])

    def test_patience_ends_a_run_that_gets_no_better(self, place: Place, tmp_path: Path) -> None:
        settings = place.settings(tmp_path / "run", **STILL, patience=2, epochs=9, record_every=4)
        run = run_training(settings)
        assert run.state == "finished"
        assert [e["step"] for e in run.metrics() if "validation_cross_entropy" in e] == [6, 12, 18]
        assert run.gates().steps.tolist() == [0, 4, 8, 12, 16, 18]

    def test_resuming_does_not_go_beyond_the_end_that_patience_set(self, place: Place, tmp_path: Path) -> None:
        run = run_training(place.settings(tmp_path / "run", **STILL, patience=2, epochs=9))
        path = Path(shutil.copytree(run.path, tmp_path / "copy"))
        # As if the process had been killed while testing.
        (path / "result.json").unlink()
        Run.open(path).write_status(state="evaluating", pid=os.getpid(), pid_created=1.0)
        again = run_training(place.settings(path, **STILL, patience=2, epochs=9), resume=True)
        assert_equal_runs(again, run)


VARIANTS: dict[str, dict[str, Any]] = {
    "gates are recorded now and then": {"record_every": 4},
    "a rule that remembers": {"l0_schedule": "performance", "gradient_accumulation": 2, "weight_decay": 0.1},
    "patience and the last step": {"patience": 2, "keep": "last", "l0_schedule": "exponential", **STILL, "epochs": 5},
    "two sites and shared gates": {"edits": EditConfig(sites="both", gates="shared"), "objective": "paper"},
}


class TestInterrupted:
    def test_stopped_on_request(self, place: Place, unbroken: Run, tmp_path: Path) -> None:
        run = run_training(place.settings(tmp_path / "run"), progress=StopAt(8))
        assert (run.state, run.status()["step"]) == ("cancelled", 9)
        result = run.result()
        assert result is not None
        assert result["test"] is None
        model = JoLAModel.from_adapter(run.adapter_dir, model=place.model, dtype="float32")
        assert result["kept_step"] == 6
        np.testing.assert_array_equal(model.edits.gate_values()["scale"].numpy(), run.gates().at(6)["scale_gate"])
        assert [e["step"] for e in run.metrics() if "loss" in e] == list(range(1, 10))
        whole = [timeless(entry) for entry in unbroken.metrics()]
        assert [timeless(entry) for entry in run.metrics()] == whole[: len(run.metrics())]

    # One step after the signal: in the first epoch, at the end of one, in the middle of one, at the very end.
    @pytest.mark.parametrize("step", [2, 11, 14, 17])
    def test_resumed_it_is_the_unbroken_run(self, place: Place, unbroken: Run, tmp_path: Path, step: int) -> None:
        settings = place.settings(tmp_path / "run")
        assert run_training(settings, progress=StopAt(step)).state == "cancelled"
        assert_equal_runs(run_training(settings, resume=True), unbroken)

    def test_it_may_be_stopped_again_and_again(self, place: Place, unbroken: Run, tmp_path: Path) -> None:
        settings = place.settings(tmp_path / "run")
        run_training(settings, progress=StopAt(3))
        for step in (7, 9, 15):
            assert run_training(settings, progress=StopAt(step), resume=True).state == "cancelled"
        assert_equal_runs(run_training(settings, resume=True), unbroken)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_whatever_is_trained(self, place: Place, tmp_path: Path, variant: str) -> None:
        whole = run_training(place.settings(tmp_path / "whole", **VARIANTS[variant]))
        settings = place.settings(tmp_path / "run", **VARIANTS[variant])
        stopped = run_training(settings, progress=StopAt(4))
        assert (stopped.state, stopped.status()["step"]) == ("cancelled", 5)
        assert_equal_runs(run_training(settings, resume=True), whole)

    def test_while_testing(self, place: Place, unbroken: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        measure = answering.exact_match
        monkeypatch.setattr(answering, "exact_match", lambda *a, **k: measure(*a, **k, batch_size=2))
        settings = place.settings(tmp_path / "run")
        run = run_training(settings, progress=StopAt(2, "evaluate"))
        result = run.result()
        assert result is not None
        assert (run.state, result["test"]) == ("cancelled", None)
        assert all(torch.equal(tensor, tensors(run)[name]) for name, tensor in tensors(unbroken).items())
        assert_equal_runs(run_training(settings, resume=True), unbroken)

    def test_a_second_signal_does_not_wait(self, place: Place, tmp_path: Path) -> None:
        class Impatient(StopAt):
            def advance(self, done: int, **values: float) -> None:
                super().advance(done)
                super().advance(done)

        with pytest.raises(KeyboardInterrupt):
            run_training(place.settings(tmp_path / "run"), progress=Impatient(2))
        assert Run.open(tmp_path / "run").state == "cancelled"
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def test_the_process_of_the_command_line(self, place: Place, tmp_path: Path) -> None:
        settings = place.settings(tmp_path / "run", epochs=2000)
        command = [sys.executable, "-m", "jola", "train", "--json", *settings.flags()]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment(), cwd=ROOT, **pipes) as process:
            metrics = tmp_path / "run" / "metrics.jsonl"
            while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") >= 9):
                time.sleep(0.02)
            assert Run.open(tmp_path / "run").state == "training"
            process.terminate()
            out, err = process.communicate(timeout=600)
        assert process.returncode == 130, err
        summary = json.loads(out)
        assert (summary["run"], summary["test"]) == (str(tmp_path / "run"), None)
        run = Run.open(tmp_path / "run")
        assert run.state == "cancelled"
        assert 9 <= run.status()["step"] < 12_000
        assert JoLAModel.from_adapter(run.adapter_dir, model=place.model).geometry.num_heads == 4


@dataclass
class PauseAt(StopAt):
    """Progress that asks for a pause once a step of a phase is done."""

    run: Run | None = None

    def advance(self, done: int, **values: float) -> None:
        if (self.now, done) == (self.phase_wanted, self.step):
            assert self.run is not None
            request_pause(self.run)


class TestPaused:
    def pause(self, settings: RunConfig, step: int, phase: str = "train", **more: Any) -> Run:
        return run_training(settings, progress=PauseAt(step, phase, run=Run(settings.training.output)), **more)

    # One step after the request: in the first epoch, at the end of one, in the middle of one.
    @pytest.mark.parametrize("step", [2, 11, 14])
    def test_a_pause_keeps_a_checkpoint_and_resuming_gives_the_unbroken_run(
        self, place: Place, unbroken: Run, tmp_path: Path, step: int
    ) -> None:
        settings = place.settings(tmp_path / "run")
        run = self.pause(settings, step)
        assert (run.state, run.status()["step"], run.result()) == ("paused", step + 1, None)
        assert not run.alive
        checkpoint = last_checkpoint(run.checkpoints_dir)
        assert checkpoint is not None and checkpoint.name == f"checkpoint-{step + 1}"
        assert JoLAModel.from_adapter(run.adapter_dir, model=place.model).geometry.num_layers == 3
        assert_equal_runs(run_training(settings, resume=True), unbroken)

    def test_again_and_again_and_while_testing(
        self, place: Place, unbroken: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measure = answering.exact_match
        monkeypatch.setattr(answering, "exact_match", lambda *a, **k: measure(*a, **k, batch_size=2))
        settings = place.settings(tmp_path / "run")
        assert self.pause(settings, 3).state == "paused"
        assert self.pause(settings, 9, resume=True).status()["step"] == 10
        run = self.pause(settings, 2, "evaluate", resume=True)
        assert (run.state, run.status()["step"], run.result()) == ("paused", STEPS, None)
        assert_equal_runs(run_training(settings, resume=True), unbroken)

    def test_the_command_line_says_how_to_go_on_and_does(
        self, place: Place, unbroken: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = place.settings(tmp_path / "run")
        self.pause(settings, 8)
        main(["train", "--resume", "--output", str(tmp_path / "run")])
        assert "Going on from step 9." in capsys.readouterr().err
        assert_equal_runs(Run.open(tmp_path / "run"), unbroken)

    def test_a_run_that_was_paused_before_it_trained_stops_at_its_first_step(
        self, place: Place, unbroken: Run, tmp_path: Path
    ) -> None:
        settings = place.settings(tmp_path / "run")
        progress = EarlyPause(-1, run=Run(tmp_path / "run"))
        run = run_training(settings, progress=progress)
        assert (run.state, run.status()["step"]) == ("paused", 1)
        assert_equal_runs(run_training(settings, resume=True), unbroken)

    def test_a_stop_counts_more_than_a_pause(self, place: Place, tmp_path: Path) -> None:
        class Both(PauseAt):
            def advance(self, done: int, **values: float) -> None:
                super().advance(done)
                StopAt.advance(self, done)

        run = run_training(place.settings(tmp_path / "run"), progress=Both(4, run=Run(tmp_path / "run")))
        assert run.state == "cancelled"
        assert run.result() is not None


class EarlyPause(PauseAt):
    def phase(self, name: str, total: int | None = None) -> None:
        super().phase(name)
        if name == "load":
            assert self.run is not None
            request_pause(self.run)


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


class TestKilled:
    @pytest.fixture
    def copy(self, killed: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
        return lambda name: Path(shutil.copytree(killed[name], tmp_path / "copy" / name))

    def test_it_opens_as_killed_and_has_lost_nothing_that_was_written(
        self, killed: dict[str, Path], unbroken: Run
    ) -> None:
        whole = [timeless(entry) for entry in unbroken.metrics()]
        for name, step in (("early", 3), ("middle", 9), ("testing", STEPS)):
            run = Run.open(killed[name])
            assert run.state == "killed"
            assert run.gates().steps.tolist() == list(range(step + 1))
            metrics = [timeless(entry) for entry in run.metrics()]
            assert [e["step"] for e in metrics if "loss" in e] == list(range(1, step + 1))
            assert metrics == whole[: len(metrics)]
            assert run.result() is None

    @pytest.mark.parametrize("name", ["early", "middle", "testing"])
    def test_resumed_it_is_the_unbroken_run(
        self, copy: Callable[[str], Path], place: Place, unbroken: Run, name: str
    ) -> None:
        path = copy(name)
        # A kill may also hit the middle of a write, which leaves half a record.
        for file in (path / "metrics.jsonl", path / "gates" / "heads.f32"):
            with open(file, "ab") as half:
                half.write(b'{"step": 1, "loss')
        progress = StopAt(-1)
        run = run_training(place.settings(path), resume=True, progress=progress)
        assert_equal_runs(run, unbroken)
        found = {"early": "No checkpoint yet: starting from the beginning.", "middle": "Going on from step 6."}
        assert found.get(name, f"Going on from step {STEPS}.") in progress.notes

    def test_a_checkpoint_that_was_being_written_is_passed_over(
        self, copy: Callable[[str], Path], place: Place, unbroken: Run
    ) -> None:
        path = copy("middle")
        whole, half = (path / "checkpoints" / f"checkpoint-{step}" for step in (6, 12))
        half.mkdir()
        shutil.copy(whole / "model.safetensors", half)
        assert last_checkpoint(path / "checkpoints") == whole
        (half / "trainer_state.json").write_text('{"global_step": 12, "log_hist')
        assert last_checkpoint(path / "checkpoints") == whole
        assert_equal_runs(run_training(place.settings(path), resume=True), unbroken)

    def test_the_settings_are_those_of_the_run(
        self, copy: Callable[[str], Path], unbroken: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = copy("middle")
        with pytest.raises(SystemExit) as exit:
            main(["train", "--resume", "--output", str(path), "--epochs", "4"])
        assert exit.value.code == 2
        assert "--epochs is 4, but the run in" in capsys.readouterr().err
        main(["train", "--resume", "--output", str(path)])
        assert_equal_runs(Run.open(path), unbroken)


class TestResume:
    def test_a_finished_run_stays_what_it_is(self, unbroken: Run, place: Place, tmp_path: Path) -> None:
        path = Path(shutil.copytree(unbroken.path, tmp_path / "copy"))
        assert_equal_runs(run_training(place.settings(path), resume=True), unbroken)

    def test_without_resume_a_run_is_not_overwritten(self, unbroken: Run, place: Place) -> None:
        with pytest.raises(InputError, match=r"already holds a run \(finished\)"):
            run_training(place.settings(unbroken.path))
        assert unbroken.state == "finished"

    def test_it_needs_to_know_which_run(self, place: Place) -> None:
        with pytest.raises(InputError, match="--resume needs --output"):
            run_training(place.settings(""), resume=True)


@pytest.fixture(scope="module")
def together(place: Place) -> Iterator[tuple[Path, str]]:
    """Two processes that train two runs, one after the other: as by default, and without gates."""
    folder = place.folder / "together"
    folder.mkdir()
    (folder / "train.py").write_text(TOGETHER)
    runs = [
        ["train", "--json", *place.settings(folder / "run-1", l0_schedule="performance").flags()],
        ["train", "--json", *place.settings(folder / "run-2", EditConfig(gates="none"), max_grad_norm=0.0).flags()],
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(folder / "train.py"), str(folder), *("|".join(arguments) for arguments in runs)]
    home = {"JOLA_HOME": str(folder / "home")}
    done = subprocess.run(command, env=environment(**home), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    yield folder, done.stdout


def test_gradient_checkpointing_changes_no_number(place: Place, unbroken: Run, tmp_path: Path) -> None:
    output = tmp_path / "run"
    command = [sys.executable, "-m", "jola", "train", "--json", *place.settings(output).flags()]
    done = subprocess.run(
        [*command, "--gradient-checkpointing"],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = Run.open(output)
    assert run.run_config().training.gradient_checkpointing
    assert_equal_runs(run, unbroken)


def test_restarts_of_two_processes(place: Place, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "jola"]
    flags = place.settings(tmp_path / "run", epochs=1).flags()
    done = subprocess.run(
        [*command, "train", "--json", "--restarts", "1", *flags],
        env=environment(JOLA_HOME=str(tmp_path / "home")), cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (summary,) = summaries(done.stdout)
    assert [Path(run["run"]).name for run in summary["runs"]] == ["run", "run-2"]
    assert [Run.open(run["run"]).state for run in summary["runs"]] == ["finished"] * 2


class TestTogether:
    def test_one_directory_and_one_line_for_each_run(self, together: tuple[Path, str]) -> None:
        folder, out = together
        found = summaries(out)
        assert [Path(summary["run"]).name for summary in found] == ["run-1", "run-2"]
        for summary in found:
            run = Run.open(summary["run"])
            assert run.state == "finished"
            # Two processes with four examples each: three steps an epoch.
            assert [e["step"] for e in run.metrics() if "loss" in e] == list(range(1, 10))
            assert run.gates().steps.tolist() == list(range(10))
            assert summary["test"]["n"] == 6
            result = run.result()
            assert result is not None
            assert result["n_train"] == 24
        assert {path.name for path in folder.iterdir() if path.is_dir()} <= {"run-1", "run-2", "home"}
        assert not (folder / "home" / "runs").exists()

    def test_both_processes_end_with_the_same_edits(self, together: tuple[Path, str]) -> None:
        folder, _ = together
        for number in (1, 2):
            first, second = (load_file(folder / f"{number}-{rank}.safetensors") for rank in (0, 1))
            assert first
            assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
            kept = tensors(Run.open(folder / f"run-{number}"))
            assert all(torch.equal(t, kept["heads." + n.removeprefix("interventions.0.")]) for n, t in first.items())

    def test_together_they_learn_what_one_does_from_the_same_batches(
        self, together: tuple[Path, str], place: Place, tmp_path: Path
    ) -> None:
        settings = place.settings(
            tmp_path / "run", EditConfig(gates="none"), max_grad_norm=0.0, gradient_accumulation=2
        )
        alone, joint = tensors(run_training(settings)), tensors(Run.open(together[0] / "run-2"))
        for name, tensor in alone.items():
            torch.testing.assert_close(joint[name], tensor, rtol=1e-2, atol=1e-4)
        losses = [
            [entry[name] for entry in run.metrics() if name in entry]
            for run in (Run.open(tmp_path / "run"), Run.open(together[0] / "run-2"))
            for name in ("loss", "cross_entropy", "validation_cross_entropy")
        ]
        for one, two in zip(losses[:3], losses[3:], strict=True):
            assert one == pytest.approx(two, rel=1e-3)
