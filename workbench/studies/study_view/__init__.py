"""The list of studies and the selected one: its cells as a matrix, its progress, one cell, and its actions.

`workbench.studies.tab` handles the events of this component.
"""

import asyncio
import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import anyio.to_thread
import gradio as gr

from jola.errors import InputError
from jola.studies.grid import Grid
from jola.system.formatting import duration_text
from workbench.service.processes import log_tail
from workbench.service.stored_study import StoredStudy, StudyProgress
from workbench.service.studies import Studies
from workbench.service.study_matrix import Matrix, cell_facts, step_words
from workbench.ui import work_list
from workbench.ui.server_functions import takes

_HERE = Path(__file__).parent
_LOG = logging.getLogger(__name__)

EVENTS = (
    "answers", "choose", "more", "openfolder", "playground", "redraw", "remove", "restore", "resumework", "retry",
    "small", "stopwork", "train",
)  # fmt: skip
"""Events of the component. ``answers``, ``playground`` and ``train`` have the id of the run of a cell, ``retry`` the
name of a cell, ``openfolder`` a path, ``choose`` and ``restore`` the id of a study."""

HOLD_SECONDS = 2.0
"""A request without news is answered after this time; longer waits would delay the shutdown of the server."""
_LOOK_SECONDS = 0.7
_AT_REST_SECONDS = 5.0
"""A study that is not running in the app is read again after this time, because it may be running in a shell."""
_REST = 4
"""A large study is read again after this multiple of the time that reading it took."""
_LONGEST_REST = 15.0
"""Seconds; reading also takes long if the app was held up."""
_RUNNING = 4
"""Maximum number of running cells that are listed with their steps."""

STYLE = work_list.style("sv") + (_HERE / "study_view.css").read_text(encoding="utf-8")
_MARKUP = (_HERE / "study_view.html").read_text(encoding="utf-8")
_SCRIPT = work_list.SCRIPT + "".join(
    (_HERE / name).read_text(encoding="utf-8") for name in ("matrix.js", "study_view.js")
)


def study_view(studies: Studies) -> gr.HTML:
    """Create the component. Its value is the id of the study on the page; its events are `EVENTS`.

    ``redraw`` means that the results of that study differ from those that were drawn last. Requests that the page sends
    by itself change nothing, because any page in the browser can send them.
    """
    views = StudyViews(studies)

    @takes(str, str, str)
    async def news(id: str, token: str, cell: str) -> dict[str, Any]:
        end = time.monotonic() + HOLD_SECONDS
        while True:
            found, text = await anyio.to_thread.run_sync(views.snapshot, id, cell)
            if found != token:
                # As text, because the server inspects every part of an object before sending it.
                return {"token": found, "view": text}
            if time.monotonic() > end:
                return {"token": token}
            await asyncio.sleep(_LOOK_SECONDS)

    @takes(str, int, int)
    async def cell_at(id: str, row: int, column: int) -> dict[str, Any]:
        return {"cell": await anyio.to_thread.run_sync(views.cell_at, id, row, column)}

    return gr.HTML(
        "",
        html_template=_MARKUP,
        js_on_load=f"(() => {{\n{_SCRIPT}\n}})();",
        apply_default_css=False,
        server_functions=[news, cell_at],
        elem_id="study-view",
    )


