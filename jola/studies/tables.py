"""Tables of a grid: one row for each arm on a task, seeds together; needs no PyTorch."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jola.errors import InputError
from jola.studies.axes import Arm, PlannedCell, short_names
from jola.studies.cells import CellState
from jola.studies.paper import paper_value
from jola.studies.statistics import SeedMean, holm, mean_over_seeds

if TYPE_CHECKING:
    from jola.studies.grid import Grid

BASELINE = "jola"
"""Method that the others are compared with."""

Across = Literal["task", "train_size", "model"]
"""What the columns of `pivot` are."""


@dataclass(frozen=True)
class Row:
    """One arm on one task with one model and number of training examples, over all its seeds.

    None stands for what is not known yet, or does not exist.
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
    """Of the paired t-test."""
    p_holm: float | None
    """The same adjusted for all rows of the table (Holm, 1979)."""
    pairs: int
    """Number of seeds that arm and baseline share."""
    validation: float | None
    """Mean over seeds of the validation cross-entropy of the edits that were kept, nats."""
    validation_accuracy: float | None
    """Mean over seeds of their validation accuracy; None for tasks that are not scored by a share of right answers."""
    trainable: int | None
    """Number of trained parameters."""
    seconds: float | None
    """Mean time of a cell: loading, training and testing, with all interrupted sessions."""
    peak_memory: int | None
    """Bytes, the most of all seeds."""
    adapter_bytes: int | None
    paper: float | None
    """The paper's number for the same task, test part, metric and model."""
    best_of: int = 1
    """Number of arms of the method among which validation chose this one."""
    text_kl: float | None = None
    """Mean over seeds of KL(base ‖ edited) on plain text, nats per token, with its 95 % interval."""
    text_kl_low: float | None = None
    text_kl_high: float | None = None
    text_change: float | None = None
    """The same of the change of the cross-entropy on plain text."""
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
        """Mean over seeds of the validation cross-entropy of the edits that were kept."""
        return _mean(result.get("validation") for result in self.results.values())

    @property
    def validation_accuracy(self) -> float | None:
        """Mean over seeds of their validation accuracy; None if a seed has none."""
        found = [result.get("validation_accuracy") for result in self.results.values()]
        return None if None in found else _mean(found)

    def scores(self, metric: str | None) -> dict[int, dict[str, Any]]:
        """The scores of a metric by seed."""
        found = {seed: score_of(result, metric) for seed, result in self.results.items()}
        return {seed: score for seed, score in found.items() if score is not None}


def score_of(result: Mapping[str, Any], metric: str | None) -> dict[str, Any] | None:
    """The score of a metric in the result of a cell."""
    return next((score for score in result["scores"] if score["metric"] == metric), None)


