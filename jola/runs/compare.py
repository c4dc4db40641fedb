"""Compare runs: the settings in which they differ, and their results."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jola.config import GROUPS
from jola.runs.run import Run
from jola.runs.scores import scores_in
from jola.runs.summary import RunSummary, method_in

_LATER = (
    "validation_accuracy", "validation_cross_entropy", "n_validation", "open_offset", "open_scale", "units", "steps",
    "kept_step", "seconds",
)  # fmt: skip
"""Figures that follow the scores."""
_NO_SETTINGS = {"output", "report_to"}
_FACTS = ("n_train", "n_validation", "n_test")
_VERSION = "version of "
_TOLD_LATER = (*_FACTS, _VERSION)


@dataclass(frozen=True)
class ComparedValues:
    """One row of a comparison: its name, and its value in each run; None if the run does not have it."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class RunComparison:
    """Result of `compare_runs`."""

    runs: tuple[RunSummary, ...]
    settings: tuple[ComparedValues, ...]
    """Settings, facts about the data and versions of libraries that differ; names as in ``config.json``."""
    figures: tuple[ComparedValues, ...]
    """Results of the runs, also if they are equal.

    ``accuracy`` (exact match) and ``accuracy_options`` (among the options) are ``{"accuracy", "n", "low", "high"}``;
    other metrics have their own names, and scores from `jola.evaluation.metrics.Score.to_dict`; ``validation_accuracy``
    is that of the kept edits; ``validation_cross_entropy`` is the lowest, in nats, over ``n_validation`` examples;
    ``open_offset`` and ``open_scale`` count open gates of ``units``; ``steps`` and ``kept_step`` are steps; ``seconds``
    is the training time.
    """
    same_test: bool | None
    """Whether the runs were tested on equally many examples of a task of the same name, which are the same examples for
    every seed; None if this is unknown for a run. Accuracies on different examples are hardly comparable."""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        return asdict(self)


def compare_runs(runs: Sequence[Run]) -> RunComparison:
    """Compare runs, finished or not; never raises for unfinished or damaged runs."""
    configs = [run.raw_config() for run in runs]
    settings = [_settings(config) for config in configs]
    names = list(dict.fromkeys(name for found in settings for name in found))
    rows = [ComparedValues(name, tuple(found.get(name) for found in settings)) for name in names]
    tests = [(found.get("task"), found.get("n_test")) for found in settings]
    summaries = tuple(run.summary() for run in runs)
    results = [_figures(run, summary) for run, summary in zip(runs, summaries, strict=True)]
    figures = [*dict.fromkeys(name for found in results for name in found if name not in _LATER), *_LATER]
    return RunComparison(
        runs=summaries,
        settings=tuple(row for row in rows if _differs(row)),
        figures=tuple(ComparedValues(name, tuple(found.get(name) for found in results)) for name in figures),
        same_test=None if any(None in test for test in tests) else all(test == tests[0] for test in tests),
    )


def _differs(row: ComparedValues) -> bool:
    # Every run has settings; facts and versions are missing if a run failed early or is only an adapter.
    known = [value for value in row.values if value is not None] if row.name.startswith(_TOLD_LATER) else row.values
    return any(value != known[0] for value in known)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return the method and all settings by name, then facts about the data, then versions."""
    found: dict[str, Any] = {"method": method_in(config).title}
    for group in GROUPS:
        section = config.get(group)
        if isinstance(section, dict):
            found |= {name: value for name, value in section.items() if name not in _NO_SETTINGS}
    task, versions = (config.get(name) for name in ("task", "versions"))
    if isinstance(task, dict):
        found |= {name: task[name] for name in _FACTS if name in task}
    if isinstance(versions, dict):
        found |= {f"{_VERSION}{name}": value for name, value in versions.items()}
    return found


def _figures(run: Run, summary: RunSummary) -> dict[str, Any]:
    result, opened = run.result() or {}, summary["open"] or {}
    task = run.raw_config().get("task")
    losses = [m["validation_cross_entropy"] for m in run.metrics() if _is_number(m.get("validation_cross_entropy"))]
    scores = {score["metric"]: score for score in scores_in(result)}
    named = {"accuracy": scores.pop("exact_match", None), "accuracy_options": scores.pop("options", None)}
    return {
        **{name: score and _accuracy(score) for name, score in named.items()},
        **scores,
        "validation_accuracy": result.get("validation"),
        "validation_cross_entropy": min(losses, default=None),
        "n_validation": task.get("n_validation") if isinstance(task, dict) else None,
        "open_offset": opened.get("offset"),
        "open_scale": opened.get("scale"),
        "units": opened.get("units"),
        "steps": result.get("steps", summary["step"]),
        "kept_step": result.get("kept_step"),
        "seconds": summary["seconds"],
    }


def _accuracy(score: Mapping[str, Any]) -> dict[str, Any]:
    return {"accuracy": score["value"], **{name: score[name] for name in ("n", "low", "high")}}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
