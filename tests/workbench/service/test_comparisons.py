"""Comparisons as processes: started, found, stopped, resumed, refused and deleted; and runs that wait for them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
from jola.errors import InputError
from jola.runs.store import RunStore
from jola.runs.trash import Trash
from jola.selectors import SELECTORS
from jola.studies.selector_grid import SWAP_NAMES
from tests.workbench.compare.compared import make_comparison
from workbench.compare.compare_view import snapshot
from workbench.service.comparison_plan import METHODS, SWAPS, Plan, cell_words, compare_flags, cost_words
from workbench.service.comparisons import Comparisons
from workbench.service.jobs import Jobs
from workbench.service.processes import Turns, environment, log_tail
from workbench.service.stored_comparison import Now, StoredComparison
from workbench.service.stored_work import APP_FOLDER
from workbench.settings import Settings

# Replaces `jola compare`: writes the same folder and the same log lines, without a model.
# After the first cell, it waits as long as the file HOLD exists.
COMPARES = """
import json, sys, time
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--output") + 1])
print("flags", *sys.argv[1:], flush=True)
names = ["jola-seed42", "edit-gradient-k2-seed42", "edit-offset-k2-seed42"]
if not (folder / "comparison.json").exists():
    assert not any(folder.iterdir()), "the folder belongs to the command alone"
    settings = {"format": 1, "settings": {"data": {"task": "sentiment"}}, "planned": names}
    (folder / "comparison.json").write_text(json.dumps(settings))
print("Loading model and data …", flush=True)
for number, name in enumerate(names, 1):
    cell = folder / "cells" / name
    if cell.is_dir():
        continue
    print(f"{number} of 3: {name}, train …", flush=True)
    print(f"{number} of 3: {name}, train: 3 of 12    (2 s)", flush=True)
    while number > 1 and Path("HOLD").exists():
        time.sleep(0.01)
    cell.mkdir(parents=True)
    (cell / "result.json").write_text("{}")
