"""The app in a process of its own, which tests may watch and kill."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from jola.system.paths import HOME_VARIABLE
from tests import ROOT


@dataclass(frozen=True)
class Started:
    """A running app."""

    process: psutil.Process
    address: str

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        return int(self.process.memory_info().rss)


@contextmanager
def started(home: Path, temporary: Path) -> Iterator[Started]:
    """The app without a token; runs are in ``home``, and temporary files in ``temporary``."""
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, HOME_VARIABLE: str(home), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "app.py"), "--port", "0", "--no-token"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        address = next(word for line in process.stderr for word in line.split() if word.startswith("http"))
        try:
            yield Started(psutil.Process(process.pid), address.rstrip("/"))
        finally:
            process.terminate()
            process.communicate(timeout=60)
