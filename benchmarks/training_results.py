"""Apply policies to the training runs of `benchmarks/training_experiments.py`, and compute statistics over seeds.

The validation scores after every epoch are stored, so that every policy of stopping and keeping can be applied to a
finished training. The parameters that a policy keeps are scored on held-out examples, which did not select them. The
unit of all statistics is the training seed: intervals are t intervals over seeds, and differences are paired by seed.
"""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from jola.config import TrainingConfig
from jola.studies.statistics import expected_jaccard

OPEN_ABOVE = -math.log(11)
"""A gate is open after training when its φ is above this value."""


Group = tuple[str, int, str]
"""Task, data seed and data type."""


# One training


@dataclass(frozen=True)
class Epoch:
    """Validation scores after one epoch, or of averaged parameters.

    `name` is the name of the saved parameters. Cross-entropy is in nats per answer. `open` contains the number of open
    gates of each half.
    """

    name: str
    step: int
    penalty: float
    cross_entropy: float
    accuracy: float
    open: Mapping[str, int]


class Training:
    """One stored training."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.arm, self.seed, self.task = self.data["arm"], self.data["seed"], self.data["task"]
        self.group: Group = (self.task, self.data["data_seed"], self.data["dtype"])
        self.epochs = [self._epoch(f"epoch-{n}", found) for n, found in enumerate(self.data["epochs"], 1)]
        self.averages = {name: self._epoch(name, found) for name, found in self.data["averages"].items()}

    def _epoch(self, name: str, found: dict[str, Any]) -> Epoch:
        return Epoch(
            name=name,
            step=found.get("step", self.data["steps"]),
            penalty=found["penalty"],
            cross_entropy=found["cross_entropy"],
            accuracy=found["correct"].count("1") / len(found["correct"]),
            open=found.get("open", {}),
        )

    def held_out(self, policy: "Policy") -> tuple[float, float]:
        """Return held-out accuracy and cross-entropy of the parameters that a policy keeps."""
        found = self.data["held_out"][policy.kept(self).name]
        return found["correct"] / found["n"], found["cross_entropy"]

    def tested(self, policy: "Policy") -> float | None:
        """Return the test accuracy of the parameters that a policy keeps; None if they were not tested."""
        found = self.data.get("test", {}).get(policy.kept(self).name)
        return None if found is None else found["correct"] / found["n"]

    def rate(self, step: int) -> float:
        """Return the learning rate after a step as a share of its peak: linear warm-up, then half a cosine to 0."""
        steps = self.data["steps"]
        warmup = round(self.data["settings"].get("warmup_ratio", TrainingConfig.warmup_ratio) * steps)
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@dataclass(frozen=True)
class Policy:
    """When training stops, and which epoch up to then is kept.

    Args:
        about: Description for the tables.
        keep: 'objective' (validation cross-entropy plus penalty), 'cross_entropy', 'accuracy' (among equals, the lower
            cross-entropy), 'accuracy-later' (among equals, the later epoch), 'last', or a name of averaged parameters.
        patience: Epochs without a lower validation cross-entropy after which training stops; 0 never stops it.
        below: Training does not stop while the learning rate is above this share of its peak.
    """

    about: str
    keep: str
    patience: int = 0
    below: float = 1.0

    def epochs_run(self, training: Training) -> int:
        """Return the number of epochs that are trained."""
        best, waited = math.inf, 0
        for number, epoch in enumerate(training.epochs, 1):
            waited = 0 if epoch.cross_entropy < best else waited + 1
            best = min(best, epoch.cross_entropy)
            if self.patience and waited >= self.patience and training.rate(epoch.step) <= self.below:
                return number
        return len(training.epochs)

    def stops(self, training: Training) -> Epoch:
        """Return the last epoch that is trained."""
        return training.epochs[self.epochs_run(training) - 1]

    def kept(self, training: Training) -> Epoch:
        """Return the epoch, or the average, whose parameters are kept."""
        if self.keep in training.averages:
            return training.averages[self.keep]
        orders: dict[str, Callable[[Epoch], Any]] = {
            "objective": lambda epoch: epoch.cross_entropy + epoch.penalty,
            "cross_entropy": lambda epoch: epoch.cross_entropy,
            "accuracy": lambda epoch: (-epoch.accuracy, epoch.cross_entropy),
            "accuracy-later": lambda epoch: (-epoch.accuracy, -epoch.step),
            "last": lambda epoch: -epoch.step,
        }
        return min(training.epochs[: self.epochs_run(training)], key=orders[self.keep])


EARLY = "patience-3"
"""The policy with which others are compared."""
DEFAULT = "full-accuracy-later"
"""The policy of `jola train`."""
POLICIES = {
    EARLY: Policy("patience 3, lowest objective", "objective", 3),
    "late-objective": Policy("patience 3 once the rate is below half its peak, lowest objective", "objective", 3, 0.5),
    "late-accuracy": Policy("patience 3 once the rate is below half its peak, highest accuracy", "accuracy", 3, 0.5),
    "full-objective": Policy("all epochs, lowest objective", "objective"),
    "full-ce": Policy("all epochs, lowest cross-entropy", "cross_entropy"),
    "full-accuracy": Policy("all epochs, highest accuracy, the lower cross-entropy among equals", "accuracy"),
    "full-accuracy-later": Policy("all epochs, highest accuracy, the later among equals", "accuracy-later"),
    "full-last": Policy("all epochs, the last", "last"),
    "mean": Policy("all epochs, mean of the parameters over the last half of the steps", "mean"),
}


def read(folder: Path) -> list[Training]:
    """Return all stored training runs with held-out scores."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/*.json"))]
    return [Training(data) for data in found if "held_out" in data]


# Statistics


@dataclass(frozen=True)
class Summary:
    """Mean over seeds, its 95 % t interval (None for one seed), standard deviation (likewise) and smallest value."""

    n: int
    mean: float
    low: float | None
    high: float | None
    deviation: float | None
    worst: float


def summarise(values: Sequence[float]) -> Summary:
    """Summarize one value per seed."""
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Summary(n, mean, None, None, None, mean)
    deviation = statistics.stdev(values)
    half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return Summary(n, mean, mean - half, mean + half, deviation, min(values))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Spearman's ρ; NaN if one side is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    found: Any = stats.spearmanr(a, b)
    return float(found.statistic)


@dataclass(frozen=True)
class Agreement:
    """Similarity of the gates of one half after two training runs."""

    spearman: float
    jaccard: float
    chance: float


def agreement(a: Sequence[float], b: Sequence[float]) -> Agreement:
    """Compare two lists of φ: rank correlation, and Jaccard index of the open gates, also as expected by chance."""
    first = {index for index, value in enumerate(a) if value > OPEN_ABOVE}
    second = {index for index, value in enumerate(b) if value > OPEN_ABOVE}
    union = first | second
    return Agreement(
        spearman(a, b),
        len(first & second) / len(union) if union else 1.0,
        expected_jaccard(len(a), len(first), len(second)),
    )
