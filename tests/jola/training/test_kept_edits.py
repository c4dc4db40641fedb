"""Which edits a run keeps: those of its best epoch, its smallest loss or its last step."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from jola.jola_model import JoLAModel
from jola.runs.run import Run
from jola.training import trainer
from jola.training.run import Quiet, run_training
from tests.jola.training.tiny_runs import STEPS, STILL, Place, assert_equal_runs, tensors

# The fixtures that most of these tests use are created once, in one worker.
pytestmark = pytest.mark.xdist_group("training")


class TestKeep:
    def checkpoint(self, run: Run, step: int) -> dict[str, torch.Tensor]:
        return load_file(run.checkpoints_dir / f"checkpoint-{step}" / "model.safetensors")

    def validations(self, monkeypatch: pytest.MonkeyPatch, counts: Sequence[int], losses: Sequence[float] = ()) -> None:
        """Set how many of the 8 validation answers are correct after each epoch, and the cross-entropies."""
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
        # The history is that of training, whichever edits are kept.
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

    @pytest.mark.parametrize("training", [{}, {"patience": 1, "epochs": 9}])
    def test_the_history_ends_with_the_last_step_when_a_test_is_resumed(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, training: dict[str, Any]
    ) -> None:
        self.validations(monkeypatch, (2, 5, 3), losses=(2.0, 1.0, 3.0))
        settings = place.settings(tmp_path / "run", learning_rate=0.05, record_every=4, **training)
        run = run_training(settings)
        assert (run.result() or {})["kept_step"] == 12
        whole = Run(shutil.copytree(run.path, tmp_path / "whole"))
        assert whole.gates().steps.tolist() == [0, 4, 8, 12, 16, STEPS]
        # As if the process had been killed while testing.
        (run.path / "result.json").unlink()
        run.write_status(state="evaluating", pid=os.getpid(), pid_created=1.0)
        assert_equal_runs(run_training(settings, resume=True), whole)

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
