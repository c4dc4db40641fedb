"""How long the open cells of a grid take, at the pace of the cells that are done."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jola.studies.axes import PlannedCell
from jola.studies.grid import Grid
from jola.system.processes import machine


@dataclass(frozen=True)
class GridEstimate:
    """Time and memory of cells that are not done."""

    seconds: float
    """Of the cells that there is a pace for, one after the other."""
    known: int
    """Number of these cells."""
    cells: int
    """Number of all open cells."""
    memory: int | None
    """Bytes of the largest process so far; None before the first result."""


class Pace:
    """The time of cells by that of earlier ones on this computer, or on others while there are none here.

    The nearest earlier cells count: those that differ in the seed only, else those of the same arm and model, of the
    same method and model, or of the same model. Times are scaled by the number of examples that a cell trains on and
    tests.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        results = grid.results()
        here = {name: result for name, result in results.items() if result.get("machine") == machine()}
        self._numbers: dict[tuple[str, int], tuple[int, int]] = {}
        for name, result in results.items():
            cell, n_test = grid.planned[name], max((score["n"] for score in result["scores"]), default=0)
            self._numbers[cell.task, cell.train_size] = result["n_train"], n_test
        self._known: dict[tuple[Any, ...], list[float]] = {}
        for name, result in (here or results).items():
            cell = grid.planned[name]
            for key in self._keys(cell):
                self._known.setdefault(key, []).append(result["seconds"] / self._examples(cell))
        self._memory = max((result["peak_memory"] for result in results.values()), default=None)

    def seconds(self, name: str) -> float | None:
        """Expected time of a cell; None without a similar one."""
        cell = self._grid.planned[name]
        paces = next((self._known[key] for key in self._keys(cell) if key in self._known), None)
        return sum(paces) / len(paces) * self._examples(cell) if paces else None

    def estimate(self, names: Iterable[str]) -> GridEstimate:
        """Expected time and memory of cells."""
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
        """Examples that a cell trains on, with repetition, and tests: those there are, or that were asked for."""
        settings = self._grid.arms[cell.arm].settings
        asked = cell.train_size, settings["data"]["test_size"]
        n_train, n_test = self._numbers.get((cell.task, cell.train_size), asked)
        return max(1.0, n_train * settings["training"]["epochs"] + n_test)
