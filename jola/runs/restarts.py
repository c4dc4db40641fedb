"""Training runs that differ only in the training seed, and the choice of one of them by validation."""

from collections.abc import Sequence
from dataclasses import replace

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.run import Run

MOST = 99
"""Maximum number of restarts."""


def attempts(config: RunConfig, restarts: int) -> list[RunConfig]:
    """Return the settings of ``restarts + 1`` training runs with consecutive training seeds on the same examples.

    The examples are those of ``data.data_seed``, or of the first training seed. With ``training.output``, the
    directories are OUTPUT, OUTPUT-2, OUTPUT-3 …

    Raises:
        InputError: The number of restarts is out of range.
    """
    if not 0 <= restarts <= MOST:
        raise InputError(f"--restarts is {restarts}; it must be from 0 to {MOST}.")
    seed, output = config.training.seed, config.training.output
    data = replace(config.data, data_seed=seed if config.data.data_seed is None else config.data.data_seed)
    more = [
        replace(
            config, data=data, training=replace(config.training, seed=seed + n, output=output and f"{output}-{n + 1}")
        )
        for n in range(1, restarts + 1)
    ]
    return [config, *more]


def best_by_validation(runs: Sequence[Run]) -> Run | None:
    """Return the finished run whose edits have the highest validation accuracy, the first among equals.

    None if no run has a validation accuracy, as without validation examples.
    """
    finished = [(run, run.result() or {}) for run in runs if run.state == "finished"]
    found = [(result["validation"]["accuracy"], run) for run, result in finished if result.get("validation")]
    return max(found, key=lambda pair: pair[0])[1] if found else None