def rows_of(grid: "Grid", metric: str = "", *, best: "bool | Callable[[Arm], str]" = False) -> list[Row]:
    """One row for each arm, task, number of training examples and model, in the order of the plan.

    Args:
        grid: The grid.
        metric: Name of a metric; by default the first one that the results of a task have.
        best: Keep one arm of each method, chosen on validation: the highest accuracy, on average over seeds, and among
            equals the lowest cross-entropy. Only cross-entropy is used if an arm has no validation accuracy. A
            function names what one arm is kept of.

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
    rows = [
        dataclasses.replace(
            _row(grid, key, groups[key], _baseline(groups, kept, key, grid.arms), metrics[key[0]]), best_of=number
        )
        for key, number in kept.items()
    ]
    return _adjusted(rows)


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
    # What trains nothing is beside every number of training examples.
    for (task, _, model, arm), group in list(groups.items()):
        if not group.trains:
            groups |= {(task, size, model, arm): group for size in sizes[task, model]}
    names = (name for plan in grid.plans for name in (*plan["models"], *plan["tasks"], *plan["arms"]))
    order = {name: number for number, name in enumerate(dict.fromkeys(names))}
    keys = sorted(groups, key=lambda key: (order[key[2]], order[key[0]], key[1] or float("inf"), order[key[3]]))
    return {key: groups[key] for key in keys}


def _best(groups: Mapping[_Key, _Group], arms: Mapping[str, Arm], of: Callable[[Arm], str]) -> dict[_Key, int]:
    """Of each method the key that validation chooses, and the number of arms that it was chosen from."""
    tried: dict[tuple[Any, ...], list[_Key]] = {}
    for key in groups:
        tried.setdefault((*key[:3], of(arms[key[3]])), []).append(key)

    def chosen(keys: list[_Key]) -> _Key:
        known = [key for key in keys if groups[key].results]
        by_accuracy = all(groups[key].validation_accuracy is not None for key in known)

        def order(key: _Key) -> tuple[float, float]:
            accuracy, loss = groups[key].validation_accuracy, groups[key].validation
            return -(accuracy or 0.0) if by_accuracy else 0.0, float("inf") if loss is None else loss

        return min(known or keys, key=order)

    return {chosen(keys): len(keys) for keys in tried.values()}


def _baseline(
    groups: Mapping[_Key, _Group], kept: Collection[_Key], key: _Key, arms: Mapping[str, Arm]
) -> _Group | None:
    """The group that another one is compared with: JoLA, or its first arm, on the same task, size and model."""
    found = [other for other in kept if other[:3] == key[:3] and arms[other[3]].method == BASELINE]
    chosen = min(found, key=lambda other: other[3] != BASELINE, default=key)
    return groups[chosen] if chosen != key else None


def _row(grid: "Grid", key: _Key, group: _Group, baseline: _Group | None, metric: str | None) -> Row:
    task, size, model, arm = key
    own = group.scores(metric)
    mean = mean_over_seeds([score["value"] for score in own.values()]) if own else None
    low, high, interval = _interval(mean, list(own.values()))
    theirs = baseline.scores(metric) if baseline else {}
    # What trains nothing has no seed, and is compared with every seed of the baseline.
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
        seconds=_mean(result["seconds"] for result in found),
        peak_memory=max((result["peak_memory"] for result in found), default=None),
        adapter_bytes=max((result["adapter_bytes"] for result in found), default=None),
        paper=paper_value(arm, task, size, model, metric, items),
        **_side_effects([effects for result in found if (effects := result.get("side_effects"))]),
    )


def _side_effects(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of a row about side effects, from those of its seeds."""
    if not found:
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


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _adjusted(rows: Sequence[Row]) -> list[Row]:
    """The rows with p-values adjusted for all of them."""
    numbers = [number for number, row in enumerate(rows) if row.p_value is not None]
    adjusted = holm([p for row in rows if (p := row.p_value) is not None])
    by_number = dict(zip(numbers, adjusted, strict=True))
    return [dataclasses.replace(row, p_holm=by_number.get(number)) for number, row in enumerate(rows)]


# Tables of texts, for all formats.


