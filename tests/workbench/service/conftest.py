"""Studies that tests start."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workbench.service.study_programs import Make
from workbench.service.processes import Turns
from workbench.service.studies import Studies


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Studies] = []
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", str(root))

    def make(program: str, **options: object) -> Studies:
        turns = Turns(tmp_path / "runs")
        made.append(Studies(tmp_path / "studies", turns, [sys.executable, "-c", program], **options))
        return made[-1]

    yield make
    for one in made:
        for found in one.list():
            for pid in found.processes() - {os.getpid()}:
                os.kill(pid, signal.SIGKILL)
