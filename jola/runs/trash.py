"""Deleted runs that can still be restored.

They are in the hidden folder ``.trash`` of the store, each named by the time of its deletion in seconds and its id::

    .trash/1767366245-20260102-150405-sentiment-3f2a/

Runs are deleted and restored by renaming, so a half-deleted run is never visible. They are permanently deleted after a
week, or earlier, oldest first, if the trash exceeds its size limit.
"""

import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jola.errors import InputError
from jola.system.files import disk_errors

TRASH_NAME = ".trash"
KEEP_SECONDS = 7 * 24 * 3600.0
KEEP_BYTES = 2 << 30
_STALE_SECONDS = 24 * 3600.0
_ENTRY = re.compile(r"([0-9]{1,12})-(.+)", re.DOTALL)
_LEFTOVER = re.compile(r"\.(?:importing|removing)-.+", re.DOTALL)


@dataclass(frozen=True)
class TrashedRun:
    """A deleted run: its id, its current directory, and the time of its deletion, in seconds since the epoch."""

    id: str
    path: Path
    removed: float


class Trash:
    """The trash of the store in ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / TRASH_NAME

    def runs(self) -> list[TrashedRun]:
        """Return the runs that can be restored, the last deleted first."""
        try:
            entries = [entry for entry in os.scandir(self.folder) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        found = [(match, Path(entry.path)) for entry in entries if (match := _ENTRY.fullmatch(entry.name))]
        runs = [TrashedRun(match[2], path, float(match[1])) for match, path in found]
        return sorted(runs, key=lambda run: (run.removed, run.path.name), reverse=True)

    def put(self, path: Path) -> TrashedRun:
        """Move the directory of a run to the trash. Raises `InputError` if the disk does not allow it."""
        with disk_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            while True:
                now = int(time.time())
                place = self.folder / f"{now}-{path.name}"
                if not place.exists():
                    path.rename(place)
                    return TrashedRun(path.name, place, float(now))
                time.sleep(0.05)  # the same id was deleted, restored and deleted within one second

    def restore(self, run_id: str) -> Path:
        """Restore the last deleted run with this id and return its directory.

        Raises `InputError` if the trash has no such run, or if the store has a run with this id again.
        """
        found = next((run for run in self.runs() if run.id == run_id), None)
        if found is None:
            raise InputError(f"There is no deleted run '{run_id}'; `jola runs restore` lists all deleted runs.")
        place = self.root / found.id
        if os.path.lexists(place):
            raise InputError(f"Another run '{run_id}' exists; remove it before restoring the deleted one.")
        with disk_errors(place):
            found.path.rename(place)
        return place

    def purge(self, *, older_than: float = KEEP_SECONDS, beyond: int = KEEP_BYTES) -> list[TrashedRun]:
        """Permanently delete runs older than ``older_than`` seconds, and the oldest while all exceed ``beyond`` bytes.

        The last deleted run is kept regardless of its size, so that a deletion can be undone. Also removes the
        leftovers of interrupted imports and deletions. Returns the deleted runs.
        """
        now, size, gone = time.time(), 0, []
        for position, run in enumerate(self.runs()):
            size += folder_size(run.path)
            if now - run.removed > older_than or (size > beyond and position):
                self.delete(run)
                gone.append(run)
        self._clear_leftovers(now)
        return gone

    def delete(self, run: TrashedRun) -> None:
        """Permanently delete one of `runs`."""
        # Renamed first, so that a half-deleted run cannot be restored.
        doomed = self.root / f".removing-{secrets.token_hex(4)}"
        with disk_errors(run.path):
            run.path.rename(doomed)
            shutil.rmtree(doomed)

    def _clear_leftovers(self, now: float) -> None:
        try:
            entries = list(os.scandir(self.root))
        except OSError:
            return
        for entry in entries:
            if not _LEFTOVER.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                continue
            with suppress(OSError):
                if now - entry.stat(follow_symlinks=False).st_mtime > _STALE_SECONDS:
                    shutil.rmtree(entry.path)


def folder_size(folder: Path | str) -> int:
    """Return the bytes of the files in a folder and its subfolders; links and vanished files are not counted."""
    size, folders = 0, [os.fspath(folder)]
    while folders:
        try:
            entries = os.scandir(folders.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        size += entry.stat(follow_symlinks=False).st_size
                except OSError:
                    continue
    return size
