"""The app in a separate process, which tests can watch and kill."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from jola.runs.run import Run
from jola.system.paths import HOME_VARIABLE
from tests import ROOT
from workbench.service.processes import wait_until

START_SECONDS = 180
"""Seconds within which an app prints its address, even on a busy machine."""


@dataclass(frozen=True)
class Started:
    """A running app."""

    process: psutil.Process
    address: str
    token: str
    """The access token; empty if the app needs none."""
    log: Path
    """The file with the app's stderr."""

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        return int(self.process.memory_info().rss)


@contextmanager
def started(
    home: Path,
    temporary: Path,
    *,
    program: Sequence[str] = (str(ROOT / "app.py"),),
    flags: Sequence[str] = ("--no-token",),
    prefix: Sequence[str] = (),
    variables: dict[str, str] | None = None,
) -> Iterator[Started]:
    """Start the app, by default without a token, with runs in ``home`` and temporary files in ``temporary``.

    Python runs ``program``. ``prefix`` is a command that executes the command after it in the same process, and
    ``variables`` are added to the environment. If the test fails, its training runs, which outlive the app, are killed.
    """
    for folder in (home, temporary):
        folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, HOME_VARIABLE: str(home), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    command = [*prefix, sys.executable, *program, "--port", "0", *flags]
    log = home / "app.log"
    with log.open("ab") as file:
        begin = file.tell()
        process = subprocess.Popen(command, stderr=file, cwd=ROOT, env=environment | (variables or {}))

    def printed() -> str:
        return log.read_bytes()[begin:].decode(errors="replace")

    def address() -> re.Match[str] | None:
        return re.search(r" is at (http\S+)/(?:\?token=(\S+))? ", printed())

    try:
        assert wait_until(lambda: bool(address()) or process.poll() is not None, START_SECONDS), printed()
        found = address()
        assert found, printed()[-3000:]
        yield Started(psutil.Process(process.pid), found[1].rstrip("/"), found[2] or "", log)
    except BaseException:
        _kill_training_runs(home)
        raise
    finally:
        process.terminate()
        try:
            process.wait(timeout=300)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _kill_training_runs(home: Path) -> None:
    for folder in (home / "runs").glob("*/"):
        run = Run(folder)
        pid = run.status()["pid"]
        if pid is not None and run.alive:  # a queued run has no process
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
