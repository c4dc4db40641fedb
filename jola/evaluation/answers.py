"""Metrics by name, and the scores of stored answers."""

from collections.abc import Sequence

import numpy as np

from jola.errors import InputError
from jola.evaluation.bertscore import bertscore
from jola.evaluation.metrics import METRICS, Metric, Score, required_package
from jola.runs.answers import TestAnswer


def metric_named(name: str) -> Metric:
    """Return the metric of a name.

    Args:
        name: A key of `METRICS`, ``bertscore``, or ``bertscore:ENCODER`` with or without ``@LAYER``.

    Raises:
        InputError: There is no such metric.
    """
    if name in METRICS:
        return METRICS[name]
    if name.partition(":")[0] == "bertscore":
        return bertscore(name.partition(":")[2])
    raise InputError(
        f"There is no metric {name[:100]!r}; known are {', '.join(METRICS)}, bertscore and bertscore:ENCODER@LAYER."
    )


def score_answers(
    kept: Sequence[TestAnswer], metrics: Sequence[str], *, base: bool = False, first_reference: bool = False
) -> list[Score]:
    """Return the scores of stored answers, in the order of the metrics.

    Args:
        kept: Stored answers, from `jola.runs.run.Run.answers`.
        metrics: Names, see `metric_named`.
        base: Whether to score the answers of the base model.
        first_reference: Whether only the first right answer of each example counts.

    Raises:
        InputError: There are no answers, a metric is unknown, or it needs data that were not stored.
    """
    return [
        _scored(kept, metric.on_first_reference() if first_reference else metric, base)
        for metric in map(metric_named, metrics)
    ]


def default_metrics(kept: Sequence[TestAnswer], metrics: Sequence[str]) -> list[str]:
    """Return the metrics that apply to these answers: over labels only with labels, by options only if computed."""
    has_options = all(answer.example.options for answer in kept)
    computed = has_options and all(answer.log_likelihoods for answer in kept)
    return [
        name
        for name in metrics
        if (metric := metric_named(name)).reads != "options" or computed
        if has_options or not metric.needs_labels
    ]


def _scored(kept: Sequence[TestAnswer], metric: Metric, base: bool) -> Score:
    found = [_answer(answer, metric, base) for answer in kept]
    answers = [answer for answer in found if answer is not None]
    if len(answers) < len(found):
        what = "the log-likelihoods of options" if metric.reads == "options" else "answers without edits"
        raise InputError(
            f"The metric {metric.name} needs {what}, which {len(found) - len(answers)} of the {len(found)} stored "
            "answers lack; test the adapter again with `jola evaluate`."
        )
    return metric.score(answers, [answer.example for answer in kept])


def _answer(kept: TestAnswer, metric: Metric, base: bool) -> str | None:
    if metric.reads != "options":
        return kept.base_answer if base else kept.answer
    scores = kept.base_log_likelihoods if base else kept.log_likelihoods
    return kept.example.options[int(np.argmax(scores))] if scores else None


def check_installed(metrics: Sequence[str]) -> None:
    """Check that the packages of the metrics are installed, before anything is computed.

    Raises:
        InputError: A package is missing, or there is no such metric.
    """
    for name in metrics:
        if package := metric_named(name).package:
            required_package(package)
