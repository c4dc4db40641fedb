"""Studies as processes: planned, begun, found, stopped, continued, tried again, opened, refused, deleted."""

import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.studies.axes import checked_axes, expand_arms
from jola.system.processes import at_work
from tests.jola.studies.grids import SETTINGS, fill, make_task, plan, result
from workbench.service.bench import Workbench
from workbench.service.jobs import Jobs
from workbench.service.processes import Turns
from workbench.service.stored_study import StoredStudy
from workbench.service.studies import Studies
from workbench.service.study_matrix import Matrix, cell_facts
from workbench.service.study_plan import StudyPlan, grid_settings, learning_rates, size_words
from workbench.settings import Settings
from workbench.studies.study_view import StudyViews

# Stands for `jola grid run`: the cells that are not done get a result, one after the other, without a model.
MAKES = """
import signal, sys, time
from jola.studies.grid import Grid
from tests.jola.studies.grids import result
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
grid = Grid.open(sys.argv[1])
for name, state in grid.states().items():
    if state not in ("done", "failed"):
        time.sleep(PACE)
        grid.cell(name).write_result(result(0.5))
"""
REFUSES = "import sys; print('error: There is no task x.', file=sys.stderr); sys.exit(2)"
COUNTS_SIGNALS = """
import pathlib, signal, sys, time
signals, folder = [], pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
(folder / "ready").touch()
while not (folder / "end").exists():
    time.sleep(0.01)
(folder / "count").write_text(str(len(signals)))
"""
SLEEPS = "import time; time.sleep(60)"
MANY = ",".join(map(str, range(700)))

Make = Callable[..., Studies]


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Studies] = []
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", str(root))

    def make(program: str, **options: object) -> Studies:
        turns = Turns(tmp_path / "runs")
        made.append(Studies(tmp_path / "studies", turns, [sys.executable, "-c", program], **options))
        return made[-1]

    yield make
    for one in made:
        for found in one.list():
            for pid in found.processes() - {os.getpid()}:
                os.kill(pid, signal.SIGKILL)


def makes(pace: float = 0.0) -> str:
    return MAKES.replace("PACE", str(pace))


def begin(
    one: Studies, task: str, arms: tuple[str, ...] = ("jola", "red"), seeds: tuple[int, ...] = (1, 2)
) -> StoredStudy:
    found = expand_arms(arms, SETTINGS)
    return one.start(checked_axes(found, [task], [8], seeds, ["default"]), found, SETTINGS, {})


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


# What is planned


def test_every_method_has_the_same_number_of_learning_rates() -> None:
    settings, _ = grid_settings(RunConfig())
    chosen = StudyPlan(methods=("lora", "jola", "zero-shot"), tries=3, factor=2.0)
    axes, arms = chosen.expanded(settings)
    rates: dict[str, list[float]] = {}
    for label in axes.arms:
        rates.setdefault(arms[label].method, []).append(arms[label].settings["training"]["learning_rate"])
    assert rates["jola"] == [0.005, 0.0025, 0.01]
    assert sorted(rates["lora"])[1] / sorted(rates["lora"])[0] == pytest.approx(2, rel=0.01)
    # What trains nothing has no learning rate to try.
    assert [label for label in axes.arms if label.startswith("zero")] == ["zero-shot"]
    assert learning_rates(1.0, 5, 10.0) == ["0.01", "0.1", "10", "100"]
    assert size_words(axes, len(list(axes.cells(arms)))) == "19 cells: 7 arms × 3 seeds"


def test_more_learning_rates_keep_the_cells_with_the_default_one() -> None:
    settings, _ = grid_settings(RunConfig())
    names = []
    for tries in (1, 3):
        axes, arms = StudyPlan(methods=("jola",), tries=tries).expanded(settings)
        names.append({cell.name for cell in axes.cells(arms)})
    assert names[0] < names[1]