"""
REFUSES = "import sys; print('Loading'); print('error: There is no task x.', file=sys.stderr); sys.exit(2)"
SLEEPS = "import time; time.sleep(600)"
PLAN = Plan(("gradient", "offset"), (), ("2",), (42,))

Make = Callable[[str], Comparisons]


@pytest.fixture
def comparisons(tmp_path: Path) -> Iterator[Make]:
    made: list[Comparisons] = []

    def make(program: str) -> Comparisons:
        made.append(Comparisons(tmp_path / "comparisons", Turns(tmp_path / "runs"), [sys.executable, "-c", program]))
        return made[-1]

    yield make
    for one in made:
        for found in one.list():
            if found.working:
                os.kill(found.status()["pid"], signal.SIGKILL)


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """The file that makes `COMPARES` wait; it does not exist yet."""
    return tmp_path / "hold"


def program(hold: Path) -> str:
    return COMPARES.replace("HOLD", str(hold))


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def test_the_words_of_methods_are_those_of_the_selectors() -> None:
    assert {name: method.title for name, method in METHODS.items()} == {n: kind.title for n, kind in SELECTORS.items()}
    assert {name: method.by_k for name, method in METHODS.items()} == {n: k.depends_on_k for n, k in SELECTORS.items()}
    assert tuple(SWAPS) == SWAP_NAMES


def test_a_plan_asks_for_the_cells_of_the_command() -> None:
    plan = Plan.read(["random", "jola"], ["pass"], " auto, 16,16", "7, 8")
    assert plan == Plan(("jola", "random"), ("pass",), ("auto", "16"), (7, 8))
    assert plan.cell_names()[:3] == ["jola-seed7", "edit-jola-kauto-seed7", "edit-jola-k16-seed7"]
    assert Plan.of_cells(plan.cell_names()) == plan
    assert Plan.of_cells(["../x"]) is None
    assert cell_words("edit-dsp-k16-seed42") == "DSP, K 16"
    assert cell_words("swap-pass-kauto-seed42", seeds=True) == "PASS gates, K auto, seed 42"
    assert Plan(("jola", "dsp", "gradient", "random"), (), ("8", "16"), (1, 2)).selections() == 6


@pytest.mark.parametrize(
    ("ks", "seeds", "words"),
    [
        ("", "42", "K is empty"),
        ("auto", "", "Seeds is empty"),
        ("auto", "4.5", "Seeds names '4.5'"),
        ("auto", ",".join(map(str, range(99))), "training runs, but a comparison may have at most 500"),
        ("1," * 300, "42", "K is longer than 400 characters"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(ks: str, seeds: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Plan.read(METHODS, (), ks, seeds)


def test_what_cannot_be_compared_is_refused_before_the_start(comparisons: Make) -> None:
    one = comparisons(SLEEPS)
    none = RunConfig(edits=EditConfig(gates="none"))
    for config, plan, heads, words in (
        (RunConfig(), Plan((), ()), None, "No selector is chosen"),
        (RunConfig(), Plan(("smp",), (), ("0",)), None, "K is '0'"),
        (RunConfig(), Plan(("smp",), (), ("300",)), 270, "K is 300, but the model has 270 heads"),
        (none, PLAN, None, "Gates is 'none'"),
        (RunConfig(training=TrainingConfig(epochs=0)), PLAN, None, "epochs is 0"),
    ):
        with pytest.raises(InputError, match=words):
            one.start(config, plan, heads)
    assert one.list() == []


def test_the_cost_counts_trainings_and_selections() -> None:
    assert cost_words(PLAN, None, 8)[0] == "3 training runs and 2 selections, time known after the first training run"
    assert cost_words(PLAN, (60.0, 120.0), 2)[0] == "3 training runs and 2 selections, 4 to 8 min"
    assert cost_words(Plan(("random",)), (60.0, 60.0), 2)[0] == "2 training runs, about 2 min"


def test_a_comparison_works_in_its_own_process_from_the_command_of_a_shell(comparisons: Make, hold: Path) -> None:
    hold.touch()
    one = comparisons(program(hold))
    config = RunConfig(data=DataConfig(train_size=16), training=TrainingConfig(epochs=3))
    found = one.start(config, PLAN)
    assert found.state == "working" and one.working()
    pid = found.status()["pid"]
    assert pid != os.getpid() and os.getsid(pid) != os.getsid(0)
    # Another app sees the same, only from the disk.
    other = comparisons(SLEEPS)
    again = other.get(found.id)
    wait_for(lambda: again.now() == Now("Gradient importance, K 2: training", 3, 12))
    assert again.working and list(again.ended_cells()) == ["jola-seed42"]
    each = again.ended_cells()["jola-seed42"] - again.status()["started"]
    left = again.seconds_left()
    assert left is not None and each < left <= 2 * each
    with pytest.raises(InputError, match="Another comparison is running"):
        other.start(config, PLAN)
    hold.unlink()
    assert one.wait(found.id, 300)
    wait_for(lambda: found.status().get("code") is not None)
    assert found.state == again.state == "finished" and found.message == ""
    expected = f"--output {found.folder} --selectors gradient,offset --k 2 --seeds 42 --train-size 16 --epochs 3"
    assert expected in log_tail(found)
    assert compare_flags(config, PLAN, "x")[:2] == ["--output", "x"]
    with pytest.raises(InputError, match="All of this is done already"):
        one.resume(found.id)


def test_a_stopped_one_goes_on_with_what_is_missing(comparisons: Make, hold: Path) -> None:
    hold.touch()
    one = comparisons(program(hold))
    found = one.start(RunConfig(), PLAN)
    wait_for(lambda: len(found.ended_cells()) == 1)
    with pytest.raises(InputError, match="running; stop it"):
        one.remove(found.id)
    one.stop(found.id)
    assert one.wait(found.id, 300)
    assert found.state == "stopped" and "Resume" in found.message
    first = found.ended_cells()
    assert one.resume(found.id).state == "working"
    hold.unlink()
    assert one.wait(found.id, 300)
    assert found.state == "finished"
    assert found.ended_cells()["jola-seed42"] == first["jola-seed42"]
    one.stop(found.id)  # has no effect after the end
    assert found.state == "finished"


def test_one_goes_on_with_another_plan(comparisons: Make, hold: Path) -> None:
    one = comparisons(program(hold))
    config = RunConfig(training=TrainingConfig(epochs=3))
    make_comparison(one.root / "mine", Plan(("gradient",), (), ("2",), (42,)), config=config)
    found = one.get("mine")
    assert found.has_settings(replace(config, training=replace(config.training, seed=7, output="elsewhere")))
    assert not found.has_settings(RunConfig())
    with pytest.raises(InputError, match="add a selector, a K or a seed"):
        one.extend("mine", Plan(("gradient",), (), ("2",), (42,)))
    with pytest.raises(InputError, match="No selector is chosen"):
        one.extend("mine", Plan((), ()))
    with pytest.raises(InputError, match="K halves needs the edits that JoLA trained with seed 42"):
        one.extend("mine", Plan(("gradient",), (), ("halves",), (42,)))
    assert one.extend("mine", PLAN).id == "mine"
    assert one.wait("mine", 300)
    assert f"--output {found.folder} --selectors gradient,offset --k 2 --seeds 42 --epochs 3" in log_tail(found)


def test_one_that_goes_on_and_fails_at_once_is_not_finished(comparisons: Make) -> None:
    one = comparisons(REFUSES)
    make_comparison(one.root / "mine", Plan(("gradient",), (), ("2",), (42,)))
    assert one.get("mine").state == "finished"
    found = one.extend("mine", PLAN)
    assert one.wait("mine", 300)
    assert (found.state, found.message) == ("failed", "There is no task x.")
    assert found.plan() == PLAN


def test_a_start_that_fails_blocks_nothing(comparisons: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = comparisons(SLEEPS)
    # A command line cannot contain this text.
    with pytest.raises(InputError, match="could not be started"):
        one.start(RunConfig(model=ModelConfig(model="a\0b")), PLAN)
    assert not one.working() and {found.state for found in one.list()} == {"failed"}

    def full(*given: Any) -> None:
        raise InputError("There is no space left on the disk.")

    with monkeypatch.context() as patch:
        patch.setattr(StoredComparison, "write_plan", full)
        with pytest.raises(InputError, match="no space"):
            one.start(RunConfig(), PLAN)
    assert not one.working()
    found = one.start(RunConfig(), PLAN)
    assert found.working
    one.stop(found.id)
    assert one.wait(found.id, 300)


def test_a_run_that_cannot_be_started_blocks_no_other(tmp_path: Path) -> None:
    jobs = Jobs(RunStore(tmp_path / "runs"), [sys.executable, "-c", SLEEPS])
    with pytest.raises(InputError, match="could not be started"):
        jobs.start(RunConfig(model=ModelConfig(model="a\0b")))
    run = jobs.start(RunConfig())
    assert run.state == "starting"
    jobs.cancel(run.id)
    assert jobs.wait(run.id, 300)


def test_what_is_deleted_for_good_leaves_nothing(comparisons: Make) -> None:
    one = comparisons(REFUSES)
    old, new = one.start(RunConfig(), PLAN), one.start(RunConfig(), PLAN) if one.wait(one.list()[0].id, 300) else None
    assert new is not None
    wait_for(lambda: old.status()["code"] == new.status()["code"] == 2)  # nothing is written about them any more
    one.remove(old.id)
    (gone,) = Trash(one.root).runs()
    gone.path.rename(gone.path.with_name(f"1000-{gone.id}"))
    one.remove(new.id)
    assert not (one.root / APP_FOLDER / old.id).exists() and (one.root / APP_FOLDER / new.id).exists()


def test_what_is_done_costs_nothing() -> None:
    plan = Plan(("jola", "dsp", "gradient"), (), ("8", "16"), (1, 2))
    done = {"jola-seed1", "edit-gradient-k8-seed1", "edit-dsp-k8-seed1"}
    assert len(plan.missing(done)) == len(plan.cells()) - 3
    # DSP selects again for every K; gradient importance selects once per seed.
    assert (plan.selections(), plan.selections(done=done)) == (6, 4)
    assert (plan.selections("pass", done), plan.selections("training", done)) == (1, 3)
    assert cost_words(plan, None, 8, done)[0].startswith("11 training runs and 4 selections")
    assert plan.missing(plan.cell_names()) == [] and plan.selections(done=plan.cell_names()) == 0


def test_a_failure_is_told_with_its_last_sentence(comparisons: Make) -> None:
    one = comparisons(REFUSES)
    found = one.start(RunConfig(), PLAN)
    assert one.wait(found.id, 300)
    # An app that is not the parent process reads it from the log.
    assert (found.state, found.message) == ("failed", "There is no task x.")
    wait_for(lambda: found.status().get("code") == 2)
    assert (found.state, found.message) == ("failed", "There is no task x.")
    broken = Comparisons(one.root, one.turns, ["/no/such/program"])
    with pytest.raises(InputError, match="could not be started"):
        broken.start(RunConfig(), PLAN)
    assert {one.state for one in broken.list()} == {"failed"}


def test_runs_and_comparisons_wait_for_each_other(comparisons: Make, tmp_path: Path) -> None:
    one = comparisons(SLEEPS)
    jobs = Jobs(RunStore(tmp_path / "runs"), [sys.executable, "-c", SLEEPS], turns=one.turns)
    found = one.start(RunConfig(), PLAN)
    run = jobs.start(RunConfig())
    assert run.state == "queued"
    jobs._next()  # as the thread of the queue does periodically
    assert run.state == "queued"
    one.stop(found.id)
    wait_for(lambda: run.state == "starting")
    with pytest.raises(InputError, match="A run is training"):
        one.start(RunConfig(), PLAN)
    second = jobs.start(RunConfig())
    jobs.cancel(run.id)
    jobs.wait(run.id, 300)
    wait_for(lambda: second.state == "starting")
    jobs.cancel(second.id)
    jobs.wait(second.id, 300)
    wait_for(lambda: jobs._attending is None)  # otherwise the queue could start the run again
    with jobs.turns.locked():
        jobs.waiting.add(second)
    with pytest.raises(InputError, match="A run waits in the queue"):
        one.resume(found.id)


def test_one_that_a_shell_made_is_listed_and_can_be_deleted_and_brought_back(comparisons: Make) -> None:
    one = comparisons(SLEEPS)
    plan = Plan(("jola", "gradient", "random"), ("dsp",), ("auto", "3"), (1, 2))
    make_comparison(one.root / "mine", plan)
    make_comparison(one.root / "half", undone=2)
    (one.root / "other").mkdir()
    (one.root / "link").symlink_to(one.root / "mine")
    assert {found.id for found in one.list()} == {"mine", "half"}
    mine, half = one.get("mine"), one.get("half")
    assert (mine.state, half.state) == ("finished", "stopped")
    assert mine.plan() == plan and mine.config().data.task == "sentiment"
    assert mine.mark() and mine.mark() == one.get("mine").mark() != half.mark()
    assert mine.planned() == plan.cell_names() and set(mine.planned()) <= set(mine.ended_cells())
    for id in ("../mine", "link", ".app", "none", "", "other"):
        assert one.find(id) is None
    one.remove("mine")
    assert one.find("mine") is None and [found.id for found in one.list()] == ["half"]
    assert one.restore("mine").state == "finished"
    with pytest.raises(InputError, match="can no longer be restored"):
        one.restore("half")


def test_one_at_which_a_shell_works_is_seen_and_stopped(comparisons: Make, tmp_path: Path) -> None:
    one = comparisons(SLEEPS)
    make_comparison(one.root / "mine", undone=1)
    found = one.get("mine")
    assert found.state == "stopped" and not one.working()
    shells = "import sys, time; from pathlib import Path; from jola.system.processes import at_work\n"
    shells += "with at_work(Path(sys.argv[1])): print('here', flush=True); time.sleep(600)"
    # Two processes, as with one process per seed.
    processes = [subprocess.Popen([sys.executable, "-c", shells, found.folder], env=environment()) for _ in range(2)]
    try:
        wait_for(lambda: len(found.processes()) == 2)
        assert found.state == "working" and one.active() is not None
        now = found.now()
        assert now is not None and now.words == "Running in a shell"
        assert found.seconds_left() is None
        with pytest.raises(InputError, match="Another comparison is running"):
            one.start(RunConfig(), PLAN)
        with pytest.raises(InputError, match="stop it before you delete it"):
            one.remove("mine")
        one.stop("mine")
        assert one.wait("mine", 300)
        assert found.state == "stopped" and not one.working()
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_damaged_files_are_a_sentence(comparisons: Make) -> None:
    one = comparisons(SLEEPS)
    make_comparison(one.root / "mine")
    (one.root / "mine" / "comparison.json").write_text('{"format": 1, "planned": ["what"], "settings": 3}')
    found = one.get("mine")
    with pytest.raises(InputError, match="damaged"):
        found.config()
    with pytest.raises(InputError, match="damaged"):
        found.plan()
    assert found.state == "stopped"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("mine/comparison.json", {"format": 1, "settings": True, "planned": 5}),
        ("mine/comparison.json", [1]),
        (f"{APP_FOLDER}/mine/status.json", {"created": 1e15, "started": 2**64, "pid": 10**400, "failed": ["x"]}),
        (f"{APP_FOLDER}/mine/asked.json", {"plan": {"seeds": [float("inf")]}}),
        ("mine/cells/jola-seed42/result.json", {"format": 1, "seed": 2**64}),
        ("mine/scores/jola-seed42.json", {"format": 1, "scores": [[10**400]]}),
    ],
)
def test_an_odd_file_hides_no_comparison(comparisons: Make, file: str, content: Any) -> None:
    one = comparisons(SLEEPS)
    make_comparison(one.root / "mine")
    make_comparison(one.root / "other")
    (one.root / file).parent.mkdir(parents=True, exist_ok=True)
    (one.root / file).write_text(json.dumps(content))
    for mine in ("mine", "other"):
        view = snapshot(one, mine)
        assert {row["id"] for row in view["list"]} == {"mine", "other"}
        json.dumps(view, allow_nan=False)
    one.remove("mine")
    assert [found.id for found in one.list()] == ["other"]


def test_an_odd_result_is_named(comparisons: Make) -> None:
    comparison = make_comparison(comparisons(SLEEPS).root / "mine")
    path = comparison.cell_folder("jola-seed42") / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"correct": "01x"}))
    with pytest.raises(InputError, match=r"result\.json is not valid: correct is '01x'"):
        comparison.cells()


def test_the_folder_is_beside_the_runs_and_never_one_of_them(home: Path, tmp_path: Path) -> None:
    assert Settings().comparisons_root == home / "comparisons"
    named = Settings(runs=tmp_path / "mine")
    assert named.comparisons_root == tmp_path / "mine" / "comparisons"
    make_comparison(named.comparisons_root / "one")
    store = RunStore(named.runs_root)
    assert store.list() == [] and store.summaries() == []
