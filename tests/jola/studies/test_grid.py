"""Plans of grids, their cells on disk, and the processes that run them."""

import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from jola.config import RunConfig
from jola.data.tasks.registry import GROUPS, REGISTRY
from jola.errors import InputError
from jola.methods import METHODS
from jola.recipes import RECIPES, recipe
from jola.runs.run import Run
from jola.studies.axes import NEUTRAL, changed_setting, expand_arms, short_names
from jola.studies.cells import Locked, is_locked, locked
from jola.studies.estimates import Pace
from jola.studies.executors import Ended, run_grid
from jola.studies.grid import Grid, shard_of
from jola.studies.presets import PRESETS, preset_named
from jola.studies.worker import make_cell
from jola.training.fit import fit as fit_run
from jola.training.trainer import JoLATrainer
from tests import ROOT
from tests.jola.studies.grids import SETTINGS, fill, make_task, plan, result


class Here:
    """Runs cells in this process."""

    slots = 1

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def run(self, name: str, slot: int) -> int:
        try:
            make_cell(self.grid, name)
        except InputError:
            return 2
        return 0

    def stop(self, *, kill: bool) -> None:
        """Do nothing, because there are no other processes."""


class Log:
    """Records the reported cells."""

    def __init__(self) -> None:
        self.lines: list[Ended] = []

    def ended(self, cell: Ended) -> None:
        self.lines.append(cell)

    def looked(self, running: Sequence[str], waiting: int) -> None:
        """Do nothing."""


@pytest.fixture
def task(tmp_path: Path) -> str:
    return make_task(tmp_path / "films")


def test_cells_are_all_combinations_seed_by_seed(tmp_path: Path, task: str) -> None:
    other = make_task(tmp_path / "books", 100)
    grid = plan(tmp_path / "g", [task, other], ["jola", "red"], [1, 2], sizes=(4, 8))
    cells = list(grid.planned.values())
    assert len(cells) == len(grid.planned) == 16
    assert [cell.seed for cell in cells] == [1] * 8 + [2] * 8
    assert {(c.arm, c.task, c.train_size) for c in cells[:8]} == {
        (a, t, s) for a in ("jola", "red") for t in (task, other) for s in (4, 8)
    }
    assert cells[0].name.startswith("jola-films-n4-s1-")


def test_planning_again_adds_cells_and_keeps_names_and_order(tmp_path: Path, task: str) -> None:
    before = list(plan(tmp_path / "g", [task], ["jola"], [1]).planned)
    after = list(plan(tmp_path / "g", [task], ["jola", "lora:rank=2/4"], [1, 2]).planned)
    assert after[: len(before)] == before
    assert len(after) == 6
    assert list(plan(tmp_path / "g", [task], ["jola"], [1]).planned) == after


def test_settings_of_an_arm_reach_its_run(tmp_path: Path, task: str) -> None:
    grid = plan(tmp_path / "g", [task], ["jola:gates=none:epochs=2", "lora:rank=2/4"], [5])
    jola, *loras = (grid.config(name) for name in grid.planned)
    assert (jola.edits.gates, jola.training.epochs, jola.training.seed, jola.data.train_size) == ("none", 2, 5, 8)
    assert [(config.edits.rank, config.training.epochs) for config in loras] == [(2, 3), (4, 3)]
    assert jola.training.learning_rate == 5e-3 and loras[0].training.learning_rate == 1e-3
    assert jola.training.output == str(grid.cell(next(iter(grid.planned))).run.path)


def test_an_arm_can_be_a_recipe(tmp_path: Path, task: str) -> None:
    arms = ["jola:recipe=default/paper/reference", "jola:epochs=4:recipe=paper"]
    grid = plan(tmp_path / "g", [task], arms, [5])
    ours, *published, changed = (grid.config(name) for name in grid.planned)
    assert ours.training.epochs == SETTINGS["training"]["epochs"]
    for config, name in zip(published, ("paper", "reference"), strict=True):
        wanted = recipe(name)
        for group in ("training", "data", "edits"):
            here, there = vars(getattr(config, group)), vars(getattr(wanted, group))
            assert {key: here[key] for key in RECIPES[name] if key in here} == {
                key: there[key] for key in RECIPES[name] if key in there
            }
        assert config.data.test_size == SETTINGS["data"]["test_size"]
    assert (changed.training.epochs, changed.edits.gate_start) == (4, 0.0)


