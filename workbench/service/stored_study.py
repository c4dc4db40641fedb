"""A study on disk: a grid in a folder, see `jola.studies.grid`, and the state of its process.

::

    ID/                   a grid that the app planned, and nothing else
    .app/ID/opened.json   path of a grid that was created elsewhere and opened in the app
    .app/ID/              status.json and log.txt of its process
"""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from jola.data.assets import ASSETS, DEFAULT_MODEL
from jola.errors import InputError
from jola.runs.run import Run
from jola.studies.axes import is_path_like
from jola.studies.estimates import GridEstimate, Pace
from jola.studies.grid import Grid
from jola.studies.schema import GRID_FILE
from jola.studies.tables import size_text
from jola.system.processes import Created, identity, process_alive
from jola.system.typed_json import JsonFile, Line, read_valid_part
from workbench.service.processes import last_sentence
from workbench.service.stored_work import StoredWork
from workbench.service.study_plan import method_titles

OPENED_FILE = "opened.json"
INTERRUPTED = 130
"""Exit code of a grid that was stopped before all cells were done."""

_MOST_CELLS = 200_000

State = Literal["planned", "working", "finished", "stopped", "failed", "damaged"]


class OpenedFile(JsonFile):
    """``opened.json``: the folder of a grid that was created elsewhere."""

    folder: Line


@dataclass(frozen=True)
class StudyProgress:
    """Numbers of cells."""

    done: int = 0
    failed: int = 0
    total: int = 0

    @property
    def left(self) -> int:
        """Cells that have neither a result nor a failure."""
        return self.total - self.done - self.failed


class CellRun(Run):
    """The run of a cell. Its id includes the study, as ``STUDY/CELL``, which no run of a store can have."""

    def __init__(self, path: Path, id: str) -> None:
        super().__init__(path)
        self._id = id

    @property
    def id(self) -> str:
        return self._id


