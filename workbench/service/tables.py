"""What a run recorded as CSV, for spreadsheets and other programs.

A text that a spreadsheet would take for a formula gets an apostrophe in front, which makes it a text again (OWASP, "CSV
injection"). Numbers stay numbers; what is not trained, or was not measured, is an empty cell.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jola.edits.names import STATES
from jola.runs.history import GATE_FIELDS, GateHistory
from jola.runs.run import Run

_CELLS = 200_000
"""Cells of the gate table that are written in one go."""


# Characters that start a formula in spreadsheets; the last four are full-width forms.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def inert(value: Any) -> Any:
    """The value; a text that a spreadsheet would evaluate as a formula is prefixed with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value


def cell(value: Any) -> Any:
    """A value for a spreadsheet: a text that would be a formula is made a text again, what is no number is empty."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return ""
    return inert(value)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as the text of a CSV file."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    return buffer.getvalue()


GATE_COLUMNS = ("run", "site", "step", "layer", "unit", *GATE_FIELDS, "state")


def gates_csv(run: Run, site: str, start: int = 0, stop: int | None = None) -> tuple[str, int | None]:
    """The gates as a long table, a row for each record, layer and unit, and the record to go on with.

    A large history comes in pieces, the first with the names of the columns; None is the end. `InputError` when the
    site was not recorded.
    """
    rows: list[Sequence[Any]] = [] if start else [GATE_COLUMNS]
    history = GateHistory.read(run.gates_dir, site, start, start + 1)
    if not len(history):
        return csv_text(rows), None
    size = history.fields[GATE_FIELDS[0]][0].size * len(GATE_COLUMNS)
    count = max(1, _CELLS // size)
    end = start + count if stop is None else min(stop, start + count)
    history = GateHistory.read(run.gates_dir, site, start, end)
    for index, step in enumerate(history.steps.tolist()):
        values = {name: history.fields[name][index] for name in GATE_FIELDS}
        states = (values["offset_gate"] > 0) + 2 * (values["scale_gate"] > 0)
        for layer, unit in np.ndindex(states.shape):
            numbers = [_short(float(values[name][layer, unit])) for name in GATE_FIELDS]
            rows.append([run.id, site, step, layer, unit, *numbers, STATES[int(states[layer, unit])]])
    more = len(history) == count and (stop is None or end < stop)
    return csv_text(rows), end if more else None


def metrics_csv(run: Run) -> str:
    """Every number of every step, one row a line of ``metrics.jsonl``; columns in the order in which they appear."""
    entries = run.metrics()
    columns = list(dict.fromkeys(name for entry in entries for name in entry))
    return csv_text([["run", *columns], *([run.id, *(entry.get(name) for name in columns)] for entry in entries)])


def _short(value: float) -> float:
    """Seven digits, as many as the history holds."""
    return float(f"{value:.7g}")