class StudyViews:
    """What the component shows, cached for all pages."""

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._rows: dict[str, tuple[float, dict[str, Any]]] = {}
        self._matrices: dict[str, tuple[Grid, Matrix, dict[str, Any]]] = {}
        self._views: dict[str, tuple[float, dict[str, Any]]] = {}

    def snapshot(self, id: str, cell: str = "") -> tuple[str, str]:
        """Return (token, everything that the component shows, as JSON); the token changes with it."""
        chosen = self._studies.find(id)
        view: dict[str, Any] = {"list": self._list(id), "chosen": None, "cell": None}
        if chosen is not None:
            view["chosen"] = self._chosen(chosen)
            view["cell"] = self._cell(chosen, cell)
        text = json.dumps(view)
        return hashlib.sha256(text.encode()).hexdigest()[:24], text

    def cell_at(self, id: str, row: int, column: int) -> dict[str, Any] | None:
        """Return the cell at a place of the matrix; None if there is no cell."""
        study = self._studies.find(id)
        try:
            return self._cell(study, self._matrix(study)[0].names.get((row, column), "")) if study is not None else None
        except InputError:
            return None

    def _list(self, id: str) -> list[dict[str, Any]]:
        """Return the rows of all studies; inactive ones are only read again after some seconds."""
        now, rows = time.monotonic(), []
        for found in self._studies.list():
            read_again, row = self._rows.get(found.id, (0.0, {}))
            if now >= read_again or (found.working != (row["state"] == "working")):
                began = time.monotonic()
                row = _row(found)
                cost = time.monotonic() - began
                busy = found.id == id or row["state"] == "working"
                self._rows[found.id] = now + max(_LOOK_SECONDS if busy else _AT_REST_SECONDS, _rest(cost)), row
            rows.append(row)
        return rows

    def _matrix(self, study: StoredStudy) -> tuple[Matrix, dict[str, Any]]:
        grid = study.grid()
        if study.id not in self._matrices or self._matrices[study.id][0] is not grid:
            matrix = Matrix(grid)
            self._matrices[study.id] = grid, matrix, matrix.labels()
        return self._matrices[study.id][1:]

    def _chosen(self, study: StoredStudy) -> dict[str, Any]:
        read_again, view = self._views.get(study.id, (0.0, {}))
        began = time.monotonic()
        if began >= read_again or study.working != (view["state"] == "working"):
            try:
                view = self._read(study)
            except Exception as error:
                view = _EMPTY | _row(study, error)
            cost = time.monotonic() - began
            self._views[study.id] = began + max(_LOOK_SECONDS / 2, _rest(cost)), view
        return view

    def _read(self, study: StoredStudy) -> dict[str, Any]:
        view = _EMPTY | {"folder": str(study.folder)}
        try:
            grid, (matrix, labels) = study.grid(), self._matrix(study)
        except InputError:
            return view | study.row()
        states = grid.states()
        counts = dict.fromkeys(("done", "running", "failed", "interrupted", "open"), 0)
        for state in states.values():
            counts[state] += 1
        progress = StudyProgress(counts["done"], counts["failed"], len(states))
        row = study.row(progress)
        running = [name for name, state in states.items() if state == "running"]
        left = [name for name, state in states.items() if state not in ("done", "failed")]
        used = study.used_seconds()
        return {
            **view,
            **row,
            "counts": counts,
            "cells": matrix.codes(states),
            "labels": labels,
            "mark": study.mark(progress),
            "used": f"{duration_text(used)} used" if used else "",
            "left": _left_words(study, left),
            "log": log_tail(study) if row["state"] in ("failed", "stopped") else "",
            "now": [[name, step_words(grid.cell(name).run.status())] for name in running[:_RUNNING]],
        }

    def _cell(self, study: StoredStudy, name: str) -> dict[str, Any] | None:
        """Return a cell and its place; None if the cell does not exist."""
        try:
            grid, (matrix, _) = study.grid(), self._matrix(study)
        except InputError:
            return None
        if name not in grid.planned:
            return None
        return {**cell_facts(study, name), "at": list(matrix.places[name])}


_EMPTY: dict[str, Any] = {
    "folder": "", "counts": {}, "cells": "", "labels": None, "mark": "", "used": "", "left": "", "now": [], "log": "",
}  # fmt: skip
"""Values shown for a study that cannot be read, in addition to its row."""


def _rest(cost: float) -> float:
    return min(_REST * cost, _LONGEST_REST)


def _row(study: StoredStudy, error: Exception | None = None) -> dict[str, Any]:
    """Return the row of a study in the list; a study that cannot be read must never hide the others."""
    try:
        return study.row() if error is None else study.damaged_row(error)
    except Exception as damage:
        _LOG.debug("The study %s cannot be read", study.id, exc_info=damage)
        return study.damaged_row(damage)


def _left_words(study: StoredStudy, left: list[str]) -> str:
    """Return the remaining time at the pace of earlier cells, run one after the other as in the app."""
    if not left:
        return ""
    estimate = study.estimate(left)
    if not estimate.known:
        return "time left known once a cell is done"
    some = f" for {estimate.known:,} of {estimate.cells:,} cells" if estimate.known < estimate.cells else ""
    return f"about {duration_text(estimate.seconds)} left{some}"