class StoredStudy(StoredWork):
    """A study. The grid is read again when its plan changes; a result is read once."""

    def __init__(self, root: Path, id: str, folder: Path | None = None) -> None:
        super().__init__(root, id, folder)
        self._grid: tuple[tuple[int, int], Grid] | None = None

    @property
    def opened(self) -> bool:
        """Whether it was created elsewhere, so that the app does not move its folder."""
        return (self.own / OPENED_FILE).exists()

    def is_there(self) -> bool:
        """Whether the app knows this study; the folder of an opened one may be missing."""
        return self.opened or (self.folder / GRID_FILE).exists()

    def beginnings(self) -> Sequence[Path]:
        """See `StoredWork`."""
        return self.own / OPENED_FILE, self.folder / GRID_FILE

    @property
    def removable(self) -> bool:
        """Whether it can be removed: no process is running; for an opened study, none that an app started."""
        return not (self.is_run_by_an_app() if self.opened else self.working)

    @property
    def stopping(self) -> bool:
        """Whether a process that was asked to stop is still running."""
        return any(process_alive(int(pid), created) for pid, created in self.status().get("asked", {}).items())

    def process_identities(self) -> dict[str, Created]:
        """Return the creation time of each of its running processes, by PID, except this app."""
        found: dict[str, Created] = {}
        for pid in self.processes() - {os.getpid()}:
            with suppress(psutil.NoSuchProcess):
                found[str(pid)] = identity(pid)["pid_created"]
        return found

    def grid(self) -> Grid:
        """Return the grid. Raises `InputError` if it is missing or damaged."""
        try:
            found = os.stat(self.folder / GRID_FILE)
        except OSError:
            raise InputError(
                f"The folder {self.folder} no longer contains a grid; restore it, or remove it here."
            ) from None
        mark = found.st_mtime_ns, found.st_ino
        if self._grid is None or self._grid[0] != mark:
            self._grid = mark, open_grid(self.folder)
        return self._grid[1]

    def progress(self) -> StudyProgress:
        """Count the cells that are done or failed; `StudyProgress()` if the grid cannot be read."""
        try:
            grid = self.grid()
            existing = set(os.listdir(self.folder / "cells")) & grid.planned.keys()
        except FileNotFoundError:
            return StudyProgress(total=len(grid.planned))
        except (InputError, OSError):
            return StudyProgress()
        # As strings: creating `Path` objects for thousands of cells takes longer than looking up the files.
        folders = [f"{self.folder}/cells/{name}" for name in existing]
        left = [folder for folder in folders if not os.path.exists(f"{folder}/result.json")]
        failed = sum(os.path.exists(f"{folder}/failed.json") for folder in left)
        return StudyProgress(len(folders) - len(left), failed, len(grid.planned))

    def mark(self, progress: StudyProgress | None = None) -> str:
        """Return a token that changes with the plan and with every cell that ends; empty without a grid."""
        progress = progress or self.progress()
        return f"{self._grid[0]}:{progress.done}:{progress.failed}" if self._grid is not None and progress.total else ""

    def state(self, progress: StudyProgress | None = None) -> tuple[State, str]:
        """Return (current state, reason why it failed or stopped in one sentence)."""
        try:
            self.grid()
        except InputError as error:
            return "damaged", str(error)
        status = self.status()
        if self.working:
            return "working", "It stops when the running cell has saved its state." if self.stopping else ""
        progress = progress or self.progress()
        if not progress.left:
            return "finished", _failures(progress.failed)
        if status.get("stopped"):
            return "stopped", "Results are kept; Continue resumes from the last checkpoint."
        code = status.get("code")
        if isinstance(code, int) and code < 0:
            return "failed", f"The process was ended by signal {-code}; Continue runs the remaining cells."
        if isinstance(code, int) and code > 0 and code != INTERRUPTED:
            said = last_sentence(self) or f"The process ended with exit code {code} and printed no message."
            # After failed cells it ends with code 1 and a note; cells are left if some were added or retried since.
            if code > 1 or not said.startswith("note: "):
                return "failed", said
        if status.get("failed"):
            return "failed", str(status["failed"])
        if status.get("started") or progress.done or progress.failed:
            return "stopped", "Some cells are not done; press Continue to run them."
        return "planned", "No cell has run yet; press Continue to start."

    def estimate(self, names: list[str]) -> GridEstimate:
        """Estimate time and memory of cells from those that are done."""
        return Pace(self.grid()).estimate(names)

    def used_seconds(self) -> float:
        """Return the total time of all done cells, in seconds."""
        return sum(result["seconds"] for result in self.grid().results().values())

    def run_of(self, cell: str) -> CellRun | None:
        """Return the run of a cell; None if it does not exist yet."""
        try:
            grid = self.grid()
        except InputError:
            return None
        if cell not in grid.planned:
            return None
        run = CellRun(grid.cell(cell).run.path, f"{self.id}/{cell}")
        return run if run.is_run() else None

    def title(self) -> str:
        """Describe methods, tasks and seeds in one line."""
        try:
            plans = self.grid().plans
        except InputError:
            return self.folder.name
        arms = dict.fromkeys(arm for plan in plans for arm in plan["arms"])
        tasks = list(dict.fromkeys(task for plan in plans for task in plan["tasks"]))
        seeds = len({seed for plan in plans for seed in plan["seeds"]})
        shown = ", ".join(Path(task).name if is_path_like(task) else task for task in tasks[:2])
        named = shown if len(tasks) < 3 else f"{len(tasks)} tasks"
        return f"{method_titles(arms)} · {named} · {seeds} seed{'s' if seeds > 1 else ''}"

    def about(self) -> str:
        """Describe models, sizes and folder in one line."""
        try:
            plans = self.grid().plans
        except InputError:
            return str(self.folder)
        models = list(dict.fromkeys(model for plan in plans for model in plan["models"]))
        names = [ASSETS[DEFAULT_MODEL].title if model == "default" else model for model in models]
        sizes = sorted({size for plan in plans for size in plan["train_sizes"]}, key=lambda size: size or float("inf"))
        listed = [size_text(size) for size in sizes]
        few = ", ".join(listed) if len(listed) < 5 else f"{listed[0]} to {listed[-1]}"
        return " · ".join((", ".join(names), f"{few} training examples", str(self.folder)))

    def row(self, progress: StudyProgress | None = None) -> dict[str, Any]:
        """Return the row of the study in the list."""
        progress = progress or self.progress()
        state, message = self.state(progress)
        return self._row(self.title(), self.about(), state, message, progress)

    def damaged_row(self, error: Exception) -> dict[str, Any]:
        """Return the row of a study that cannot be shown although its files pass all checks."""
        message = f"This study cannot be read ({type(error).__name__}); remove it, or restore its files."
        return self._row(self.folder.name, str(self.folder), "damaged", message, StudyProgress())

    def _row(self, title: str, about: str, state: State, message: str, progress: StudyProgress) -> dict[str, Any]:
        return {
            "id": self.id,
            "title": title,
            "about": about,
            "state": state,
            "message": message,
            "done": progress.done,
            "failed": progress.failed,
            "total": progress.total,
            "created": f"{datetime.fromtimestamp(self.created):%d %b %H:%M}",
            "opened": self.opened,
            "removable": self.removable,
            "stopping": self.stopping,
        }


def open_grid(folder: Path) -> Grid:
    """Open the grid in a folder. Raises `InputError` like `Grid.open`, and for more cells than the app can show."""
    grid = Grid.open(folder)
    number = sum(math.prod(map(len, plan.values())) for plan in grid.plans)
    if number > _MOST_CELLS:
        raise InputError(
            f"The grid in {folder} plans {number:,} cells, but the app shows at most {_MOST_CELLS:,}; "
            "use `jola grid show`."
        )
    return grid


def opened_folder(own: Path) -> Path | None:
    """Return the folder that ``opened.json`` names; None if the file does not exist."""
    folder = read_valid_part(own / OPENED_FILE, OpenedFile)[0].get("folder")
    return Path(folder) if folder else None


def _failures(failed: int) -> str:
    if not failed:
        return ""
    return (
        "One cell failed; choose it to see why." if failed == 1 else f"{failed:,} cells failed; choose one to see why."
    )
