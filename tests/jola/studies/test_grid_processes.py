"""Grids run by real processes: killed and resumed, two at a time, and stopped on request."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from jola.studies.executors import LocalExecutor, visible_gpus
from jola.studies.grid import Grid
from jola.studies.worker import make_cell
from tests import ROOT
from tests.jola.studies.grids import SETTINGS, make_task, plan

LONG: Mapping[str, Mapping[str, Any]] = {**SETTINGS, "training": {**SETTINGS["training"], "epochs": 12}}
PATIENCE = 300


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """A function that starts ``jola grid run``; processes that still run are killed after the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(grid: Grid, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jola", "grid", "run", str(grid.folder), *more]
        # One thread, as in this process, because sums depend on the number of threads.
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
        return processes[-1]

    yield start
    for process in processes:
        kill_all(process)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its descendants, as ``kill -9`` does."""
    try:
        found = psutil.Process(process.pid)
        found.suspend()  # otherwise it could start a process after the others were listed
        every = [found, *found.children(recursive=True)]
    except psutil.NoSuchProcess:
        every = []
    for each in every:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(every)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until the condition is true or the process has ended."""
    end = time.monotonic() + PATIENCE
    while not condition() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.02)


def steps(grid: Grid) -> int:
    """Return the total number of steps of all runs."""
    return sum(grid.cell(name).run.status()["step"] for name in grid.planned)


def tasks(folder: Path) -> list[str]:
    return [make_task(folder / "films"), make_task(folder / "books", 100)]


def what_was_learned(grid: Grid, name: str) -> Any:
    """Return the scores of a cell, its losses by step, and the bytes of its adapter."""
    result, run = grid.result(name), grid.cell(name).run
    assert result
    losses = [{k: v for k, v in row.items() if k != "time"} for row in run.metrics()]
    return result["scores"], losses, (run.adapter_dir / "adapter_model.safetensors").read_bytes()


def test_a_grid_that_is_killed_at_random_equals_an_unbroken_one(
    tmp_path: Path, tiny_folder: Path, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    named, models = tasks(tmp_path), (str(tiny_folder),)
    grids = [
        plan(tmp_path / name, named, ["jola", "red"], [1, 2], models=models, settings=LONG)
        for name in ("killed", "whole")
    ]
    grid, whole = grids
    for name in whole.planned:
        make_cell(whole, name)
    total = steps(whole)
    assert total == 8 * 24
    chosen, killed = random.Random(1), 0
    # At most five of the eight cells are done, so that each process still has to start others, which takes seconds.
    for goal in sorted(chosen.sample(range(10, total - 3 * 24), 5)):
        process = started(grid, "--workers", "2")
        wait_for(lambda goal=goal: steps(grid) >= goal, process)
        assert process.poll() is None
        kill_all(process)
        killed += 1
        state = grid.state()
        assert state.counts["failed"] == state.counts["running"] == 0
    assert killed == 5
    last = started(grid, "--workers", "2")
    out, _ = last.communicate()
    assert last.returncode == 0, out.decode()
    assert grid.planned.keys() == whole.planned.keys()
    for name in grid.planned:
        assert what_was_learned(grid, name) == what_was_learned(whole, name)
    assert sum(result["sessions"] for result in grid.results().values()) > 8


def test_two_processes_on_one_folder_share_the_cells(
    tmp_path: Path, tiny_folder: Path, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    grid = plan(tmp_path / "g", tasks(tmp_path), ["jola", "red"], [1], models=(str(tiny_folder),))
    both = [started(grid), started(grid)]
    outputs = [process.communicate()[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert grid.state().counts["done"] == 4
    # Each cell was run once.
    assert [(grid.result(name) or {})["sessions"] for name in grid.planned] == [1] * 4
    for name in grid.planned:
        assert (grid.cell(name).log_path.read_text()).count("Loading model and data") == 1
    assert all("4 of 4 cells done" in output for output in outputs)


def test_ctrl_c_leaves_a_checkpoint_to_continue_from(
    tmp_path: Path, tiny_folder: Path, started: Callable[..., subprocess.Popen[bytes]]
) -> None:
    settings = {**SETTINGS, "training": {**SETTINGS["training"], "epochs": 4000}}
    grid = plan(tmp_path / "g", tasks(tmp_path)[:1], ["red"], [1], models=(str(tiny_folder),), settings=settings)
    (name,) = grid.planned
    process = started(grid)
    wait_for(lambda: steps(grid) >= 5, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130 and b"to continue: `jola grid run" in out
    run = grid.cell(name).run
    assert run.state == "cancelled" and run.status()["step"] >= 5
    assert list(run.checkpoints_dir.glob(f"checkpoint-{run.status()['step']}"))
    assert grid.state().counts["interrupted"] == 1


def test_workers_have_a_gpu_each_or_a_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert visible_gpus() == ["2", "5"]
    executor = LocalExecutor(tmp_path, 2)
    assert [executor.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)] == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
    assert LocalExecutor(tmp_path, 3).environment(2) == {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    assert LocalExecutor(tmp_path, 1).environment(0) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert LocalExecutor(tmp_path, 3).environment(2) == {}


def test_gpus_are_those_that_the_driver_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: x)'\necho 'GPU 1: B (UUID: y)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert visible_gpus() == ["0", "1"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert visible_gpus() == []
