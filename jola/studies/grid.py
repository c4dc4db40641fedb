"""`Grid`: many training runs with their results in one folder, which can be interrupted at any time; needs no PyTorch.

    grid.json                   settings, arms, axes and versions: the plan of `jola grid plan`
    tasks/NAME.json             the test examples of a task, which must be the same in all its cells
    cells/NAME/                 one training with its test, see `jola.studies.cells`

The axes define the cells. Planning again in the same folder adds cells and never removes one. The files are the only
state: any number of processes, also on several machines that share the folder, run and read cells at the same time.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from jola.config import GROUPS, RunConfig
from jola.errors import InputError
from jola.methods import METHODS
from jola.studies.axes import NEUTRAL, Arm, Axes, PlannedCell, changed_setting, config_of, short_hash, slug
from jola.studies.cells import STATES, CellFolder, CellState, is_locked
from jola.studies.schema import GRID_FILE, GridFile, TestExamplesFile
from jola.system.files import disk_errors, json_bytes, make_folder, read_json, replace_file
from jola.system.typed_json import parse_typed, read_typed
from jola.system.versions import installed_versions

if TYPE_CHECKING:
    from jola.studies.rows import Row

FORMAT = 1
PACKAGES = ("jola-workbench", "torch", "transformers", "nnsight", "peft")

Settings = Mapping[str, Mapping[str, Any]]
"""Settings by group and name."""


@dataclass(frozen=True)
class GridState:
    """The progress of a grid."""

    counts: dict[CellState, int]
    """Number of cells in each state, in the order of `jola.studies.cells.STATES`."""
    running: tuple[str, ...]
    """Names of the cells that are running."""
    failed: dict[str, str]
    """Why cells failed, by name."""

    @property
    def total(self) -> int:
        """Number of planned cells."""
        return sum(self.counts.values())


class Grid:
    """The folder of a grid. Create one with `Grid.plan`, or open one with `Grid.open`."""

    def __init__(self, folder: Path | str, content: Mapping[str, Any]) -> None:
        self.folder = Path(folder).resolve()
        """Absolute path of the folder."""
        self.content = content
        """Content of ``grid.json``."""
        self._known: dict[str, tuple[tuple[int, int], dict[str, Any] | None]] = {}

    @classmethod
    def open(cls, folder: Path | str) -> "Grid":
        """Return the grid in a folder. Raises `InputError` if there is none, or one of a newer version."""
        content = _read(Path(folder))
        if content is None:
            raise InputError(f"{folder} contains no grid; create one with `jola grid plan`.")
        return cls(folder, content)

    @classmethod
    def plan(
        cls,
        folder: Path | str,
        axes: Axes,
        arms: Mapping[str, Arm],
        settings: Settings,
        neutral: Mapping[str, Any] | None = None,
    ) -> "Grid":
        """Create a grid with these cells in a folder, or add them to the grid that is there.

        Args:
            axes: Values to combine, from `jola.studies.axes.checked_axes`.
            arms: The arms by label, from `jola.studies.axes.expand_arms`.
            settings: Settings shared by all arms.
            neutral: Settings of the training that do not change results.

        Raises:
            InputError: A setting cannot be used, or the folder contains something else or a grid with other settings.
        """
        path = Path(folder)
        training = {**settings.get("training", {}), **(neutral or {})}
        RunConfig.from_dict({**settings, "training": training})
        make_folder(path)
        with disk_errors(path):
            if _read(path) is None and any(not item.name.startswith(".") for item in path.iterdir()):
                raise InputError(f"{path} contains other files; choose an empty or new folder.")
            with FileLock(path / ".grid.lock"):
                new = {"settings": settings, "arms": {}, "plans": [], "versions": installed_versions(PACKAGES)}
                there = _read(path) or new
                _check(path, there, settings, arms)
                plan = dataclasses.asdict(axes)
                plans = there["plans"] if plan in there["plans"] else [*there["plans"], plan]
                stored = {label: {"settings": arm.settings} for label, arm in arms.items()} | there["arms"]
                content = {**there, "format": FORMAT, "neutral": dict(neutral or {}), "arms": stored, "plans": plans}
                data, what = json_bytes(content, indent=2), f"The plan for {path / GRID_FILE}"
                _check_arms(what, parse_typed(data, GridFile, what))
                replace_file(path / GRID_FILE, data, durable=True)
        return cls.open(path)

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """The arms by label."""
        return {label: Arm(label, arm["settings"]) for label, arm in self.content["arms"].items()}

    @cached_property
    def planned(self) -> dict[str, PlannedCell]:
        """All cells by name, in the order in which they are run and in which shards count them."""
        found: dict[str, PlannedCell] = {}
        known: set[tuple[Any, ...]] = set()
        for plan in self.plans:
            for cell in Axes(**{name: tuple(values) for name, values in plan.items()}).cells(self.arms):
                drawn = (cell.train_size, cell.seed) if self.arms[cell.arm].trains else ()
                place = cell.arm, cell.task, cell.model, *drawn
                if place not in known:
                    known.add(place)
                    name = _free(cell.name, found)
                    found[name] = cell._replace(name=name)
        return found

    @property
    def plans(self) -> list[dict[str, Any]]:
        """The axes of every plan, with the fields of `jola.studies.axes.Axes`."""
        return self.content["plans"]

    @property
    def several_sizes(self) -> bool:
        """Whether several numbers of training examples are compared."""
        return len({size for plan in self.plans for size in plan["train_sizes"]}) > 1

    def cell(self, name: str) -> CellFolder:
        """Return the folder of a cell, which may not exist yet."""
        return CellFolder(self.folder / "cells" / name)

    def config(self, name: str) -> RunConfig:
        """Return all settings of the run of a cell."""
        cell = self.planned[name]
        return config_of(self.arms[cell.arm], cell, self.content.get("neutral", {}), self.cell(name).run.path)

    def result(self, name: str) -> dict[str, Any] | None:
        """Return the result of a cell; None if it has none. A file is only read again after it has changed."""
        folder = self.cell(name)
        try:
            found = os.stat(folder.path / "result.json")
        except OSError:
            return None
        mark = found.st_mtime_ns, found.st_ino
        if self._known.get(name, (None,))[0] != mark:
            self._known[name] = mark, folder.result()
        return self._known[name][1]

    def results(self) -> dict[str, dict[str, Any]]:
        """Return the results of the cells that are done, by name."""
        existing = self._existing()
        found = ((name, self.result(name)) for name in self.planned if name in existing)
        return {name: result for name, result in found if result is not None}

    def states(self) -> dict[str, CellState]:
        """Return the state of every cell by name."""
        existing = self._existing()
        return {name: self.state_of(name) if name in existing else "open" for name in self.planned}

    def state_of(self, name: str) -> CellState:
        """Return the state of a cell."""
        if self.result(name) is not None:
            return "done"
        if not self.cell(name).path.is_dir():
            return "open"
        state = self.cell(name).state()
        if state == "done":
            # The result was written a moment ago, or it is damaged and the cell is run again.
            return "done" if self.result(name) is not None else "interrupted"
        # The process may still be loading its model, or run on another computer.
        return "running" if state in ("open", "interrupted") and self._is_locked(name) else state

    def _is_locked(self, name: str) -> bool:
        try:
            return is_locked(self.cell(name).path)
        except InputError:  # only others may write the folder
            return False

    def state(self) -> GridState:
        """Return the progress of the grid."""
        states = self.states()
        counts: dict[CellState, int] = dict.fromkeys(STATES, 0)
        for state in states.values():
            counts[state] += 1
        failed = {name: self.cell(name).failure() or "" for name, state in states.items() if state == "failed"}
        return GridState(counts, tuple(name for name, state in states.items() if state == "running"), failed)

    def rows(self, metric: str = "", *, best: bool | Callable[[Arm], str] = False) -> "list[Row]":
        """Return the table of results, see `jola.studies.rows.rows_of`."""
        from jola.studies.rows import rows_of

        return rows_of(self, metric, best=best)

    def retry(self, names: Iterable[str] | None = None) -> list[str]:
        """Remove the records of failures, so that the cells are run again; return the names of these cells.

        Args:
            names: Cells whose failures are removed; all by default.
        """
        states = self.states()
        failed = [name for name in (states if names is None else names) if states[name] == "failed"]
        for name in failed:
            self.cell(name).retry()
        return failed

    def claim_test_examples(self, task: str, fingerprint: str, number: int) -> None:
        """Record the test examples of a task. Raises `InputError` if other cells of the task were tested on others."""
        path = self.folder / "tasks" / f"{slug(task)}-{short_hash(task)}.json"
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        there = read_typed(path, TestExamplesFile)
        if there and there["test_examples"] != fingerprint:
            raise InputError(
                f"The test examples of {task} are not those of the other cells in {self.folder}, and the results could "
                "not be compared; restore the data, or plan the grid in another folder."
            )
        if not there:
            content = {"task": task, "test_examples": fingerprint, "n_test": number}
            replace_file(path, json_bytes(content, indent=2), durable=True)

    def _existing(self) -> set[str]:
        """Return the names of the cells that have a folder."""
        try:
            return set(os.listdir(self.folder / "cells")) & self.planned.keys()
        except OSError:
            return set()


def _free(name: str, taken: Collection[str]) -> str:
    """Return a name, with a number if it is taken: long labels are shortened, and digits of hashes can be equal."""
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in names if each not in taken)


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / GRID_FILE
    version = (read_json(path) or {}).get("format")
    if isinstance(version, int) and version > FORMAT:
        raise InputError(f"{path} is of a newer version of jola-workbench (format {version}); update to read it.")
    content = read_typed(path, GridFile) or None
    if content is not None:
        _check_arms(str(path), content)
    return content


def _check_arms(what: str, content: Mapping[str, Any]) -> None:
    """Refuse settings that no run can have, methods unknown to this version, and plans of missing arms."""
    for label, arm in content["arms"].items():
        method = arm["settings"].get("method")
        if not isinstance(method, str) or method not in METHODS:
            raise InputError(f"{what} has an arm {label!r} of the method {method!r}, which this version does not have.")
        if missing := [group for group in GROUPS if not isinstance(arm["settings"].get(group), dict)]:
            raise InputError(f"{what} is not valid: the arm {label!r} has no settings of {missing[0]}.")
        _check_settings(what, f"in the arm {label!r}", arm["settings"])
    _check_settings(what, "in settings", content["settings"])
    _check_settings(what, "in neutral", {"training": content.get("neutral", {})})
    if changing := sorted(content.get("neutral", {}).keys() - set(NEUTRAL)):
        raise InputError(f"{what} is not valid: {changing[0]} is in neutral, and changes results.")
    for plan in content["plans"]:
        if unknown := [label for label in plan["arms"] if label not in content["arms"]]:
            raise InputError(f"{what} is not valid: it plans the arm {unknown[0]!r}, which it does not have.")


def _check_settings(what: str, where: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings of a run that do not exist, have another type or are out of bounds."""
    try:
        RunConfig.from_dict(dict(settings))
    except InputError as error:
        raise InputError(f"{what} is not valid: {where}, {error}") from error