@dataclass(frozen=True)
class Table:
    """A heading and rows of texts."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    """Sentences that say what the numbers are."""


SEEDS_NOTE = (
    "Means over seeds with 95 % intervals: Student's t over seeds, which says what other seeds would give on the same "
    "test examples; with one seed, over test examples; none where all seeds give the same."
)


def results_table(rows: Sequence[Row]) -> Table:
    """Every number of the rows."""
    tasks, models = (short_names(list(dict.fromkeys(names))) for names in _names_of(rows))
    several = len(models) > 1
    with_paper = any(row.paper is not None for row in rows)
    with_text = any(row.text_kl is not None for row in rows)
    columns = ["arm", "task", "n train", *(["model"] if several else []), "metric", "score", "seeds", "n test"]
    columns += ["minus JoLA", "p (Holm)", "trained", "time", "memory"]
    columns += [*(["KL on text", "nats on text"] if with_text else []), *(["paper"] if with_paper else [])]

    def texts(row: Row) -> tuple[str, ...]:
        values = [_arm_text(row), tasks[row.task], size_text(row.train_size), *([models[row.model]] if several else [])]
        values += [row.metric or "", score_text(row), seeds_text(row), _number(row.items, "{:,}")]
        values += [_difference_text(row), _number(row.p_holm, "{:.3g}"), _number(row.trainable, "{:,}")]
        values += [_number(row.seconds, "{:.0f} s"), "" if row.peak_memory is None else memory_text(row.peak_memory)]
        values += side_effect_texts(row) if with_text else ()
        return (*values, *([_number(row.paper, "{:.4f}")] if with_paper else []))

    notes = (SEEDS_NOTE, *([text_note(rows)] if with_text else []))
    return Table(tuple(columns), tuple(map(texts, rows)), notes)


def text_note(rows: Sequence[Row]) -> str:
    """What the columns about side effects are."""
    tokens = max(row.text_tokens or 0 for row in rows)
    return (
        f"KL on text: KL(base ‖ edited) per token of plain text; nats on text: change of the cross-entropy there; "
        f"{tokens:,} tokens. With one seed, intervals are over passages."
    )


def pivot(rows: Sequence[Row], across: Across) -> Table:
    """Scores with a row for each arm and a column for each task, number of training examples or model.

    Rows that differ in anything else are rows of their own.
    """
    names = list(dict.fromkeys(getattr(row, across) for row in rows))
    heads = {name: size_text(name) for name in names} if across == "train_size" else short_names(names)
    others = [name for name in ("task", "train_size", "model") if name != across]
    others = [name for name in others if len({getattr(row, name) for row in rows}) > 1]
    if across != "task" or len({row.metric for row in rows}) > 1:
        others.append("metric")
    lines: dict[tuple[Any, ...], dict[Any, Row]] = {}
    for row in rows:
        key = (_arm_text(row, with_settings=row.best_of == 1), *(getattr(row, name) for name in others))
        lines.setdefault(key, {})[getattr(row, across)] = row
    columns = ("arm", *(name.replace("train_size", "n train") for name in others), *(str(heads[n]) for n in names))
    short = {name: short_names(list(dict.fromkeys(getattr(row, name) for row in rows))) for name in ("task", "model")}

    def texts(key: tuple[Any, ...], found: Mapping[Any, Row]) -> tuple[str, ...]:
        labels = [short.get(name, {}).get(value, value) for name, value in zip(others, key[1:], strict=True)]
        entries = [_entry(found.get(name)) for name in names]
        return (key[0], *("" if label is None else str(label) for label in labels), *entries)

    items = sorted({row.items for row in rows if row.items})
    tested = " or ".join(f"{n:,}" for n in items) if len(items) < 4 else f"{items[0]:,} to {items[-1]:,}"
    notes = (
        "Each entry is a mean over seeds ± half of its 95 % interval (Student's t), or with one seed the 95 % interval "
        f"over test examples; then the number of seeds. Test examples: {tested or 'none yet'}.",
    )
    return Table(columns, tuple(texts(key, found) for key, found in lines.items()), notes)


def cells_table(grid: "Grid") -> Table:
    """Every cell with its state, its score or the reason why it failed."""
    states = grid.states()

    def texts(name: str) -> tuple[str, ...]:
        result = grid.result(name)
        scores = result["scores"] if result else []
        what = f"{scores[0]['metric']} {scores[0]['value']:.4f}, n = {scores[0]['n']:,}" if scores else ""
        return name, states[name], what or (grid.cell(name).failure() or "" if states[name] == "failed" else "")

    return Table(("cell", "state", "result"), tuple(map(texts, grid.planned)))


TABLES: dict[str, Callable[[Sequence[Row]], Table]] = {
    "results": results_table,
    "tasks": lambda rows: pivot(rows, "task"),
    "sizes": lambda rows: pivot(rows, "train_size"),
    "models": lambda rows: pivot(rows, "model"),
}
"""The tables of rows by their names in ``jola grid show``."""


def _arm_text(row: Row, *, with_settings: bool = True) -> str:
    name = row.arm if with_settings else row.method
    return name if row.best_of == 1 else f"{name} (best of {row.best_of})"


def score_text(row: Row) -> str:
    """``0.812 (0.771 to 0.853)``, or why there is no number."""
    if row.value is None:
        return "failed" if row.failed == row.planned else "no such metric" if row.seeds else "missing"
    if row.low is None or row.high is None:
        return f"{row.value:.4f}"
    return f"{row.value:.4f} ({row.low:.4f} to {row.high:.4f})"


def seeds_text(row: Row) -> str:
    """``3``; ``2 of 3, 1 failed`` when some are missing."""
    if row.seeds == row.planned:
        return str(row.seeds)
    return f"{row.seeds} of {row.planned}" + (f", {row.failed} failed" if row.failed else "")


def _entry(row: Row | None) -> str:
    if row is None:
        return ""
    if row.value is None:
        return f"{score_text(row)} ({seeds_text(row)})"
    if row.low is None or row.high is None:
        interval = ""
    elif row.interval == "seeds":
        interval = f" ± {row.high - row.value:.4f}"
    else:
        interval = f" [{row.low:.4f} to {row.high:.4f}]"
    return f"{row.value:.4f}{interval} ({seeds_text(row)})"


def side_effect_texts(row: Row) -> tuple[str, str]:
    """KL on plain text, and change of the cross-entropy there: ``0.0123 (0.0101 to 0.0150)``."""
    change = _estimate_text(row.text_change, row.text_change_low, row.text_change_high, "+")
    return _estimate_text(row.text_kl, row.text_kl_low, row.text_kl_high, ""), change


def _difference_text(row: Row) -> str:
    return _estimate_text(row.difference, row.difference_low, row.difference_high, "+")


def _estimate_text(value: float | None, low: float | None, high: float | None, sign: str) -> str:
    if value is None:
        return ""
    if low is None or high is None:
        return f"{value:{sign}.4f}"
    return f"{value:{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"


def _names_of(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    return [row.task for row in rows], [row.model for row in rows]


def size_text(size: int) -> str:
    """A number of training examples; ``all`` for 0."""
    return f"{size:,}" if size else "all"


def memory_text(size: int) -> str:
    """``1,240 MB``; below 10 MB with one digit more."""
    return f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
