"""Setting the clock of the computer while a run trains ends nothing and starts nothing twice.

Tests may not set the real clock. Instead, the app and its training see everything that setting it would change: the
time of day, and the boot time in ``/proc/stat``, from which creation times of processes are computed.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from gradio_client import Client

from jola.runs.run import Run
from jola.system.files import replace_file
from tests import ROOT
from tests.namespaces import needs_mounts, with_mounts
from tests.workbench.served import write_task
from tests.workbench.started import started
from workbench.service.processes import wait_until

PATIENCE = 300
"""Seconds to wait for an expected event."""
SITE = """
import os, time
now = time.time

def stepped():
    with open(os.environ["TESTED_STEP"]) as file:
        return now() + float(file.read())

time.time = stepped
"""
# What an app that is started now does with a run that the first app trains.
ANOTHER_APP = """
import json, sys, time
import psutil
from jola.errors import InputError
from workbench.service.bench import Workbench
from workbench.settings import Settings

bench = Workbench.from_settings(Settings())
found = {"clock": [time.time(), psutil.boot_time()], "states": {run.id: run.state for run in bench.store.list()}}
for ask in (bench.jobs.resume, bench.store.remove):
    try:
        ask(sys.argv[1])
    except InputError as error:
        found[ask.__name__] = str(error)
print(json.dumps(found))
"""


class Clock:
    """A clock for the processes that are started with ``prefix`` and ``variables``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SITE)
        self._step, self._stat = folder / "step", folder / "stat"
        self._boot_time, self._lines = _boot_time_and_lines()
        self._stat.touch()
        self.variables = {"PYTHONPATH": str(folder), "TESTED_STEP": str(self._step)}
        self.prefix = with_mounts(("--bind", str(self._stat), "/proc/stat"))
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set the clock ``seconds`` ahead of the right time.

        Processes may read at any moment. A file that is mounted cannot be replaced, so a single write changes it.
        """
        stat = f"btime {self._boot_time + seconds}\n{self._lines}"
        with open(self._stat, "r+b", buffering=0) as file:
            file.write(stat.encode())
        replace_file(self._step, str(seconds).encode())


def _boot_time_and_lines() -> tuple[int, str]:
    """Return the boot time of the machine, and the other lines of ``/proc/stat``."""
    lines = Path("/proc/stat").read_text().splitlines(keepends=True)
    (boot_time,) = (int(line.split()[1]) for line in lines if line.startswith("btime "))
    return boot_time, "".join(line for line in lines if not line.startswith("btime "))


@needs_mounts
def test_runs_go_on(home: Path, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, task = Clock(tmp_path / "clock"), str(write_task(tmp_path / "task"))
    for name, value in clock.variables.items():
        monkeypatch.setenv(name, value)

    with started(home, tmp_path / "tmp", prefix=clock.prefix) as app:
        client = Client(app.address, verbose=False)
        settings = {"epochs": 50_000, "patience": 0, "dtype": "float32", "device": "cpu"}
        trains, waits = (client.predict(task, str(tiny_folder), settings, api_name="/start")["run"] for _ in range(2))
        run = Run(home / "runs" / trains)
        assert wait_until(lambda: run.status().get("step", 0) > 0, PATIENCE), run.status()
        for seconds in (3600, -3600):
            clock.set(seconds)
            step = run.status()["step"]
            assert wait_until(lambda step=step: run.status()["step"] > step, PATIENCE), run.status()
            command = [*clock.prefix, sys.executable, "-c", ANOTHER_APP, trains]
            before = time.time()
            ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=400)
            assert ended.returncode == 0, ended.stderr[-3000:]
            found = json.loads(ended.stdout)
            now, boot_time = found["clock"]
            assert before + seconds <= now <= time.time() + seconds
            assert boot_time == pytest.approx(psutil.boot_time() + seconds, abs=60)
            assert (found["states"][trains], found["states"][waits]) == ("training", "queued")
            assert "is training; only interrupted runs can be resumed" in found["resume"]
            assert "cancel it" in found["remove"]
            states = [client.predict(id, api_name="/status")["state"] for id in (trains, waits)]
            assert states == ["training", "queued"]
        # The app still recognizes the process that it must end.
        for id in (waits, trains):
            client.predict(id, api_name="/cancel")
        assert wait_until(lambda: not run.alive, PATIENCE)
        assert [client.predict(id, api_name="/status")["state"] for id in (trains, waits)] == ["cancelled"] * 2