def test_a_preset_has_the_cells_of_the_command_line() -> None:
    settings, _ = grid_settings(RunConfig())
    for name, cells in (("main", 416), ("components", 36), ("schedules", 24), ("data-size", 72), ("model-size", 72)):
        axes, arms = StudyPlan.of_preset(name).expanded(settings)
        assert len(list(axes.cells(arms))) == cells, name


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (StudyPlan(methods=()), "No method is chosen"),
        (StudyPlan(methods=("jolla",)), "There is no method 'jolla'"),
        (StudyPlan(variants="jola:gate=none"), "'gate' in 'jola:gate=none' is not a setting of jola"),
        (StudyPlan(tasks=()), "No task is chosen"),
        (StudyPlan(tasks=("bo0lq",)), "There is no task, group, folder or file 'bo0lq'"),
        (StudyPlan(models=()), "No model is chosen"),
        (StudyPlan(seeds="4.5"), "Seeds names '4.5'"),
        (StudyPlan(seeds=""), "Seeds is empty"),
        (StudyPlan(train_sizes="many"), "Training examples names 'many'"),
        (StudyPlan(tries=3, factor=1.0), "Factor is 1; it must be above 1"),
        (StudyPlan(tries=2), "Learning rates is 2"),
        (StudyPlan(seeds=MANY, tasks=("commonsense",), tries=3), "the app plans 20,000 at most"),
        (StudyPlan(variants="jola:learning_rate=" + "/".join("1" * 1200)), "asks for 1,202 arms"),
        (StudyPlan(variants="jola" + ":epochs=1/2/3/4" * 200), "give fewer values in Variants"),
        (StudyPlan(variants="x" * 5000), "Variants is longer than 4,000 characters"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_a_sentence(plan: StudyPlan, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        plan.expanded(grid_settings(RunConfig())[0])


# At work


def test_a_study_works_in_its_own_process_and_another_app_sees_it(studies: Make, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    one = studies(makes(0.3))
    found = begin(one, task)
    other = studies(SLEEPS)
    again = other.get(found.id)
    assert again.working and again.state()[0] == "working"
    with pytest.raises(InputError, match="Another study is at work"):
        begin(other, task)
    # A run that is asked for meanwhile waits for the end of the study.
    jobs = Jobs(RunStore(tmp_path / "runs"), [sys.executable, "-c", SLEEPS], turns=other.turns)
    run = jobs.start(RunConfig())
    assert run.state == "queued"
    assert one.wait(found.id, 60)
    until(lambda: found.status().get("code") is not None)
    assert found.state() == again.state() == ("finished", "")
    assert (found.progress().done, found.progress().total) == (4, 4)
    jobs.wait(run.id, 0)
    jobs.cancel(run.id)
    assert jobs.wait(run.id, 30)
    with pytest.raises(InputError, match="All cells of this study are done"):
        one.resume(found.id)


def test_a_stopped_study_goes_on_with_what_is_missing(studies: Make, tmp_path: Path) -> None:
    one = studies(makes(0.5))
    found = begin(one, make_task(tmp_path / "task"))
    until(lambda: found.progress().done == 1)
    with pytest.raises(InputError, match="at work; stop it"):
        one.remove(found.id)
    one.stop(found.id)
    assert one.wait(found.id, 30)
    # A grid that a shell runs later was not asked to stop.
    with at_work(found.folder):
        assert found.state() == ("working", "")
    state, message = found.state()
    assert state == "stopped" and "Continue" in message and found.progress().done < 4
    one.resume(found.id)
    assert one.wait(found.id, 60)
    assert found.state()[0] == "finished"


def test_a_second_stop_sends_no_second_signal(studies: Make, tmp_path: Path) -> None:
    one = studies(COUNTS_SIGNALS)
    found = begin(one, make_task(tmp_path / "task"))
    until((found.folder / "ready").exists)
    assert not found.row()["stopping"]
    for _ in range(2):
        one.stop(found.id)
        assert found.row()["stopping"]
    (found.folder / "end").touch()
    assert one.wait(found.id, 30)
    assert (found.folder / "count").read_text() == "1" and not found.stopping


def test_a_crash_is_no_stop(studies: Make, tmp_path: Path) -> None:
    one = studies("raise RuntimeError('Out of luck')")
    found = begin(one, make_task(tmp_path / "task"))
    until(lambda: found.status().get("code") is not None)
    assert found.state() == ("failed", "RuntimeError: Out of luck")
    found.log_path.write_text("note: `jola grid run --retry` makes the failed cells again.\n")
    assert found.state()[0] == "stopped"


def test_a_process_that_refuses_says_why(studies: Make, tmp_path: Path) -> None:
    one = studies(REFUSES)
    found = begin(one, make_task(tmp_path / "task"))
    assert one.wait(found.id, 30)
    until(lambda: found.status().get("code") is not None)
    assert found.state() == ("failed", "There is no task x.")


def test_nothing_is_planned_while_other_work_is_under_way(studies: Make, tmp_path: Path) -> None:
    one = studies(SLEEPS)
    one.turns.add("training", lambda noun: "A run is training.")
    with pytest.raises(InputError, match="A run is training"):
        begin(one, make_task(tmp_path / "task"))
    assert one.list() == []


def test_settings_that_the_app_may_not_use_are_refused(studies: Make, tmp_path: Path) -> None:
    def check(config: RunConfig) -> None:
        if config.data.task == "siqa":
            raise InputError("The data 'siqa' are not open to this page.")

    one = studies(SLEEPS, check=check)
    arms = expand_arms(["jola"], SETTINGS)
    with pytest.raises(InputError, match="not open"):
        one.start(checked_axes(arms, ["boolq", "siqa"], [8], [1], ["default"]), arms, SETTINGS, {})
    plan(one.root / "mine", ["siqa"], ["jola"], [1])
    with pytest.raises(InputError, match="not open"):
        one.resume("mine")
    with pytest.raises(InputError, match="not open"):  # the cells planned before would begin as well
        one.extend("mine", checked_axes(arms, ["boolq"], [8], [1], ["default"]), arms, SETTINGS)


def test_every_arm_is_checked(studies: Make) -> None:
    one = studies(SLEEPS, check=Settings(host="0.0.0.0").check_sources)
    arms = expand_arms(["jola", "jola:device_map=secrets"], SETTINGS)
    with pytest.raises(InputError, match="device map 'secrets' is not open"):
        one.start(checked_axes(arms, ["boolq"], [8], [1], ["default"]), arms, SETTINGS, {})


def test_cells_are_added_to_a_study(studies: Make, tmp_path: Path) -> None:
    one = studies(makes())
    plan(one.root / "mine", ["siqa"], ["jola"], [1])
    arms = expand_arms(["jola", "lora"], SETTINGS)
    axes = checked_axes(arms, ["siqa"], [8], [1, 2], ["default"])
    with pytest.raises(InputError, match="was planned with test_size 6, not 7"):
        one.extend("mine", axes, arms, {**SETTINGS, "data": {"validation_size": 4, "test_size": 7}})
    one.extend("mine", axes, arms, SETTINGS)
    assert one.wait("mine", 60)
    assert one.get("mine").progress().done == 4


def test_a_failed_cell_is_made_again(studies: Make, tmp_path: Path) -> None:
    one = studies(makes())
    grid = plan(one.root / "mine", ["siqa"], ["jola"], [1, 2])
    bad, good = grid.planned
    grid.cell(bad).write_failure("The loss of step 3 is not finite.")
    grid.cell(good).write_result(result(0.5))
    found = one.get("mine")
    assert found.state() == ("finished", "One cell failed; choose it to see why.")
    assert cell_facts(found, bad)["failure"] == "The loss of step 3 is not finite."
    # While a shell works on it nothing begins, and the cell waits.
    with at_work(found.folder):
        assert found.working and not one.retry("mine", bad)
    assert found.state()[0] == "stopped"
    grid.cell(bad).write_failure("Again.")
    assert one.retry("mine")
    assert one.wait("mine", 60)
    assert found.state() == ("finished", "")


def test_what_fails_while_other_work_runs_keeps_its_reason(studies: Make) -> None:
    one = studies(SLEEPS)
    grid = plan(one.root / "mine", ["siqa"], ["jola"], [1])
    (name,) = grid.planned
    grid.cell(name).write_failure("No.")
    one.turns.add("training", lambda noun: "A run is training.")
    with pytest.raises(InputError, match="A run is training"):
        one.retry("mine", name)
    assert grid.cell(name).failure() == "No."


# Folders


def test_a_grid_of_the_command_line_is_opened_and_stays_where_it_is(studies: Make, tmp_path: Path) -> None:
    one = studies(makes())
    grid = plan(tmp_path / "elsewhere" / "first", ["siqa"], ["jola"], [1])
    found = one.open(str(grid.folder))
    assert found.folder == grid.folder and found.opened and one.open(str(grid.folder)).id == found.id
    assert [study.id for study in one.list()] == [found.id]
    with at_work(grid.folder):  # a shell keeps nobody from forgetting it
        assert found.row()["removable"]
    one.remove(found.id)
    assert one.list() == [] and (grid.folder / "grid.json").exists()
    assert one.restore(found.id).folder == grid.folder
    one.resume(found.id)
    assert one.wait(found.id, 60)
    assert found.state()[0] == "finished"
    grid.folder.rename(tmp_path / "moved")
    state, message = found.state()
    assert state == "damaged" and "holds no grid any more" in message
    assert StudyViews(one).snapshot(found.id)[1]


def test_folders_of_something_else_are_refused_and_not_listed(studies: Make, tmp_path: Path) -> None:
    one = studies(SLEEPS)
    (tmp_path / "empty").mkdir()
    newer = plan(tmp_path / "newer", ["siqa"], ["jola"], [1]).folder / "grid.json"
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "format": 2}))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "grid.json").write_text("[1, 2")
    for folder, words in (
        ("", "The folder is empty"),
        (str(tmp_path / "nowhere"), "holds no grid"),
        (str(tmp_path / "empty"), "holds no grid"),
        (str(newer.parent), "newer version"),
        (str(broken), "grid.json"),
    ):
        with pytest.raises(InputError, match=words):
            one.open(folder)
    assert one.list() == [] and sorted(path.name for path in broken.iterdir()) == ["grid.json"]


