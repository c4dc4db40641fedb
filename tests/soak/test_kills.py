"""``kill -9`` of app, training and comparison at random moments: nothing is lost or left behind, all work continues."""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from gradio_client import Client

from jola.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from jola.runs.run import Run
from jola.studies.results import Comparison
from tests import ROOT
from tests.workbench.served import write_task
from tests.workbench.started import started
from workbench.runs.run_table import Listing
from workbench.service.bench import Workbench
from workbench.service.processes import wait_until
from workbench.service.stored_comparison import StoredComparison
from workbench.settings import Settings

PATIENCE = 600
"""Seconds to wait for an expected event."""
STEPS = 72
"""Steps of a training: 24 examples, batches of 4, 12 epochs."""
MOMENTS = {"run": STEPS, "comparison": 20}
"""Upper bound of the random number of progress updates after which each kind of work is killed."""
VICTIMS = (("work",), ("app",), ("app", "work"), ("work", "app"))
# Replaces an app in whose page a comparison is started.
COMPARES = """
import json, sys
from jola.config import RunConfig
from workbench.service.bench import Workbench
from workbench.service.comparison_plan import Plan
from workbench.settings import Settings

asked = RunConfig.from_dict(json.loads(sys.argv[1]))
bench = Workbench.from_settings(Settings())
print(bench.comparisons.start(asked, Plan(("gradient",), (), ("2",), (1,))).id, flush=True)
sys.stdin.read()
"""

Work = Run | StoredComparison


@contextmanager
def begun(
    kind: str, asked: RunConfig, bench: Workbench, home: Path, temporary: Path
) -> Iterator[tuple[psutil.Process, Work]]:
    """Start an app and work in it; yield both."""
    if kind == "run":
        with started(home, temporary) as app:
            client = Client(app.address, verbose=False)
            settings = {"epochs": 12, "patience": 0, "seed": 1, "dtype": "float32", "device": "cpu"}
            answer = client.predict(asked.data.task, asked.model.model, settings, api_name="/start")
            client.close()
            yield app.process, bench.store.get(answer["run"])
        return
    command = [sys.executable, "-c", COMPARES, orjson.dumps(asked.to_dict()).decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        yield psutil.Process(process.pid), bench.comparisons.get(process.stdout.readline().strip())


def processes_of(work: Work) -> list[psutil.Process]:
    pids = work.processes() if isinstance(work, StoredComparison) else {work.status()["pid"]} if work.alive else ()
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):  # it has ended by itself
            found.append(psutil.Process(pid))
    return found


def kill(app: psutil.Process, work: list[psutil.Process], victims: tuple[str, ...]) -> None:
    """Kill processes one after the other, and check that their other child processes end too."""
    dead: list[psutil.Process] = []
    for process in (process for victim in victims for process in ([app] if victim == "app" else work)):
        with suppress(psutil.NoSuchProcess):
            dead += [process, *(child for child in process.children(recursive=True) if child not in work)]
            process.kill()
    _, orphans = psutil.wait_procs(dead, timeout=PATIENCE)
    assert orphans == []


def progress(work: Work) -> Any:
    """Return a value that changes whenever the work progresses."""
    if isinstance(work, StoredComparison):
        return work.state, work.log_path.stat().st_size if work.log_path.exists() else 0
    return work.state, work.status()["step"]


def assert_whole(bench: Workbench, begun: list[Work]) -> None:
    """Assert that every table can be shown and has a row for all work that was started."""
    rows = {row["id"]: row for row in orjson.loads(orjson.dumps(Listing(bench.store).news("")))["runs"]}
    assert not any(row["problem"] for row in rows.values())
    comparisons = bench.comparisons.list()
    assert {work.id for work in begun} <= {*rows, *(found.id for found in comparisons)}
    for found in comparisons:
        assert Comparison(found.folder).rows() is not None


def learned(work: Work) -> Any:
    """Return the results that must not depend on interruptions."""
    if isinstance(work, StoredComparison):
        cells = [(cell.name, cell.correct, cell.heads) for cell in Comparison(work.folder).cells()]
        assert len(cells) >= 2
        return cells
    losses = [(entry["step"], entry["loss"]) for entry in work.metrics() if "loss" in entry]
    assert [step for step, _ in losses] == list(range(1, STEPS + 1))
    return losses, (work.adapter_dir / "adapter_model.safetensors").read_bytes()


def test_everything_goes_on_after_kills(
    home: Path, tmp_path: Path, tiny_folder: Path, examples: int, pytestconfig: pytest.Config
) -> None:
    rounds = examples // 20
    if not rounds:
        pytest.skip("each round takes half a minute; --examples 20 asks for one, and make soak for ten")
    rng = random.Random(pytestconfig.getoption("--hypothesis-seed") or 0)
    asked = RunConfig(
        model=ModelConfig(model=str(tiny_folder), dtype="float32", device="cpu"),
        data=DataConfig(task=str(write_task(tmp_path / "task"))),
        training=TrainingConfig(epochs=12, patience=0, seed=1),
    )
    everything: list[Work] = []
    results: dict[str, Any] = {}
    for number in range(rounds):
        bench = Workbench.from_settings(Settings())
        kind, victims = ("run", "comparison")[number % 2], VICTIMS[number // 2 % len(VICTIMS)]
        with begun(kind, asked, bench, home, tmp_path / "tmp") as (app, work):
            everything.append(work)
            for _ in range(rng.randrange(MOMENTS[kind])):
                before = progress(work)
                assert wait_until(lambda b=before, w=work: progress(w) != b or not processes_of(w), PATIENCE)
            kill(app, processes_of(work), victims)
        assert_whole(bench, everything)
        manager = bench.jobs if kind == "run" else bench.comparisons
        assert manager.wait(work.id, PATIENCE)
        if work.state != "finished":
            assert "work" in victims and work.state in ("killed", "stopped", "failed"), work.status()
            manager.resume(work.id)
            assert manager.wait(work.id, PATIENCE)
        assert work.state == "finished", work.status()
        assert learned(work) == results.setdefault(kind, learned(work))
        assert_whole(bench, everything)
