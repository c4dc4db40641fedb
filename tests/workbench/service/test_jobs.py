"""Training as a process: started, found and cancelled, and its failures reported."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jola.config import ModelConfig, RunConfig, TrainingConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.store import RunStore
from workbench.service.jobs import Jobs
from workbench.service.processes import last_sentence, log_tail

# Replaces `jola train`: the same writer and the same reaction to SIGTERM, without a model.
TRAINS = """
import os, signal, sys, time
from pathlib import Path
from jola.config import RunConfig
from jola.runs.run import Run
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
run = Run.create(Path(sys.argv[sys.argv.index("--output") + 1]), RunConfig(), resume="--resume" in sys.argv)
print("flags", *sys.argv[1:], f"on {os.environ.get('JOLA_DEVICE')}", flush=True)
run.write_status(state="training", total_steps=20_000)
begin, pause = run.status()["step"], run.path / "pause"
for step in range(begin + 1, 20_001):
    if stopped or pause.exists():
        break
    run.write_status(step=step)
    time.sleep(0.02)
paused = pause.exists()
pause.unlink(missing_ok=True)
run.write_status(state="cancelled" if stopped else "paused" if paused else "finished")
"""
REFUSES = "import sys; print('Loading'); print('error: There is no task x.', file=sys.stderr); sys.exit(2)"
CRASHES = "raise RuntimeError('out of memory')"
SLEEPS = "import time; time.sleep(600)"

MakeJobs = Callable[[str], Jobs]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[MakeJobs]:
    made: list[Jobs] = []

    def make(program: str) -> Jobs:
        made.append(Jobs(RunStore(tmp_path / "runs"), [sys.executable, "-c", program]))
        return made[-1]

    yield make
    for one in made:
        end_all(one)


def end_all(jobs: Jobs) -> None:
    """Take all waiting runs out of the queue, and kill the processes of the others."""
    for run in jobs.store.list():
        if run.state == "queued":
            jobs.cancel(run.id)
    with jobs.turns.locked():  # no process is being started
        for run in jobs.running():
            os.kill(run.status()["pid"], signal.SIGKILL)


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def test_a_run_trains_in_its_own_process_and_cancel_stops_it_at_a_step(jobs: MakeJobs) -> None:
    one = jobs(TRAINS)
    run = one.start(RunConfig(training=TrainingConfig(epochs=3)))
    assert run.state in ("starting", "training")
    wait_for(lambda: run.status()["step"] > 2)
    pid = run.status()["pid"]
    assert pid != os.getpid() and os.getsid(pid) != os.getsid(0)
    assert f"--epochs 3 --output {run.path}" in log_tail(run)
    active = one.active()
    assert active is not None and active.id == run.id

    one.cancel(run.id)
    assert one.wait(run.id, 300)
    assert run.state == "cancelled"
    assert run.status()["step"] < 20_000
    assert one.active() is None
    one.cancel(run.id)  # the second call has no effect
    assert run.state == "cancelled"


def test_others_wait_in_line_and_each_starts_when_the_one_before_has_ended(jobs: MakeJobs) -> None:
    one = jobs(TRAINS)
    first, second, third = (one.start(RunConfig(training=TrainingConfig(seed=seed))) for seed in range(3))
    assert (second.state, third.state) == ("queued", "queued")
    assert one.waiting.ids() == [second.id, third.id]
    assert (one.waiting.place(third.id), one.waiting.place(first.id)) == (1, None)
    assert second.run_config().training.seed == 1
    status, row = second.status(), second.summary()
    assert status["queued"] is not None and status["started"] is None and row["seconds"] is None
    wait_for(lambda: first.status()["step"] > 2)
    assert [run.id for run in one.running()] == [first.id]
    one.cancel(first.id)
    wait_for(lambda: second.state == "training" and one.waiting.ids() == [third.id])
    assert third.state == "queued"
    assert "--seed 1" in log_tail(second)


def test_two_may_train_at_once(tmp_path: Path) -> None:
    one = Jobs(RunStore(tmp_path), [sys.executable, "-c", SLEEPS], at_once=2)
    runs = [one.start(RunConfig()) for _ in range(3)]
    assert [run.state for run in runs] == ["starting", "starting", "queued"]
    for run in reversed(runs):
        one.cancel(run.id)
        assert one.wait(run.id, 300)


def test_a_waiting_run_can_be_taken_out_or_removed(jobs: MakeJobs) -> None:
    one = jobs(TRAINS)
    one.start(RunConfig())
    second, third, fourth = (one.start(RunConfig()) for _ in range(3))
    one.cancel(second.id)
    assert (second.state, second.status()["message"]) == ("cancelled", "Removed from the queue before training began.")
    one.store.remove(third.id)
    assert one.waiting.ids() == [fourth.id]


def test_a_run_that_is_deleted_as_its_turn_comes_is_passed_over(
    jobs: MakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = jobs(SLEEPS)
    first = one.start(RunConfig())
    second, third = (one.start(RunConfig()) for _ in range(2))
    write, gone = Run.write_status, []

    def write_status(run: Run, **changes: object) -> None:
        if run.id == second.id:
            gone.append(one.store.remove(second.id))
        write(run, **changes)

    monkeypatch.setattr(Run, "write_status", write_status)
    one.cancel(first.id)
    wait_for(lambda: bool(gone) and third.alive)
    assert not second.path.exists() and one.waiting.ids() == []


def test_settings_that_the_app_may_not_train_with_start_nothing(tmp_path: Path) -> None:
    def check(config: RunConfig) -> None:
        if config.model.model != "default":
            raise InputError("The model is not allowed for this page.")

    store = RunStore(tmp_path)
    one = Jobs(store, [sys.executable, "-c", TRAINS], check=check)
    other = RunConfig(model=ModelConfig(model="/etc/model"))
    with pytest.raises(InputError, match="not allowed"):
        one.start(other)
    assert store.list() == []
    # A run that was imported, or queued when the app was open to more models.
    run = Run.create(tmp_path / "imported", other)
    run.write_status(state="cancelled")
    with pytest.raises(InputError, match="not allowed"):
        one.resume("imported")
    with one.turns.locked():
        one.waiting.add(run)
    one.continue_queue()
    wait_for(lambda: run.state == "failed")
    assert run.status()["message"] == "The model is not allowed for this page."


def test_a_paused_run_goes_on_from_its_step(jobs: MakeJobs) -> None:
    one = jobs(TRAINS)
    run = one.start(RunConfig())
    wait_for(lambda: run.status()["step"] > 2)
    one.pause(run.id)
    assert one.wait(run.id, 300)
    step = run.status()["step"]
    assert run.state == "paused" and not run.alive and step < 20_000
    one.start(RunConfig())  # takes the free place
    assert one.resume(run.id).state == "queued"
    with pytest.raises(InputError, match="queued; only interrupted runs can be resumed"):
        one.resume(run.id)
    one.cancel(one.running()[0].id)
    wait_for(lambda: run.status()["step"] > step + 1)
    assert run.state == "training"


def test_a_run_that_is_paused_may_be_cancelled(jobs: MakeJobs) -> None:
    one = jobs(TRAINS)
    run = one.start(RunConfig())
    wait_for(lambda: run.status()["step"] > 2)
    one.pause(run.id)
    assert one.wait(run.id, 300)
    one.cancel(run.id)
    assert (run.state, run.status()["message"]) == ("cancelled", "")


def test_an_app_that_is_killed_loses_no_waiting_run(tmp_path: Path) -> None:
    app = f"""
