"""What the app keeps of work on disk that a process does: its status and its log, beside the folder of the work.

::

    ID/             what the command writes, and nothing else
    .app/ID/        status.json and log.txt of its process
"""

import shutil
import threading
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from jola.runs.trash import Trash
from jola.system.files import disk_errors, json_bytes, replace_file
from jola.system.processes import workers
from jola.system.typed_json import JsonFile, Line, Text, Time, read_valid_part
from workbench.service.processes import at_work

APP_FOLDER = ".app"
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


class StoredWork:
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
            with disk_errors(self.own):
                self.own.mkdir(parents=True, exist_ok=True)
            replace_file(self.own / "status.json", json_bytes({**self.status(), **changes}), durable=True)

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


def put_in_trash(root: Path, folder: Path) -> None:
    """Move work to the trash of its root, and forget the files of the app about what leaves the trash for good."""
    trash = Trash(root)
    trash.put(folder)
    for gone in trash.purge():
        if not (root / gone.id).exists():
            shutil.rmtree(root / APP_FOLDER / gone.id, ignore_errors=True)
