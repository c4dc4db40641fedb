"""Evaluation: exact match, choice among labels, confidence intervals, and lm-eval."""

from typing import TYPE_CHECKING

from jola._lazy import lazily

if TYPE_CHECKING:
    from jola.evaluation.scoring import Accuracy as Accuracy
    from jola.evaluation.scoring import exact_match as exact_match
    from jola.evaluation.scoring import option_likelihood as option_likelihood

__getattr__ = lazily(
    __name__,
    {
        "jola.evaluation.scoring": (
            "Accuracy",
            "exact_match",
            "option_likelihood",
        ),
    },
)