def test_settings_that_are_left_out_are_the_defaults(tmp_path: Path, task: str) -> None:
    """Cells of one grid have the same settings also if a program gives only those that differ."""
    shorter: dict[str, dict[str, Any]] = {"training": {"learning_rate": None, "epochs": 4}}
    usual: dict[str, dict[str, Any]] = {"training": {"learning_rate": None}}
    plan(tmp_path / "short", [task], ["jola"], [1], settings=shorter)
    with pytest.raises(InputError, match="was planned with epochs 4, not 8"):
        plan(tmp_path / "short", [task], ["red"], [1], settings=usual)
    plan(tmp_path / "usual", [task], ["jola"], [1], settings=usual)
    with pytest.raises(InputError, match="was planned with epochs 8, not 4"):
        plan(tmp_path / "usual", [task], ["red"], [1], settings=shorter)
    assert set(Grid.open(tmp_path / "usual").arms) == {"jola"}


def test_cells_whose_names_are_equal_are_all_planned(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long labels are shortened in a name, and a few digits of a hash may not tell them apart."""
    monkeypatch.setattr("jola.studies.axes.short_hash", lambda text: "c0ffee")
    long = "jola:gates=none:weight_decay=0.125:warmup_ratio=0.1/0.2/0.3"
    grid = plan(tmp_path / "g", [task], [long, "zero-shot"], [1, 2])
    first, *_ = names = list(grid.planned)
    assert len(names) == 7 and names[1:3] == [f"{first}-2", f"{first}-3"]
    assert len({(cell.arm, cell.seed) for cell in grid.planned.values()}) == 7
    assert grid.config(names[1]).training.warmup_ratio == 0.2
    again = plan(tmp_path / "g", [task], [long, "zero-shot"], [3, 2])
    assert list(again.planned)[:7] == names and len(again.planned) == 10


def test_other_settings_are_other_cells(tmp_path: Path, task: str) -> None:
    longer = {**SETTINGS, "training": {**SETTINGS["training"], "epochs": 4}}
    first = plan(tmp_path / "a", [task], ["jola"], [1])
    second = plan(tmp_path / "b", [task], ["jola"], [1], settings=longer)
    assert not first.planned.keys() & second.planned.keys()


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("nonsense", "no method 'nonsense'"),
        ("jola:gates", "not a method with settings"),
        ("lora:rank=4:dropout=0:rank=8", "sets rank twice; for an arm with each value, write rank=4/8"),
        ("jola:rank=2", "is not a setting of jola"),
        ("jola:seed=1", "is an axis"),
        ("jola:shard_base=true", "is not a setting of jola"),
        ("jola:gates=three", "--gates is 'three'"),
        ("jola:epochs=many", "--epochs is 'many'"),
        ("jola:recipe=none", "--recipe is 'none'"),
        ("lora:recipe=paper", "only for jola"),
        ("lora:rank=0", "--rank is 0"),
    ],
)
def test_an_arm_that_cannot_be_is_one_sentence(arm: str, words: str, tmp_path: Path, task: str) -> None:
    with pytest.raises(InputError, match=words):
        plan(tmp_path / "g", [task], [arm], [1])
    assert not (tmp_path / "g").exists()


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, task: str) -> None:
    grid = plan(tmp_path / "g", [task], ["jola"], [1])
    content = (grid.folder / "grid.json").read_bytes()
    with pytest.raises(InputError, match="was planned with test_size 6, not 5"):
        plan(grid.folder, [task], ["jola"], [1], settings={**SETTINGS, "data": {"validation_size": 4, "test_size": 5}})
    with pytest.raises(InputError, match="contains other files"):
        plan(Path(task), [task], ["jola"], [1])
    with pytest.raises(InputError, match="There is no task, group"):
        plan(grid.folder, ["nowhere"], ["jola"], [1])
    with pytest.raises(InputError, match="contains no grid"):
        Grid.open(task)
    assert (grid.folder / "grid.json").read_bytes() == content
    for damaged in (b"", b"{", content.replace(b'"format": 1', b'"format": 2')):
        (grid.folder / "grid.json").write_bytes(damaged)
        with pytest.raises(InputError):
            Grid.open(grid.folder)


def test_an_arm_whose_defaults_changed_is_refused(tmp_path: Path, task: str) -> None:
    grid = plan(tmp_path / "g", [task], ["lora"], [1])
    content = json.loads((grid.folder / "grid.json").read_text())
    settings = content["arms"]["lora"]["settings"]
    assert not changed_setting(settings, expand_arms(["lora"], SETTINGS)["lora"].settings)
    settings["edits"]["rank"] = 16
    (grid.folder / "grid.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="has rank 16, not 8"):
        plan(grid.folder, [task], ["lora"], [2])
    # A setting that did not exist when the grid was planned has its default.
    settings["edits"]["rank"] = 8
    del settings["training"]["keep"]
    (grid.folder / "grid.json").write_text(json.dumps(content))
    assert len(plan(grid.folder, [task], ["lora"], [2]).planned) == 2


def test_shards_are_all_cells_once() -> None:
    cells = [f"c{i}" for i in range(10)]
    shards = [shard_of(cells, f"{i}/3") for i in range(3)]
    assert sorted(name for shard in shards for name in shard) == cells
    assert shards[1] == ["c1", "c4", "c7"]
    for bad in ("3/3", "1", "a/2", "-1/2", "1/0"):
        with pytest.raises(InputError, match="--shard"):
            shard_of(cells, bad)


def test_a_cell_has_its_result_if_side_effects_cannot_be_measured(
    tmp_path: Path, task: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr("jola.evaluation.side_effects.side_effects", fails)
    grid = plan(tmp_path / "g", [task], ["red"], [1], models=(str(tiny_folder),))
    made = make_cell(grid, next(iter(grid.planned)))
    assert made["scores"] and made["side_effects"] is made["layer_changes"] is None


def test_a_cell_is_an_ordinary_run_with_a_result(tmp_path: Path, task: str, tiny_folder: Path) -> None:
    grid = plan(tmp_path / "g", [task], ["jola"], [1], models=(str(tiny_folder),))
    (name,) = grid.planned
    made = make_cell(grid, name)
    run = grid.cell(name).run
    assert run.state == "finished" and not run.checkpoints_dir.exists()
    found = run.result()
    assert found and made["scores"] == found["scores"] and made["scores"][0]["n"] == 6
    assert made["trainable"] == run.config()["parameters"]["trainable"] > 0
    assert made["adapter_bytes"] == (run.adapter_dir / "adapter_model.safetensors").stat().st_size
    assert made["sessions"] == 1 and made["peak_memory"] > 0 and made["seconds"] > found["seconds"]
    assert grid.result(name) == {"format": 1, **made}
    writes = run.status()["writes"]
    assert grid.state().counts["done"] == 1
    # If a process was killed after its run finished, only the result is still to be written.
    (grid.cell(name).path / "result.json").unlink()
    again = make_cell(grid, name)
    status = run.status()
    assert (again["scores"], again["sessions"], status["writes"]) == (made["scores"], 1, writes)
    assert again["seconds"] >= status["updated"] - status["started"] - found["measure_seconds"] > 0
    # Finished cells are not run again.
    stamp = (grid.cell(name).path / "result.json").stat().st_mtime_ns
    assert run_grid(grid, [name], Here(grid), Log())
    assert (grid.cell(name).path / "result.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("method", [name for name in METHODS if name != "jola"])
def test_every_method_makes_a_cell(method: str, tmp_path: Path, task: str, tiny_folder: Path) -> None:
    arm = {"lofit": "lofit:kept_heads=4"}.get(method, method)  # the tiny model has 12 heads
    grid = plan(tmp_path / "g", [task], [arm], [1, 2], models=(str(tiny_folder),))
    first = next(iter(grid.planned))
    made = make_cell(grid, first)
    assert made["scores"][0]["n"] == 6
    assert made["trainable"] == grid.cell(first).run.config()["parameters"]["trainable"]
    assert len(grid.planned) == (2 if METHODS[method].trains else 1)
    (row,) = grid.rows()
    assert (row.seeds, row.method, row.trainable) == (1, method, made["trainable"])
    if not METHODS[method].trains:
        assert made["side_effects"] is made["layer_changes"] is row.text_kl is None
        return
    effects, changes = made["side_effects"], made["layer_changes"]
    assert effects["kl"]["low"] <= row.text_kl == effects["kl"]["value"] <= row.text_kl_high
    assert row.text_change_low <= row.text_change == effects["change"]["value"] and row.text_tokens > 1000
    assert len(changes["change"]) == 3 and changes["change"][-1] > 0 and changes["n"] == 6


def test_a_failing_cell_costs_that_cell(tmp_path: Path, task: str, tiny_folder: Path) -> None:
    lost = make_task(tmp_path / "lost", 100)
    grid = plan(tmp_path / "g", [lost, task], ["red"], [1], models=(str(tiny_folder),))
    shutil.rmtree(lost)
    log = Log()
    assert run_grid(grid, list(grid.planned), Here(grid), log)
    assert [line.outcome for line in log.lines] == ["failed", "done"]
    assert "There is no task" in log.lines[0].message
    state = grid.state()
    assert (state.counts["done"], state.counts["failed"], state.total) == (1, 1, 2)
    assert list(state.failed.values()) == [log.lines[0].message]
    # A failed cell is only run again on request.
    again = Log()
    assert run_grid(grid, list(grid.planned), Here(grid), again) and not again.lines
    make_task(Path(lost), 100)
    assert grid.retry() == list(state.failed)
    assert run_grid(grid, list(grid.planned), Here(grid), again)
    assert grid.state().counts["done"] == 2


def test_a_process_that_dies_without_a_word_is_a_failure(tmp_path: Path, task: str) -> None:
    class Dies(Here):
        def run(self, name: str, slot: int) -> int:
            return -9

    grid = plan(tmp_path / "g", [task], ["red"], [1])
    assert run_grid(grid, list(grid.planned), Dies(grid), Log())
    (sentence,) = grid.state().failed.values()
    assert "SIGKILL, perhaps because the memory was exhausted" in sentence and "log.txt" in sentence


def test_other_test_examples_are_not_mixed(tmp_path: Path, task: str, tiny_folder: Path) -> None:
    grid = plan(tmp_path / "g", [task], ["red"], [1, 2], models=(str(tiny_folder),))
    first, second = grid.planned
    make_cell(grid, first)
    for file in Path(task).iterdir():
        file.write_text(file.read_text().replace("film", "play"))
    with pytest.raises(InputError, match="are not those of the other cells"):
        make_cell(grid, second)
    assert grid.state().counts["failed"] == 1


def test_a_size_above_the_data_is_refused_where_sizes_are_compared(
    tmp_path: Path, task: str, tiny_folder: Path
) -> None:
    grid = plan(tmp_path / "g", [task], ["red"], [1], sizes=(4, 100), models=(str(tiny_folder),))
    with pytest.raises(InputError, match="has 12 training examples, fewer than 100"):
        make_cell(grid, list(grid.planned)[1])


def test_a_run_that_was_killed_while_it_was_created_starts_again(tmp_path: Path, task: str, tiny_folder: Path) -> None:
    grid = plan(tmp_path / "g", [task], ["red"], [1], models=(str(tiny_folder),))
    (name,) = grid.planned
    run = grid.cell(name).run
    run.path.mkdir(parents=True)
    (run.path / "config.json").touch()
    assert make_cell(grid, name)["sessions"] == 1


class Killed(BaseException):
    """Simulates the end of the process."""


def test_an_interrupted_cell_resumes_from_its_checkpoint(
    tmp_path: Path, task: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = plan(tmp_path / "g", [task], ["jola"], [1], models=(str(tiny_folder),))
    whole = plan(tmp_path / "whole", [task], ["jola"], [1], models=(str(tiny_folder),))
    (name,) = grid.planned
    steps: list[int] = []
    step = JoLATrainer.training_step

    def dies(self: JoLATrainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 3 and 3 not in steps:
            steps.append(3)
            raise Killed
        steps.append(self.state.global_step)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(JoLATrainer, "training_step", dies)
    with pytest.raises(Killed):
        make_cell(grid, name)
    assert grid.result(name) is None
    # The folder may be moved meanwhile.
    grid = Grid.open(grid.folder.rename(tmp_path / "moved"))
    made = make_cell(grid, name)
    assert steps == [0, 1, 2, 3, 2, 3, 4, 5]
    assert made["sessions"] == 2
    other = make_cell(whole, next(iter(whole.planned)))
    assert made["scores"] == other["scores"] and made["validation"] == other["validation"]
    assert adapter(grid.cell(name).run) == adapter(whole.cell(next(iter(whole.planned))).run)


def adapter(run: Run) -> bytes:
    return (run.adapter_dir / "adapter_model.safetensors").read_bytes()


def test_a_locked_cell_is_skipped_and_come_back_to(tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jola.studies.executors._LOCKED_SECONDS", 0.0)
    grid = plan(tmp_path / "g", [task], ["red"], [1, 2, 3])
    first, *others = grid.planned
    path = grid.cell(first).path
    path.mkdir(parents=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), thread_local=False)
    lock.acquire()
    made: list[str] = []

    class Writes(Here):
        def run(self, name: str, slot: int) -> int:
            grid.cell(name).write_result(result(0.5))
            made.append(name)
            if name == others[-1]:  # the other process ends without a result
                lock.release()
            return 0

    assert is_locked(path)
    assert grid.state().running == (first,)
    with pytest.raises(Locked), locked(path):
        pass
    assert run_grid(grid, list(grid.planned), Writes(grid), Log())
    assert made == [*others, first]


def test_no_cell_is_started_after_the_time(tmp_path: Path, task: str) -> None:
    grid = plan(tmp_path / "g", [task], ["red"], [1])
    assert not run_grid(grid, list(grid.planned), Here(grid), Log(), minutes=0)
    assert grid.state().counts["open"] == 1


def test_a_damaged_result_is_made_again(tmp_path: Path, task: str, tiny_folder: Path) -> None:
    grid = plan(tmp_path / "g", [task], ["red"], [1], models=(str(tiny_folder),))
    (name,) = grid.planned
    good = make_cell(grid, name)
    (grid.cell(name).path / "result.json").write_text('{"format": 1, "scores": 3}')
    assert grid.result(name) is None and grid.state().counts["done"] == 0
    assert make_cell(grid, name)["scores"] == good["scores"]


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [("model", "model", "owner/other"), ("data", "task", "boolq"), ("training", "epochs", 100), ("", "method", "lora")],
)
def test_a_run_that_is_not_the_planned_one_is_refused(
    tmp_path: Path, task: str, tiny_folder: Path, group: str, name: str, value: Any
) -> None:
    """A folder from somebody else may contain a run with settings that differ from the plan."""
    grid = plan(tmp_path / "g", [task], ["red"], [1], models=(str(tiny_folder),))
    (cell,) = grid.planned
    content = {**grid.config(cell).to_dict(), "created": 1.0}
    if not group:
        content = {**RunConfig(method=value).to_dict(), "created": 1.0}
    else:
        content[group][name] = value
    run = grid.cell(cell).run
    run.path.mkdir(parents=True)
    (run.path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"has {name} '?{value}'?, but the grid plans"):
        make_cell(grid, cell)
    assert f"has {name}" in (grid.cell(cell).failure() or "")
    shutil.rmtree(run.path)
    assert make_cell(grid, cell)["scores"]


def test_a_run_reports_to_the_planned_tracker_only(
    tmp_path: Path, task: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder from somebody else may contain an interrupted run that would send its metrics to a tracker."""
    grid = plan(tmp_path / "g", [task], ["red"], [1], models=(str(tiny_folder),))
    (cell,) = grid.planned
    run = grid.cell(cell).run
    config = grid.config(cell)
    config.training = dataclasses.replace(
        config.training, report_to="tensorboard", record_every=3, output=str(tmp_path / "elsewhere")
    )
    Run.create(run.path, config)
    run.write_status(state="cancelled")
    used: list[RunConfig] = []

    def fit(config: RunConfig, *rest: Any, **more: Any) -> Any:
        used.append(config)
        return fit_run(config, *rest, **more)

    monkeypatch.setattr("jola.training.run.fit", fit)
    assert make_cell(grid, cell)["scores"]
    assert [each.training.report_to for each in used] == ["none"]
    assert run.run_config() == grid.config(cell)
    assert not (tmp_path / "elsewhere").exists()


def test_a_result_that_no_cell_can_have_is_refused(tmp_path: Path, task: str, tiny_folder: Path) -> None:
    grid = plan(tmp_path / "g", [task], ["red"], [1], models=(str(tiny_folder),))
    (name,) = grid.planned
    make_cell(grid, name)
    cell = grid.cell(name)
    (cell.path / "result.json").unlink()
    content = json.loads((cell.run.path / "config.json").read_text())
    (cell.run.path / "config.json").write_text(json.dumps({**content, "versions": {"torch": 2.5}, "parameters": None}))
    with pytest.raises(InputError, match=r"has a result that is not valid: versions.torch is 2.5"):
        make_cell(grid, name)
    (cell.run.path / "config.json").write_text(json.dumps({**content, "versions": None, "parameters": None}))
    (cell.path / "sessions.json").write_text('{"1": "x", "2": 3.5, "3": true}')
    made = make_cell(grid, name)
    assert made["trainable"] == 0 and made["sessions"] == 2 and made["seconds"] >= 3.5


def test_the_pace_is_that_of_the_nearest_cells(tmp_path: Path, task: str) -> None:
    grid = plan(tmp_path / "g", [task], ["red", "jola", "jola:gates=none"], [1, 2])
    assert Pace(grid).estimate(grid.planned).known == 0
    red, jola, *_ = grid.planned
    grid.cell(red).write_result(result(0.5, seconds=10.0))
    assert round(Pace(grid).seconds(jola) or 0) == 10  # of the same model
    grid.cell(jola).write_result(result(0.5, seconds=30.0, peak_memory=5))
    pace = Pace(grid)
    assert [pace.seconds(name) and round(pace.seconds(name) or 0) for name in grid.planned] == [10, 30, 30] * 2
    open_cells = [name for name in grid.planned if grid.result(name) is None]
    estimate = pace.estimate(open_cells)
    assert (round(estimate.seconds), estimate.known, estimate.cells, estimate.memory) == (100, 4, 4, 10**9)


@pytest.mark.parametrize("arms", [["zero-shot", "jola"], ["jola", "zero-shot"]])
def test_the_pace_counts_no_training_examples_of_a_method_that_does_not_train(
    tmp_path: Path, task: str, arms: list[str]
) -> None:
    grid = plan(tmp_path / "g", [task], arms, [1], sizes=(200, 2000))
    names = {(cell.arm, cell.train_size): name for name, cell in grid.planned.items()}
    assert len(names) == 3
    # A tenth of a second for each example: 100 are tested, and 200 trained on in each of three epochs.
    grid.cell(names["zero-shot", 200]).write_result(result(0.5, seconds=10.0, n_train=0))
    assert Pace(grid).seconds(names["jola", 200]) == pytest.approx(70)
    grid.cell(names["jola", 200]).write_result(result(0.5, seconds=70.0, n_train=200))
    assert Pace(grid).seconds(names["jola", 2000]) == pytest.approx(610)
    assert Pace(grid).seconds(names["zero-shot", 200]) == pytest.approx(10)


def test_names_in_tables_are_short_where_that_is_enough() -> None:
    names = ["/a/films", "/b/books", "/c/books", "owner/model", "sentiment"]
    assert list(short_names(names).values()) == ["films", "/b/books", "/c/books", "model", "sentiment"]


def test_a_group_is_its_tasks(tmp_path: Path) -> None:
    grid = plan(tmp_path / "g", ["commonsense", "siqa"], ["jola"], [1])
    assert [cell.task for cell in grid.planned.values()] == list(GROUPS["commonsense"])


def test_presets_name_tasks_and_arms_that_exist() -> None:
    sizes = {}
    for name, preset in PRESETS.items():
        assert set(preset.tasks) <= REGISTRY.keys()
        arms = [arm for arm in preset.arms if arm.split(":")[0] in METHODS]
        assert len(expand_arms(arms, SETTINGS)) >= 2
        values = [[change.count("/") + 1 for change in arm.split(":")[1:]] for arm in preset.arms]
        axes = (preset.tasks, preset.train_sizes, preset.models)
        sizes[name] = sum(map(math.prod, values)) * math.prod(map(len, axes))
    guide = (ROOT / "docs" / "studies.md").read_text("utf-8")
    assert sizes == {name: int(cells) for name, cells in re.findall(r"^\| `([\w-]+)` \| .* \| (\d+) \|$", guide, re.M)}
    assert all(expand_arms(preset_named(name).arms, SETTINGS) for name in PRESETS)
    assert len(PRESETS["main"].tasks) == 26
    assert set(PRESETS["main"].tasks) == {task for group in GROUPS.values() for task in group}


def test_settings_are_whole_in_the_file(tmp_path: Path, task: str) -> None:
    grid = plan(tmp_path / "g", [task], ["jola"], [1])
    settings: Mapping[str, Any] = Grid.open(grid.folder).arms["jola"].settings
    whole = RunConfig().to_dict()
    missing = {
        n for group in ("model", "edits", "data", "training") for n in whole[group].keys() - settings[group].keys()
    }
    assert missing == {"model", "task", "train_size", "seed", *NEUTRAL}


def test_results_are_read_again_only_when_they_change(tmp_path: Path, task: str) -> None:
    grid = plan(tmp_path / "g", [task], ["red"], [1])
    (name,) = grid.planned
    fill(grid, lambda cell: 0.5)
    assert grid.result(name) is grid.result(name)
    fill(grid, lambda cell: 0.7)
    assert (grid.result(name) or {})["scores"][0]["value"] == 0.7
    assert dataclasses.is_dataclass(grid.state()) and os.listdir(grid.folder / "cells") == [name]
