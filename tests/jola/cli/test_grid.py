"""``jola grid``: plan, run, show, and what is refused."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jola.studies.executors import INTERRUPTED, LocalExecutor
from jola.studies.grid import Grid
from tests.jola.cli.commands import QUICK, Result, assert_refused
from tests.jola.studies.grids import fill

Jola = Callable[..., Result]


@pytest.fixture
def planned(jola: Jola, place: Path, tmp_path: Path) -> Path:
    """A planned grid of two arms and one seed."""
    folder = tmp_path / "grid"
    result = jola("grid", "plan", folder, *flags(place))
    assert result.code == 0, result.err
    return folder


SAME = ["--tasks", "TASK", "--methods", "jola,red", "--models", "MODEL", "--train-sizes", "8", *QUICK]
"""Arguments of the planned grid."""


def flags(place: Path) -> list[Any]:
    return [{"TASK": place / "task", "MODEL": place / "tiny"}.get(argument, argument) for argument in SAME]


def test_plan_lists_cells_and_adds_to_them(jola: Jola, place: Path, planned: Path) -> None:
    result = jola("grid", "plan", planned, *flags(place), "--seeds", "42,43")
    assert "4 cells, 4 to run" in result.out and "jola-task-n8-s43" in result.out
    assert "no estimate" in result.out
    cells = jola("grid", "plan", planned, "--json").json["cells"]
    assert [(cell["arm"], cell["seed"]) for cell in cells] == [("jola", 42), ("red", 42), ("jola", 43), ("red", 43)]
    fill(Grid.open(planned), lambda cell: 0.5 if cell.arm == "red" and cell.seed == 42 else None)
    out = jola("grid", "plan", planned).out
    assert "4 cells, 3 to run" in out and "about 3 min one after the other, estimated from earlier cells" in out


def test_plan_says_what_a_recipe_overrides(jola: Jola, place: Path, tmp_path: Path) -> None:
    arms = "jola,jola:recipe=paper:learning-rate=1e-4/1e-3,jola:recipe=reference:epochs=3,jola:recipe=default"
    given = [*flags(place), "--methods", arms, "--epochs", 3, "--batch-size", 8, "--learning-rate", "0.01"]
    planned = jola("grid", "plan", tmp_path / "grid", *given)
    assert planned.err.splitlines() == [
        "note: --epochs is 20, not 3, with recipe=paper; to change it, write recipe=paper:epochs=3.",
        "note: --learning-rate is 0.005, not 0.01, with recipe=reference; to change it, write "
        "recipe=reference:learning_rate=0.01.",
    ]
    epochs = [arm.settings["training"]["epochs"] for arm in Grid.open(tmp_path / "grid").arms.values()]
    assert epochs == [3, 20, 20, 3, 3]


def test_run_makes_each_cell_in_a_process_and_show_prints_them(jola: Jola, planned: Path) -> None:
    made = jola("grid", "run", planned, "--workers", 2)
    assert made.code == 0, made.err + "".join(path.read_text() for path in planned.glob("cells/*/log.txt"))
    assert "2 of 2 cells done" in made.out and "2 of 2  " in made.err
    shown = jola("grid", "show", planned)
    assert "exact_match" in shown.out and "2 of 2 cells done" in shown.out
    found = jola("grid", "show", planned, "--json").json
    assert found["counts"]["done"] == 2
    assert [(row["arm"], row["seeds"], row["items"]) for row in found["rows"]] == [("jola", 1, 6), ("red", 1, 6)]
    table = list(csv.DictReader(io.StringIO(jola("grid", "show", planned, "--csv").out)))
    assert [float(row["value"]) for row in table] == [row["value"] for row in found["rows"]]
    assert jola("grid", "show", planned, "--table", "tasks", "--markdown").out.startswith("| arm | task |")


def test_run_reports_failures_and_makes_them_again_when_asked(
    jola: Jola, planned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = False

    def process(self: LocalExecutor, name: str, slot: int) -> int:
        if works:
            fill(Grid.open(planned), lambda cell: 0.5 if cell.name == name else None)
        return 0 if works else -11

    monkeypatch.setattr(LocalExecutor, "run", process)
    result = jola("grid", "run", planned)
    assert result.code == 1
    assert "0 of 2 cells done, 2 failed" in result.out and "ended by signal SIGSEGV" in result.out
    works = True
    assert jola("grid", "run", planned).code == 0
    assert Grid.open(planned).state().counts["failed"] == 2
    assert jola("grid", "plan", planned).out.splitlines()[-1] == "2 cells, 0 to run, 2 failed"
    assert jola("grid", "run", planned, "--retry", "--shard", "1/2").code == 0
    state = Grid.open(planned).state()
    # Failures of other shards are left to the processes that run those shards.
    assert (state.counts["done"], state.counts["failed"]) == (1, 1)


@pytest.mark.parametrize(("minutes", "code"), [(60, 130), (0, 0)])
def test_a_run_with_a_time_says_when_it_was_stopped_before(
    jola: Jola, planned: Path, monkeypatch: pytest.MonkeyPatch, minutes: int, code: int
) -> None:
    monkeypatch.setattr(LocalExecutor, "run", lambda self, name, slot: INTERRUPTED)
    result = jola("grid", "run", planned, "--minutes", minutes)
    assert result.code == code and ("stopped; to continue" in result.err) == bool(code)


@pytest.mark.parametrize("command", [["grid", "run", "GRID"], ["compare", "--methods", "jola", "--output", "GRID"]])
def test_a_launcher_is_refused(jola: Jola, planned: Path, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process of a launcher would run all cells, in an environment that joins it to the others."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = jola(*(str(planned) if word == "GRID" else word for word in command))
    assert_refused(result, "start jola without torchrun or accelerate launch")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plan", "GRID", "--tasks", "nowhere", "--methods", "jola"], "There is no task"),
        (["plan", "GRID", "--tasks", "sentiment", "--methods", "nonsense"], "no method 'nonsense'"),
        (["plan", "GRID", "--tasks", "sentiment"], "Give --methods and --tasks"),
        (["plan", "GRID", "--epochs", "4"], "Settings belong to a plan"),
        (["plan", "GRID", "--preset", "nonsense"], "--preset is 'nonsense'"),
        (["plan", "GRID", "--tasks", "sentiment", "--methods", "jola", "--seeds", "x"], "--seeds names 'x'"),
        (["plan", "GRID", "--tasks", "sentiment", "--methods", "jola"], "was planned with"),
        (["plan", "GRID", *SAME, "--seeds", "42,4294967296"], "--seed is 4294967296; it must be at most 4294967295"),
        (["plan", "GRID", *SAME, "--record-every", "0"], "error: --record-every is 0; it must be at least 1"),
        (
            ["plan", "GRID", *SAME, "--methods", f"lora:device={'x' * 5000}"],
            "The plan for .*grid.json is not valid: plans.1.arms.0",
        ),
        (["plan", "PLACE", "--tasks", "sentiment", "--methods", "jola"], "contains other files"),
        (["run", "PLACE"], "contains no grid"),
        (["run", "GRID", "--shard", "2/2"], "--shard is '2/2'"),
        (["run", "GRID", "--workers", "0"], "--workers is 0"),
        (["run", "GRID", "--ray", "nonsense"], "--ray is 'nonsense'"),
        (["run", "GRID", "--ray", "a:1", "b:1"], "takes one address"),
        (["show", "PLACE"], "contains no grid"),
        (["show", "GRID", "--metric", "nonsense"], "has the metric 'nonsense'"),
        (["show", "GRID", "--csv", "--json"], "Choose one"),
        (["show", "GRID", "--best", "--table", "methods"], "--best does not apply to --table methods"),
        (["show", "GRID", "--metric", "exact_match", "--table", "cells"], "--metric does not apply to --table cells"),
        (["cell", "GRID", "nonsense"], "There is no cell 'nonsense'"),
    ],
)
def test_bad_input_is_one_sentence_and_loses_nothing(
    arguments: list[str], sentence: str, jola: Jola, place: Path, planned: Path
) -> None:
    before = (planned / "grid.json").read_bytes()
    names = {"GRID": str(planned), "PLACE": str(place), "TASK": str(place / "task"), "MODEL": str(place / "tiny")}
    assert_refused(jola("grid", *(names.get(argument, argument) for argument in arguments)), sentence)
    assert (planned / "grid.json").read_bytes() == before
    assert not (place / "grid.json").exists()