import sys, time
from pathlib import Path
from jola.config import RunConfig
from jola.runs.store import RunStore
from workbench.service.jobs import Jobs
jobs = Jobs(RunStore(Path({str(tmp_path)!r})), [sys.executable, "-c", {TRAINS!r}])
print(*(jobs.start(RunConfig()).id for _ in range(3)), flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", app], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first, second, third = (Run.open(tmp_path / id) for id in process.stdout.readline().split())
        wait_for(lambda: first.status()["step"] > 0)
        process.kill()
    assert first.alive
    (tmp_path / "queue.json").write_text("half a fi")  # our writes never leave this, but an editor may
    again = Jobs(RunStore(tmp_path), [sys.executable, "-c", TRAINS])
    again.continue_queue()
    assert again.waiting.ids() == [second.id, third.id]
    again.cancel(first.id)
    wait_for(lambda: second.state == "training")
    for run in (third, second):
        again.cancel(run.id)
        assert again.wait(run.id, 300)


def test_names_that_lead_elsewhere_are_no_waiting_runs(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    Run(tmp_path / "outside").path.mkdir()
    Run(tmp_path / "outside").write_status(state="queued")
    store.root.mkdir()
    (store.root / "queue.json").write_text('{"waiting": ["../outside", 7, "none"]}')
    assert Jobs(store).waiting.ids() == []


def test_another_app_finds_and_cancels_the_same_run(jobs: MakeJobs) -> None:
    run = jobs(TRAINS).start(RunConfig())
    wait_for(lambda: run.state == "training")
    other = jobs(TRAINS)
    assert other.active() is not None
    other.cancel(run.id)
    assert other.wait(run.id, 300)
    assert run.state == "cancelled"


def test_settings_that_cannot_be_used_start_nothing(jobs: MakeJobs) -> None:
    one = jobs(TRAINS)
    with pytest.raises(InputError, match="epochs"):
        one.start(RunConfig(training=TrainingConfig(epochs=0)))
    assert one.store.list() == []


def test_a_refusal_becomes_the_message_of_the_failed_run(jobs: MakeJobs) -> None:
    run = jobs(REFUSES).start(RunConfig())
    wait_for(lambda: run.state == "failed")
    assert run.status()["message"] == "There is no task x."
    assert "Loading" in log_tail(run)


def test_a_process_that_fails_at_once_was_started(jobs: MakeJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    one = jobs(REFUSES)
    begin = one._next

    def held_up() -> None:
        begin()
        wait_for(lambda: all(run.state == "failed" for run in one.store.list()))

    monkeypatch.setattr(one, "_next", held_up)
    run = one.start(RunConfig())
    assert (run.state, run.status()["message"]) == ("failed", "There is no task x.")


def test_a_crash_shows_its_last_line(jobs: MakeJobs) -> None:
    run = jobs(CRASHES).start(RunConfig())
    wait_for(lambda: run.state == "failed")
    assert run.status()["message"] == "RuntimeError: out of memory"


def test_cancel_before_training_began_leaves_a_cancelled_run(jobs: MakeJobs) -> None:
    one = jobs(SLEEPS)
    run = one.start(RunConfig())
    one.cancel(run.id)
    wait_for(lambda: run.state == "cancelled")


def test_a_killed_process_leaves_a_killed_run(jobs: MakeJobs) -> None:
    run = jobs(TRAINS).start(RunConfig())
    wait_for(lambda: run.status()["step"] > 0)
    os.kill(run.status()["pid"], signal.SIGKILL)
    wait_for(lambda: run.state == "killed")


def test_a_command_that_does_not_exist_is_told(tmp_path: Path) -> None:
    one = Jobs(RunStore(tmp_path), ["/no/such/program"])
    with pytest.raises(InputError, match="could not be started"):
        one.start(RunConfig())
    assert [run.state for run in one.store.list()] == ["failed"]
    assert one.active() is None


def test_cancel_never_touches_the_app_itself(tmp_path: Path) -> None:
    one = Jobs(RunStore(tmp_path))
    run = Run(tmp_path / one.store.new_id())  # reserved, but no process has been started for it yet
    assert run.status()["pid"] == os.getpid()
    one.cancel(run.id)


def test_the_run_goes_on_when_the_app_is_killed(tmp_path: Path) -> None:
    app = f"""
import sys, time
from pathlib import Path
from jola.config import RunConfig
from jola.runs.store import RunStore
from workbench.service.jobs import Jobs
print(Jobs(RunStore(Path({str(tmp_path)!r})), [sys.executable, "-c", {TRAINS!r}]).start(RunConfig()).id, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", app], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        id = process.stdout.readline().strip()
        run = Run.open(tmp_path / id)
        wait_for(lambda: run.status()["step"] > 0)
        process.kill()
    step = run.status()["step"]
    wait_for(lambda: run.status()["step"] > step + 2)
    again = Jobs(RunStore(tmp_path))
    assert again.active() is not None
    again.cancel(id)
    assert again.wait(id, 300)


def test_a_long_log_is_shown_from_its_end(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.log_path.write_text("".join(f"line {number}\n" for number in range(5000)) + "error: the end.\n\n")
    tail = log_tail(run)
    assert tail.endswith("line 4999\nerror: the end.")
    assert tail.startswith("line ") and len(tail) < 20_000
    assert last_sentence(run) == "the end."
    assert log_tail(Run(tmp_path / "none")) == ""
