"""Rows of the tables of a grid: one arm on one task, over all its seeds; needs no PyTorch."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jola.errors import InputError
from jola.studies.axes import Arm, PlannedCell
from jola.studies.cells import CellState
from jola.studies.paper import paper_value
from jola.studies.statistics import SeedMean, holm_of_known, mean_of_known, mean_over_seeds

if TYPE_CHECKING:
    from jola.studies.grid import Grid

BASELINE = "jola"
"""Method with which the others are compared."""


@dataclass(frozen=True)
class Row:
    """One arm on one task with one model and number of training examples, over all its seeds.

    None means that a value is not known yet, or does not exist.
    """

    arm: str
    method: str
    task: str
    train_size: int
    model: str
    metric: str | None
    value: float | None
    """Mean over seeds of the score on the test examples."""
    low: float | None
    """Bounds of the 95 % interval of the mean."""
    high: float | None
    interval: Literal["seeds", "examples", ""]
    """What the interval is over: seeds (Student's t) or, with one seed, test examples."""
    seeds: int
    """Number of seeds with a result."""
    planned: int
    """Number of seeds that were planned."""
    failed: int
    items: int | None
    """Number of test examples."""
    difference: float | None
    """Mean over shared seeds of the score minus that of the baseline, with its 95 % interval over seeds."""
    difference_low: float | None
    difference_high: float | None
    p_value: float | None
    """p-value of the paired t-test."""
    p_holm: float | None
    """`p_value` adjusted for all rows of the table (Holm, 1979)."""
    pairs: int
    """Number of seeds that arm and baseline share."""
    validation: float | None
    """Mean over seeds of the validation cross-entropy of the kept edits, in nats."""
    validation_accuracy: float | None
    """Mean over seeds of their validation accuracy; None for tasks that are not scored by a share of right answers."""
    trainable: int | None
    """Number of trained parameters."""
    seconds: float | None
    """Mean time of a cell: loading, training and testing, with all interrupted sessions."""
    peak_memory: int | None
    """Maximum over seeds, in bytes."""
    adapter_bytes: int | None
    paper: float | None
    """The paper's number for the same task, test part, metric and model."""
    best_of: int = 1
    """Number of arms of the method among which validation chose this one."""
    baseline: str | None = None
    """Arm whose scores `difference` subtracts."""
    text_kl: float | None = None
    """Mean over seeds of KL(base ‖ edited) on plain text, nats per token, with its 95 % interval."""
    text_kl_low: float | None = None
    text_kl_high: float | None = None
    text_change: float | None = None
    """The same for the change of the cross-entropy on plain text."""
    text_change_low: float | None = None
    text_change_high: float | None = None
    text_tokens: int | None = None
    """Tokens of the plain text. With one seed, the intervals are over its passages."""


@dataclass(frozen=True)
class _Group:
    """The cells of a row and their results, by seed."""

    cells: list[PlannedCell]
    results: dict[int, dict[str, Any]]
    failed: int = 0
    trains: bool = True

    @property
    def validation(self) -> float | None:
        """Mean over seeds of the validation cross-entropy of the kept edits."""
        return mean_of_known(result.get("validation") for result in self.results.values())

    @property
    def validation_accuracy(self) -> float | None:
        """Mean over seeds of their validation accuracy; None if a seed has none."""
        found = [result.get("validation_accuracy") for result in self.results.values()]
        return None if None in found else mean_of_known(found)

    def scores(self, metric: str | None) -> dict[int, dict[str, Any]]:
        """Return the scores of a metric by seed."""
        found = {seed: score_of(result, metric) for seed, result in self.results.items()}
        return {seed: score for seed, score in found.items() if score is not None}


def score_of(result: Mapping[str, Any], metric: str | None) -> dict[str, Any] | None:
    """Return the score of a metric in the result of a cell; None if it has none."""
    return next((score for score in result["scores"] if score["metric"] == metric), None)


def rows_of(grid: "Grid", metric: str = "", *, best: "bool | Callable[[Arm], str]" = False) -> list[Row]:
    """Return one row for each arm, task, number of training examples and model, in the order of the plan.

    Args:
        grid: The grid.
        metric: Name of a metric; by default the first one in the results of a task.
        best: Whether to keep only one arm of each method, chosen on validation among those with the fewest failed
            cells: the highest accuracy, averaged over seeds, and among equals the lowest cross-entropy. Only
            cross-entropy is used if an arm has no validation accuracy. If it is a function, one arm is kept for each of
            its results instead of for each method.

    Raises:
        InputError: No result has this metric.
    """
    results, states = grid.results(), grid.states()
    known = list(dict.fromkeys(score["metric"] for result in results.values() for score in result["scores"]))
    if metric and metric not in known:
        there = f"they have {', '.join(known)}" if known else "there are no results yet"
        raise InputError(f"No result of the grid has the metric {metric!r}; {there}.")
    groups = _groups(grid, results, states)
    metrics = {key[0]: metric or None for key in groups}
    for (task, *_), group in groups.items():
        for result in group.results.values():
            if metrics[task] is None and result["scores"]:
                metrics[task] = result["scores"][0]["metric"]
    of = best if callable(best) else lambda arm: arm.method
    kept = _best(groups, grid.arms, of) if best else dict.fromkeys(groups, 1)
    rows = []
    for key, number in kept.items():
        baseline = _baseline(kept, key, grid.arms)
        row = _row(grid, key, groups[key], groups[baseline] if baseline else None, metrics[key[0]])
        rows.append(dataclasses.replace(row, best_of=number, baseline=baseline[3] if baseline else None))
    adjusted = holm_of_known([row.p_value for row in rows])
    return [dataclasses.replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]


_Key = tuple[str, int, str, str]


def _groups(grid: "Grid", results: Mapping[str, dict[str, Any]], states: Mapping[str, CellState]) -> dict[_Key, _Group]:
    groups: dict[_Key, _Group] = {}
    sizes: dict[tuple[str, str], dict[int, None]] = {}
    for name, cell in grid.planned.items():
        key = cell.task, cell.train_size, cell.model, cell.arm
        sizes.setdefault((cell.task, cell.model), {})[cell.train_size] = None
        group = groups.get(key) or groups.setdefault(key, _Group([], {}, trains=grid.arms[cell.arm].trains))
        group.cells.append(cell)
        if name in results:
            group.results[cell.seed] = results[name]
        if states[name] == "failed":
            groups[key] = dataclasses.replace(group, failed=group.failed + 1)
    # An arm that trains nothing is shown with every number of training examples.
    for (task, _, model, arm), group in list(groups.items()):
        if not group.trains:
            groups |= {(task, size, model, arm): group for size in sizes[task, model]}
    names = (name for plan in grid.plans for name in (*plan["models"], *plan["tasks"], *plan["arms"]))
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    keys = sorted(groups, key=lambda key: (order[key[2]], order[key[0]], key[1] or float("inf"), order[key[3]]))
    return {key: groups[key] for key in keys}


def _best(groups: Mapping[_Key, _Group], arms: Mapping[str, Arm], of: Callable[[Arm], str]) -> dict[_Key, int]:
    """Return the key that validation chooses for each method, and the number of arms that it was chosen from."""
    tried: dict[tuple[Any, ...], list[_Key]] = {}
    for key in groups:
        tried.setdefault((*key[:3], of(arms[key[3]])), []).append(key)

    def chosen(keys: list[_Key]) -> _Key:
        known = [key for key in keys if groups[key].results]
        by_accuracy = all(groups[key].validation_accuracy is not None for key in known)

        def order(key: _Key) -> tuple[int, float, float]:
            group = groups[key]
            accuracy, loss = group.validation_accuracy, group.validation
            # If some seeds failed, the mean of the others is not that of the arm.
            return group.failed, -(accuracy or 0.0) if by_accuracy else 0.0, float("inf") if loss is None else loss

        return min(known or keys, key=order)

    return {chosen(keys): len(keys) for keys in tried.values()}


def _baseline(kept: Collection[_Key], key: _Key, arms: Mapping[str, Arm]) -> _Key | None:
    """Return the key with which another one is compared: JoLA, or its first arm, on the same task, size and model."""
    found = [other for other in kept if other[:3] == key[:3] and arms[other[3]].method == BASELINE]
    chosen = min(found, key=lambda other: other[3] != BASELINE, default=key)
    return chosen if chosen != key else None


def _row(grid: "Grid", key: _Key, group: _Group, baseline: _Group | None, metric: str | None) -> Row:
    task, size, model, arm = key
    own = group.scores(metric)
    mean = mean_over_seeds([score["value"] for score in own.values()]) if own else None
    low, high, interval = _interval(mean, list(own.values()))
    theirs = baseline.scores(metric) if baseline else {}
    # An arm that trains nothing has no seed, and is compared with every seed of the baseline.
    score = next(iter(own.values()), None)
    paired = own if group.trains or score is None else dict.fromkeys(theirs, score)
    shared = sorted(paired.keys() & theirs.keys())
    gain = mean_over_seeds([paired[s]["value"] - theirs[s]["value"] for s in shared]) if shared else None
    found = list(group.results.values())
    items = {score["n"] for score in own.values()}
    return Row(
        arm=arm,
        method=grid.arms[arm].method,
        task=task,
        train_size=size,
        model=model,
        metric=metric,
        value=mean.mean if mean else None,
        low=low,
        high=high,
        interval=interval,
        seeds=len(own) if own else len(group.results),
        planned=len(group.cells),
        failed=group.failed,
        items=max(items, default=None),
        difference=gain.mean if gain else None,
        difference_low=gain.low if gain else None,
        difference_high=gain.high if gain else None,
        p_value=gain.p_value if gain else None,
        p_holm=None,
        pairs=len(shared),
        validation=group.validation,
        validation_accuracy=group.validation_accuracy,
        trainable=max((result["trainable"] for result in found), default=None),
        seconds=mean_of_known(result["seconds"] for result in found),
        peak_memory=max((result["peak_memory"] for result in found), default=None),
        adapter_bytes=max((result["adapter_bytes"] for result in found), default=None),
        paper=paper_value(arm, task, size, model, metric, items),
        **_side_effects([result.get("side_effects") for result in found]),
    )


def _side_effects(by_seed: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return the fields of a row about side effects, from those of its seeds; empty unless every seed has them."""
    found = [effects for effects in by_seed if effects]
    if not found or len(found) < len(by_seed):
        return {}
    values: dict[str, Any] = {"text_tokens": found[0]["tokens"]}
    for name, figure in (("text_kl", "kl"), ("text_change", "change")):
        mean = mean_over_seeds([effects[figure]["value"] for effects in found])
        low, high, _ = _interval(mean, [effects[figure] for effects in found])
        values |= {name: mean.mean, f"{name}_low": low, f"{name}_high": high}
    return values


def _interval(
    mean: SeedMean | None, scores: Sequence[Mapping[str, Any]]
) -> tuple[float | None, float | None, Literal["seeds", "examples", ""]]:
    if mean is None:
        return None, None, ""
    if mean.low is not None:
        return mean.low, mean.high, "seeds"
    if mean.n > 1:
        return None, None, ""
    low, high = scores[0].get("low"), scores[0].get("high")
    return low, high, "examples" if low is not None else ""
