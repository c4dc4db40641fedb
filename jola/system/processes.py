"""Check whether a process is still the same one, and which processes are working on a folder."""

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

_CLOCK_SLACK = 2.0  # seconds by which a creation time in wall-clock time may differ from the recorded one

Created = str | float
"""Creation time of a process, in a form that distinguishes it from other processes with the same number.

On Linux ``BOOT_ID:TICKS``, in clock ticks since boot, which are independent of the wall clock. Elsewhere seconds since
the epoch as recorded by the kernel; older status files contain such seconds on Linux too.
"""


def identity(pid: int) -> dict[str, Any]:
    """Return ``{"pid", "pid_created"}`` of a process, which are never reused. Raises `psutil.NoSuchProcess`."""
    return {"pid": pid, "pid_created": _ticks(pid)[1] or _seconds(pid)}


def launched() -> int:
    """Return how many processes ``torchrun`` or ``accelerate launch`` started, whether or not they have met yet."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def own_identity() -> dict[str, Any]:
    """`identity` of this process."""
    return identity(os.getpid())


def process_alive(pid: int, created: Created | None) -> bool:
    """Whether the process ``pid`` that was created at ``created`` is still running.

    The creation time distinguishes it from a later process with the same number; None accepts any. A zombie, which has
    ended but not been noticed by its parent, does not count as running.
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
    """Return (state letter, ``BOOT_ID:TICKS``) of a process from ``/proc``; two empty texts if not available."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return "", ""
    fields = stat[stat.rindex(b")") + 1 :].decode("ascii").split()  # after the name, which may contain anything
    return fields[0], f"{boot}:{fields[19]}"


def _seconds(pid: int) -> float:
    """Return the creation time of a process in seconds since the epoch, as recorded by the kernel if available."""
    process = psutil.Process(pid)
    if psutil.MACOS:
        # There, the public value moves when the wall clock is set; older versions of psutil have no other one.
        with suppress(TypeError):
            return process._proc.create_time(monotonic=True)  # pyright: ignore[reportAttributeAccessIssue]
    return process.create_time()


def machine() -> str:
    """Return an anonymous name of this machine, by which the speed of its runs can be compared."""
    return hashlib.sha256(f"{platform.node()} {uuid.getnode()}".encode()).hexdigest()[:12]


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Count this process among the `workers` of the folder while the block runs."""
    mine = folder / _WORKERS / f"{os.getpid()}.json"
    with disk_errors(mine):
        while True:
            mine.parent.mkdir(parents=True, exist_ok=True)
            for path, alive in _workers(folder):
                if not alive:  # it was killed
                    path.unlink(missing_ok=True)
            try:
                replace_file(mine, json_bytes(own_identity()))
                break
            except FileNotFoundError:  # another process ended meanwhile and removed the folder
                continue
    try:
        yield
    finally:
        with suppress(OSError):
            mine.unlink()
            mine.parent.rmdir()  # succeeds only for the last one


def workers(folder: Path) -> list[int]:
    """Return the numbers of the processes inside `at_work` on a folder, without killed ones."""
    return [pid for _, pid in _workers(folder) if pid]


def _workers(folder: Path) -> list[tuple[Path, int]]:
    """Return each file with the number of its process, or 0 if that process is not running."""
    found = []
    for path in sorted((folder / _WORKERS).glob("*.json")):
        worker = read_json(path) or {}
        pid, created = worker.get("pid"), worker.get("pid_created")
        works = isinstance(pid, int) and isinstance(created, str | int | float) and process_alive(pid, created)
        found.append((path, pid if works else 0))
    return found
