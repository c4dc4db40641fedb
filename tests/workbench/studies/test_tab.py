"""Actions and contents of the Studies tab, without a browser."""

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from fastapi import HTTPException

from jola.errors import InputError
from jola.studies.axes import checked_axes, expand_arms
from jola.studies.grid import Grid
from tests.jola.studies.grids import SETTINGS, fill, plan
from workbench.service.bench import Workbench
from workbench.service.studies import Studies
from workbench.service.study_plan import StudyPlan
from workbench.settings import Settings
from workbench.studies import results as study_results
from workbench.studies import study_form
from workbench.studies.panel import TABLE_CHOICES, Panel
from workbench.studies.study_view import StudyViews, study_view
from workbench.ui import form, work_list
from workbench.ui.events import said, text_of

HOSTILE = "<img src=x onerror=alert(1)>"
SLEEPS = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture
def bench(bench: Workbench) -> Workbench:
    return replace(bench, studies=Studies(bench.studies.root, bench.jobs.turns, SLEEPS, check=bench.studies.check))


@pytest.fixture
def grid(bench: Workbench) -> Grid:
    """A study of two tasks, two sizes, three arms and two seeds, with all results."""
    grid = plan(
        bench.studies.root / "mine",
        ["siqa", "boolq"],
        ["jola", "lora", "lora:learning_rate=1e-3"],
        [1, 2],
        sizes=(8, 0),
    )
    fill(grid, lambda cell: 0.5 + cell.seed / 10 + (cell.arm == "jola") / 10)
    return grid


def values(**changes: Any) -> dict[str, Any]:
    """Return the values of an untouched form, with ``changes``."""
    defaults = {setting.name: setting.default for setting in study_form.settings()}
    return {**defaults, **study_form.plan_values(StudyPlan()), "into": study_form.NEW, **changes}


def drawn(bench: Workbench, view: str, **changes: Any) -> dict[str, Any]:
    chosen = {
        "best": False,
        "metric": None,
        "task": None,
        "model": None,
        "size": None,
        "cost": None,
        "table": "results",
    }
    return Panel.draw(bench.studies.find("mine"), view, **(chosen | changes), dark=False)


def test_the_form_has_the_settings_of_the_command_line() -> None:
    _, settings, neutral = study_form.read(values(test_size=7, epochs=2))
    assert settings["data"]["test_size"] == 7 and settings["training"]["epochs"] == 2
    # Each method has its own learning rate, and axes are not shared settings.
    assert settings["training"]["learning_rate"] is None and "seed" not in settings["training"]
    assert "record_every" in neutral and "record_every" not in settings["training"]


def test_the_size_is_shown_before_the_start(bench: Workbench, grid: Grid) -> None:
    assert "6 cells: 2 arms × 3 seeds, time known once a cell is done" in study_form.cost(bench, values())
    assert "No method is chosen" in study_form.cost(bench, values(methods=[]))
    overridden = study_form.cost(bench, values(variants="jola:recipe=paper", epochs=4))
    assert "Epochs is 20, not 4, with recipe=paper" in overridden
    assert "Test size is -1" in study_form.cost(bench, values(test_size=-1))
    assert HOSTILE not in study_form.cost(bench, values(tasks=[HOSTILE]))


def test_a_study_goes_on_with_its_own_settings(bench: Workbench, grid: Grid) -> None:
    filled, sentence = study_form.more(bench, "mine")
    assert "this study" in sentence and filled["into"] == study_form.SHOWN
    assert (filled["methods"], filled["variants"]) == (["jola", "lora"], "lora:learning_rate=1e-3")
    same = values(**filled)
    assert "24 cells: 3 arms × 2 tasks × 2 sizes × 2 seeds, none of them new" in study_form.cost(bench, same, "mine")
    id, sentence = study_form.start(bench, same, "mine")
    assert id is None and "All cells of this study are done" in sentence
    more = {**same, "seeds": "1, 2, 3"}
    assert "36 cells: 3 arms × 2 tasks × 2 sizes × 3 seeds, 12 new" in study_form.cost(bench, more, "mine")
    id, sentence = study_form.start(bench, {**more, "test_size": 7}, "mine")
    assert id is None and "was planned with test_size 6, not 7" in sentence
    assert len(bench.studies.get("mine").grid().planned) == 24
    assert study_form.start(bench, more, "mine") == ("mine", "")
    assert work_list.first(bench.studies) == "mine" and work_list.first(bench.studies, "gone") == "mine"
    bench.studies.stop("mine")
    assert bench.studies.wait("mine", 300)


