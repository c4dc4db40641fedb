"""Run the cells of a grid: one process for each, several at a time; needs no PyTorch.

The process of a cell is ``jola grid cell FOLDER NAME``. A crash costs one cell. The process that starts the others
keeps no state: if it is killed and started again, it continues with the cells that are not done.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import psutil

from jola.errors import InputError
from jola.studies.cells import CellFolder, is_locked
from jola.studies.grid import Grid
from jola.system.files import disk_errors, make_folder
from jola.system.signals import stop_on_signal
from jola.system.threads import fixed_by_user

LOCKED, INTERRUPTED = 3, 130
"""Exit codes of the process of a cell: if another process runs it, and if it was stopped on request."""
WITHOUT_LOCKS = "--without-locks"
_LOOK_SECONDS = 1.0
_LOCKED_SECONDS = 5.0
"""Seconds between two checks of cells that other processes run."""

Outcome = Literal["done", "failed", "interrupted"]


@dataclass(frozen=True)
class Ended:
    """A cell whose process has ended, and the progress of the grid."""

    name: str
    outcome: Outcome
    message: str
    """Why the cell failed; else empty."""
    done: int
    """Number of cells of this call that are done or failed."""
    total: int
    """Number of cells of this call."""


class Watcher(Protocol):
    """Receives the progress of a grid."""

    def ended(self, cell: Ended) -> None:
        """Called when the process of a cell has ended."""

    def looked(self, running: Sequence[str], waiting: int) -> None:
        """Called about once a second with the cells that run here, and the number of cells that other processes run."""


class Executor(Protocol):
    """Runs the processes of cells somewhere."""

    slots: int
    """Maximum number of cells that run at once."""

    def run(self, name: str, slot: int) -> int:
        """Run a cell and return the exit code of its process; called from one thread per slot."""
        ...

    def stop(self, *, kill: bool) -> None:
        """Ask all processes to stop at their next step, or kill them at once."""


def run_grid(
    grid: Grid,
    names: Sequence[str],
    executor: Executor,
    watcher: Watcher,
    *,
    minutes: float = float("inf"),
) -> bool:
    """Run the cells that are not done, in order. Cells that other processes run are skipped and tried again later.

    SIGINT and SIGTERM stop the running cells at their next step, with a checkpoint; a second signal ends them at once.

    Args:
        grid: The grid.
        names: Names of the cells.
        executor: Runs the processes of the cells.
        watcher: Receives progress.
        minutes: Start no cell after this time, in minutes.

    Returns:
        Whether all cells have a result or a failure; False if it was stopped before.
    """
    with stop_on_signal() as stop, ThreadPoolExecutor(executor.slots) as pool:
        try:
            return _Work(grid, names, executor, watcher, stop, time.monotonic() + 60 * minutes).work(pool)
        except BaseException as error:
            executor.stop(kill=isinstance(error, KeyboardInterrupt))
            raise


class _Work:
    """The cells to run, and the processes that run them."""

    def __init__(
        self,
        grid: Grid,
        names: Sequence[str],
        executor: Executor,
        watcher: Watcher,
        stop: threading.Event,
        end: float,
    ) -> None:
        self.grid, self.executor, self.watcher, self.stop, self.end = grid, executor, watcher, stop, end
        self.total = len(names)
        self.pending = deque(name for name in names if not self._is_over(name))
        self.locked: list[str] = []
        self.running: dict[Future[int], tuple[str, int]] = {}
        self.free = list(range(executor.slots))[::-1]
        self.done = self.total - len(self.pending)
        self.interrupted = 0

    def work(self, pool: ThreadPoolExecutor) -> bool:
        """Run all cells; return whether all of them have a result or a failure."""
        stopped = False
        looked = time.monotonic()
        while True:
            if self.stop.is_set() and not stopped:
                stopped = True
                self.executor.stop(kill=False)
            may_start = not stopped and time.monotonic() < self.end
            while may_start and self.free and self.pending:
                self._start(self.pending.popleft(), pool)
            if not self.running and (not may_start or not self.locked):
                return not (self.pending or self.locked or self.interrupted)
            if self.running:
                finished, _ = wait(self.running, _LOOK_SECONDS, FIRST_COMPLETED)
                for future in finished:
                    self._end(future)
            else:
                self.stop.wait(_LOOK_SECONDS)
            if self.locked and time.monotonic() - looked > _LOCKED_SECONDS:
                looked = time.monotonic()
                self.pending.extend(self.locked)
                self.locked.clear()
            self.watcher.looked([name for name, _ in self.running.values()], len(self.locked))

    def _is_over(self, name: str) -> bool:
        return self.grid.result(name) is not None or self.grid.cell(name).failure() is not None

    def _start(self, name: str, pool: ThreadPoolExecutor) -> None:
        if is_locked(self.grid.cell(name).path):
            self.locked.append(name)
        elif self._is_over(name):  # another process ran it
            self._report(name)
        else:
            slot = self.free.pop()
            self.running[pool.submit(self.executor.run, name, slot)] = name, slot

    def _end(self, future: "Future[int]") -> None:
        name, slot = self.running.pop(future)
        self.free.append(slot)
        code = future.result()
        if code == LOCKED:
            self.locked.append(name)
            return
        was_stopped = code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM) or self.stop.is_set()
        if not self._is_over(name) and not was_stopped:
            self.grid.cell(name).write_failure(_sentence(code, self.grid.cell(name).log_path))
        self._report(name)

    def _report(self, name: str) -> None:
        message = self.grid.cell(name).failure()
        if self.grid.result(name) is not None:
            outcome: Outcome = "done"
        else:
            outcome = "failed" if message else "interrupted"
        if outcome == "interrupted":
            self.interrupted += 1
        else:
            self.done += 1
        self.watcher.ended(Ended(name, outcome, message or "", self.done, self.total))


def _sentence(code: int, log: Path) -> str:
    """Return a sentence about how a process ended that recorded neither a result nor a failure."""
    if code >= 0:
        return f"The process of the cell ended with exit code {code}; {log} has its output."
    name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
    memory = ", perhaps because the memory was exhausted" if -code == signal.SIGKILL else ""
    return f"The process of the cell was ended by signal {name}{memory}; {log} has its output."


class LocalExecutor:
    """Runs the processes of cells on this computer.

    Args:
        folder: Folder of the grid.
        workers: Maximum number of cells that run at once. Each has a GPU, if there are any, and an equal share of the
            CPU cores.
        locks: Whether to refuse a file system without locks.
    """

    def __init__(self, folder: Path, workers: int = 1, *, locks: bool = True) -> None:
        if workers < 1:
            raise InputError(f"--workers is {workers}; it must be at least 1.")
        gpus = visible_gpus() if workers > 1 else []
        if gpus and workers > len(gpus):
            raise InputError(f"--workers is {workers}, but there are {len(gpus)} GPUs; use at most one for each.")
        self.folder, self.slots, self.locks = folder, workers, locks
        self._gpus = gpus
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._mutex = threading.Lock()
        self._stopping = False

    def environment(self, slot: int) -> dict[str, str]:
        """Return the environment variables of a slot: its GPU, and the number of threads unless the user set it."""
        if self.slots == 1:
            return {}
        threads = str(max(1, (psutil.cpu_count(logical=False) or 1) // self.slots))
        variables = {} if fixed_by_user() else {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        return variables | ({"CUDA_VISIBLE_DEVICES": self._gpus[slot]} if self._gpus else {})

    def run(self, name: str, slot: int) -> int:
        """See `Executor`."""
        with ExitStack() as stack:
            with self._mutex:
                if self._stopping:
                    return INTERRUPTED
                started = cell_process(self.folder, name, os.environ | self.environment(slot), locks=self.locks)
                process = self._processes[name] = stack.enter_context(started)
            try:
                return process.wait()
            finally:
                with self._mutex:
                    del self._processes[name]

    def stop(self, *, kill: bool) -> None:
        """See `Executor`."""
        with self._mutex:
            self._stopping = True
            for process in self._processes.values():
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL if kill else signal.SIGINT)


@contextmanager
def cell_process(
    folder: Path, name: str, environment: Mapping[str, str], *, locks: bool = True
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the process of one cell, whose output goes to the log of the cell.

    Args:
        folder: Folder of the grid.
        name: Name of the cell.
        environment: All environment variables of the process.
        locks: Whether to refuse a file system without locks.
    """
    cell = CellFolder(folder / "cells" / name)
    command = [sys.executable, "-m", "jola", "grid", "cell", str(folder), name]
    make_folder(cell.path)
    # In its own session, so that Ctrl-C reaches it only once, through its executor.
    with (
        disk_errors(cell.log_path),
        open(cell.log_path, "ab") as log,
        subprocess.Popen(
            command if locks else [*command, WITHOUT_LOCKS],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        yield process


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs of this computer, in the format of ``CUDA_VISIBLE_DEVICES``, without importing PyTorch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [part.strip() for part in chosen.split(",") if part.strip() not in ("", "-1")]
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=60, check=True)
        return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
    return []
