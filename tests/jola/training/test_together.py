"""Two processes that train runs one after the other."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jola.config import EditConfig
from jola.runs.run import Run
from jola.training.run import run_training
from tests import ROOT
from tests.jola.training.printed import summaries
from tests.jola.training.tiny_runs import TOGETHER, Place, environment, tensors


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
