"""Studies in separate processes, started with the same command as in a shell.

The studies of the app are in one folder, separate from the runs; `workbench.service.stored_study` describes its layout.
Grids in other folders can be opened, and are not moved. A grid that runs in a shell is shown and stopped like one of
the app.

Studies are not queued: one is refused while a run trains or waits, or a comparison or another study is running.
"""

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jola.config import DataConfig, ModelConfig, RunConfig
from jola.data.tasks.registry import GROUPS
from jola.errors import InputError
from jola.runs.ids import fresh_id, is_plain_name
from jola.studies.axes import Arm, Axes, config_of, short_hash, slug
from jola.studies.grid import Grid
from jola.system.files import json_bytes, make_folder, replace_file
from jola.system.paths import is_there
from jola.system.typed_json import is_unicode
from workbench.service.processes import Turns
from workbench.service.stored_study import OPENED_FILE, CellRun, StoredStudy, open_grid, opened_folder
from workbench.service.stored_work import APP_FOLDER, WorkStore

GRID_COMMAND = (sys.executable, "-m", "jola", "grid", "run")
ALL_DONE = "All cells of this study are done; add cells to continue."
_CLOSED_FILE = "closed.json"
"""Name of ``opened.json`` after the study was removed from the list."""


class Studies(WorkStore[StoredStudy]):
    """Starts, finds, opens, stops and deletes studies.

    Args:
        root: Folder of the studies.
        turns: Shared by all work that must not run at the same time.
        command: Command line of ``jola grid run``.
        check: Raises `InputError` for settings that this app may not train with.
        check_path: Raises `InputError` for a folder that this app may not open.
    """

    def __init__(
        self,
        root: Path,
        turns: Turns,
        command: Sequence[str] = GRID_COMMAND,
        check: Callable[[RunConfig], None] = lambda config: None,
        check_path: Callable[[str], None] = lambda path: None,
    ) -> None:
        super().__init__("study", root, turns)
        self.command, self.check, self.check_path = tuple(command), check, check_path
        self._known: dict[str, StoredStudy] = {}
        self._lock = threading.Lock()

    # Finding

    def _stored(self) -> Iterator[StoredStudy]:
        names: dict[str, None] = {}
        for folder in (self.root, self.root / APP_FOLDER):
            with suppress(OSError):
                names |= dict.fromkeys(
                    entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)
                )
        found = (self.find(name) for name in names)
        yield from (one for one in found if one is not None)

    def find(self, id: str | None) -> StoredStudy | None:
        """Return the study with this id, or None."""
        if not id or not is_plain_name(id) or (self.root / id).is_symlink():
            return None
        folder = opened_folder(self.root / APP_FOLDER / id)
        with self._lock:
            found = self._known.get(id)
            if found is None or found.folder != (folder or self.root / id):
                found = StoredStudy(self.root, id, folder)
            if not found.is_there() or (folder is not None and not self._is_open(folder)):
                self._known.pop(id, None)
                return None
            self._known[id] = found
        return found

    def _is_open(self, folder: Path) -> bool:
        """Whether this app may open a folder; another app with other settings may have opened it."""
        try:
            self.check_path(str(folder))
        except InputError:
            return False
        return True

    def find_run(self, id: str | None) -> CellRun | None:
        """Return the run of a cell by its id ``STUDY/CELL``; None if it does not exist."""
        study, slash, cell = (id or "").partition("/")
        found = self.find(study) if slash else None
        return found.run_of(cell) if found is not None else None

    # Planning and starting

    def start(self, axes: Axes, arms: Mapping[str, Arm], settings: Any, neutral: Mapping[str, Any]) -> StoredStudy:
        """Plan a study, and start it in a separate process; the arguments are those of `Grid.plan`.

        Raises `InputError`, without planning anything, if a setting is invalid or not allowed, or while other work is
        running or waiting.
        """
        self._check(axes, arms, neutral)
        with self.turns.locked():
            self.turns.check(self.noun)
            name = fresh_id(axes.tasks[0] if len(axes.tasks) == 1 else "study")
            found = StoredStudy(self.root, name)
            try:
                Grid.plan(found.folder, axes, arms, settings, neutral)
            except BaseException:
                found.discard()
                raise
            try:
                self._launch(found)
            except InputError:
                if not found.status().get("failed"):  # a full disk: the list could not show the reason
                    found.discard()
                raise
        return self.get(name)

    def extend(self, id: str, axes: Axes, arms: Mapping[str, Arm], settings: Any) -> StoredStudy:
        """Add cells to a study and start it; settings that do not affect results stay as planned.

        Raises `InputError` like `start`, and for settings that differ from those of the study.
        """
        found = self.get(id)
        grid = found.grid()
        neutral = grid.content.get("neutral", {})
        self._check(axes, arms, neutral)
        self._check_plans(found)  # their cells are started too
        with self.turns.locked():
            self.turns.check(self.noun)
            Grid.plan(found.folder, axes, arms, settings, neutral)
            self._must_have_work(found)
            self._launch(found)
        return found

    def resume(self, id: str) -> StoredStudy:
        """Run the cells of a study that are not done. Raises `InputError` like `start`."""
        found = self.get(id)
        self._check_plans(found)
        with self.turns.locked():
            self.turns.check(self.noun)
            self._must_have_work(found)
            self._launch(found)
        return found

    def retry(self, id: str, cell: str = "") -> bool:
        """Clear the failure of one cell or of all cells, and run them again; return whether they were started.

        While the study is running, they wait until it is continued. Raises `InputError` like `start`.
        """
        found = self.get(id)
        grid = found.grid()
        if cell and cell not in grid.planned:
            raise InputError("This cell no longer exists; open the study again.")
        if not found.working:
            self.turns.check(self.noun)  # before clearing any failure
        grid.retry([cell] if cell else None)
        if found.working:
            return False
        self.resume(id)
        return True

    def stop(self, id: str) -> None:
        """Ask the processes of a study to stop; the running cell saves its state.

        Does nothing if they have ended or were asked before, because a second signal would end the cell at once.
        """
        found = self.get(id)
        with self._lock:
            if found.stopping:
                return
            asked = found.process_identities()
            if self._processes.stop(found):
                found.write_status(stopped=True, asked=asked)

    def _check(self, axes: Axes, arms: Mapping[str, Arm], neutral: Mapping[str, Any]) -> None:
        """Raise `InputError` if an arm has a task or a model that this app may not use."""
        first = next(axes.cells(arms))
        # Arms with the same settings of model and data are checked once: there may be thousands of combinations.
        chosen = [arms[label] for label in axes.arms]
        distinct = {repr([arm.settings[group] for group in ("model", "data")]): arm for arm in chosen}
        for arm, task, model in itertools.product(distinct.values(), axes.tasks, axes.models):
            self.check(config_of(arm, first._replace(task=task, model=model), neutral, ""))

    def _check_plans(self, found: StoredStudy) -> None:
        """Raise `InputError` for tasks and models that this app may not use, and for opened grids with a tracker.

        The tracker, which the app does not show, would receive the measurements on this computer.
        """
        grid = found.grid()
        tracker = grid.content.get("neutral", {}).get("report_to", "none")
        if found.opened and tracker != "none":
            raise InputError(
                f"The grid in {found.folder} reports to the experiment tracker {tracker!r}, which the app does not "
                "support for grids created elsewhere; run it with `jola grid run`, or change report_to in grid.json."
            )
        for plan in grid.plans:
            axes = Axes(**{name: tuple(values) for name, values in plan.items()})
            self._check(axes, grid.arms, grid.content.get("neutral", {}))

    def check_names(self, tasks: Iterable[str], models: Iterable[str]) -> None:
        """Raise `InputError` for tasks and models, as named by a page, that this app may not use.

        Called before anything that reveals whether a file exists.
        """
        named = [task for task in tasks if task not in GROUPS]
        configs = [RunConfig(data=DataConfig(task=task)) for task in named]
        configs += [RunConfig(model=ModelConfig(model=model)) for model in models]
        for config in configs:
            self.check(config)

    @staticmethod
    def _must_have_work(found: StoredStudy) -> None:
        if not found.progress().left:
            raise InputError(ALL_DONE)

    # Folders

    def open(self, folder: str) -> StoredStudy:
        """Show the grid in a folder, without moving it. Raises `InputError` if it is missing or may not be read."""
        text = folder.strip()
        if not text or "\0" in text:
            raise InputError("The folder is empty; give the path of a folder created by `jola grid plan`.")
        self.check_path(text)
        path = Path(os.path.realpath(os.path.expanduser(text))) if is_there(text) else None
        if path is None or not is_unicode(str(path)):
            raise InputError(f"{text[:200]!r} contains no grid; give the path of a folder created by `jola grid plan`.")
        open_grid(path)
        if path.parent == self.root.resolve():
            return self.get(path.name)
        found = StoredStudy(self.root, f"{slug(path.name)}-{short_hash(str(path))}", path)
        make_folder(found.own)
        replace_file(found.own / OPENED_FILE, json_bytes({"folder": str(path)}))
        return self.get(found.id)

    def remove(self, id: str) -> None:
        """Move a study to the trash, or remove an opened one from the list. Raises `InputError` while it is running."""
        found = self.get(id)
        if not found.removable:
            raise InputError("This study is running; stop it before you remove it.")
        if found.opened:
            (found.own / OPENED_FILE).replace(found.own / _CLOSED_FILE)
            return
        self._put_in_trash(found)

    def restore(self, id: str) -> StoredStudy:
        """Restore a removed study. Raises `InputError` if it is no longer in the trash."""
        closed = self.root / APP_FOLDER / id / _CLOSED_FILE
        if is_plain_name(id) and closed.exists():
            closed.replace(closed.with_name(OPENED_FILE))
            return self.get(id)
        return super().restore(id)

    def _command(self, found: StoredStudy) -> Sequence[str]:
        return [*self.command, str(found.folder)]
