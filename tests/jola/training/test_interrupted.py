"""Runs that are stopped or killed, and resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jola.cli.main import main
from jola.config import EditConfig
from jola.errors import InputError
from jola.evaluation import answering
from jola.jola_model import JoLAModel
from jola.runs.run import Run
from jola.system.progress import Quiet
from jola.training.fit import last_checkpoint
from jola.training.run import run_training
from tests import ROOT
from tests.jola.training.tiny_runs import STEPS, STILL, Place, StopAt, assert_equal_runs, environment, tensors, timeless

# The fixtures that most of these tests use are created once, in one worker.
pytestmark = pytest.mark.xdist_group("training")


VARIANTS: dict[str, dict[str, Any]] = {
    "gates are recorded now and then": {"record_every": 4},
    "a rule that remembers": {"l0_schedule": "performance", "gradient_accumulation": 2, "weight_decay": 0.1},
    "patience and the last step": {"patience": 2, "keep": "last", "l0_schedule": "exponential", **STILL, "epochs": 5},
    "gates that settle": {"settle_ratio": 0.6},
    "two sites and shared gates": {"edits": EditConfig(sites="both", gates="shared"), "objective": "paper"},
}


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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

    # One step after the signal: in the first epoch, at the end of an epoch, inside an epoch, at the very end.
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

    def test_a_signal_does_not_keep_a_failed_run_from_saying_so(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = Run.write_status

        def interrupted(run: Run, **changes: Any) -> None:
            if changes.get("state") == "failed":
                os.kill(os.getpid(), signal.SIGTERM)
            write(run, **changes)

        class Breaks(Quiet):
            def advance(self, done: int, **values: float) -> None:
                raise RuntimeError("broken")

        monkeypatch.setattr(Run, "write_status", interrupted)
        with pytest.raises(RuntimeError, match="broken"):
            run_training(place.settings(tmp_path / "run"), progress=Breaks())
        assert Run(tmp_path / "run").state == "failed"

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
        # A kill may also interrupt a write, which leaves half a record.
        for file in (path / "metrics.jsonl", path / "gates" / "heads.f32"):
            with open(file, "ab") as half:
                half.write(b'{"step": 1, "loss')
        progress = StopAt(-1)
        run = run_training(place.settings(path), resume=True, progress=progress)
        assert_equal_runs(run, unbroken)
        found = {"early": "No checkpoint yet: starting from the beginning.", "middle": "Resuming from step 6."}
        assert found.get(name, f"Resuming from step {STEPS}.") in progress.notes

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
    # Imported runs have no checkpoints.
    @pytest.mark.parametrize("checkpoints", [True, False])
    def test_a_finished_run_stays_what_it_is(
        self, unbroken: Run, place: Place, tmp_path: Path, checkpoints: bool
    ) -> None:
        run = Run(shutil.copytree(unbroken.path, tmp_path / "copy"))
        if not checkpoints:
            shutil.rmtree(run.checkpoints_dir)
        # As after `jola evaluate --base` and `--metrics`.
        run.write_answers([replace(answer, base_answer="bad") for answer in run.answers()])
        run.write_result({**(run.result() or {}), "scores": []})
        before = contents(run.path)
        progress = StopAt(-1)
        again = run_training(place.settings(run.path), resume=True, progress=progress)
        assert (again.path, contents(run.path)) == (run.path, before)
        assert progress.notes == [f"The run in {run.path} is finished and stays as it is."]

    def test_a_run_without_its_result_is_tested_again(self, unbroken: Run, place: Place, tmp_path: Path) -> None:
        path = Path(shutil.copytree(unbroken.path, tmp_path / "copy"))
        (path / "result.json").unlink()
        assert_equal_runs(run_training(place.settings(path), resume=True), unbroken)

    def test_without_resume_a_run_is_not_overwritten(self, unbroken: Run, place: Place) -> None:
        with pytest.raises(InputError, match=r"already contains a run \(finished\)"):
            run_training(place.settings(unbroken.path))
        assert unbroken.state == "finished"

    def test_it_needs_to_know_which_run(self, place: Place) -> None:
        with pytest.raises(InputError, match="--resume needs --output"):
            run_training(place.settings(""), resume=True)
