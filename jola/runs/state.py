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
"""States of a run with a running process. If that process no longer exists, the run is ``killed``."""
WAITING: frozenset[str] = frozenset({"queued", "paused"})
"""States of a run without a process, until one starts or resumes it."""
ENDED: frozenset[str] = frozenset({"finished", "cancelled", "failed"})
"""States of a run that ended; they last until it is resumed."""
WRITTEN = UNFINISHED | WAITING | ENDED
"""States that ``status.json`` may contain; ``killed`` is never written, only derived."""

STARTING_GRACE = 30.0
"""Seconds during which a directory without a readable status counts as starting."""


PAUSE_FILE = "pause"
"""Name of the file in a run's directory that asks its process to pause at the next step."""


def request_pause(run: "Run") -> None:
    """Ask the process of a run to pause at its next step; `run_training` with ``resume`` continues it."""
    with disk_errors(run.path):
        (run.path / PAUSE_FILE).touch()


def pause_requested(run: "Run") -> bool:
    """Whether the run was asked to pause."""
    return (run.path / PAUSE_FILE).exists()


def forget_pause(run: "Run") -> None:
    """Withdraw the request to pause, if there is one."""
    (run.path / PAUSE_FILE).unlink(missing_ok=True)


def current_state(status: Mapping[str, Any], folder: Path) -> State:
    """Return the current state of the run in ``folder``: that of its status, or ``killed`` if its process is gone."""
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
