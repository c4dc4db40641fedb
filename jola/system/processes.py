"""Telling whether a process is still the one it was, and which ones are at work on a folder."""

import hashlib
import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from jola.system.files import disk_errors, json_bytes, read_json, replace_file

_WORKERS = "workers"

_CLOCK_SLACK = 2.0  # seconds by which a creation time by the wall clock may differ from what was written

Created = str | float
"""When a process was created, in a form that distinguishes it from other processes with the same number.

On Linux ``BOOT_ID:TICKS``, clock ticks since boot, which no change of the wall clock moves. Elsewhere seconds since the
epoch as the kernel noted them; older status files hold such seconds on Linux too.
"""


def identity(pid: int) -> dict[str, Any]:
    """``{"pid", "pid_created"}`` of a process; together they are never used again. `psutil.NoSuchProcess` if gone."""
    return {"pid": pid, "pid_created": _ticks(pid)[1] or _seconds(pid)}


def launched() -> int:
    """How many processes ``torchrun`` or ``accelerate launch`` started together, whether or not they have met yet."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_identity() -> dict[str, Any]:
    """`identity` of this process."""
    return identity(os.getpid())


def process_alive(pid: int, created: Created | None) -> bool:
    """Whether the process ``pid`` that was created at ``created`` is still running.

    The creation time distinguishes it from a later process with the same number; None accepts any. A process that has
    ended and waits for its parent to notice counts as gone.
    """
    state, ticks = _ticks(pid)
    if isinstance(created, str):
        return created == ticks and state not in _ENDED_STATES
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
        return created is None or abs(_seconds(pid) - created) <= _CLOCK_SLACK
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False


_ENDED_STATES = frozenset("ZXx")  # zombie and dead, see proc(5)


def _ticks(pid: int) -> tuple[str, str]:
    """(state letter, ``BOOT_ID:TICKS``) of a process by ``/proc``; two empty texts when there is none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return "", ""
    fields = stat[stat.rindex(b")") + 1 :].decode("ascii").split()  # after the name, which may hold anything
    return fields[0], f"{boot}:{fields[19]}"


def _seconds(pid: int) -> float:
    """Creation time of a process in seconds since the epoch, as the kernel noted it where psutil has that."""
    process = psutil.Process(pid)
    if psutil.MACOS:
        # The public figure moves there when the wall clock is set; older versions of psutil know no other one.
        with suppress(TypeError):
            return process._proc.create_time(monotonic=True)  # pyright: ignore[reportAttributeAccessIssue]
    return process.create_time()


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
        works = isinstance(pid, int) and isinstance(created, str | int | float) and process_alive(pid, created)
        found.append((path, pid if works else 0))
    return found
