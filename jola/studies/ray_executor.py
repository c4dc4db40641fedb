"""`RayExecutor`: the processes of cells on the nodes of a Ray cluster; needs the extra ``ray``.

Ray only places the processes. The state of a grid is its folder, which all nodes must see, so nothing is lost with the
cluster. Ray does not repeat a failed task: like any other failure, it is recorded, and the cell is run again on
request.
"""

import os
import signal
import socket
import subprocess
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from jola.errors import InputError
from jola.runs.state import PAUSE_FILE, UNFINISHED
from jola.studies.cells import CellFolder
from jola.studies.executors import cell_process
from jola.studies.schema import GRID_FILE

_CONNECT_SECONDS = 5.0
_LOOK_SECONDS = 1.0


class RayExecutor:
    """Runs cells as tasks of Ray.

    Args:
        folder: Folder of the grid.
        address: Address of a running cluster: ``host:port``, ``ray://host:port`` or ``auto``. Empty starts Ray on this
            computer, until this object is closed.
        workers: Maximum number of cells that run at once; by default one for each GPU, or for each node of a cluster
            without GPUs.
        locks: Whether to refuse a file system without locks.

    Raises:
        InputError: Ray is not installed, the address does not answer, or a node does not see the folder.
    """

    def __init__(self, folder: Path, address: str = "", workers: int | None = None, *, locks: bool = True) -> None:
        if address not in ("", "auto"):
            _check_address(address)
        self.folder, self.locks = folder, locks
        self._ray = _connected(address)
        self._stopping = False
        try:
            self._check_folder()
            resources = self._ray.cluster_resources()
            gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
            self.slots = workers or gpus or len(self._ray.nodes())
            if self.slots < 1 or self.slots > max(gpus, cpus):
                raise InputError(f"--workers is {workers}; the Ray cluster has {cpus} CPUs and {gpus} GPUs.")
            # Ray sets OMP_NUM_THREADS to the number of CPUs of a task.
            share = min(cpus // self.slots, min(int(n["Resources"].get("CPU", 1)) for n in self._ray.nodes()))
            self._task = self._ray.remote(num_cpus=max(1, share), num_gpus=1 if gpus else 0, max_retries=0)(make_cell)
            self._running: dict[str, Any] = {}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RayExecutor":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster, or stop the Ray that was started here."""
        self._ray.shutdown()

    def _check_folder(self) -> None:
        look = self._ray.remote(num_cpus=1, max_retries=0)(sees_grid)
        if not self._ray.get(look.remote(str(self.folder))):
            raise InputError(f"A node of the Ray cluster does not see {self.folder}; use a shared folder.")

    def run(self, name: str, slot: int) -> int:
        """See `jola.studies.executors.Executor`."""
        task = self._running[name] = self._task.remote(str(self.folder), name, self.locks)
        try:
            while not self._ray.wait([task], timeout=_LOOK_SECONDS)[0]:
                if self._stopping:  # repeated, because a run that is just being created does not see it
                    self._pause(name)
            return self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            if self._stopping:
                return -signal.SIGTERM
            sentence = str(error).strip().splitlines()
            CellFolder(self.folder / "cells" / name).write_failure(f"Ray could not run the cell: {sentence[0]}")
            return 1
        finally:
            del self._running[name]

    def _pause(self, name: str) -> None:
        run = CellFolder(self.folder / "cells" / name).run
        # Not `run.alive`, which looks for the process on this computer.
        if run.status()["state"] in UNFINISHED:
            with suppress(OSError):
                (run.path / PAUSE_FILE).touch()

    def stop(self, *, kill: bool) -> None:
        """See `jola.studies.executors.Executor`; runs are asked to pause by files, which reach other nodes."""
        self._stopping = True
        if kill:
            for task in list(self._running.values()):
                self._ray.cancel(task, force=True)


def make_cell(folder: str, name: str, locks: bool) -> int:
    """Run the process of a cell on a node, and return its exit code."""
    with cell_process(Path(folder), name, os.environ, locks=locks) as process:
        return process.wait()


def sees_grid(folder: str) -> bool:
    """Whether a node sees the folder of a grid."""
    return (Path(folder) / GRID_FILE).is_file()


def _check_address(address: str) -> None:
    """Refuse an address at which nothing answers, before Ray tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 1 << 16):
        raise InputError(f"--ray is {address!r}; write it as host:port, as ray://host:port, or as auto.")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(f"No Ray cluster answers at {address} ({error.strerror or error}).") from error


def _connected(address: str) -> Any:
    """Return the module ``ray``, connected to a cluster."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise InputError("Ray is not installed; install it with: pip install 'jola-workbench[ray]'.") from error
    local = {"include_dashboard": False} if not address else {}
    try:
        ray.init(address or "local", log_to_driver=False, **local)
    except (ConnectionError, OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        sentence = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = f"No Ray cluster answers at {address}" if address else "Ray cannot be started"
        raise InputError(f"{what} ({sentence.rstrip('.')}).") from error
    return ray