def test_an_opened_grid_reports_to_no_tracker(studies: Make, tmp_path: Path) -> None:
    one = studies(makes())
    grid = plan(tmp_path / "elsewhere", ["siqa"], ["jola"], [1])
    content = json.loads((grid.folder / "grid.json").read_text())
    content["neutral"] = {"report_to": "wandb"}
    damage_setting(content, "training", "report_to", "tensorboard")
    (grid.folder / "grid.json").write_text(json.dumps(content))
    found = one.open(str(grid.folder))
    with pytest.raises(InputError, match="reports to the experiment tracker 'wandb'"):
        one.resume(found.id)
    arms = expand_arms(["jola"], SETTINGS)
    with pytest.raises(InputError, match="reports to the experiment tracker 'wandb'"):
        one.extend(found.id, checked_axes(arms, ["siqa"], [8], [2], ["default"]), arms, SETTINGS)
    content["neutral"] = {}
    (grid.folder / "grid.json").write_text(json.dumps(content))
    (config,) = (found.grid().config(name) for name in found.grid().planned)
    assert config.training.report_to == "none"
    one.resume(found.id)
    assert one.wait(found.id, 60) and found.state()[0] == "finished"


def test_an_opened_study_is_not_removed_while_the_app_works_on_it(studies: Make, tmp_path: Path) -> None:
    one = studies(SLEEPS)
    found = one.open(str(plan(tmp_path / "elsewhere", ["siqa"], ["jola"], [1]).folder))
    one.resume(found.id)
    assert not found.row()["removable"]
    with pytest.raises(InputError, match="at work; stop it"):
        one.remove(found.id)
    assert one.find(found.id) is found


