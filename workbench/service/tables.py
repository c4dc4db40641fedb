"""The records of a run as CSV, for spreadsheets and other programs.

`jola.system.spreadsheet` makes texts that look like formulas inert. Values that are not trained or not measured are
empty cells.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jola.edits.names import HALVES, STATES
from jola.runs.history import Array, GateHistory
from jola.runs.run import Run
from jola.system.spreadsheet import csv_text

_CELLS = 200_000
"""Maximum number of cells of the gate table that are written at once."""


def gates_csv(run: Run, site: str, start: int = 0, stop: int | None = None) -> tuple[str, int | None]:
    """Return the recorded edits as a long table, one row per record, layer and unit, and the next record to read.

    A large history is returned in pieces, the first with the column names; None as the next record means the end.
    Raises `InputError` if the site was not recorded.
    """
    history = GateHistory.read(run.gates_dir, site, start, start + 1)
    names, units = history.unit_names, ("unit",) if history.unit_names is None else ("unit", "unit_name")
    fields, states = list(history.fields), ("state",) if history.has_gates else ()
    columns = ("run", "site", "step", "layer", *units, *fields, *states)
    rows: list[Sequence[Any]] = [] if start else [columns]
    if not len(history):
        return csv_text(rows), None
    size = history.fields[fields[0]][0].size * len(columns)
    count = max(1, _CELLS // size)
    end = start + count if stop is None else min(stop, start + count)
    history = GateHistory.read(run.gates_dir, site, start, end)
    for index, step in enumerate(history.steps.tolist()):
        values = {name: history.fields[name][index] for name in fields}
        for layer, unit in np.ndindex(values[fields[0]].shape):
            numbers = [_short(float(values[name][layer, unit])) for name in fields]
            place = (layer, unit) if names is None else (layer, unit, names[unit])
            rows.append([run.id, site, step, *place, *numbers, *(_state(values, layer, unit) for _ in states)])
    more = len(history) == count and (stop is None or end < stop)
    return csv_text(rows), end if more else None


def _state(values: Mapping[str, Array], layer: int, unit: int) -> str:
    """Return the state of a unit with gates."""
    offset, scale = (values[f"{half}_gate"][layer, unit] > 0 for half in HALVES)
    return STATES[int(offset) + 2 * int(scale)]


def metrics_csv(run: Run) -> str:
    """Return all metrics, one row per line of ``metrics.jsonl``, with the columns in order of appearance."""
    entries = run.metrics()
    columns = list(dict.fromkeys(name for entry in entries for name in entry))
    return csv_text([["run", *columns], *([run.id, *(entry.get(name) for name in columns)] for entry in entries)])


def _short(value: float) -> float:
    """Round to seven digits, the precision of the history."""
    return float(f"{value:.7g}")
