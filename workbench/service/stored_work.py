"""What the app keeps of work on disk that a process does: its status and its log, beside the folder of the work.

::

    ID/             what the command writes, and nothing else
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
"""Held while a status is changed: the end of a process and a click may come at the same moment."""


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
    """The processes that were asked to stop: when each was created, by its number."""


class StoredWork(ABC):
    """Work in a folder, such as a comparison; reads its files anew at every question.

    Args:
        root: Folder of all work of this kind.
        id: Its name among them.
        folder: Where it is; by default the folder of this name in `root`.
    """

    def __init__(self, root: Path, id: str, folder: Path | None = None) -> None:
        self.id = id
        self.folder = folder or root / id
        self.own = root / APP_FOLDER / id
        """Files of the app about it."""

    @abstractmethod
    def is_there(self) -> bool:
        """Whether there is such work."""

    @abstractmethod
    def beginnings(self) -> Sequence[Path]:
        """The files that are as old as the work, if its status does not say how old that is."""

    @property
    def created(self) -> float:
        """When it was asked for or opened, in seconds since the epoch."""
        created = self.status().get("created")
        if created is not None:
            return float(created)
        for path in self.beginnings():
            with suppress(OSError):
                return path.stat().st_mtime
        return 0.0

    @property
    def log_path(self) -> Path:
        """What its process printed."""
        return self.own / "log.txt"

    def status(self) -> dict[str, Any]:
        """Process, times and end as the app wrote them down; empty for work that a shell began."""
        return read_valid_part(self.own / "status.json", _StatusFile)[0]

    def write_status(self, **changes: Any) -> None:
        """Change the status in one step."""
        with _WRITING:
            make_folder(self.own)
            replace_file(self.own / "status.json", json_bytes({**self.status(), **changes}), durable=True)

    def write_begin(self) -> dict[str, Any]:
        """The changes of the status with which a process begins."""
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
        """Remove what was written of work that could not begin."""
        for folder in (self.folder, self.own):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def working(self) -> bool:
        """Whether a process is working on it, including one of another app or shell."""
        return self.is_run_by_an_app() or bool(workers(self.folder))

    def processes(self) -> set[int]:
        """Numbers of the processes that are at work on it."""
        mine = {self.status()["pid"]} if self.is_run_by_an_app() else set()
        return mine | set(workers(self.folder))

    def is_run_by_an_app(self) -> bool:
        """Whether the process that is at work on it was started by this app or another one."""
        return not self.status().get("ended") and at_work(self)


Stored = TypeVar("Stored", bound=StoredWork)


class WorkStore(ABC, Generic[Stored]):
    """Work of one kind in the folders of a root: finds, begins, deletes and restores it.

    Args:
        noun: What it is called in sentences, such as ``comparison``.
        root: The folder of all of it.
        turns: Shared with everything that must not work at the same time.
    """

    def __init__(self, noun: str, root: Path, turns: Turns) -> None:
        self.noun = noun
        self.root = Path(os.path.abspath(root))
        self.turns = turns
        self.turns.add(noun, self._why_others_wait)
        self._processes = Processes(turns, Kind(noun, self._command, StoredWork.processes, _write_end))

    @abstractmethod
    def find(self, id: str | None) -> Stored | None:
        """The work with this id, or None."""

    @abstractmethod
    def resume(self, id: str) -> Stored:
        """Let work that ended early go on with what is missing. `InputError` when it cannot or may not."""

    @abstractmethod
    def stop(self, id: str) -> None:
        """End the processes of the work; its results stay. Nothing happens when they have ended already."""

    @abstractmethod
    def remove(self, id: str) -> None:
        """Move work to the trash, from where `restore` brings it back. `InputError` while it is running."""

    @abstractmethod
    def _stored(self) -> Iterable[Stored]:
        """All that may be there."""

    @abstractmethod
    def _command(self, found: Stored) -> Sequence[str]:
        """The command line that does it."""

    def list(self) -> "list[Stored]":
        """What there is, newest first, at most `LISTED`."""
        found = [one for one in self._stored() if one.is_there()]
        return sorted(found, key=lambda one: (-one.created, one.id))[:LISTED]

    def get(self, id: str) -> Stored:
        """The work with this id. `InputError` when there is none."""
        found = self.find(id)
        if found is None:
            raise InputError(f"There is no such {self.noun} any more; choose another one.")
        return found

    def active(self) -> Stored | None:
        """What a process is working on, including those of other apps and shells."""
        return next((found for found in self._stored() if found.working), None)

    def working(self) -> bool:
        """Whether a process is at work."""
        return self.active() is not None

    def wait(self, id: str, seconds: float) -> bool:
        """Whether the work ended within ``seconds``."""
        found = self.get(id)
        return wait_until(lambda: not found.working, seconds)

    def restore(self, id: str) -> Stored:
        """Bring deleted work back. `InputError` when it is gone for good."""
        try:
            Trash(self.root).restore(id)
        except InputError as error:
            raise InputError(f"This {self.noun} cannot be brought back any more.") from error
        return self.get(id)

    def _launch(self, found: Stored) -> None:
        try:
            self._processes.launch(found, **found.write_begin())
        except InputError as error:
            found.write_status(ended=time.time(), failed=str(error))
            raise

    def _put_in_trash(self, found: Stored) -> None:
        """Move work to the trash, and forget the files of the app about what leaves the trash for good."""
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
