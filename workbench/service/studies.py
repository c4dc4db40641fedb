"""Studies as processes of their own, started with the command that a shell user types.

One folder holds those of the app, beside the runs and never among them; `workbench.service.stored_study` describes it.
Grids in other folders can be opened, and stay where they are. A grid that a shell runs is shown and stopped like one of
the app.

Studies are not queued: one is refused while a run trains or waits, and while a comparison or another study is at work.
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
"""What ``opened.json`` is called when the study was removed from the list."""


class Studies(WorkStore[StoredStudy]):
    """Starts, finds, opens, stops and deletes studies.

    Args:
        root: Their folder.
        turns: Shared with everything that must not work at the same time.
        command: What makes the cells of a folder: the command line ``jola grid run``.
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
        """The study with this id, or None."""
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
        """Whether this app may open a folder: the one that opened it may have been started with other settings."""
        try:
            self.check_path(str(folder))
        except InputError:
            return False
        return True

    def find_run(self, id: str | None) -> CellRun | None:
        """The run of a cell by its id ``STUDY/CELL``; None when there is no such run."""
        study, slash, cell = (id or "").partition("/")
        found = self.find(study) if slash else None
        return found.run_of(cell) if found is not None else None

    # Planning and starting

    def start(self, axes: Axes, arms: Mapping[str, Arm], settings: Any, neutral: Mapping[str, Any]) -> StoredStudy:
        """Plan a study, and begin it in a process of its own; the arguments are those of `Grid.plan`.

        `InputError` when something cannot or may not be trained, and while other work is under way; nothing is planned
        then.
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
                if not found.status().get("failed"):  # a full disk: the list could not say why
                    found.discard()
                raise
        return self.get(name)

    def extend(self, id: str, axes: Axes, arms: Mapping[str, Arm], settings: Any) -> StoredStudy:
        """Add cells to a study and begin them; settings that change no result stay as they were planned.

        `InputError` as for `start`, and for other settings than its own.
        """
        found = self.get(id)
        grid = found.grid()
        neutral = grid.content.get("neutral", {})
        self._check(axes, arms, neutral)
        self._check_plans(found)  # whose cells begin too
        with self.turns.locked():
            self.turns.check(self.noun)
            Grid.plan(found.folder, axes, arms, settings, neutral)
            self._must_have_work(found)
            self._launch(found)
        return found

    def resume(self, id: str) -> StoredStudy:
        """Make the cells of a study that are not done. `InputError` as for `start`."""
        found = self.get(id)
        self._check_plans(found)
        with self.turns.locked():
            self.turns.check(self.noun)
            self._must_have_work(found)
            self._launch(found)
        return found

    def retry(self, id: str, cell: str = "") -> bool:
        """Forget why a cell failed, or why all of them did, and make them again; whether that has begun.

        While the study is at work they wait until it is continued. `InputError` as for `start`.
        """
        found = self.get(id)
        grid = found.grid()
        if cell and cell not in grid.planned:
            raise InputError("There is no such cell any more; open the study again.")
        if not found.working:
            self.turns.check(self.noun)  # before anything is forgotten
        grid.retry([cell] if cell else None)
        if found.working:
            return False
        self.resume(id)
        return True

    def stop(self, id: str) -> None:
        """Ask the processes of a study to stop; the running cell saves its state.

        Nothing happens when they have ended or were asked before: a second signal would end the cell at once.
        """
        found = self.get(id)
        with self._lock:
            if found.stopping:
                return
            asked = found.process_identities()
            if self._processes.stop(found):
                found.write_status(stopped=True, asked=asked)

    def _check(self, axes: Axes, arms: Mapping[str, Arm], neutral: Mapping[str, Any]) -> None:
        """Refuse tasks and models that this app may not use, in whichever arm they are."""
        first = next(axes.cells(arms))
        # Arms with the same settings of model and data are checked once: there may be thousands of combinations.
        chosen = [arms[label] for label in axes.arms]
        distinct = {repr([arm.settings[group] for group in ("model", "data")]): arm for arm in chosen}
        for arm, task, model in itertools.product(distinct.values(), axes.tasks, axes.models):
            self.check(config_of(arm, first._replace(task=task, model=model), neutral, ""))

    def _check_plans(self, found: StoredStudy) -> None:
        """Refuse a grid with tasks and models that this app may not use, and one of others that reports to a tracker.

        The tracker is not shown in the app, and would get what is measured on this computer.
        """
        grid = found.grid()
        tracker = grid.content.get("neutral", {}).get("report_to", "none")
        if found.opened and tracker != "none":
            raise InputError(
                f"The grid in {found.folder} reports to the experiment tracker {tracker!r}, which the app does not do "
                "for grids that were made elsewhere; run it with `jola grid run`, or change report_to in grid.json."
            )
        for plan in grid.plans:
            axes = Axes(**{name: tuple(values) for name, values in plan.items()})
            self._check(axes, grid.arms, grid.content.get("neutral", {}))

    def check_names(self, tasks: Iterable[str], models: Iterable[str]) -> None:
        """Refuse tasks and models, as a page names them, that this app may not use.

        Called before anything that says whether a file exists.
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
        """Show the grid in a folder, which stays there. `InputError` when there is none, or it may not be read."""
        text = folder.strip()
        if not text or "\0" in text:
            raise InputError("The folder is empty; write the path of a folder with a grid, as `jola grid plan` makes.")
        self.check_path(text)
        path = Path(os.path.realpath(os.path.expanduser(text))) if is_there(text) else None
        if path is None or not is_unicode(str(path)):
            raise InputError(f"{text[:200]!r} holds no grid; write the path of a folder that `jola grid plan` made.")
        open_grid(path)
        if path.parent == self.root.resolve():
            return self.get(path.name)
        found = StoredStudy(self.root, f"{slug(path.name)}-{short_hash(str(path))}", path)
        make_folder(found.own)
        replace_file(found.own / OPENED_FILE, json_bytes({"folder": str(path)}))
        return self.get(found.id)

    def remove(self, id: str) -> None:
        """Move a study to the trash, or forget one that was opened. `InputError` while it works."""
        found = self.get(id)
        if not found.removable:
            raise InputError("This study is running; stop it before you remove it.")
        if found.opened:
            (found.own / OPENED_FILE).replace(found.own / _CLOSED_FILE)
            return
        self._put_in_trash(found)

    def restore(self, id: str) -> StoredStudy:
        """Bring a deleted study back. `InputError` when it is gone for good."""
        closed = self.root / APP_FOLDER / id / _CLOSED_FILE
        if is_plain_name(id) and closed.exists():
            closed.replace(closed.with_name(OPENED_FILE))
            return self.get(id)
        return super().restore(id)

    def _command(self, found: StoredStudy) -> Sequence[str]:
        return [*self.command, str(found.folder)]
