"""The states of a run, and how `Run.state` is derived from ``status.json`` and the process that it names."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jola.system.processes import process_alive

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