def _check(folder: Path, there: Mapping[str, Any], settings: Settings, arms: Mapping[str, Arm]) -> None:
    """Refuse settings that differ from those of the grid in a folder; those that are not given have their defaults."""
    for group, kind in GROUPS.items():
        for name, default in ((field.name, field.default) for field in dataclasses.fields(kind)):
            before, value = (given.get(group, {}).get(name, default) for given in (there["settings"], settings))
            if before != value:
                raise InputError(
                    f"The grid in {folder} was planned with {name} {before!r}, not {value!r}; use its settings, or "
                    "another folder."
                )
    for label, arm in arms.items():
        stored = there["arms"].get(label)
        if stored and (change := changed_setting(stored["settings"], arm.settings)):
            raise InputError(f"The arm {label} of the grid in {folder} has {change}; plan the grid in another folder.")


def shard_of(cells: Iterable[str], shard: str) -> list[str]:
    """Return the cells of a shard such as ``3/16``: every sixteenth, beginning with the fourth.

    Raises:
        InputError: The text is not two numbers, the first below the second.
    """
    first, slash, number = shard.partition("/")
    if not (slash and first.isdecimal() and number.isdecimal() and int(first) < int(number)):
        raise InputError(f"--shard is {shard!r}; write the number of a shard, from 0, and how many there are, as 3/16.")
    return list(cells)[int(first) :: int(number)]
