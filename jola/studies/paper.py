"""Numbers of the paper, to show next to one's own if both measure the same."""

import json
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Any


def paper_value(
    arm: str, task: str, train_size: int, model: str, metric: str | None, items: Collection[int]
) -> float | None:
    """Return the accuracy that the paper reports, between 0 and 1; None unless it measured the same.

    This requires the same task, whole test part, metric, model, and number of training examples. The paper's answers
    are from a beam search with four beams. Its numbers are of one run, and those of baselines probably means over
    several settings.

    Args:
        arm: Label of the arm; the order of its settings does not matter.
        items: Numbers of test examples.
    """
    paper = _paper()
    if metric != paper["metric"] or set(items) != {paper["n_test"].get(task)}:
        return None
    method, *changes = arm.split(":")
    if method != "zero-shot" and train_size != paper["train_size"]:
        return None
    key = method, *sorted(changes)
    for label, values in paper["accuracy"].get(model, {}).items():
        first, *rest = label.split(":")
        if (first, *sorted(rest)) == key and task in values:
            return values[task] / 100
    return None


@cache
def _paper() -> dict[str, Any]:
    return json.loads(files("jola.studies").joinpath("paper.json").read_text("utf-8"))
