"""The comparison with official code fails if the implementations differ."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import official_methods
from benchmarks.official_methods import TOLERANCE, clone, differences_of, disagreeing


def test_the_largest_difference_of_each_kind_is_found() -> None:
    ours = {"logits": torch.zeros(2, 3), "gradient.a": torch.ones(4), "gradient.b": torch.ones(2)}
    theirs = {"logits": torch.full((3, 2), 0.5), "gradient.a": torch.ones(2, 2), "gradient.b": torch.tensor([1.0, 3.0])}
    assert differences_of(ours, theirs) == {"logits": 0.5, "gradients": 2.0}


@pytest.mark.parametrize("ours", [torch.zeros(1), torch.zeros(2, 1), torch.zeros(())])
def test_shapes_are_not_broadcast(ours: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="logits has shape"):
        differences_of({"logits": ours}, {"logits": torch.zeros(2, 3)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_agreement(value: float) -> None:
    broken = torch.tensor([0.0, value])
    for ours, theirs in ((broken, torch.zeros(2)), (torch.zeros(2), broken), (broken, broken)):
        with pytest.raises(ValueError, match="not finite"):
            differences_of({"loss": ours}, {"loss": theirs})
    assert disagreeing([{"differences": {"logits": 0.0, "loss": value}}])


def test_tensors_of_one_side_are_no_agreement() -> None:
    with pytest.raises(ValueError, match="Only one side has loss"):
        differences_of({"loss": torch.zeros(1)}, {})


def test_the_tolerance() -> None:
    rows = [{"differences": {"logits": TOLERANCE}}, {"differences": {"logits": 0.0, "loss": 2 * TOLERANCE}}]
    assert disagreeing(rows) == rows[1:]


def test_unknown_methods_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(official_methods, "RESULTS", tmp_path / "none.json")
    monkeypatch.setattr(sys, "argv", ["x", "--environments", str(tmp_path), "--methods", "lroa"])
    with pytest.raises(SystemExit):
        official_methods.main()
    assert "--methods names 'lroa'; choose from lora," in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_clone_is_at_its_commit(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path / "origin"), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "origin").mkdir()
    git("init")
    commits = []
    for text in ("first", "second"):
        (tmp_path / "origin" / "model.py").write_text(text)
        git("add", "model.py")
        git("commit", "-m", text)
        commits.append(git("rev-parse", "HEAD"))
    for _ in range(2):
        folder = clone(tmp_path / "clone", str(tmp_path / "origin"), commits[0], ["/model.py"])
        assert (folder / "model.py").read_text() == "first"
    with pytest.raises(SystemExit, match=f"is at commit {commits[0]}, not {commits[1]}"):
        clone(tmp_path / "clone", str(tmp_path / "origin"), commits[1], ["/model.py"])
