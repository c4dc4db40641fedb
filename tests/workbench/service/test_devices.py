"""Runs on several accelerators, which a function of the tests pretends to find."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jola.config import ModelConfig, RunConfig
from jola.errors import InputError
from jola.model.loading import pick_device
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.settings import DEVICE_VARIABLE
from jola.training.resume import settings_to_resume
from tests.workbench.service.test_jobs import TRAINS, end_all, wait_for
from workbench.service.bench import Workbench
from workbench.service.follow import Follower
from workbench.service.jobs import Jobs
from workbench.settings import Settings
from workbench.train.tab import waiting_words

Make = Callable[..., Jobs]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Make]:
    made: list[Jobs] = []

    def make(*devices: str) -> Jobs:
        made.append(Jobs(RunStore(tmp_path / "runs"), [sys.executable, "-c", TRAINS], devices=lambda: devices))
        return made[-1]

    yield make
    for one in made:
        end_all(one)


def on(device: str, device_map: str | None = None) -> RunConfig:
    return RunConfig(model=ModelConfig(device=device, device_map=device_map))


def flags_of(run: Run) -> str:
    """Return the arguments of the last process of a run."""
    wait_for(lambda: run.status()["step"] > 0)
    return run.log_path.read_text().rpartition("flags")[2]


def test_a_run_trains_on_each_accelerator(jobs: Make) -> None:
    one = jobs("cuda:0", "cuda:1")
    assert not one.full()
    first, second, third = (one.start(RunConfig()) for _ in range(3))
    assert [run.status()["device"] for run in (first, second)] == ["cuda:0", "cuda:1"]
    assert "on cuda:0" in flags_of(first) and "on cuda:1" in flags_of(second)
    assert third.state == "queued" and one.full()
    assert Follower(second).snapshot()["message"].startswith("Training on cuda:1")
    one.cancel(second.id)
    wait_for(lambda: third.state == "training")
    assert third.status()["device"] == "cuda:1" and "on cuda:1" in flags_of(third)
    assert third.summary()["device"] == "cuda:1"


def test_an_assigned_device_is_not_a_setting(jobs: Make) -> None:
    run = jobs("cuda:0", "cuda:1").start(RunConfig())
    assert "--device" not in flags_of(run)
    assert run.run_config().model.device == "auto"


def test_auto_is_the_assigned_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, "meta")
    assert (pick_device("auto").type, pick_device("cpu").type) == ("meta", "cpu")


def test_a_named_device_is_waited_for_and_others_pass(jobs: Make) -> None:
    one = jobs("cuda:0", "cuda:1")
    first = one.start(on("cuda"))
    assert "--device cuda " in flags_of(first) and "on None" in flags_of(first), "as it was asked for"
    waits = one.start(on("cuda:0"))
    passes = one.start(RunConfig())
    processor = one.start(on("cpu"))
    assert waits.state == "queued"
    assert passes.status()["device"] == "cuda:1"
    assert processor.state in ("starting", "training")
    assert one.places().blocker(waits) == ("cuda:0", first.id)


def test_a_device_map_waits_for_all_accelerators(jobs: Make) -> None:
    one = jobs("cuda:0", "cuda:1")
    first = one.start(on("cuda:1"))
    spread = one.start(on("auto", "balanced"))
    behind = one.start(RunConfig())
    assert [spread.state, behind.state] == ["queued", "queued"], "nothing overtakes it"
    one.cancel(first.id)
    wait_for(lambda: spread.state == "training")
    assert behind.state == "queued"


def test_the_device_of_before_is_not_kept(jobs: Make) -> None:
    one = jobs("cuda:0", "cuda:1")
    first = one.start(RunConfig())
    flags_of(first)
    one.pause(first.id)
    wait_for(lambda: first.state == "paused")
    second = one.start(RunConfig())
    assert second.status()["device"] == "cuda:0"
    one.resume(first.id)
    wait_for(lambda: first.state == "training")
    assert first.status()["device"] == "cuda:1"


@pytest.mark.parametrize("devices", [(), ("cuda:0",)])
def test_with_one_device_runs_train_one_after_the_other(jobs: Make, devices: tuple[str, ...]) -> None:
    one = jobs(*devices)
    first, second = one.start(RunConfig()), one.start(on("cpu"))
    assert second.state == "queued" and one.full()
    assert "--device" not in flags_of(first) and first.status()["device"] == ""
    assert "on" not in Follower(first).snapshot()["message"].split()
    assert one.places().blocker(second) is None


@pytest.mark.parametrize(
    ("devices", "has"), [((), "cpu"), (("cuda:0",), "cuda:0 and cpu"), (("cuda:0", "cuda:1"), "cuda:0, cuda:1 and cpu")]
)
def test_a_device_that_is_not_there(jobs: Make, devices: tuple[str, ...], has: str) -> None:
    one = jobs(*devices)
    with pytest.raises(InputError, match=rf"There is no device 'cuda:7' on this machine; it has {has}\."):
        one.start(on("cuda:7"))
    assert one.store.list() == []


def test_a_run_that_waits_for_its_device_is_told_so(jobs: Make, tmp_path: Path) -> None:
    one = jobs("cuda:0", "cuda:1")
    bench = replace(Workbench.from_settings(Settings(runs=tmp_path / "runs")), jobs=one)
    first = one.start(on("cuda:1"))
    second = one.start(on("cuda:1"))
    expected = f"Queued: the run {first.id} is using cuda:1; this one starts when that one has ended."
    assert waiting_words(bench, second.id) == expected
    one.start(RunConfig())
    third = one.start(RunConfig())
    assert waiting_words(bench, third.id).startswith("Queued: it starts after 2 runs")


def test_a_run_is_resumed_on_another_device(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", RunConfig())
    config = settings_to_resume(tmp_path / "run", on("cuda:1"))
    assert config.model.device == "cuda:1"
    assert settings_to_resume(tmp_path / "run", RunConfig()).model.device == "auto"


def test_attention_of_a_gpu_is_replaced_on_another_device(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", RunConfig(model=ModelConfig(attn_implementation="flash_attention_2")))
    config = RunConfig(model=ModelConfig(device="cpu", attn_implementation="sdpa"))
    assert settings_to_resume(tmp_path / "run", config).model.attn_implementation == "sdpa"
    assert settings_to_resume(tmp_path / "run", RunConfig()).model.attn_implementation == "flash_attention_2"


def test_a_run_of_several_processes_is_resumed_in_one(jobs: Make) -> None:
    one = jobs()
    run = Run.create(one.store.root / "sharded", RunConfig(model=ModelConfig(shard_base=True)))
    run.write_status(state="cancelled")
    one.resume(run.id)
    wait_for(lambda: run.state == "training")
    assert "--shard-base" not in flags_of(run)
