"""``--heads SELECTOR@K``: heads that a selector chooses before training."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.selectors import choose
from jola.settings import chosen_by, parse_heads
from jola.studies.grid import Grid
from jola.studies.worker import make_cell
from jola.system.progress import Quiet
from tests.jola.cli.commands import QUICK, Result, assert_refused

Jola = Callable[..., Result]


@pytest.fixture
def flags(place: Path) -> list[Any]:
    return ["--model", place / "tiny", "--task", place / "task", *QUICK, "--gates", "none"]


def config(place: Path, heads: str) -> RunConfig:
    return RunConfig(
        edits=EditConfig(gates="none", heads=heads),
        model=ModelConfig(str(place / "tiny"), dtype="float32", device="cpu"),
        data=DataConfig(str(place / "task")),
        training=TrainingConfig(epochs=1),
    )


def test_what_names_a_selector() -> None:
    assert chosen_by("dsp@32") == ("dsp", 32)
    assert chosen_by("all") is chosen_by("3:0,3:7") is None
    for heads in ("magic@3", "dsp@0", "jola@3"):
        with pytest.raises(InputError, match=r"SELECTOR is one of smp, .*, ablation, and K a number of heads"):
            chosen_by(heads)


def test_a_run_edits_the_heads_that_the_selector_chose(
    jola: Jola, place: Path, flags: list[Any], tmp_path: Path
) -> None:
    same = ["--model", place / "tiny", "--task", place / "task", "--dtype", "float32", "--device", "cpu"]
    printed = jola("select", "gradient", *same, "--k", 3).out.strip()
    trained = jola("train", *flags, "--heads", "gradient@3", "--output", tmp_path / "run")
    assert trained.code == 0, trained.err
    assert f"gradient chose 3 of 12 heads on 12 training examples: {printed}." in " ".join(trained.err.split())
    run = Run.open(tmp_path / "run")
    assert run.run_config().edits.heads == "gradient@3" and run.raw_config()["chosen_heads"] == printed
    assert int(JoLAModel.from_adapter(run.adapter_dir).edits.editable.sum()) == 3
    # Resuming keeps the chosen heads, with and without the flags.
    for more in ([], [*flags, "--heads", "gradient@3"]):
        run.write_status(state="cancelled")
        again = jola("train", "--resume", "--output", tmp_path / "run", *more)
        assert again.code == 0 and run.state == "finished", again.err
        assert "gradient chose" not in again.err and run.raw_config()["chosen_heads"] == printed


def test_each_restart_chooses_with_its_own_seed(jola: Jola, flags: list[Any], tmp_path: Path) -> None:
    command = ["train", *flags, "--heads", "random@3", "--output", tmp_path / "run", "--restarts", 1]
    made = jola(*command)
    assert made.code == 0, made.err
    runs = [Run.open(tmp_path / name) for name in ("run", "run-2")]
    chosen = [run.raw_config()["chosen_heads"] for run in runs]
    assert chosen[0] != chosen[1]
    # If the second training never began, resuming runs it as if nothing had been interrupted.
    shutil.rmtree(runs[1].path)
    assert jola(*command, "--resume").code == 0
    assert [run.raw_config()["chosen_heads"] for run in runs] == chosen


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        ("magic@3", "SELECTOR is one of"),
        ("DSP@3", "SELECTOR is one of"),
        ("dsp@x", "SELECTOR is one of"),
        ("random@99", "choose a k from 1 to 12"),
    ],
)
def test_what_cannot_be_chosen_leaves_no_run(
    jola: Jola, flags: list[Any], heads: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JOLA_HOME", str(tmp_path / "home"))
    assert_refused(jola("train", *flags, "--heads", heads), words)
    assert list(RunStore().list()) == []


def test_named_heads_stay_as_they_are(place: Path) -> None:
    named = config(place, "0:1")
    assert choose.chosen_heads(named, Quiet(), threading.Event()) is None


def test_a_selector_chooses_among_all_layers(jola: Jola, flags: list[Any]) -> None:
    assert_refused(jola("train", *flags, "--heads", "random@3", "--layers", "0-1"), "leave out --layers")


def test_a_model_alone_has_no_selector() -> None:
    with pytest.raises(InputError, match="list the heads as printed by `jola select`"):
        parse_heads("dsp@3", 3, 4)


def test_a_selection_can_be_stopped(place: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        choose.chosen_heads(config(place, "gradient@3"), Quiet(), stop)


def test_several_processes_are_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "launched", lambda: 2)
    with pytest.raises(InputError, match="choose them first: `jola select gradient --k 3`"):
        choose.chosen_heads(config(place, "gradient@3"), Quiet(), threading.Event())


def test_selectors_are_arms_of_a_grid(jola: Jola, place: Path, tmp_path: Path) -> None:
    axes = ["--tasks", place / "task", "--models", place / "tiny", "--train-sizes", 8]
    arms = "jola,jola:gates=none:heads=random@2/gradient@2"
    planned = jola("grid", "plan", tmp_path / "grid", *axes, "--methods", arms, *QUICK)
    assert planned.code == 0, planned.err
    grid = Grid.open(tmp_path / "grid")
    names = {cell.arm: name for name, cell in grid.planned.items()}
    assert set(names) == {"jola", "jola:gates=none:heads=random@2", "jola:gates=none:heads=gradient@2"}
    chosen = names["jola:gates=none:heads=gradient@2"]
    make_cell(grid, chosen)
    run = grid.cell(chosen).run
    heads = run.raw_config()["chosen_heads"]
    assert len(heads.split(",")) == 2
    # A cell that was interrupted before its result was written resumes with the same heads.
    (grid.cell(chosen).path / "result.json").unlink()
    make_cell(grid, chosen)
    assert run.raw_config()["chosen_heads"] == heads
    assert "1 of 3 cells done" in jola("grid", "show", tmp_path / "grid").out