def test_cells_are_added_to_a_grid_that_a_shell_planned(bench: Workbench) -> None:
    shared = {**SETTINGS, "training": {**SETTINGS["training"], "learning_rate": 2e-3}}
    arms = expand_arms(["jola"], shared)
    axes = checked_axes(arms, ["siqa"], [8], [1], ["default"])
    Grid.plan(bench.studies.root / "mine", axes, arms, shared, {"report_to": "wandb", "record_every": 7})
    filled, _ = study_form.more(bench, "mine")
    assert study_form.start(bench, values(**{**filled, "seeds": "1, 2"}), "mine") == ("mine", "")
    grid = bench.studies.get("mine").grid()
    assert [grid.config(name).training.learning_rate for name in grid.planned] == [2e-3, 2e-3]
    assert grid.content["neutral"] == {"report_to": "wandb", "record_every": 7}
    bench.studies.stop("mine")
    assert bench.studies.wait("mine", 300)


@pytest.mark.parametrize("name", ["tasks", "models"])
def test_a_page_of_others_does_not_learn_which_files_exist(bench: Workbench, tmp_path: Path, name: str) -> None:
    settings = Settings(host="0.0.0.0", auth="me:secret")
    exposed = replace(bench, studies=Workbench.from_settings(settings).studies)
    (tmp_path / "there.jsonl").write_text("{}")
    for action in (study_form.cost, lambda *given: study_form.start(*given)[1]):
        for file in ("there.jsonl", "absent.jsonl"):
            assert "not allowed for this page" in action(exposed, values(**{name: [str(tmp_path / file)]}))
    assert "6 cells" not in study_form.cost(exposed, values(tasks=["commonsense"]))
    assert "48 cells" in study_form.cost(exposed, values(tasks=["commonsense"]))


def test_malformed_calls_of_the_view_are_refused(bench: Workbench, grid: Grid) -> None:
    with gr.Blocks():
        news, cell_at = study_view(bench.studies).server_fns
    # In a separate thread, because browser tests may have left an event loop running in this one.
    with ThreadPoolExecutor() as threads:
        for call, data in ((news, 5), (news, ["mine", ""]), (cell_at, ["mine", 0]), (cell_at, ["mine", True, 0])):
            with pytest.raises(HTTPException, match="takes a list of 3 values"):
                threads.submit(asyncio.run, call(data)).result()
        assert threads.submit(asyncio.run, cell_at(["mine", 0, 0])).result()["cell"]
        assert threads.submit(asyncio.run, news(["mine", "", ""])).result()["view"]


@pytest.mark.parametrize("data", [None, [1], "x", 5])
def test_an_event_may_say_anything(data: Any) -> None:
    event = gr.EventData(None, data)
    assert said(event) == {} and text_of(event, "id") == ""


def test_a_start_that_is_refused_plans_nothing(bench: Workbench) -> None:
    bench.studies.turns.add("training", lambda noun: f"A run is training; start the {noun} when it has ended.")
    assert study_form.start(bench, values()) == (None, "A run is training; start the study when it has ended.")
    assert study_form.start(bench, values(tasks=["nothing"]))[0] is None
    assert bench.studies.list() == [] and work_list.first(bench.studies) == ""


