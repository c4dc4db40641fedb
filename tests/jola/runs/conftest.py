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
def fresh_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new directory stays fresh, however long the test is held up."""
    monkeypatch.setattr("jola.runs.state.STARTING_GRACE", 1e6)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")
