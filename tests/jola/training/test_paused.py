"""Runs that are paused and resumed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jola.cli.main import main
from jola.config import RunConfig
from jola.evaluation import answering
from jola.jola_model import JoLAModel
from jola.runs.run import Run
from jola.training.fit import last_checkpoint
from jola.training.follower import request_pause
from jola.training.run import run_training
from tests.jola.training.tiny_runs import STEPS, Place, StopAt, assert_equal_runs

# The fixtures that most of these tests use are created once, in one worker.
pytestmark = pytest.mark.xdist_group("training")


@dataclass
class PauseAt(StopAt):
    """Progress that requests a pause once a step of a phase is done."""

    run: Run | None = None

    def advance(self, done: int, **values: float) -> None:
        if (self.now, done) == (self.phase_wanted, self.step):
            assert self.run is not None
            request_pause(self.run)


class TestPaused:
    def pause(self, settings: RunConfig, step: int, phase: str = "train", **more: Any) -> Run:
        return run_training(settings, progress=PauseAt(step, phase, run=Run(settings.training.output)), **more)

    # One step after the request: in the first epoch, at the end of an epoch, inside an epoch.
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
        assert "Resuming from step 9." in capsys.readouterr().err
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
