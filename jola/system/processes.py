"""Telling whether a process is still the one it was, and which ones are at work on a folder."""

import hashlib
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from jola.system.files import disk_errors, json_bytes, read_json, replace_file

_WORKERS = "workers"

_CLOCK_SLACK = 2.0  # seconds by which a process's creation time may move when the wall clock is set


def own_identity() -> dict[str, float]:
    """``{"pid", "pid_created"}`` of this process; together they are never used again."""
    return {"pid": os.getpid(), "pid_created": psutil.Process().create_time()}


def process_alive(pid: int, created: float | None) -> bool:
    """Whether the process ``pid`` that was created at ``created`` (seconds since the epoch) is still at work.

    The creation time tells it from a later process with the same number. A process that has ended and waits
    for its parent to notice counts as gone.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return created is None or abs(process.create_time() - created) <= _CLOCK_SLACK
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False


def machine() -> str:
    """A name of this machine that says nothing about it: runs of one machine can be compared in pace."""
    return hashlib.sha256(f"{platform.node()} {uuid.getnode()}".encode()).hexdigest()[:12]


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """This process is one of `workers` of the folder while the block runs."""
    mine = folder / _WORKERS / f"{os.getpid()}.json"
    with disk_errors(mine):
        mine.parent.mkdir(parents=True, exist_ok=True)
        for path, alive in _workers(folder):
            if not alive:  # it was killed
                path.unlink(missing_ok=True)
    replace_file(mine, json_bytes(own_identity()))
    try:
        yield
    finally:
        with suppress(OSError):
            mine.unlink()
            mine.parent.rmdir()  # which the last one can


def workers(folder: Path) -> list[int]:
    """Numbers of the processes that are in `at_work` on a folder; one that was killed counts no more."""
    return [pid for _, pid in _workers(folder) if pid]


def _workers(folder: Path) -> list[tuple[Path, int]]:
    """Each file with the number of its process, 0 for one that is not at work."""
    found = []
    for path in sorted((folder / _WORKERS).glob("*.json")):
        worker = read_json(path) or {}
        pid, created = worker.get("pid"), worker.get("pid_created")
        works = isinstance(pid, int) and isinstance(created, int | float) and process_alive(pid, created)
        found.append((path, pid if works else 0))
    return found
