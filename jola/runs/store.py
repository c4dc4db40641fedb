"""The folder that contains runs."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jola.errors import InputError
from jola.runs.ids import fresh_id, is_plain_name
from jola.runs.run import Run
from jola.runs.state import UNFINISHED
from jola.runs.summary import RunSummary
from jola.runs.trash import Trash, TrashedRun
from jola.system.files import disk_errors, removed_on_error
from jola.system.paths import runs_home
from jola.system.processes import own_identity


class RunStore:
    """A folder of runs, one directory each."""

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(os.path.abspath(runs_home() if root is None else root))
        self._known: dict[str, tuple[Any, RunSummary]] = {}

    def _directories(self) -> Iterator[Run]:
        try:
            entries = [entry for entry in os.scandir(self.root) if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if not entry.name.startswith("."):
                yield Run(self.root / entry.name)

    def list(self) -> list[Run]:
        """Return all runs, newest first. Reads two small files of each; skips directories that are not runs."""
        runs = [run for run in self._directories() if run.is_run()]
        return sorted(runs, key=lambda run: run.created, reverse=True)

    def summaries(self) -> "list[RunSummary]":
        """Return all runs as rows of a table, newest first.

        A run whose files have not changed since the last call is not read again; only its process is checked.
        """
        rows: list[RunSummary] = []
        known: dict[str, tuple[Any, RunSummary]] = {}
        for run in self._directories():
            mark = run.mark()
            if mark is None:
                continue
            before, row = self._known.get(run.id, (None, None))
            if row is None or before != mark:
                row = run.summary()
            elif row["state"] in UNFINISHED:
                row = row.copy()
                row["state"] = run.state
            known[run.id] = (mark, row)
            rows.append(row)
        self._known = known
        return sorted(rows, key=lambda row: row["created"], reverse=True)

    def get(self, run_id: str) -> Run:
        """Return the run with this id. Raises `InputError` if there is none, or if the id leads out of the store."""
        path = self.root / run_id if is_plain_name(run_id) else None
        if path is None or path.is_symlink() or path.resolve().parent != self.root.resolve():
            raise InputError(f"{run_id!r} is not a valid run id; `jola runs` lists all ids.")
        if not path.is_dir():
            raise InputError(f"There is no run '{run_id}' in {self.root}; `jola runs` lists all runs.")
        return Run.open(path)

    @property
    def trash(self) -> Trash:
        """The deleted runs of this store."""
        return Trash(self.root)

    def remove(self, run_id: str) -> TrashedRun:
        """Move a run to the trash, from which it can be restored. Raises `InputError` while its process runs.

        Runs that have been in the trash for a week, or exceed its size limit, are permanently deleted.
        """
        run = self.get(run_id)
        if run.alive:
            raise InputError(f"The run '{run_id}' is {run.state}; cancel it before removing it.")
        removed = self.trash.put(run.path)
        self.trash.purge()
        return removed

    def restore(self, run_id: str) -> Run:
        """Restore a deleted run. Raises `InputError` if the trash has none with this id, or the store has one again."""
        return Run(self.trash.restore(run_id))

    def new_id(self, task: str = "run") -> str:
        """Reserve a new run and return its id, such as ``20260102-150405-sentiment-3f2a``.

        The directory exists afterwards, in state ``starting``, and belongs to this process until `Run.create` makes it
        a run, in this process or in one that is given its path.
        """
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            while True:
                run_id = fresh_id(task)
                try:
                    (self.root / run_id).mkdir()
                    break
                except FileExistsError:
                    continue
        with removed_on_error(self.root / run_id):
            Run(self.root / run_id).write_status(**own_identity(), started=time.time())
        return run_id
