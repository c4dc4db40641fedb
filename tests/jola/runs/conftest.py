"""Fixtures: a new run, and an empty folder of runs."""

from pathlib import Path

import pytest

from jola.config import RunConfig
from jola.runs.run import Run
from jola.runs.store import RunStore


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", RunConfig())


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")
