"""The folder of one cell of a study: its lock, and its result or failure; needs no PyTorch.

cells/.NAME.lock            held by the process that runs the cell
cells/NAME/run/             an ordinary run, which is resumed if it was interrupted
cells/NAME/log.txt          output of the processes that ran it
cells/NAME/result.json      written atomically when the cell is done
cells/NAME/failed.json      why it failed; removed to try again
"""

import errno
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from jola.errors import InputError
from jola.runs.run import Run
from jola.studies.schema import FailureFile, GridResultFile
from jola.system.files import disk_errors, json_bytes, make_folder, replace_file
from jola.system.typed_json import read_valid_part, valid_part

CellState = Literal["done", "failed", "running", "interrupted", "open"]
STATES: tuple[CellState, ...] = ("done", "failed", "running", "interrupted", "open")
"""The states of a cell. An interrupted cell has a run but no running process."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Locked(Exception):
    """Another process runs this cell."""


class Interrupted(Exception):
    """The run of a cell was stopped or paused on request."""


@contextmanager
def locked(folder: Path, *, wait: bool = False, required: bool = True) -> Iterator[None]:
    """Lock a cell for this process while the block runs.

    Args:
        folder: Folder of the cell; the lock is a file next to it.
        wait: Whether to wait for a process that has the lock.
        required: Whether to refuse a file system without locks.

    Raises:
        Locked: Another process has the lock, and `wait` is false.
        InputError: The file system has no locks, or the folder cannot be written.
    """
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f".{folder.name}.lock"))
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            raise Locked(folder.name) from None
        except (NotImplementedError, OSError) as error:
            if not isinstance(error, NotImplementedError) and error.errno not in _NO_LOCKS:
                raise
            if required:
                raise InputError(
                    f"The file system of {folder.parent} has no locks; give each process its own cells with --shard."
                ) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(folder: Path) -> bool:
    """Whether a process has the lock of a cell."""
    try:
        with locked(folder, required=False):
            return False
    except Locked:
        return True


class CellFolder:
    """The folder of one cell of a grid."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run(self) -> Run:
        """The run of the cell, which may not exist yet."""
        return Run(self.path / "run")

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    def result(self) -> dict[str, Any] | None:
        """Return the result of the cell; None if it does not exist or is damaged."""
        content, fault = read_valid_part(self.path / "result.json", GridResultFile)
        if fault and valid_part(content, GridResultFile)[1]:  # a required member is missing
            return None
        return content or None

    def failure(self) -> str | None:
        """Return why the cell failed; None if it did not."""
        if not (self.path / "failed.json").exists():
            return None
        content, _ = read_valid_part(self.path / "failed.json", FailureFile)
        return str(content.get("message") or "The cell failed, but the file with the reason is damaged.")

    def state(self) -> CellState:
        """Return the current state of the cell."""
        if (self.path / "result.json").exists():
            return "done"
        if (self.path / "failed.json").exists():
            return "failed"
        if not self.run.is_run():
            return "open"
        return "running" if self.run.alive else "interrupted"

    def write_result(self, content: Mapping[str, Any]) -> None:
        """Write the result atomically; the cell no longer counts as failed."""
        make_folder(self.path)
        replace_file(self.path / "result.json", json_bytes({"format": 1, **content}, indent=2), durable=True)
        self.retry()

    def write_failure(self, message: str) -> None:
        """Record why the cell failed."""
        make_folder(self.path)
        content = {"format": 1, "message": message, "time": time.time()}
        replace_file(self.path / "failed.json", json_bytes(content, indent=2), durable=True)

    def retry(self) -> None:
        """Remove the record of a failure, so that the cell is run again."""
        (self.path / "failed.json").unlink(missing_ok=True)
