"""Starting a run or a comparison on a full disk: one sentence, and nothing is left that would be listed."""

import errno
import json
import os
import subprocess
import sys
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
from tests import ROOT
from tests.namespaces import needs_mounts, with_mounts
from tests.workbench.served import write_task
from workbench.service.comparison_plan import Plan
from workbench.service.comparisons import Comparisons
from workbench.service.jobs import Jobs
from workbench.service.processes import Turns, wait_until


class Disk:
    """A disk at ``folder`` with room for ``room`` more files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.room = 10**9

    def open(self, path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "w" in mode and self.folder in Path(path).parents:  # not those of a thread of an earlier test
            self.room -= 1
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open(path, mode, *args, **kwargs)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    monkeypatch.setattr(files, "open", disk.open, raising=False)
    faults: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)
    yield disk
    assert faults == []


@contextmanager
def left(root: Path) -> Iterator[None]:
    """Check that no new files remain below ``root``, except the files of the queue."""
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


@pytest.mark.parametrize("room", range(6))
def test_a_job_that_cannot_be_started(tmp_path: Path, disk: Disk, room: int) -> None:
    task = str(write_task(tmp_path / "task"))
    jobs = Jobs(RunStore(tmp_path / "runs"), command=["true"])
    disk.room = room
    with left(tmp_path / "runs"), pytest.raises(InputError, match="no space left"):
        jobs.start(RunConfig(data=DataConfig(task=task)))
    assert jobs.store.list() == [] and jobs.waiting.ids() == []


# The write that fails is the status "starting" or the identity of the process.
@pytest.mark.parametrize("room", (2, 3))
def test_a_run_that_cannot_go_on_says_so_when_there_is_room(tmp_path: Path, disk: Disk, room: int) -> None:
    task = str(write_task(tmp_path / "task"))
    jobs = Jobs(RunStore(tmp_path / "runs"), command=["true"])
    run = Run.create(jobs.store.root / "one", RunConfig(data=DataConfig(task=task)))
    run.write_status(state="paused")
    disk.room = room
    with pytest.raises(InputError, match="no space left"):
        jobs.resume("one")
    assert jobs.active() is None
    with jobs.turns.locked():  # not between two writes of the queue
        disk.room = 10**9
    assert wait_until(lambda: run.state == "failed", 300)
    # A run that is still waiting starts again.
    assert ("no space left" if room == 3 else "ended with exit code 0") in run.status()["message"]
    jobs.resume("one")
    assert wait_until(lambda: run.state == "failed", 300), "so that nothing writes here after the test"


@pytest.mark.parametrize("room", range(2))
def test_a_comparison_that_cannot_be_started(tmp_path: Path, disk: Disk, room: int) -> None:
    comparisons = Comparisons(tmp_path / "comparisons", Turns(tmp_path / "runs"), ["true"])
    disk.room = room
    with left(tmp_path / "comparisons"), pytest.raises(InputError, match="no space left"):
        comparisons.start(RunConfig(), Plan())
    assert comparisons.list() == []


# Tries each start on a disk of 1 MB with an increasing number of free pages of 4 kB, until it fits.
STARTS = """
import json, sys
from pathlib import Path
import psutil
from jola.config import DataConfig, RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.store import RunStore
from workbench.service.comparison_plan import Plan
from workbench.service.comparisons import Comparisons
from workbench.service.jobs import Jobs
from workbench.service.processes import Turns

disk, task, ballast = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[1], "ballast")

def leave(pages):
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(file.tell() - pages * 4096)

# Processes that were started and have not ended.
def at_work():
    return [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]

def tried(start, shown):
    found = []
    for room in range(100):
        leave(room)
        try:
            start()
        except InputError as error:
            found.append([str(error), shown(), len(at_work())])
        else:
            return found
    raise AssertionError(found[-1])

config = RunConfig(data=DataConfig(task=task))
works = [sys.executable, "-c", "import signal; signal.pause()"]
jobs = Jobs(RunStore(disk / "runs"), command=works)
comparisons = Comparisons(disk / "comparisons", Turns(disk / "others"), command=works)
run = Run.create(disk / "mine", config)
run.annotate(label="kept")
report = {
    "a note": tried(lambda: run.annotate(label="x" * 80, note="y" * 4000), lambda: run.notes().label),
    "a run": tried(lambda: jobs.start(config), lambda: [[run.id for run in jobs.store.list()], jobs.waiting.ids()]),
    "a comparison": tried(lambda: comparisons.start(config, Plan()), lambda: [c.id for c in comparisons.list()]),
}
leave(0)
begun, compared = jobs.store.list()[0], comparisons.list()[0]
report["at work"] = [begun.alive, compared.working, len(at_work())]
for process in at_work():
    process.kill()
assert jobs.wait(begun.id, 200) and comparisons.wait(compared.id, 200)
jobs.store.remove(begun.id)
comparisons.remove(compared.id)
report["removed"] = [len(jobs.store.list()), len(comparisons.list())]
print(json.dumps(report))
"""


@needs_mounts
def test_on_a_small_disk(tmp_path: Path) -> None:
    task, disk = write_task(tmp_path / "task"), tmp_path / "disk"
    disk.mkdir()
    command = with_mounts(("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)))
    command += [sys.executable, "-c", STARTS, str(disk), str(task)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr[-3000:]
    found = json.loads(ended.stdout)
    for name, shown, most in (("a note", "kept", 0), ("a run", [[], []], 0), ("a comparison", [], 1)):
        assert len(found[name]) >= 2, name
        for words, left, processes in found[name]:
            assert words.startswith("There is no space left on the disk for ") and words.count("\n") == 0
            # The run that was started before the comparison is running.
            assert (left, processes) == (shown, most), (name, words)
    assert found["at work"] == [True, True, 2] and found["removed"] == [0, 0]
