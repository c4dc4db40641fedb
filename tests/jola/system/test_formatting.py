"""The format of estimates."""

import pytest

from jola.evaluation.scoring import Accuracy
from jola.system.formatting import accuracy_text, interval_text, sample_text

FOUND = {"accuracy": 0.8784, "n": 12500, "low": 0.8456, "high": 0.9041}


@pytest.mark.parametrize(
    ("percent", "text"),
    [
        (False, "0.878 (n = 12,500, 95 % interval 0.846–0.904)"),
        (True, "87.8 % (n = 12,500, 95 % interval 84.6–90.4)"),
    ],
)
def test_an_accuracy_has_its_n_and_its_interval(percent: bool, text: str) -> None:
    assert accuracy_text(FOUND, percent=percent) == text
    assert f"({sample_text(FOUND, percent=percent)})" in text


def test_an_accuracy_writes_itself_in_the_same_way() -> None:
    assert str(Accuracy(3, 4)) == accuracy_text(Accuracy(3, 4).to_dict()) == "0.750 (n = 4, 95 % interval 0.301–0.954)"


def test_a_difference_shows_both_signs() -> None:
    assert interval_text(0.8, 0.75, 0.85) == "0.800 (0.750 to 0.850)"
    assert interval_text(-0.012, -0.05, 0.026, sign="+") == "-0.012 (-0.050 to +0.026)"
