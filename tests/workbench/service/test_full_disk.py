"""Starting a run or a comparison on a disk that is full: one sentence, and nothing is left that would be shown."""

import errno
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import jola.system.files as files
from jola.config import DataConfig, RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.store import RunStore
from tests.workbench.served import write_task
from workbench.service.comparison_plan import Plan
from workbench.service.comparisons import Comparisons
from workbench.service.jobs import Jobs
from workbench.service.processes import Turns


class Disk:
    """A disk that takes so many more files and is full from then on."""

    def __init__(self) -> None:
        self.room = 10**9

    def open(self, path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode:
            self.room -= 1
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open(path, mode, *args, **kwargs)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(files, "open", disk.open, raising=False)
    faults: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)
    yield disk
    assert faults == []


@contextmanager
def left(root: Path) -> Iterator[None]:
    """Nothing is left below a folder that was not there before, but the files of the queue."""
    before = {path for path in root.rglob("*")}
    yield
    new = {path for path in root.rglob("*") if not path.name.startswith(".")} - before
    assert [path for path in new if path.name not in ("queue.json", ".app")] == []


def test_a_run_that_cannot_be_made(tmp_path: Path, disk: Disk) -> None:
    for room in range(2):
        disk.room = room
        with left(tmp_path), pytest.raises(InputError, match="no space left"):
            Run.create(tmp_path / "new", RunConfig())
    (tmp_path / "mine").mkdir()
    disk.room = 0
    with left(tmp_path), pytest.raises(InputError, match="no space left"):
        Run.create(tmp_path / "mine", RunConfig())
    with left(tmp_path), pytest.raises(InputError, match="no space left"):
        RunStore(tmp_path).new_id()
    disk.room = 10**9
    reserved = RunStore(tmp_path).new_id()
    disk.room = 0
    with pytest.raises(InputError, match="no space left"):
        Run.create(tmp_path / reserved, RunConfig())
    assert RunStore(tmp_path).list() == [] and not (tmp_path / reserved).exists()
    disk.room = 10**9
    assert json.loads((Run.create(tmp_path / "new", RunConfig()).path / "config.json").read_text())


@pytest.mark.parametrize("room", range(5))
def test_a_job_that_cannot_be_started(tmp_path: Path, disk: Disk, room: int) -> None:
    task = str(write_task(tmp_path / "task"))
    jobs = Jobs(RunStore(tmp_path / "runs"), command=["true"])
    disk.room = room
    with left(tmp_path / "runs"), pytest.raises(InputError, match="no space left"):
        jobs.start(RunConfig(data=DataConfig(task=task)))
    assert jobs.store.list() == [] and jobs.waiting.ids() == []


@pytest.mark.parametrize("room", range(2))
def test_a_comparison_that_cannot_be_started(tmp_path: Path, disk: Disk, room: int) -> None:
    comparisons = Comparisons(tmp_path / "comparisons", Turns(tmp_path / "runs"), ["true"])
    disk.room = room
    with left(tmp_path / "comparisons"), pytest.raises(InputError, match="no space left"):
        comparisons.start(RunConfig(), Plan())
    assert comparisons.list() == []
