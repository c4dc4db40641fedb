"""Statistics that compare sets of heads, rankings of heads and accuracies, with the values expected by chance.

Distributions and tests are SciPy's. Its statistics module takes most of a second to import, so it is imported where it
is used.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from jola.errors import InputError

if TYPE_CHECKING:  # seconds to import
    from jola.selectors.heads import HeadScores, HeadSet

RESAMPLES = 10_000
"""Number of bootstrap resamples."""


@dataclass(frozen=True)
class Overlap:
    """Two sets of heads: heads in common, Jaccard index, and both as expected of random sets of these sizes.

    `p_value` is the probability that such random sets share at least as many heads (one-sided, hypergeometric).
    """

    common: int
    jaccard: float
    expected_common: float
    expected_jaccard: float
    p_value: float


def jaccard(a: "HeadSet", b: "HeadSet") -> float:
    """|a ∩ b| / |a ∪ b|; 1 for two empty sets. Raises `InputError` for sets of different models."""
    union = len(a | b)
    return len(a & b) / union if union else 1.0


def expected_jaccard(total: int, first: int, second: int) -> float:
    """Return the exact mean Jaccard index of independent random subsets of `first` and `second` out of `total` heads.

    The number x of heads in common is hypergeometric, and the index is x / (first + second − x). Its mean is not the
    index of the mean of x.
    """
    if not (0 <= first <= total and 0 <= second <= total):
        raise ValueError(f"Subsets of {first} and {second} out of {total}.")
    if first == second == 0:
        return 1.0
    from scipy import stats

    common = np.arange(max(0, first + second - total), min(first, second) + 1)
    probability = stats.hypergeom.pmf(common, total, first, second)
    return float((probability * common / (first + second - common)).sum())


def overlap(a: "HeadSet", b: "HeadSet") -> Overlap:
    """Return how many heads two sets of one model have in common, and how many are expected by chance."""
    from scipy import stats

    total, common = a.layers * a.heads, len(a & b)
    return Overlap(
        common=common,
        jaccard=jaccard(a, b),
        expected_common=len(a) * len(b) / total,
        expected_jaccard=expected_jaccard(total, len(a), len(b)),
        p_value=float(min(1.0, stats.hypergeom.sf(common - 1, total, len(a), len(b)))),
    )


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's ρ and Kendall's τ-b of two rankings of `n` heads, with two-sided p-values against independence.

    All but `n` are NaN if one of the rankings is constant.
    """

    spearman: float
    spearman_p: float
    kendall: float
    kendall_p: float
    n: int


def rank_correlation(a: "HeadScores", b: "HeadScores") -> RankCorrelation:
    """Correlate the rankings of one model's heads by two scores. Raises `InputError` for scores of different models."""
    if a.shape != b.shape:
        raise InputError(f"Scores of models of {a.shape} and {b.shape} (layers, heads) cannot be compared.")
    first, second = a.values.ravel(), b.values.ravel()
    n = first.size
    if np.ptp(first) == 0 or np.ptp(second) == 0 or n < 2:
        nothing = float("nan")
        return RankCorrelation(nothing, nothing, nothing, nothing, n)
    from scipy import stats

    # SciPy returns named tuples whose fields type checkers do not know.
    spearman: Any = stats.spearmanr(first, second)
    kendall: Any = stats.kendalltau(first, second)
    return RankCorrelation(
        float(spearman.statistic), float(spearman.pvalue), float(kendall.statistic), float(kendall.pvalue), n
    )


@dataclass(frozen=True)
class Difference:
    """A difference of two accuracies on the same items, its 95 % interval, and a two-sided p-value against 0."""

    difference: float
    low: float
    high: float
    p_value: float
    items: int


def paired_bootstrap(a: ArrayLike, b: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Difference:
    """Return the accuracy of a minus that of b, with an interval from resampling items.

    Args:
        a, b: Whether each answer is correct, (items,), with the items in the same order.
        seed: Seed of the resampling.

    The interval describes other items, for the same two sets of edits. For several seeds, use `mean_over_seeds` on the
    differences by seed: resampling three seeds gives intervals that are too narrow. The p-value is twice the share of
    resampled differences on the other side of 0, with one added to count and total so that it is never 0.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or first.size == 0:
        raise ValueError(f"Pairs of shape (items,) are needed, but there are {first.shape} and {second.shape} answers.")
    gain = first - second
    # A gain is −1, 0 or 1, so a resample is fully described by how often it contains each of them.
    values, counts = np.unique(gain, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(gain.size, counts / gain.size, size=resamples) @ values / gain.size
    low, high = np.quantile(drawn, [0.025, 0.975])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (resamples + 1))
    return Difference(float(gain.mean()), float(low), float(high), p_value, gain.size)


def accuracy_interval(correct: ArrayLike) -> tuple[float, float | None, float | None]:
    """Return the mean accuracy and its 95 % interval: Wilson's over items for one seed, Student's t over several seeds.

    Args:
        correct: (items,) or (seeds, items).

    Returns:
        (mean, low, high), within [0, 1]. Low and high are None if several seeds have equal accuracies.
    """
    values = np.atleast_2d(np.asarray(correct, dtype=np.float64))
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"Answers of shape (items,) or (seeds, items) are needed, not {values.shape}.")
    if len(values) == 1:
        from jola.evaluation.metrics import interval_of

        return float(values.mean()), *interval_of(values[0])
    found = mean_over_seeds(values.mean(1).tolist())
    if found.low is None or found.high is None:
        return found.mean, None, None
    return found.mean, max(0.0, found.low), min(1.0, found.high)


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds with its 95 % interval, and a two-sided p-value against a mean of 0.

    The interval and the p-value are Student's t with `n` − 1 degrees of freedom: with few seeds, a normal or a
    bootstrap interval is too narrow. They describe what other seeds would give on the same test examples. Both are None
    with one seed, and if all values are equal, because a few equal accuracies do not show that all seeds give the same.
    """

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    n: int


def mean_over_seeds(values: Sequence[float]) -> SeedMean:
    """Return the mean of one value per seed, or of one difference per seed for paired methods.

    Args:
        values: At least one finite number.
    """
    given = np.asarray(values, dtype=np.float64)
    n, mean = given.size, float(given.mean())
    error = float(given.std(ddof=1)) / n**0.5 if n > 1 else 0.0
    if error < 1e-12:
        return SeedMean(mean, None, None, None, n)
    half = float(special.stdtrit(n - 1, 0.975)) * error
    p_value = 2 * float(special.stdtr(n - 1, -abs(mean) / error))
    return SeedMean(mean, mean - half, mean + half, p_value, n)


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def holm_of_known(p_values: Sequence[float | None]) -> list[float | None]:
    """Apply `holm` to the p-values that are not None; the others stay None."""
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests (Holm, 1979): rejecting those below α keeps the family-wise error at α."""
    given = np.asarray(p_values, dtype=np.float64)
    if given.size == 0:
        return []
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError(f"p-values lie between 0 and 1; these are {p_values}.")
    order = np.argsort(given, kind="stable")
    stepped = np.maximum.accumulate(given[order] * np.arange(given.size, 0, -1))
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()
