"""The cells of a study as a matrix: a row for each arm, size and model, a column for each task and seed."""

from collections.abc import Mapping
from typing import Any

from jola.data.assets import ASSETS, DEFAULT_MODEL
from jola.studies.axes import short_names
from jola.studies.cells import CellState
from jola.studies.grid import Grid
from jola.studies.tables import size_text
from jola.system.formatting import duration_text, interval_text, score_text, score_title
from workbench.service.processes import log_tail
from workbench.service.stored_study import StoredStudy

CODES: Mapping[CellState, str] = {"done": "d", "failed": "f", "running": "r", "interrupted": "i", "open": "o"}
"""One character for each state."""
NO_CELL = "-"
"""Code of a place without a cell: an arm that trains nothing has only one cell for each task and model."""
_STEPS = {"starting": "loading", "evaluating": "testing"}


class Matrix:
    """The place of each cell of a grid."""

    def __init__(self, grid: Grid) -> None:
        order = _order(grid)
        cells = grid.planned.values()
        rows = {(cell.arm, cell.train_size, cell.model): None for cell in cells}
        self._rows = sorted(
            rows, key=lambda row: (order["models"][row[2]], order["arms"][row[0]], row[1] or float("inf"))
        )
        columns = {(cell.task, cell.seed): None for cell in cells}
        self._columns = sorted(columns, key=lambda column: (order["tasks"][column[0]], order["seeds"][column[1]]))
        at_row = {row: number for number, row in enumerate(self._rows)}
        at_column = {column: number for number, column in enumerate(self._columns)}
        self.names: dict[tuple[int, int], str] = {}
        """Names of cells by row and column."""
        self.places: dict[str, tuple[int, int]] = {}
        """Row and column of each cell."""
        for name, cell in grid.planned.items():
            place = at_row[cell.arm, cell.train_size, cell.model], at_column[cell.task, cell.seed]
            self.names[place], self.places[name] = name, place

    def labels(self) -> dict[str, Any]:
        """Return the labels on the page: ``rows``, each a text, and ``columns``, each a task and a seed."""
        sizes = {size for _, size, _ in self._rows}
        models = list(dict.fromkeys(model for *_, model in self._rows))
        model_names = short_names(models) | {"default": ASSETS[DEFAULT_MODEL].title}
        tasks = short_names(list(dict.fromkeys(task for task, _ in self._columns)))

        def words(arm: str, size: int, model: str) -> str:
            of_size = [f"n {size:,}" if size else "all"] if len(sizes) > 1 else []
            return " · ".join([arm, *of_size, *([model_names[model]] if len(models) > 1 else [])])

        return {
            "rows": [words(*row) for row in self._rows],
            "columns": [[tasks[task], str(seed)] for task, seed in self._columns],
        }

    def codes(self, states: Mapping[str, CellState]) -> str:
        """Return one character for each place, row by row: one of `CODES`, or `NO_CELL`."""
        width = len(self._columns)
        found = [NO_CELL] * (width * len(self._rows))
        for (row, column), name in self.names.items():
            found[row * width + column] = CODES[states[name]]
        return "".join(found)


def _order(grid: Grid) -> dict[str, dict[Any, int]]:
    """Return the rank of every value on each axis, over all plans."""
    found: dict[str, dict[Any, int]] = {}
    for axis in ("arms", "tasks", "seeds", "models"):
        values = dict.fromkeys(value for plan in grid.plans for value in plan[axis])
        found[axis] = {value: number for number, value in enumerate(values)}
    return found


def cell_facts(study: StoredStudy, name: str) -> dict[str, Any]:
    """Return the details of one cell for the page: its coordinates, its state, and its result or failure."""
    grid = study.grid()
    cell, folder = grid.planned[name], grid.cell(name)
    state, result = grid.state_of(name), grid.result(name)
    run = study.run_of(name)
    model = ASSETS[DEFAULT_MODEL].title if cell.model == "default" else cell.model
    facts = [("Task", cell.task), ("Model", model)]
    if grid.arms[cell.arm].trains:
        facts[1:1] = [
            ("Training examples", size_text(cell.train_size)),
            ("Seed", str(cell.seed)),
        ]
    if result is not None:
        facts += [(score_title(score), score_text(score)) for score in result["scores"]]
        facts += _costs(result)
    return {
        "name": name,
        "arm": cell.arm,
        "state": state,
        "facts": [list(fact) for fact in facts],
        "step": step_words(run.status()) if run is not None and state == "running" else "",
        "failure": (folder.failure() or "") if state == "failed" else "",
        "log": log_tail(folder) if state in ("failed", "interrupted") else "",
        "run": run.id if run is not None else "",
        "edits": run is not None and run.has_adapter,
    }


def _costs(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if found := result.get("side_effects"):
        kl = found["kl"]
        interval = interval_text(kl["value"], kl.get("low"), kl.get("high"))
        facts.append(("KL on plain text", f"{interval} nats per token, n = {found['tokens']:,} tokens"))
    if result.get("validation") is not None:
        facts.append(("Validation cross-entropy", f"{result['validation']:.3f} nats"))
    return [
        *facts,
        ("Trained parameters", f"{result['trainable']:,}"),
        ("Time", duration_text(result["seconds"])),
        ("Peak memory", f"{result['peak_memory'] / 1e6:,.0f} MB"),
        ("Adapter", f"{result['adapter_bytes'] / 1e3:,.0f} kB"),
    ]


def step_words(status: Mapping[str, Any]) -> str:
    """Return ``step 12 of 400``, or the phase before or after training."""
    return _STEPS.get(status["state"]) or f"step {status['step']:,} of {status['total_steps']:,}"
