"""Train with several training seeds on the same examples."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jola.config import RunConfig
from jola.errors import DIVERGED, InputError
from jola.model.loading import pick_device
from jola.runs.ids import fresh_id
from jola.runs.restarts import attempts
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.system.distributed import by_first, meet
from jola.system.files import disk_errors
from jola.system.processes import launched
from jola.system.progress import Progress
from jola.training.resume import check_restart, settings_to_resume
from jola.training.run import run_training

_FINAL = ("finished", "diverged")
"""States of runs that are not resumed."""


def train_with_restarts(
    config: RunConfig,
    restarts: int,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    choose: Callable[[RunConfig, Progress, threading.Event], str | None] | None = None,
) -> list[Run]:
    """Train once, and `restarts` more times with the next training seeds on the same examples.

    Each training is a separate run with its own test. With ``training.output``, the runs are in OUTPUT, OUTPUT-2,
    OUTPUT-3, …; with `resume`, finished runs are skipped. `progress` and `choose` are as for `run_training`.

    If a training diverges, the others still run, except in a launch of several processes. `resume` skips it, because
    with the same seed it would diverge again.

    Returns:
        The runs, in the order of their seeds. A run that is stopped or paused is the last one.

    Raises:
        InputError: The number of restarts or a setting cannot be used, a directory contains another run, or every
            training diverged.
    """
    if not attempts(config, restarts)[1:]:
        return [run_training(config, resume=resume, progress=progress, choose=choose)]
    config.validate()
    first = meet(lambda: pick_device(config.model.device).type == "cpu")
    planned: list[RunConfig] = by_first(lambda: _plan(config, restarts, resume), first)
    runs: list[Run] = []
    diverged = 0
    for number, settings in enumerate(planned, start=1):
        run = Run(settings.training.output)
        name = f"Training {number} of {len(planned)}, with seed {settings.training.seed}"
        state = by_first(lambda run=run: _state(run), first)
        if state not in _FINAL:
            if first and progress is not None:
                progress.note(f"{name}.")
            try:
                run_training(settings, resume=resume and bool(state), progress=progress, choose=choose)
            except InputError:
                # In a launch, other processes may not have diverged; they end with this one.
                if launched() > 1 or _state(run) != "diverged":
                    raise
            # The other processes return from a training while the first one still tests, and wait for it here.
            state = by_first(lambda run=run: _state(run), first)
        if state == "diverged":
            diverged += 1
            if first and progress is not None:
                progress.note(f"{name}, diverged.")
        runs.append(run)
        if state not in _FINAL:
            break
    if diverged == len(planned):
        raise InputError(f"All {diverged} training runs diverged; train again with a lower --learning-rate.")
    return runs


def _state(run: Run) -> str:
    """State of a run, or "diverged"; empty if there is no run."""
    if not run.is_run():
        return ""
    state = run.state
    return "diverged" if state == "failed" and run.status()["message"].startswith(DIVERGED) else state


def _plan(config: RunConfig, restarts: int, resume: bool) -> list[RunConfig]:
    """Settings of each training, with directories that have been checked."""
    output = config.training.output
    if resume and not output:
        raise InputError("--resume needs --output, the directory of the run to continue.")
    if not output:
        output = str(RunStore().root / fresh_id(config.data.task))
    if resume and Run(output).is_run():
        config = settings_to_resume(Path(output), config)
    config = replace(config, training=replace(config.training, output=str(Path(output))))
    planned = [settings.validate() for settings in attempts(config, restarts)]
    for settings in planned:
        place = Path(settings.training.output)
        if resume and (place / "config.json").is_file():
            check_restart(place, settings)
        with disk_errors(place):
            taken = place.exists() and not (place.is_dir() and not any(place.iterdir()))
        if taken and not resume:
            raise InputError(
                f"{place} already contains a run or other files; choose another --output, or add --resume to continue."
            )
    return planned
