"""The scores in ``result.json``, of this and of earlier versions, which had accuracies of two fixed kinds."""

from collections.abc import Mapping
from typing import Any

ScoreDict = dict[str, Any]
"""A score as `jola.evaluation.metrics.Score.to_dict` gives it."""

_EARLIER = {"test": ("exact_match", "Exact match"), "test_options": ("options", "Choosing among the options")}
_EXACT = "exact_match"


def scores_in(result: Mapping[str, Any] | None) -> list[ScoreDict]:
    """The scores of a result, that of the task's own metric first; empty without a test."""
    result = result or {}
    found: dict[str, ScoreDict] = {score["metric"]: dict(score) for score in result.get("scores") or ()}
    for member, (metric, title) in _EARLIER.items():
        accuracy = result.get(member)
        if accuracy and metric not in found:
            found[metric] = {"metric": metric, "value": accuracy["accuracy"], "title": title} | {
                name: accuracy[name] for name in ("n", "low", "high")
            }
    own = result.get("metric") or _EXACT
    return sorted(found.values(), key=lambda score: score["metric"] != own)


def own_score(result: Mapping[str, Any] | None) -> ScoreDict | None:
    """The score of the task's own metric; None without a test."""
    scores = scores_in(result)
    own = (result or {}).get("metric") or _EXACT
    return scores[0] if scores and scores[0]["metric"] == own else None
