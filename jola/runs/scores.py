"""The scores in ``result.json``, also of earlier versions, which stored two fixed kinds of accuracy."""

from collections.abc import Mapping
from typing import Any

ScoreDict = dict[str, Any]
"""A score, from `jola.evaluation.metrics.Score.to_dict`."""

_EARLIER = {"test": ("exact_match", "Exact match"), "test_options": ("options", "Choosing among the options")}
_EXACT = "exact_match"


def scores_in(result: Mapping[str, Any] | None) -> list[ScoreDict]:
    """Return the scores of a result, that of the task's main metric first; empty without a test."""
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
    """Return the score of the task's main metric; None without a test."""
    scores = scores_in(result)
    own = (result or {}).get("metric") or _EXACT
    return scores[0] if scores and scores[0]["metric"] == own else None
