"""A small task and a tiny model, runs that are stopped and killed, and the comparison of two runs."""

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
from jola.runs.history import GATE_FIELDS
from jola.runs.run import Run
from jola.training.run import Quiet
from tests import ROOT

TIMES = {"time", "seconds", "peak_memory"}
STEPS = 18
"""Three epochs of 24 examples in batches of 4."""
STILL: dict[str, Any] = {"learning_rate": 1e-30, "gate_learning_rate": 1e-30}
"""Rates so small that updates are lost in rounding and the validation cross-entropy does not change."""


KILLED = """
import json, os, signal, sys
from jola.config import RunConfig
from jola.system.startup import quick_imports
with quick_imports():
    import jola.training.run

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
from jola.cli.main import main
from jola.system.startup import quick_imports
with quick_imports():
    from safetensors.torch import save_file
    import jola.training.run

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
    """Return an environment with one thread, so that a process computes what this one does."""
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
    """Assert that edits, metrics, gates and result are the same bit for bit; only times may differ."""
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
