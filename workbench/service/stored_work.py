"""Files of the app about work on disk: the status and the log of its process, in a separate folder.

::

    ID/             output of the command only
    .app/ID/        status.json and log.txt of its process
"""

import os
import shutil
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field

from jola.errors import InputError
from jola.runs.trash import Trash
from jola.system.files import json_bytes, make_folder, replace_file
from jola.system.processes import workers
from jola.system.typed_json import JsonFile, Line, Text, Time, read_valid_part
from workbench.service.processes import End, Kind, Processes, Turns, at_work, wait_until

APP_FOLDER = ".app"
LISTED = 100
_WRITING = threading.Lock()
"""Lock for changes of a status: a process may end and the user may click at the same moment."""


class _StatusFile(JsonFile):
    """``status.json``: the process of the work."""

    pid: Annotated[int, Field(gt=0, lt=2**31)] | None = None
    pid_created: Line | Time | None = None
    created: Time | None = None
    started: Time | None = None
    ended: Time | None = None
    stopped: bool = False
    code: Annotated[int, Field(gt=-(2**31), lt=2**31)] | None = None
    failed: Text = ""
    asked: dict[Annotated[str, Field(pattern=r"^\d{1,10}$")], Line | Time] = Field(default_factory=dict)
    """Creation times of the processes that were asked to stop, by PID."""


class StoredWork(ABC):
    """Work in a folder, such as a comparison; reads its files again at every access.

    Args:
        root: Folder of all work of this kind.
        id: Name of the work in `root`.
        folder: Folder of the work; by default the one with this name in `root`.
    """

    def __init__(self, root: Path, id: str, folder: Path | None = None) -> None:
        self.id = id
        self.folder = folder or root / id
        self.own = root / APP_FOLDER / id
        """Folder of the app's files about the work."""

    @abstractmethod
    def is_there(self) -> bool:
        """Whether the work exists."""

    @abstractmethod
    def beginnings(self) -> Sequence[Path]:
        """Return the files that are as old as the work, for a status without the time."""

    @property
    def created(self) -> float:
        """Time when it was requested or opened, in seconds since the epoch."""
        created = self.status().get("created")
        if created is not None:
            return float(created)
        for path in self.beginnings():
            with suppress(OSError):
                return path.stat().st_mtime
        return 0.0

    @property
    def log_path(self) -> Path:
        """Path of the log of its process."""
        return self.own / "log.txt"

    def status(self) -> dict[str, Any]:
        """Return process, times and end as the app wrote them; empty for work that was started in a shell."""
        return read_valid_part(self.own / "status.json", _StatusFile)[0]

    def write_status(self, **changes: Any) -> None:
        """Change the status atomically."""
        with _WRITING:
            make_folder(self.own)
            replace_file(self.own / "status.json", json_bytes({**self.status(), **changes}), durable=True)

    def write_begin(self) -> dict[str, Any]:
        """Return the changes of the status when a process begins."""
        now = time.time()
        return {
            "created": self.created or now,
            "started": now,
            "ended": None,
            "stopped": False,
            "asked": {},
            "code": None,
            "failed": "",
        }

    def discard(self) -> None:
        """Remove the files of work that could not begin."""
        for folder in (self.folder, self.own):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def working(self) -> bool:
        """Whether a process of the work is running, including one of another app or shell."""
        return self.is_run_by_an_app() or bool(workers(self.folder))

    def processes(self) -> set[int]:
        """Return the PIDs of its running processes."""
        mine = {self.status()["pid"]} if self.is_run_by_an_app() else set()
        return mine | set(workers(self.folder))

    def is_run_by_an_app(self) -> bool:
        """Whether its process is running and was started by this app or another one."""
        return not self.status().get("ended") and at_work(self)


Stored = TypeVar("Stored", bound=StoredWork)


class WorkStore(ABC, Generic[Stored]):
    """Finds, starts, deletes and restores work of one kind in the folders of a root.

    Args:
        noun: Name in sentences, such as ``comparison``.
        root: Folder of all work of this kind.
        turns: Shared by all work that must not run at the same time.
    """

    def __init__(self, noun: str, root: Path, turns: Turns) -> None:
        self.noun = noun
        self.root = Path(os.path.abspath(root))
        self.turns = turns
        self.turns.add(noun, self._why_others_wait)
        self._processes = Processes(turns, Kind(noun, self._command, StoredWork.processes, _write_end))

    @abstractmethod
    def find(self, id: str | None) -> Stored | None:
        """Return the work with this id, or None."""

    @abstractmethod
    def resume(self, id: str) -> Stored:
        """Continue work that ended early. Raises `InputError` if it cannot or may not continue."""

    @abstractmethod
    def stop(self, id: str) -> None:
        """End the processes of the work; its results are kept. Does nothing if they have ended already."""

    @abstractmethod
    def remove(self, id: str) -> None:
        """Move work to the trash; `restore` undoes this. Raises `InputError` while it is running."""

    @abstractmethod
    def _stored(self) -> Iterable[Stored]:
        """Return everything that may be work of this kind."""

    @abstractmethod
    def _command(self, found: Stored) -> Sequence[str]:
        """Return the command line of the work."""

    def list(self) -> "list[Stored]":
        """Return the existing work, newest first, at most `LISTED`."""
        found = [one for one in self._stored() if one.is_there()]
        return sorted(found, key=lambda one: (-one.created, one.id))[:LISTED]

    def get(self, id: str) -> Stored:
        """Return the work with this id. Raises `InputError` if it does not exist."""
        found = self.find(id)
        if found is None:
            raise InputError(f"This {self.noun} no longer exists; choose another one.")
        return found

    def active(self) -> Stored | None:
        """Return running work, including that of other apps and shells; None if none is running."""
        return next((found for found in self._stored() if found.working), None)

    def working(self) -> bool:
        """Whether any work is running."""
        return self.active() is not None

    def wait(self, id: str, seconds: float) -> bool:
        """Wait at most ``seconds`` and return whether the work has ended."""
        found = self.get(id)
        return wait_until(lambda: not found.working, seconds)

    def restore(self, id: str) -> Stored:
        """Restore deleted work. Raises `InputError` if it is no longer in the trash."""
        try:
            Trash(self.root).restore(id)
        except InputError as error:
            raise InputError(f"This {self.noun} can no longer be restored.") from error
        return self.get(id)

    def _launch(self, found: Stored) -> None:
        try:
            self._processes.launch(found, **found.write_begin())
        except InputError as error:
            found.write_status(ended=time.time(), failed=str(error))
            raise

    def _put_in_trash(self, found: Stored) -> None:
        """Move work to the trash, and delete the app's files about work that is purged from it."""
        trash = Trash(self.root)
        trash.put(found.folder)
        for gone in trash.purge():
            if not (self.root / gone.id).exists():
                shutil.rmtree(self.root / APP_FOLDER / gone.id, ignore_errors=True)

    def _why_others_wait(self, noun: str) -> str:
        other = "Another" if noun == self.noun else "A"
        return f"{other} {self.noun} is running; wait for its end, or stop it." if self.working() else ""


def _write_end(found: StoredWork, end: End) -> None:
    found.write_status(ended=time.time(), code=end.code)
