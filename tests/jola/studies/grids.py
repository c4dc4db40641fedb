"""Small grids for tests: a tiny model, tiny tasks, and results without training runs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jola.studies.axes import PlannedCell, checked_axes, expand_arms
from jola.studies.grid import Grid
from tests.jola.cli.commands import lines

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "model": {"dtype": "float32", "device": "cpu"},
    "data": {"validation_size": 4, "test_size": 6},
    "training": {"epochs": 3, "learning_rate": None, "patience": 0, "warmup_ratio": 0.0},
}


def make_task(folder: Path, start: int = 0) -> str:
    """Create a folder with 12 training, 4 validation and 6 test examples."""
    folder.mkdir()
    for part, first, count in (("train", 0, 12), ("validation", 12, 4), ("test", 16, 6)):
        (folder / f"{part}.jsonl").write_text(lines(start + first, count))
    return str(folder)


def plan(
    folder: Path,
    tasks: list[str],
    arms: list[str],
    seeds: list[int],
    *,
    sizes: tuple[int, ...] = (8,),
    models: tuple[str, ...] = ("default",),
    settings: Mapping[str, Mapping[str, Any]] = SETTINGS,
) -> Grid:
    """Plan a grid."""
    made = expand_arms(arms, settings)
    return Grid.plan(folder, checked_axes(made, tasks, sizes, seeds, models), made, settings, {})


def fill(grid: Grid, value: Callable[[PlannedCell], float | None], **more: Any) -> None:
    """Write a result with this score for every cell, unless the score is None."""
    for cell in grid.planned.values():
        score = value(cell)
        if score is not None:
            grid.cell(cell.name).write_result(result(score, **more))


def result(score: float, **more: Any) -> dict[str, Any]:
    """Return the result of a cell."""
    return {
        "scores": [{"metric": "exact_match", "value": score, "n": 100, "low": score - 0.1, "high": score + 0.1}],
        "validation": 0.5,
        "trainable": 216,
        "frozen": 1000,
        "seconds": 60.0,
        "sessions": 1,
        "peak_memory": 10**9,
        "adapter_bytes": 1216,
        "n_train": 8,
        "test_examples": "same",
    } | more
