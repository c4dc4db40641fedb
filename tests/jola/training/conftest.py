"""Fixtures: a task, a model, and runs on them for comparison."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from jola.runs.run import Run
from tests import ROOT
from tests.jola.training.tiny_runs import KILLED, Place, environment, lines
from tests.tiny import make_model


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Place:
    """A task and a model, created once; tests do not change the files."""
    folder = tmp_path_factory.mktemp("place")
    make_model("llama").save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    (folder / "task").mkdir()
    for part, start, count in (("train", 0, 24), ("validation", 24, 8), ("test", 32, 6)):
        (folder / "task" / f"{part}.jsonl").write_text(lines(start, count))
    return Place(folder)


@pytest.fixture(scope="session")
def unbroken(place: Place) -> Run:
    """An uninterrupted run from the command line, in its own process."""
    output = place.folder / "unbroken"
    command = [sys.executable, "-m", "jola", "train", "--json", *place.settings(output).flags()]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(output)
    return Run.open(output)


@pytest.fixture(scope="session")
def killed(place: Place) -> dict[str, Path]:
    """Runs whose process was killed: before the first checkpoint, in the middle of an epoch, and while testing."""
    when = {"early": ("train", 3), "middle": ("train", 9), "testing": ("evaluate", 6)}
    jobs = [(place.settings(place.folder / name).to_dict(), *moment) for name, moment in when.items()]
    command = [sys.executable, "-c", KILLED, json.dumps(jobs)]
    subprocess.run(command, env=environment(), cwd=ROOT, check=True, timeout=600)
    return {name: place.folder / name for name in when}
