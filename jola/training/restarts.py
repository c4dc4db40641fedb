"""Train with several seeds, and choose one of the runs by validation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.system.progress import Progress, Quiet
from jola.training.run import run_training, settings_to_resume

MOST = 99
"""Restarts, at most."""


def train_with_restarts(
    config: RunConfig, restarts: int, *, resume: bool = False, progress: Progress | None = None
) -> list[Run]:
    """Train once, and `restarts` more times with the next training seeds on the same examples.

    Each training is a run of its own, with its own test. With ``training.output`` the runs are in OUTPUT, OUTPUT-2,
    OUTPUT-3 …; with `resume` those that are finished stay as they are.

    Returns:
        The runs, in the order of their seeds. If one is stopped or paused, it is the last one.

    Raises:
        InputError: The number of restarts or a setting cannot be used.
    """
    if not 0 <= restarts <= MOST:
        raise InputError(f"--restarts is {restarts}; it must be from 0 to {MOST}.")
    progress = progress or Quiet()
    first = config.training.output
    if resume and first and Run(first).is_run():
        config = settings_to_resume(Path(first), config)
    runs: list[Run] = []
    for attempt, settings in enumerate(attempts(config, restarts), start=1):
        output = Path(settings.training.output)
        if resume and settings.training.output and Run(output).is_run() and Run.open(output).state == "finished":
            runs.append(Run.open(output))
            continue
        if restarts:
            progress.note(f"Training {attempt} of {restarts + 1}, with seed {settings.training.seed}.")
        goes_on = resume and (attempt == 1 or Run(output).is_run())
        runs.append(run_training(settings, resume=goes_on, progress=progress))
        if runs[-1].state != "finished":
            break
    return runs


def attempts(config: RunConfig, restarts: int) -> list[RunConfig]:
    """The settings of each training: other training seeds and directories, the same examples."""
    seed, output = config.training.seed, config.training.output
    data = replace(config.data, data_seed=seed if config.data.data_seed is None else config.data.data_seed)
    more = [
        replace(
            config,
            data=data,
            training=replace(config.training, seed=seed + n, output=output and f"{output}-{n + 1}"),
        )
        for n in range(1, restarts + 1)
    ]
    return [config, *more]


def best_by_validation(runs: Sequence[Run]) -> Run | None:
    """The finished run whose edits have the highest validation accuracy, the first among equals.

    None if no run has one: without validation examples there is nothing to choose by.
    """
    found = [
        (result["validation"]["accuracy"], run) for run in runs if (result := run.result() or {}).get("validation")
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None
