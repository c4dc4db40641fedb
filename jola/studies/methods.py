"""Compare methods with equally many tries, as grids, and compute Pareto fronts of their results; needs no PyTorch.

Published learning rates do not suit every model, and a method that was tuned more than another looks better than it is.
Here each method is tried with the same number of rates around its own default η, or around that of its recipe,

    η · s^k    with k = −⌊n/2⌋, …, n − 1 − ⌊n/2⌋, for n tries with the spacing s

and validation chooses among them: the highest accuracy, averaged over seeds, then the lowest cross-entropy. A method
without a learning rate has one try: RePE chooses layers and coefficient by validation itself, and zero-shot has nothing
to choose.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jola.errors import InputError
from jola.methods import METHODS, method_named
from jola.recipes import RECIPES
from jola.studies.axes import RATE, RECIPE, Arm, PlannedCell, changes_of, checked_axes, expand_arms, short_names
from jola.studies.grid import Grid, Settings
from jola.studies.pareto import pareto_front
from jola.studies.rows import Row
from jola.studies.tables import (
    SEEDS_NOTE,
    Table,
    memory_text,
    number_text,
    score_text,
    seeds_text,
    side_effect_texts,
    size_text,
    text_note,
)

TRIES, SPACING = 3, 3.0
MOST_TRIES = 9
COSTS = ("trainable", "adapter_bytes", "seconds", "peak_memory", "text_kl")
"""Fields of a `Row` whose Pareto fronts against the score are computed; lower is better."""


def tried_rates(default: float, tries: int = TRIES, spacing: float = SPACING) -> tuple[float, ...]:
    """Return learning rates around a default one, including it, in ascending order, rounded to three digits.

    Raises:
        InputError: The number of tries is not from 1 to 9, or the spacing is not above 1 and at most 100.
    """
    if not 1 <= tries <= MOST_TRIES:
        raise InputError(f"--tries is {tries}; it must be from 1 to {MOST_TRIES}.")
    if not 1 < spacing <= 100:
        raise InputError(f"--spacing is {spacing:g}; it must be above 1 and at most 100.")
    return tuple(float(f"{default * spacing**k:.3g}") for k in range(-(tries // 2), tries - tries // 2))


def arms_with_tries(methods: Iterable[str], tries: int = TRIES, spacing: float = SPACING) -> tuple[str, ...]:
    """Return arms for `jola.studies.axes.expand_arms`: each method, with or without settings, with its learning rates.

    Raises:
        InputError: There is no such method, or its settings include a learning rate.
    """
    return tuple(arm for text in methods for arm in _with_tries(text, tries, spacing))


def _with_tries(text: str, tries: int, spacing: float) -> Iterator[str]:
    default = method_named(text.partition(":")[0]).learning_rate
    changes = changes_of(text)
    if RATE in changes:
        raise InputError(
            f"--methods has {text!r}, but the comparison tries learning rates around the default of each method; leave "
            "the rate out, or plan a grid of your own with `jola grid plan`."
        )
    # Each recipe has its own rate.
    given = changes.get(RECIPE, "")
    for name in given.split("/"):
        own = text.replace(f"{RECIPE}={given}", f"{RECIPE}={name}")
        rates = tried_rates(RECIPES.get(name, {}).get(RATE, default) or 1.0, tries, spacing)
        yield f"{own}:{RATE}={'/'.join(f'{rate:g}' for rate in rates)}" if default else own


def plan_comparison(
    folder: Path | str,
    methods: Iterable[str],
    tasks: Iterable[str],
    seeds: Iterable[int] = (42,),
    *,
    tries: int = TRIES,
    spacing: float = SPACING,
    train_sizes: Iterable[int] = (200,),
    models: Iterable[str] = ("default",),
    settings: Settings | None = None,
    neutral: Mapping[str, Any] | None = None,
) -> Grid:
    """Create a grid that compares methods in a folder, or add to the grid that is there.

    Args:
        folder: Folder of the grid.
        methods: Methods, with settings as in ``lora:rank=4``.
        tasks: Tasks or groups, see `jola.studies.axes.checked_axes`.
        tries, spacing: Learning rates of each method, see `tried_rates`.
        settings: Settings of all cells that differ from the defaults, by group: ``{"training": {"epochs": 4}}``.
        neutral: Settings of the training that do not change results.

    Raises:
        InputError: A method, task or setting is not valid, or the folder contains something else.
    """
    given = settings or {}
    shared = {**given, "training": {**given.get("training", {}), RATE: None}}
    arms = expand_arms(arms_with_tries(methods, tries, spacing), shared)
    return Grid.plan(folder, checked_axes(arms, tasks, train_sizes, seeds, models), arms, shared, neutral or {})


def variant(arm: Arm) -> str:
    """Return the label of an arm without its learning rate; arms of the same variant are tries of one method."""
    return ":".join(part for part in arm.label.split(":") if not part.startswith(f"{RATE}="))


@dataclass(frozen=True)
class Compared:
    """A method with the learning rate that validation chose, on one task, compared with the others there."""

    name: str
    """Method with its settings, without the rate: ``lora:rank=4``."""
    row: Row
    rate: float | None
    """The chosen learning rate; None for a method without one, and before there is a result."""
    tried: tuple[float, ...]
    """The rates that it was chosen from."""
    pareto: Mapping[str, bool]
    """Whether it is on the front of the score against each of `COSTS`, among the methods on this task."""
    layer_changes: tuple[float, ...] | None
    """Relative change of the residual stream after each layer, mean over seeds; see `jola.insight.layer_changes`."""

    @property
    def edge(self) -> str:
        """'lowest' or 'highest' if the chosen rate is at the end of those tried, so the best one may be outside."""
        if self.rate is None or len(self.tried) < 2:
            return ""
        return {self.tried[0]: "lowest", self.tried[-1]: "highest"}.get(self.rate, "")

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "row"}
        return {**own, "edge": self.edge, **dataclasses.asdict(self.row)}


def compared(grid: Grid, metric: str = "") -> list[Compared]:
    """Return one result for each method with its settings, task, number of training examples and model of a grid.

    Args:
        grid: Any grid; arms that differ only in the learning rate are tries of one method.
        metric: Name of a metric; by default the first one of each task.

    Raises:
        InputError: No result has this metric.
    """
    rows = grid.rows(metric, best=variant)
    tried: dict[tuple[str, int, str, str], set[float]] = {}
    for cell in grid.planned.values():
        arm = grid.arms[cell.arm]
        tried.setdefault((cell.task, cell.train_size, cell.model, variant(arm)), set()).add(_rate(arm))
    fronts = _fronts(rows)
    results = grid.results()
    found = []
    for number, row in enumerate(rows):
        arm = grid.arms[row.arm]
        has_rate = METHODS[row.method].learning_rate is not None
        found.append(
            Compared(
                name=variant(arm),
                row=row,
                rate=_rate(arm) if has_rate and row.seeds else None,
                tried=tuple(sorted(tried[row.task, row.train_size, row.model, variant(arm)])) if has_rate else (),
                pareto={cost: front[number] for cost, front in fronts.items()},
                layer_changes=_layer_changes(row, grid.planned, results),
            )
        )
    return found


def _rate(arm: Arm) -> float:
    return float(arm.settings["training"].get(RATE) or METHODS[arm.method].learning_rate or 0.0)


def _fronts(rows: Sequence[Row]) -> dict[str, list[bool]]:
    """Return whether each row is on the front of each cost, among the rows of the same task, size and model."""
    groups: dict[tuple[str, int, str], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault((row.task, row.train_size, row.model), []).append(number)
    fronts = {cost: [False] * len(rows) for cost in COSTS}
    for numbers in groups.values():
        for cost, front in fronts.items():
            points = [(_cost(rows[n], cost), _known(rows[n].value)) for n in numbers]
            for number, on in zip(numbers, pareto_front(points), strict=True):
                front[number] = on
    return fronts


def _cost(row: Row, name: str) -> float:
    # Side effects are measured against the base model.
    if name == "text_kl" and not METHODS[row.method].trains:
        return 0.0
    return _known(getattr(row, name))


def _known(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _layer_changes(
    row: Row, planned: Mapping[str, PlannedCell], results: Mapping[str, Mapping[str, Any]]
) -> tuple[float, ...] | None:
    place = row.arm, row.task, row.train_size, row.model
    found = [
        changes["change"]
        for name, cell in planned.items()
        if (cell.arm, cell.task, cell.train_size, cell.model) == place
        if (changes := results.get(name, {}).get("layer_changes"))
    ]
    return tuple(np.mean(found, axis=0).tolist()) if found else None


def comparison_dict(grid: Grid, found: Sequence[Compared]) -> dict[str, Any]:
    """Return a comparison for JSON: folder and state of the grid, its methods, and the fronts of each task by cost."""
    fronts = {
        cost: [{"method": each.name, "task": each.row.task} for each in found if each.pareto[cost]] for cost in COSTS
    }
    methods = [each.to_dict() for each in found]
    return {"folder": str(grid.folder), **dataclasses.asdict(grid.state()), "methods": methods, "fronts": fronts}


def check_metric(grid: Grid, metric: str) -> None:
    """Raise `InputError` if no task of a grid has this metric."""
    from jola.data.tasks.info import DEFAULT_METRICS
    from jola.data.tasks.registry import REGISTRY

    infos = [REGISTRY.get(task) for task in dict.fromkeys(cell.task for cell in grid.planned.values())]
    known = list(dict.fromkeys(name for info in infos for name in (info.metrics if info else DEFAULT_METRICS)))
    if metric and metric not in known:
        raise InputError(f"No task of the comparison has the metric {metric!r}; they have {', '.join(known)}.")


def methods_table(found: Sequence[Compared]) -> Table:
    """Return a table of methods: chosen rate, score, costs, side effects, and whether they are on the front."""
    rows = [each.row for each in found]
    tasks, models = (short_names(list(dict.fromkeys(getattr(row, name) for row in rows))) for name in ("task", "model"))
    sizes = {row.train_size for row in rows}
    with_text = any(row.text_kl is not None for row in rows)
    columns = ["method", *(["task"] if len(tasks) > 1 else []), *(["n train"] if len(sizes) > 1 else [])]
    columns += [*(["model"] if len(models) > 1 else []), "rate", "metric", "score", "seeds", "n test"]
    columns += ["trained", "adapter", "time", "memory", *(["KL on text", "nats on text"] if with_text else [])]

    def texts(each: Compared) -> tuple[str, ...]:
        row = each.row
        values = [each.name, *([tasks[row.task]] if len(tasks) > 1 else [])]
        values += [size_text(row.train_size)] if len(sizes) > 1 else []
        values += [models[row.model]] if len(models) > 1 else []
        values += [_rate_text(each), row.metric or "", score_text(row), seeds_text(row)]
        values += [number_text(row.items, "{:,}"), number_text(row.trainable, "{:,}"), memory_text(row.adapter_bytes)]
        values += [number_text(row.seconds, "{:.0f} s"), memory_text(row.peak_memory)]
        values += side_effect_texts(row) if with_text else ()
        return (*values, "yes" if each.pareto["trainable"] else "")

    notes = (
        SEEDS_NOTE,
        "Rate: learning rate with the highest validation accuracy among those tried, on average over seeds, and the "
        "lowest cross-entropy among equals or if there is no accuracy; test scores are not used. If it is the "
        "lowest or the highest, the best rate may be outside the range that was tried.",
        "Front: no other method of the task has an equal or higher score with as many or fewer trainable parameters, "
        "and is better in one of the two.",
        *([text_note(rows)] if with_text else []),
    )
    return Table((*columns, "front"), tuple(map(texts, found)), notes)


def _rate_text(each: Compared) -> str:
    if each.rate is None:
        return ""
    of = f" ({each.edge} of {len(each.tried)})" if each.edge else f" (of {len(each.tried)})"
    return f"{each.rate:g}" + (of if len(each.tried) > 1 else "")
