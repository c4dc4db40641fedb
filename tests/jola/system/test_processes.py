"""Processes that are working on a folder."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.system.files import json_bytes, replace_file
from jola.system.processes import at_work, identity, own_identity, process_alive, workers

BREAKS = "import os, sys; from pathlib import Path; from jola.system.processes import at_work\n"
BREAKS += "with at_work(Path(sys.argv[1])): os._exit(0)"


def test_only_processes_at_work_are_named(tmp_path: Path) -> None:
    assert workers(tmp_path) == []
    with at_work(tmp_path):
        assert workers(tmp_path) == [own_identity()["pid"]]
    assert workers(tmp_path) == [] and list(tmp_path.iterdir()) == []


def test_one_that_was_killed_or_left_damaged_files_counts_no_more(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BREAKS, tmp_path], check=True)
    assert len(list((tmp_path / "workers").iterdir())) == 1
    (tmp_path / "workers" / "5.json").write_text("no JSON")
    (tmp_path / "workers" / "6.json").write_bytes(json_bytes({"pid": "one"}))
    (tmp_path / "workers" / "8.json").write_bytes(json_bytes(own_identity() | {"pid_created": "now"}))
    (tmp_path / "workers" / "9.json").write_text("[" * 100_000)
    # Written by another process, whose ID now belongs to this one.
    (tmp_path / "workers" / "7.json").write_bytes(json_bytes(own_identity() | {"pid_created": 1.0}))
    assert workers(tmp_path) == []
    with at_work(tmp_path):
        assert workers(tmp_path) == [own_identity()["pid"]]
    assert not (tmp_path / "workers").exists()


def test_one_begins_while_the_last_one_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def replace(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == 1:
            path.parent.rmdir()
        replace_file(path, data)

    monkeypatch.setattr("jola.system.processes.replace_file", replace)
    with at_work(tmp_path):
        assert workers(tmp_path) == [os.getpid()] and len(calls) == 2


@pytest.fixture
def stepped_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that moves the wall clock, and with it the creation times that psutil derives from it."""
    now, created = time.time, psutil.Process.create_time

    def step(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: now() + seconds)
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: created(process) + seconds)

    return step


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_step_of_the_clock_ends_no_run(
    tmp_path: Path, stepped_clock: Callable[[float], None], seconds: float
) -> None:
    store = RunStore(tmp_path)
    run = Run.create(tmp_path / "one", RunConfig())
    run.write_status(state="training")
    with at_work(tmp_path / "folder"):
        stepped_clock(seconds)
        assert run.state == "training" and run.alive
        assert workers(tmp_path / "folder") == [os.getpid()]
        with pytest.raises(InputError, match="cancel it"):
            store.remove("one")
    assert run.path.is_dir()


def test_creation_times_of_earlier_status_files_are_understood() -> None:
    created = psutil.Process().create_time()
    assert process_alive(os.getpid(), created)
    assert not process_alive(os.getpid(), created - 100)
    assert process_alive(os.getpid(), None)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks the proc file system")
def test_a_process_of_an_earlier_boot_is_gone() -> None:
    boot, _, ticks = str(own_identity()["pid_created"]).partition(":")
    assert process_alive(os.getpid(), f"{boot}:{ticks}")
    assert not process_alive(os.getpid(), f"{boot}:{int(ticks) + 1}")
    assert not process_alive(os.getpid(), f"{boot[::-1]}:{ticks}")


def test_a_process_that_ended_is_gone_before_its_parent_notices() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = identity(process.pid)
    assert process_alive(*known.values())
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # wait for its end without reaping it
    assert not process_alive(*known.values())
    process.communicate()
    assert not process_alive(*known.values())
