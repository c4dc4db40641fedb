"""The states of a run, and how `Run.state` is derived from ``status.json`` and the process that it names."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jola.system.files import disk_errors
from jola.system.processes import process_alive

if TYPE_CHECKING:
    from jola.runs.run import Run

State = Literal["queued", "starting", "training", "evaluating", "paused", "finished", "cancelled", "failed", "killed"]

UNFINISHED: frozenset[str] = frozenset({"starting", "training", "evaluating"})
"""States in which a process works on the run. A run whose process is gone while ``status.json`` says so is killed."""
WAITING: frozenset[str] = frozenset({"queued", "paused"})
"""States in which no process works on the run, and one is expected to start or to continue it."""
ENDED: frozenset[str] = frozenset({"finished", "cancelled", "failed"})
"""States that a run keeps until it is resumed."""
WRITTEN = UNFINISHED | WAITING | ENDED
"""States that ``status.json`` may hold; ``killed`` is only ever derived."""

STARTING_GRACE = 30.0
"""Seconds in which a directory without a readable status counts as starting."""


PAUSE_FILE = "pause"
"""A file of this name in a run's directory asks its process to pause at the next step."""


def request_pause(run: "Run") -> None:
    """Ask the process of a run to pause at its next step; `run_training` with ``resume`` goes on."""
    with disk_errors(run.path):
        (run.path / PAUSE_FILE).touch()


def pause_requested(run: "Run") -> bool:
    """Whether somebody asked the run to pause."""
    return (run.path / PAUSE_FILE).exists()


def forget_pause(run: "Run") -> None:
    """Withdraw the request to pause, if there is one."""
    (run.path / PAUSE_FILE).unlink(missing_ok=True)


def current_state(status: Mapping[str, Any], folder: Path) -> State:
    """The state of the run in ``folder`` now: what its status says, or ``killed`` when its process is gone."""
    state, pid = status["state"], status["pid"]
    if state in ENDED | WAITING:
        return state
    if pid is None:
        return "starting" if _is_fresh(folder) else "killed"
    return state if state in UNFINISHED and process_alive(pid, status["pid_created"]) else "killed"


def _is_fresh(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime < STARTING_GRACE
    except OSError:
        return False
