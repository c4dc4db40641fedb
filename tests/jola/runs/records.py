"""Helpers to write gate histories, and the status of a killed run."""

import os

import numpy as np

from jola.runs.history import GATE_FIELDS
from jola.runs.run import Run

LAYERS, UNITS = 3, 4
RECORD = 4 * (1 + len(GATE_FIELDS) * LAYERS * UNITS)


def gates(step: int) -> dict[str, np.ndarray]:
    """Return values that identify field, step, layer and unit."""
    grid = np.arange(LAYERS * UNITS, dtype=np.float32).reshape(LAYERS, UNITS)
    return {name: grid + 100 * step + 10_000 * index for index, name in enumerate(GATE_FIELDS)}


def record(run: Run, *steps: int) -> None:
    with run.gate_writer("heads", LAYERS, UNITS) as writer:
        for step in steps:
            writer.append(step, gates(step))


def as_if_killed(run: Run, **changes: object) -> None:
    """Write the status of a run whose process has ended: its process ID now belongs to another process."""
    run.write_status(state="training", pid=os.getpid(), pid_created=1.0, **changes)
