"""`export_grid`: write the plan and the results of a grid to a zip file, without adapters and without paths."""

import dataclasses
import io
import os
import zipfile
from pathlib import Path
from typing import Any

from jola.errors import InputError
from jola.studies.axes import short_hash, short_names
from jola.studies.formats import markdown
from jola.studies.grid import Grid
from jola.studies.rows import Row, rows_of
from jola.studies.tables import results_table
from jola.system.files import json_bytes, replace_file
from jola.system.spreadsheet import csv_text

_CELL = ("train_size", "seed")
_SCORE = ("metric", "value", "n", "low", "high", "signature")
_RESULT = (
    "validation",
    "validation_accuracy",
    "trainable",
    "frozen",
    "steps",
    "n_train",
    "seconds",
    "sessions",
    "peak_memory",
    "adapter_bytes",
)
CELL_COLUMNS = ("cell", "state", "arm", "method", "task", "model", *_CELL, *_SCORE, *_RESULT, "message")
"""Columns of ``cells.csv``, which has a row for each cell and metric."""


def export_grid(grid: Grid, file: Path | str) -> Path:
    """Write a zip file with ``grid.json``, ``cells.csv``, ``results.csv`` and ``results.md``.

    Paths of tasks and models are reduced to their last parts.

    Raises:
        InputError: The file exists, or its name does not end in ``.zip``.
    """
    path = Path(file)
    if path.suffix != ".zip":
        raise InputError(f"{path} is not the name of a zip file; give one that ends in .zip.")
    if path.exists():
        raise InputError(f"{path} already exists; choose another name.")
    names = _public_names([name for cell in grid.planned.values() for name in (cell.task, cell.model)])
    rows = [dataclasses.replace(row, task=names[row.task], model=names[row.model]) for row in rows_of(grid)]
    fields = [field.name for field in dataclasses.fields(Row)]
    content = {
        "grid.json": json_bytes(_plan(grid, names), indent=2),
        "cells.csv": csv_text([CELL_COLUMNS, *_cells(grid, names)]).encode(),
        "results.csv": csv_text([fields, *(dataclasses.astuple(row) for row in rows)]).encode(),
        "results.md": markdown(results_table(rows)).encode(),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    replace_file(path, buffer.getvalue())
    return path


def _public_names(names: list[str]) -> dict[str, str]:
    """Return the names without the folders of this computer; a few digits distinguish names that become equal."""
    short = short_names(list(dict.fromkeys(names)))
    private = {name for name in short if os.path.isabs(name)}
    return {
        name: f"{Path(name).name}-{short_hash(name)}" if name in private and text == name else text
        for name, text in short.items()
    } | {name: name for name in short if name not in private}


def _plan(grid: Grid, names: dict[str, str]) -> dict[str, Any]:
    """Return the content of ``grid.json`` with public names and without paths."""
    plans = [
        {**plan, **{axis: [names[name] for name in plan[axis]] for axis in ("tasks", "models")}} for plan in grid.plans
    ]
    return {**_without_folders(grid.content), "plans": plans}


def _without_folders(value: Any) -> Any:
    """Return JSON values in which absolute paths, such as that of a device map, are reduced to their last parts."""
    if isinstance(value, dict):
        return {name: _without_folders(each) for name, each in value.items()}
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def _cells(grid: Grid, names: dict[str, str]) -> list[list[Any]]:
    rows = []
    for name, state in grid.states().items():
        cell, result = grid.planned[name], grid.result(name) or {}
        own = [name, state, cell.arm, grid.arms[cell.arm].method, names[cell.task], names[cell.model]]
        own += [getattr(cell, column) for column in _CELL]
        message = (grid.cell(name).failure() or "").replace(cell.task, names[cell.task]) if state == "failed" else ""
        message = message.replace(cell.model, names[cell.model]).replace(str(grid.folder), grid.folder.name)
        message = message.replace(str(Path.home()), "~")
        for score in result.get("scores") or [{}]:
            numbers = [*(score.get(column) for column in _SCORE), *(result.get(column) for column in _RESULT)]
            rows.append([*own, *numbers, message])
    return rows
