"""Telling whether a process is still the one it was."""

import hashlib
import os
import platform
import uuid

import psutil

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
