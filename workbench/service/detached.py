"""Processes that outlive the app: training runs and comparisons, and what they print."""

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil

from jola.system.processes import identity

_LOG_TAIL_BYTES = 16_384


def start(command: Sequence[str], log_path: Path) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Start a process that appends what it prints to a file: (it, its ``pid`` and ``pid_created``).

    The identity is empty for a process that ended at once. `OSError` when it cannot be started.
    """
    with open(log_path, "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,  # Ctrl-C in the app's terminal is not meant for it
        )
    with suppress(psutil.NoSuchProcess):
        return process, identity(process.pid)
    return process, {}


def environment() -> dict[str, str]:
    """The app's environment, with this very `jola` importable and the log written line by line."""
    import jola

    source = str(Path(jola.__path__[0]).parent)
    paths = [source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}


class Logged(Protocol):
    """Something whose process writes a log: a run, a comparison."""

    @property
    def log_path(self) -> Path:
        """The file."""
        ...


def log_tail(run: Logged) -> str:
    """The end of what the process printed; empty when there is nothing."""
    try:
        with open(run.log_path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.replace("\r", "\n").splitlines()
    return "\n".join(lines[1:] if size > _LOG_TAIL_BYTES else lines).strip()


def last_sentence(run: Logged) -> str:
    """The last line of the log that is not a blank one, without the ``error:`` of the command line."""
    lines = [line.strip() for line in log_tail(run).splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else ""
