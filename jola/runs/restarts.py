"""Training runs that differ only in the training seed, and the choice of one of them by validation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.system.formatting import accuracy_text, is_share

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
    """Return the finished run whose edits are best on the validation examples, the first among equals.

    The best run has the highest accuracy, and among equals the lowest cross-entropy. For generation tasks, only the
    cross-entropy counts, as in the choice of an epoch.

    None if no run was validated.
    """
    finished = [(run, run.result() or {}) for run in runs if run.state == "finished"]
    found = [(_validation_key(result), run) for run, result in finished if result.get("validation")]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def validation_text(result: Mapping[str, Any]) -> str:
    """Return what `best_by_validation` compares: ``accuracy 0.878 (n = 500, …), cross-entropy 0.3412``.

    Args:
        result: Content of ``result.json``; the text is empty without a validation.
    """
    if not result.get("validation"):
        return ""
    loss = result.get("validation_cross_entropy")
    found = [f"accuracy {accuracy_text(result['validation'])}"] if _has_share(result) else []
    return ", ".join(found + ([] if loss is None else [f"cross-entropy {loss:.4f}"]))


def _has_share(result: Mapping[str, Any]) -> bool:
    """Whether the task is scored by a share of right answers."""
    return is_share({"metric": result.get("metric") or "exact_match"})


def _validation_key(result: Mapping[str, Any]) -> tuple[float, float]:
    loss = result.get("validation_cross_entropy")
    accuracy = result["validation"]["accuracy"] if _has_share(result) else 0.0
    return accuracy, float("-inf") if loss is None else -loss
