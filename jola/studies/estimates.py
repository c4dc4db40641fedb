"""Estimate how long the open cells of a grid take, from the times of cells that are done."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jola.studies.axes import PlannedCell
from jola.studies.grid import Grid
from jola.system.processes import machine


@dataclass(frozen=True)
class GridEstimate:
    """Expected time and memory of cells that are not done."""

    seconds: float
    """Total time of the cells that have an estimate, run one after the other."""
    known: int
    """Number of these cells."""
    cells: int
    """Number of all open cells."""
    memory: int | None
    """Bytes of the largest process so far; None before the first result."""


class Pace:
    """Estimates the time of cells from earlier cells on this computer, or on others if there are none here.

    The most similar earlier cells are used: those that differ only in the seed, else those of the same arm and model,
    of the same method and model, or of the same model. Times are scaled by the number of examples that a cell trains on
    and tests.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        results = grid.results()
        here = {name: result for name, result in results.items() if result.get("machine") == machine()}
        self._n_train: dict[tuple[str, int], int] = {}
        self._n_test: dict[str, int] = {}
        for name, result in results.items():
            cell = grid.planned[name]
            self._n_test[cell.task] = max((score["n"] for score in result["scores"]), default=0)
            if grid.arms[cell.arm].trains:
                self._n_train[cell.task, cell.train_size] = result["n_train"]
        self._known: dict[tuple[Any, ...], list[float]] = {}
        for name, result in (here or results).items():
            cell = grid.planned[name]
            for key in self._keys(cell):
                self._known.setdefault(key, []).append(result["seconds"] / self._examples(cell))
        self._memory = max((result["peak_memory"] for result in results.values()), default=None)

    def seconds(self, name: str) -> float | None:
        """Return the expected time of a cell, in seconds; None without a similar one."""
        cell = self._grid.planned[name]
        paces = next((self._known[key] for key in self._keys(cell) if key in self._known), None)
        return sum(paces) / len(paces) * self._examples(cell) if paces else None

    def estimate(self, names: Iterable[str]) -> GridEstimate:
        """Return the expected time and memory of cells."""
        times = [self.seconds(name) for name in names]
        known = [seconds for seconds in times if seconds is not None]
        return GridEstimate(sum(known), len(known), len(times), self._memory)

    def _keys(self, cell: PlannedCell) -> list[tuple[Any, ...]]:
        return [
            (cell.arm, cell.task, cell.train_size, cell.model),
            (cell.arm, cell.model),
            (self._grid.arms[cell.arm].method, cell.model),
            (cell.model,),
        ]

    def _examples(self, cell: PlannedCell) -> float:
        """Return the number of examples that a cell trains on, with repetition, and tests; as planned if unknown."""
        arm = self._grid.arms[cell.arm]
        n_train = self._n_train.get((cell.task, cell.train_size), cell.train_size) if arm.trains else 0
        n_test = self._n_test.get(cell.task, arm.settings["data"]["test_size"])
        return max(1.0, n_train * arm.settings["training"]["epochs"] + n_test)
