"""Metrics: what an answer is worth, computed from kept answers, so that one can be added without running a model.

A `Metric` gives one number for each example, and a `Score` is their mean with its n and its 95 % interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from jola.data.records import Example
from jola.errors import InputError
from jola.system.formatting import score_text

CONFIDENCE = 0.95
RESAMPLES = 2000
"""Of the bootstrap, where the values of a metric are not just 0 and 1."""


@dataclass(frozen=True)
class Score:
    """The mean of a metric over ``n`` examples, with its 95 % interval."""

    metric: str
    value: float
    n: int
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """``{"metric", "value", "n", "low", "high"}``, as ``result.json`` holds it."""
        return {"metric": self.metric, "value": self.value, "n": self.n, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return score_text(self.to_dict())


Values = Callable[[Sequence[str], Sequence[Example], Sequence[str] | None], list[float]]


@dataclass(frozen=True)
class Metric:
    """A number for each example, and its mean.

    Args:
        name: As in files.
        title: As people read it.
        values: Called with answers, examples and the labels of the task, if it has any; one number for each example.
        needs_labels: Whether it only exists for tasks with labels.
    """

    name: str
    title: str
    values: Values
    needs_labels: bool = False

    def score(self, answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None = None) -> Score:
        """The mean over the examples.

        Raises:
            InputError: There are no examples, or no labels where the metric needs them.
        """
        if not examples:
            raise InputError("There are no examples to evaluate.")
        if self.needs_labels and not labels:
            raise InputError(f"The metric {self.name} needs a task with a fixed set of labels.")
        values = np.asarray(self.values(answers, examples, labels), dtype=np.float64)
        low, high = interval_of(values)
        return Score(self.name, float(values.mean()), len(values), low, high)


def interval_of(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval for the mean: Wilson's where all values are 0 or 1, else the percentiles of a bootstrap."""
    if np.isin(values, (0, 1)).all():
        found = binomtest(int(values.sum()), len(values)).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)
    generator = np.random.default_rng(0)
    means = values[generator.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def right_answers(example: Example) -> list[str]:
    """The answers that count as right, without white space around them."""
    return [answer.strip() for answer in (example.completion, *example.references)]


def _exact_match(answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None) -> list[float]:
    return [float(a.strip() in right_answers(e)) for a, e in zip(answers, examples, strict=True)]


def _first_label(answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None) -> list[float]:
    return [float(first_label(a, labels or ()) in right_answers(e)) for a, e in zip(answers, examples, strict=True)]


def first_label(answer: str, labels: Sequence[str]) -> str | None:
    """The label that occurs first in an answer, the longer one where two begin at the same place; None without any."""
    text = answer.lower()
    found = [(text.find(label.lower()), -len(label), label) for label in labels if label.lower() in text]
    return min(found)[2] if found else None


EXACT_MATCH = Metric("exact_match", "Exact match", _exact_match)
FIRST_LABEL = Metric("first_label", "First label in the answer", _first_label, needs_labels=True)

METRICS: dict[str, Metric] = {metric.name: metric for metric in (EXACT_MATCH, FIRST_LABEL)}
"""Every metric by its name."""


def all_scores(answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None) -> list[Score]:
    """The scores of every metric that the task has."""
    return [m.score(answers, examples, labels) for m in METRICS.values() if labels or not m.needs_labels]
