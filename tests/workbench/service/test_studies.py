"""Studies as processes: started, stopped, continued and retried."""

import sys
from pathlib import Path

import pytest

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.store import RunStore
from jola.studies.axes import checked_axes, expand_arms
from jola.system.processes import at_work
from tests.jola.studies.grids import SETTINGS, make_task, plan, result
from tests.workbench.service.study_programs import COUNTS_SIGNALS, REFUSES, SLEEPS, Make, begin, makes, until
from workbench.service.jobs import Jobs
from workbench.service.study_matrix import cell_facts
from workbench.settings import Settings


def test_a_study_works_in_its_own_process_and_another_app_sees_it(studies: Make, tmp_path: Path) -> None:
    task, hold = make_task(tmp_path / "task"), tmp_path / "hold"
    hold.touch()
    one = studies(makes(hold))
    found = begin(one, task)
    other = studies(SLEEPS)
    again = other.get(found.id)
    assert again.working and again.state()[0] == "working"
    with pytest.raises(InputError, match="Another study is running"):
        begin(other, task)
    # A run that is requested meanwhile waits for the end of the study.
    jobs = Jobs(RunStore(tmp_path / "runs"), [sys.executable, "-c", SLEEPS], turns=other.turns)
    run = jobs.start(RunConfig())
    assert run.state == "queued"
    hold.unlink()
    assert one.wait(found.id, 300)
    until(lambda: found.status().get("code") is not None)
    assert found.state() == again.state() == ("finished", "")
    assert (found.progress().done, found.progress().total) == (4, 4)
    jobs.wait(run.id, 0)
    jobs.cancel(run.id)
    assert jobs.wait(run.id, 300)
    with pytest.raises(InputError, match="All cells of this study are done"):
        one.resume(found.id)


def test_a_stopped_study_goes_on_with_what_is_missing(studies: Make, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    one = studies(makes(hold))
    found = begin(one, make_task(tmp_path / "task"))
    until(lambda: found.progress().done == 1)
    with pytest.raises(InputError, match="running; stop it"):
        one.remove(found.id)
    one.stop(found.id)
    assert one.wait(found.id, 300)
    # A grid that a shell runs later was not asked to stop.
    with at_work(found.folder):
        assert found.state() == ("working", "")
    state, message = found.state()
    assert state == "stopped" and "Continue" in message and found.progress().done < 4
    hold.unlink()
    one.resume(found.id)
    assert one.wait(found.id, 300)
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
    assert one.wait(found.id, 300)
    assert (found.folder / "count").read_text() == "1" and not found.stopping


def test_a_crash_is_no_stop(studies: Make, tmp_path: Path) -> None:
    one = studies("raise RuntimeError('Out of luck')")
    found = begin(one, make_task(tmp_path / "task"))
    until(lambda: found.status().get("code") is not None)
    assert found.state() == ("failed", "RuntimeError: Out of luck")
    found.log_path.write_text("note: `jola grid run --retry` runs the failed cells again.\n")
    assert found.state()[0] == "stopped"


def test_a_process_that_refuses_says_why(studies: Make, tmp_path: Path) -> None:
    one = studies(REFUSES)
    found = begin(one, make_task(tmp_path / "task"))
    assert one.wait(found.id, 300)
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
            raise InputError("The data 'siqa' are not allowed for this page.")

    one = studies(SLEEPS, check=check)
    arms = expand_arms(["jola"], SETTINGS)
    with pytest.raises(InputError, match="not allowed"):
        one.start(checked_axes(arms, ["boolq", "siqa"], [8], [1], ["default"]), arms, SETTINGS, {})
    plan(one.root / "mine", ["siqa"], ["jola"], [1])
    with pytest.raises(InputError, match="not allowed"):
        one.resume("mine")
    with pytest.raises(InputError, match="not allowed"):  # the cells planned before would start as well
        one.extend("mine", checked_axes(arms, ["boolq"], [8], [1], ["default"]), arms, SETTINGS)


def test_every_arm_is_checked(studies: Make) -> None:
    one = studies(SLEEPS, check=Settings(host="0.0.0.0").check_sources)
    arms = expand_arms(["jola", "jola:device_map=secrets"], SETTINGS)
    with pytest.raises(InputError, match="device map 'secrets' is not allowed"):
        one.start(checked_axes(arms, ["boolq"], [8], [1], ["default"]), arms, SETTINGS, {})


def test_cells_are_added_to_a_study(studies: Make, tmp_path: Path) -> None:
    one = studies(makes())
    plan(one.root / "mine", ["siqa"], ["jola"], [1])
    arms = expand_arms(["jola", "lora"], SETTINGS)
    axes = checked_axes(arms, ["siqa"], [8], [1, 2], ["default"])
    with pytest.raises(InputError, match="was planned with test_size 6, not 7"):
        one.extend("mine", axes, arms, {**SETTINGS, "data": {"validation_size": 4, "test_size": 7}})
    one.extend("mine", axes, arms, SETTINGS)
    assert one.wait("mine", 300)
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
    # While a shell runs the study, nothing starts, and the cell waits.
    with at_work(found.folder):
        assert found.working and not one.retry("mine", bad)
    assert found.state()[0] == "stopped"
    grid.cell(bad).write_failure("Again.")
    assert one.retry("mine")
    assert one.wait("mine", 300)
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
