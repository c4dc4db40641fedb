"""The results of a study for the Studies tab: the tables of `jola grid show`, and figures."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jola.studies.axes import short_names
from jola.studies.formats import csv
from jola.studies.methods import compared, methods_table
from jola.studies.rows import Row
from jola.studies.tables import TABLES, Table, cells_table
from jola.system.spreadsheet import csv_text
from workbench.figures import studies as draw
from workbench.figures.style import Figure
from workbench.service.stored_study import StoredStudy
from workbench.ui import markup
from workbench.ui.view_tools import tools_value

if TYPE_CHECKING:
    from jola.studies.grid import Grid

_LISTED = 300
"""Maximum number of rows of a table on the page; the CSV file has all."""
_KEPT = 8


@dataclass(frozen=True)
class Drawn:
    """A figure, and the data of its tools (CSV and code)."""

    figure: Figure
    tools: str


class Results:
    """The rows of a study at one moment."""

    def __init__(self, study: StoredStudy, metric: str, *, best: bool) -> None:
        self.grid: Grid = study.grid()
        self.rows: list[Row] = self.grid.rows(metric, best=best)
        self.metric, self.best = metric, best
        found = [score["metric"] for result in self.grid.results().values() for score in result["scores"]]
        self.metrics = list(dict.fromkeys(found))
        """Names of the metrics in the results."""

    def tasks(self) -> list[tuple[str, str]]:
        """Return (short name, task) of every task."""
        names = short_names(list(dict.fromkeys(row.task for row in self.rows)))
        return [(short, name) for name, short in names.items()]

    def models(self) -> list[tuple[str, str]]:
        """Return (short name, model) of every model."""
        names = short_names(list(dict.fromkeys(row.model for row in self.rows)))
        return [(short, name) for name, short in names.items()]

    def sizes(self) -> list[str]:
        """Return the numbers of training examples as texts, ascending; 0 means all and is last."""
        sizes = {row.train_size for row in self.rows}
        return [str(size) for size in sorted(sizes, key=lambda size: size or float("inf"))]

    def code(self, *lines: str) -> str:
        """Return Python code that reads the study and creates the view again."""
        options = [f"{self.metric!r}"] if self.metric else []
        options += ["best=True"] if self.best else []
        opened = [f"grid = Grid.open({str(self.grid.folder)!r})", f"rows = grid.rows({', '.join(options)})"]
        imports = [line for line in lines if line.startswith(("from ", "import "))]
        rest = [line for line in lines if line not in imports]
        return "\n".join(["from jola.studies.grid import Grid", *imports, "", *opened, *rest, ""])


_cache: dict[tuple[str, str, str, bool], Results] = {}


def results_of(study: StoredStudy, metric: str = "", *, best: bool = False) -> Results:
    """Return the results, cached until they change. Raises `InputError` if the grid is damaged."""
    key = study.id, study.mark(), metric, best
    if key not in _cache:
        made = Results(study, metric, best=best)
        while len(_cache) >= _KEPT:
            _cache.pop(next(iter(_cache)), None)
        _cache[key] = made
    return _cache[key]


# Tables


def table_view(results: Results, name: str) -> tuple[str, str]:
    """Return (table as HTML, data of its tools); ``name`` is one of `TABLES`, ``methods`` or ``cells``."""
    if name == "cells":
        made = cells_table(results.grid)
    elif name == "methods":
        made = methods_table(compared(results.grid, results.metric))
    else:
        made = TABLES[name](results.rows)
    if name == "results":
        names = [field.name for field in dataclasses.fields(Row)]
        text = csv_text([names, *(dataclasses.astuple(row) for row in results.rows)])
    else:
        text = csv(made)
    options = f"grid, {results.metric!r}" if results.metric else "grid"
    module, call = {
        "cells": ("jola.studies.tables import cells_table", "cells_table(grid)"),
        "methods": ("jola.studies.methods import compared, methods_table", f"methods_table(compared({options}))"),
    }.get(name, ("jola.studies.tables import TABLES", f"TABLES[{name!r}](rows)"))
    code = results.code("from jola.studies.formats import markdown", f"from {module}", f"print(markdown({call}))")
    return html_table(made, name), tools_value(f"study-{name}", text, code)


def html_table(table: Table, name: str) -> str:
    """Return a table for the page, with only its first rows if there are many."""
    if not table.rows:
        return markup.note("The study has no cells.")
    head = "".join(f'<th scope="col">{markup.escape(column)}</th>' for column in table.columns)
    body = "".join(
        "<tr>" + "".join(_entry(text, number == 0) for number, text in enumerate(row)) + "</tr>"
        for row in table.rows[:_LISTED]
    )
    notes = [*table.notes]
    if len(table.rows) > _LISTED:
        notes.insert(0, f"The first {_LISTED} of {len(table.rows):,} rows; the CSV file has all.")
    below = "".join(f'<p class="jw-foot">{markup.escape(note)}</p>' for note in notes)
    return (
        f'<div class="sv-table-box" tabindex="0" role="region" aria-label="Table: {markup.escape(name)}">'
        f'<table class="sv-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{below}'
    )


def _entry(text: str, heading: bool) -> str:
    return f'<th scope="row">{markup.escape(text)}</th>' if heading else f"<td>{markup.escape(text)}</td>"


# Figures


def sizes_view(results: Results, task: str, model: str, *, dark: bool) -> Drawn:
    """Draw the scores of one task and model against the number of training examples."""
    rows = [row for row in results.rows if (row.task, row.model) == (task, model)]
    code = results.code(
        "from workbench.figures import studies as draw",
        f"rows = [row for row in rows if (row.task, row.model) == ({task!r}, {model!r})]",
        "draw.data_size_curves(rows).show()",
    )
    return Drawn(draw.data_size_curves(rows, dark=dark), tools_value("data-size", _rows_csv(rows), code))


def pareto_view(results: Results, task: str, model: str, size: int, cost: str, *, dark: bool) -> Drawn:
    """Draw the scores of one task, model and number of training examples against a cost."""
    rows = [row for row in results.rows if (row.task, row.model, row.train_size) == (task, model, size)]
    code = results.code(
        "from workbench.figures import studies as draw",
        f"rows = [row for row in rows if (row.task, row.model, row.train_size) == ({task!r}, {model!r}, {size})]",
        f"draw.pareto(rows, {cost!r}).show()",
    )
    return Drawn(draw.pareto(rows, cost, dark=dark), tools_value(f"pareto-{cost}", _rows_csv(rows), code))


def _rows_csv(rows: Sequence[Row]) -> str:
    names = [field.name for field in dataclasses.fields(Row)]
    return csv_text([names, *(dataclasses.astuple(row) for row in rows)])
