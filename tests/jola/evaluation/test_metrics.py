"""Metrics from kept answers: their values, their intervals, and what they refuse."""

import numpy as np
import pytest
from scipy.stats import beta

from jola.data.records import Example, Message
from jola.errors import InputError
from jola.evaluation.metrics import EXACT_MATCH, FIRST_LABEL, METRICS, all_scores, first_label, interval_of

LABELS = ("no", "no idea", "yes")


def example(right: str, *references: str) -> Example:
    return Example((Message("user", "?"),), right, references=references)


def test_exact_match_takes_references_and_ignores_white_space() -> None:
    examples = [example("yes"), example("yes"), example("no", "nope"), example("no")]
    score = EXACT_MATCH.score([" yes ", "Yes", "nope", ""], examples)
    assert (score.value, score.n) == (0.5, 4)
    assert 0 < score.low < 0.5 < score.high < 1
    assert str(score) == f"0.500 (n = 4, 95 % interval {score.low:.3f}–{score.high:.3f})"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("The answer is YES.", "yes"),
        ("no idea", "no idea"),
        ("no, yes", "no"),
        ("yes or no", "yes"),
        ("", None),
        ("perhaps", None),
    ],
)
def test_the_first_label_of_an_answer(answer: str, label: str | None) -> None:
    assert first_label(answer, LABELS) == label


def test_a_metric_over_labels_needs_them() -> None:
    examples = [example("yes"), example("no")]
    assert FIRST_LABEL.score(["I say yes", "yes"], examples, LABELS).value == 0.5
    with pytest.raises(InputError, match="needs a task with a fixed set of labels"):
        FIRST_LABEL.score(["yes", "no"], examples)
    assert [score.metric for score in all_scores(["yes", "no"], examples, None)] == ["exact_match"]
    assert [score.metric for score in all_scores(["yes", "no"], examples, LABELS)] == list(METRICS)


def test_no_examples_are_refused() -> None:
    with pytest.raises(InputError, match="no examples"):
        EXACT_MATCH.score([], [])


def test_an_interval_of_shares_is_wilsons() -> None:
    low, high = interval_of(np.array([1.0] * 45 + [0.0] * 5))
    z, p, n = 1.959964, 0.9, 50
    centre, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5,
    )
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-5)


def test_an_interval_of_other_values_covers_the_mean() -> None:
    generator, covered = np.random.default_rng(1), 0
    for _ in range(300):
        low, high = interval_of(beta.rvs(2, 3, size=60, random_state=generator))
        covered += low <= 0.4 <= high
    assert 0.90 <= covered / 300 <= 0.98