@pytest.mark.parametrize("folder", ["~nosuchuser/x", "\ud800", "~\ud800", "/" + "x" * 5000])
def test_texts_that_are_no_folder_are_a_sentence(studies: Make, folder: str) -> None:
    with pytest.raises(InputError, match="holds no grid; write the path of a folder"):
        studies(SLEEPS).open(folder)


def damage_arm(content: dict[str, Any], **changes: Any) -> None:
    for arm in content["arms"].values():
        arm["settings"] |= changes


def damage_setting(content: dict[str, Any], group: str, name: str, value: Any) -> None:
    content["arms"]["jola"]["settings"][group][name] = value


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "it plans the arm 'jola'": lambda content: content.update(arms={}),
    "of the method 'new', which this version does not have": lambda content: damage_arm(content, method="new"),
    "of the method {}, which": lambda content: damage_arm(content, method={}),
    "has no settings of edits": lambda content: damage_arm(content, edits="x"),
    "in the arm 'jola', --epochs is '3'; it must be of type int": lambda content: damage_setting(
        content, "training", "epochs", "3"
    ),
    "in the arm 'jola', --epochs is -3; it must be at least 1": lambda content: damage_setting(
        content, "training", "epochs", -3
    ),
    "in the arm 'jola', --gates is 'many'; choose one of": lambda content: damage_setting(
        content, "edits", "gates", "many"
    ),
    "in the arm 'jola', --revision is '../x'": lambda content: damage_setting(content, "model", "revision", "../x"),
    "in the arm 'jola', Unknown setting evil in data": lambda content: damage_setting(content, "data", "evil", 1),
    "in settings, --dtype is 3": lambda content: content["settings"]["model"].update(dtype=3),
    "in neutral, --record-every is 0": lambda content: content["neutral"].update(record_every=0),
    "epochs is in neutral, and changes results": lambda content: content["neutral"].update(epochs=3),
    "plans.0.seeds.0 is 4294967296": lambda content: content["plans"][0].update(seeds=[2**32]),
    "plans.0.extra": lambda content: content["plans"][0].update(extra=[1]),
    "plans.0.seeds is": lambda content: content["plans"][0].update(seeds=[]),
    "plans is": lambda content: content.update(plans=[]),
    "and the app shows 200,000 at most": lambda content: content["plans"][0].update(seeds=list(range(200_001))),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_grid_is_refused_and_the_other_studies_are_shown(studies: Make, words: str) -> None:
    one = studies(SLEEPS)
    plan(one.root / "good", ["siqa"], ["jola"], [1])
    grid = plan(one.root / "bad", ["siqa"], ["jola"], [1])
    content = json.loads((grid.folder / "grid.json").read_text())
    DAMAGES[words](content)
    (grid.folder / "grid.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=re.escape(words)):
        one.open(str(grid.folder))
    rows = json.loads(StudyViews(one).snapshot("bad")[1])["list"]
    assert {row["id"]: row["state"] for row in rows} == {"good": "planned", "bad": "damaged"}
    one.remove("bad")
    assert [found.id for found in one.list()] == ["good"]


def test_a_study_that_cannot_be_read_for_any_reason_hides_no_other(
    studies: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: StoredStudy) -> str:
        if self.id == "bad":
            raise KeyError("x")
        return "A title"

    one = studies(SLEEPS)
    for name in ("good", "bad"):
        plan(one.root / name, ["siqa"], ["jola"], [1])
    monkeypatch.setattr(StoredStudy, "title", broken)
    view = json.loads(StudyViews(one).snapshot("bad")[1])
    assert {row["id"]: row["state"] for row in view["list"]} == {"good": "planned", "bad": "damaged"}
    assert "cannot be read (KeyError)" in view["chosen"]["message"]


def test_only_studies_that_exist_are_kept_in_memory(studies: Make) -> None:
    one = studies(SLEEPS)
    plan(one.root / "mine", ["siqa"], ["jola"], [1])
    assert one.find("mine") is one.find("mine")
    assert not any(one.find(f"absent{number}") for number in range(10))
    one.remove("mine")
    assert one.find("mine") is None and not one._known


def test_what_was_opened_is_listed_only_where_it_may_be_opened(studies: Make, tmp_path: Path) -> None:
    found = studies(SLEEPS).open(str(plan(tmp_path / "elsewhere", ["siqa"], ["jola"], [1]).folder))
    for folders, listed in (((), []), ((tmp_path / "elsewhere",), [found.id])):
        exposed = studies(SLEEPS, check_path=Settings(host="0.0.0.0", folders=folders).check_path)
        assert [study.id for study in exposed.list()] == listed


def test_a_deleted_study_comes_back(studies: Make) -> None:
    one = studies(SLEEPS)
    grid = plan(one.root / "mine", ["siqa"], ["jola"], [1])
    fill(grid, lambda cell: 0.5)
    one.remove("mine")
    assert one.find("mine") is None
    assert one.restore("mine").state()[0] == "finished"
    with pytest.raises(InputError, match="cannot be brought back"):
        one.restore("other")


def test_ids_do_not_lead_out_of_the_folder(studies: Make, tmp_path: Path) -> None:
    one = studies(SLEEPS)
    plan(tmp_path / "outside", ["siqa"], ["jola"], [1])
    one.root.mkdir()
    (one.root / "link").symlink_to(tmp_path / "outside")
    for id in ("../outside", "link", "", "a/b", ".app"):
        assert one.find(id) is None
    assert one.find_run("../outside/x") is None


def test_the_folder_is_beside_the_runs_or_in_those_that_are_named(home: Path, tmp_path: Path) -> None:
    assert Settings().studies_root == home / "studies"
    assert Settings(runs=tmp_path / "mine").studies_root == tmp_path / "mine" / "studies"


# Cells


def test_the_matrix_has_a_place_for_every_cell(tmp_path: Path) -> None:
    grid = plan(tmp_path / "grid", ["siqa", "boolq"], ["jola", "zero-shot"], [1, 2], sizes=(8, 0))
    matrix = Matrix(grid)
    assert set(matrix.names.values()) == set(grid.planned)
    assert matrix.labels() == {
        "rows": ["jola · n 8", "jola · all", "zero-shot · n 8"],
        "columns": [["siqa", "1"], ["siqa", "2"], ["boolq", "1"], ["boolq", "2"]],
    }
    names = list(grid.planned)
    mean = {"value": 0.01, "low": 0.005, "high": 0.02}
    effects = {"text": "plain", "passages": 9, "tokens": 900, "kl": mean, "change": mean}
    effects |= {"base_cross_entropy": mean, "cross_entropy": mean}
    grid.cell(names[0]).write_result(result(0.5, side_effects=effects))
    facts = dict(cell_facts(StoredStudy(tmp_path, "grid"), names[0])["facts"])
    assert facts["KL on plain text"] == "0.010 (0.005 to 0.020) nats per token, n = 900 tokens"
    assert facts["Task"] == "siqa" and facts["Trained parameters"] == "216"
    # What trains nothing has one cell for each task.
    assert matrix.codes(grid.states()) == "dooooooo" + "o-o-"


def test_the_run_of_a_cell_is_found_by_an_id_of_its_own(home: Path) -> None:
    bench = Workbench.from_settings(Settings())
    grid = plan(bench.studies.root / "mine", ["siqa"], ["jola"], [1])
    (name,) = grid.planned
    assert bench.find(f"mine/{name}") is None
    run = Run.create(grid.cell(name).run.path, grid.config(name))
    run.write_status(state="finished")
    found = bench.must_find(f"mine/{name}")
    assert found.id == f"mine/{name}" and found.path == run.path
    assert bench.find("mine/other") is None and bench.find(f"mine/../mine/cells/{name}/run") is None
    follower = bench.followers.get(f"mine/{name}")
    assert follower is not None
    # It is paused and continued with its study only.
    assert follower.snapshot()["can"] == [] and follower.snapshot()["run"] == f"mine/{name}"
    assert (f"mine/{name}" in [id for _, id in bench.run_choices(also=[f"mine/{name}"])]) and not bench.run_choices()