def test_every_table_is_that_of_the_command_line(bench: Workbench, grid: Grid) -> None:
    for _, name in TABLE_CHOICES:
        updates = drawn(bench, "tables", table=name)
        tools = json.loads(updates["table_tools"])
        assert "lora" in updates["table_text"] and "lora" in tools["csv"], name
        compile(tools["code"], name, "exec")
    assert "best of 2" in drawn(bench, "tables", best=True)["table_text"]
    assert "best=True" in json.loads(drawn(bench, "tables", best=True)["table_tools"])["code"]
    of_metric = json.loads(drawn(bench, "tables", table="methods", metric="exact_match")["table_tools"])["code"]
    assert "methods_table(compared(grid, 'exact_match'))" in of_metric


def test_figures_are_of_the_chosen_task_and_size(bench: Workbench, grid: Grid) -> None:
    updates = drawn(bench, "sizes", task="boolq")
    assert len(updates["sizes_plot"].data) == 3 and updates["task"].value == "boolq"
    assert "'boolq'" in json.loads(updates["sizes_tools"])["code"]
    updates = drawn(bench, "pareto", task="gone", size="8", cost="adapter_bytes")
    assert updates["task"].value == "siqa" and updates["size"].value == "8" and updates["size"].visible
    code = json.loads(updates["pareto_tools"])["code"]
    namespace: dict[str, Any] = {}
    exec(compile(code.replace(".show()", ""), "pareto", "exec"), namespace)
    assert {row.train_size for row in namespace["rows"]} == {8}


def test_results_are_read_again_when_there_are_others(bench: Workbench, grid: Grid) -> None:
    study = bench.studies.get("mine")
    before = study_results.results_of(study)
    assert study_results.results_of(study) is before
    name = next(iter(grid.planned))
    (grid.cell(name).path / "result.json").unlink()
    grid.cell(name).write_failure("No.")
    assert study_results.results_of(study) is not before


def test_the_view_shows_states_and_one_cell(bench: Workbench, grid: Grid) -> None:
    name = next(iter(grid.planned))
    (grid.cell(name).path / "result.json").unlink()
    grid.cell(name).write_failure(f"It broke {HOSTILE}.")
    views = StudyViews(bench.studies)
    token, text = views.snapshot("mine", name)
    view = json.loads(text)
    assert views.snapshot("mine", name)[0] == token
    assert view["chosen"]["counts"] == {"done": 23, "running": 0, "failed": 1, "interrupted": 0, "open": 0}
    assert view["chosen"]["state"] == "finished" and view["chosen"]["used"] == "23 min used"
    assert view["cell"]["failure"] == f"It broke {HOSTILE}." and view["cell"]["at"] == [0, 0]
    assert views.cell_at("mine", 0, 0)["name"] == name
    assert views.cell_at("mine", 99, 0) is None and views.cell_at("gone", 0, 0) is None
    assert json.loads(views.snapshot("gone")[1])["chosen"] is None


def test_a_damaged_study_says_so_and_the_others_stay(bench: Workbench, grid: Grid) -> None:
    plan(bench.studies.root / "broken", ["siqa"], ["jola"], [1])
    (bench.studies.root / "broken" / "grid.json").write_text("{")
    views = StudyViews(bench.studies)
    view = json.loads(views.snapshot("broken")[1])
    assert {row["id"]: row["state"] for row in view["list"]} == {"mine": "finished", "broken": "damaged"}
    assert "grid.json" in view["chosen"]["message"] and view["chosen"]["labels"] is None
    assert drawn(bench, "tables")["box"].visible
    with pytest.raises(InputError):
        study_form.more(bench, "broken")
    assert "grid.json" in work_list.refusal(lambda: bench.studies.resume("broken"))


def test_the_preset_and_the_small_study_fill_fields_that_there_are() -> None:
    names = {setting.name for setting in study_form.settings()} | {*study_form.PLAN_FIELDS, "into"}
    assert set(study_form.SMALL) <= names and set(study_form.of_preset("components")) <= names
    assert study_form.of_preset("components")["into"] == study_form.NEW
    assert form.in_form_words("--test-size is -1.") == "Test size is -1."
