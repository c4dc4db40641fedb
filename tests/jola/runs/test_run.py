"""A run as a directory: its metrics, its state, and what remains after a kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from jola.config import DataConfig, RunConfig, TrainingConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.system.files import append_whole
from jola.system.processes import process_alive
from tests.jola.runs.records import LAYERS, UNITS, as_if_killed, gates, record


class TestMetrics:
    def test_what_is_written_is_read(self, run: Run) -> None:
        assert run.metrics() == []
        run.append_metrics({"step": 1, "loss": np.float32(0.5), "note": "zwölf"})
        run.append_metrics({"step": 2, "loss": float("nan")})
        assert run.metrics() == [{"step": 1, "loss": 0.5, "note": "zwölf"}, {"step": 2, "loss": None}]

    def test_every_line_is_json_for_any_reader(self, run: Run) -> None:
        run.append_metrics({"step": 1, "loss": float("inf"), "nested": {"array": np.array([1.0, np.nan])}})
        line = (run.path / "metrics.jsonl").read_text()
        assert json.loads(line, parse_constant=pytest.fail) == {
            "step": 1,
            "loss": None,
            "nested": {"array": [1.0, None]},
        }

    @pytest.mark.parametrize("rest", ['{"step": 3, "lo', '{"step": 3}', "\x00\x00"])
    def test_an_unfinished_line_is_ignored_and_cut_off_on_resume(self, run: Run, rest: str) -> None:
        run.append_metrics({"step": 1})
        run.append_metrics({"step": 2})
        with open(run.path / "metrics.jsonl", "a") as file:
            file.write(rest)
        assert [entry["step"] for entry in run.metrics()] == [1, 2]
        run.truncate_after(2)
        run.append_metrics({"step": 3, "loss": 1.0})
        assert run.metrics() == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="the device that is always full is Linux's")
    def test_a_full_disk(self, run: Run) -> None:
        (run.path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(InputError, match="no space left"):
            run.append_metrics({"step": 1})

    def test_a_full_disk_does_not_hurt_what_is_there(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        run.write_result({"seconds": 1})

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="no space left"):
            run.write_result({"seconds": 2})
        assert run.result() == {"seconds": 1}
        assert sorted(item.name for item in run.path.iterdir()) == [
            "config.json",
            "result.json",
            "status.json",
        ]

    def test_a_part_of_a_write_is_taken_back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"whole\n")
        write = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        with pytest.raises(InputError, match="no space left"):
            append_whole(descriptor, b"another\n", path)
        os.close(descriptor)
        assert path.read_bytes() == b"whole\n"


class TestState:
    def test_a_new_run_is_starting_and_says_who_it_is(self, run: Run) -> None:
        status = run.status()
        assert run.state == "starting"
        assert run.alive
        assert status["pid"] == os.getpid()
        assert status["started"] <= status["updated"] <= time.time()

    @pytest.mark.parametrize("state", ["finished", "cancelled", "failed"])
    def test_a_run_that_ended_needs_no_process(self, run: Run, state: str) -> None:
        as_if_killed(run)
        run.write_status(state=state)
        assert run.state == state
        assert not run.alive

    @pytest.mark.parametrize("state", ["starting", "training", "evaluating"])
    def test_another_process_with_the_same_number_is_not_the_run(self, run: Run, state: str) -> None:
        run.write_status(state=state)
        assert run.state == state
        run.write_status(pid_created=psutil.Process().create_time() - 100)
        assert run.state == "killed"

    @pytest.mark.parametrize("content", ["", '{"state": "trai', "[]", '{"state": 3, "pid": "x", "writes": "y"}'])
    @pytest.mark.usefixtures("fresh_for_long")
    def test_a_damaged_status_is_starting_at_first_and_killed_later(self, run: Run, content: str) -> None:
        (run.path / "status.json").write_text(content)
        assert run.state == "starting"
        assert run.status()["step"] == 0
        os.utime(run.path, (1, 1))
        assert Run.open(run.path).state == "killed"
        assert run.summary()["state"] == "killed"
        assert run.version() >= 0

    @pytest.mark.usefixtures("fresh_for_long")
    def test_a_missing_status(self, run: Run) -> None:
        (run.path / "status.json").unlink()
        assert Run.open(run.path).state == "starting"
        os.utime(run.path, (1, 1))
        assert run.state == "killed"

    def test_a_status_keeps_what_is_not_changed(self, run: Run) -> None:
        run.write_status(state="training", step=3, total_steps=10)
        run.write_status(step=4)
        status = Run.open(run.path).status()
        assert (status["state"], status["step"], status["total_steps"]) == ("training", 4, 10)

    def test_no_change_is_lost_if_two_write_at_once(self, run: Run) -> None:
        before = run.status()["writes"]

        def write() -> None:
            other = Run(run.path)
            for step in range(50):
                other.write_status(step=step)

        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert run.status()["writes"] == before + 200

    def test_a_process_that_ends_while_it_is_looked_for_was_not_killed(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        as_if_killed(run)
        run.write_status(state="evaluating")
        assert run.state == "killed"
        before = run.status()
        run.write_status(state="finished")
        after = run.status()
        read = iter([before, after])
        monkeypatch.setattr(Run, "status", lambda self: next(read))
        assert run.state == "finished"

    def test_an_unknown_state_is_not_written(self, run: Run) -> None:
        with pytest.raises(ValueError, match="unknown state"):
            run.write_status(state="killed")

    def test_a_process_that_waits_to_be_noticed_is_gone(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        created = psutil.Process(process.pid).create_time()
        assert process_alive(process.pid, created)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # wait for its end without reaping it
        assert not process_alive(process.pid, created)
        process.wait()
        assert not process_alive(process.pid, created)


class TestKill:
    def test_a_killed_run_opens_as_killed_and_loses_at_most_the_last_record(self, tmp_path: Path) -> None:
        script = f"""
import numpy as np
from jola.config import RunConfig
from jola.runs.history import GATE_FIELDS
from jola.runs.run import Run
run = Run.create({str(tmp_path / "run")!r}, RunConfig())
writer = run.gate_writer("heads", {LAYERS}, {UNITS})
step = 0
while True:
    writer.append(step, {{name: np.full(({LAYERS}, {UNITS}), step) for name in GATE_FIELDS}})
    run.append_metrics({{"step": step}})
    run.write_status(state="training", step=step)
    print(step, flush=True)
    step += 1
"""
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        seen = -1
        while seen < 50:
            seen = int(process.stdout.readline())
        run = Run.open(tmp_path / "run")
        assert run.state == "training"
        with pytest.raises(InputError, match=f"written by process {process.pid}"):
            Run.create(run.path, RunConfig(), resume=True)
        process.send_signal(signal.SIGKILL)
        seen = [seen, *map(int, process.stdout.read().split())][-1]
        process.wait()
        process.stdout.close()
        history = run.gates()
        assert run.state == "killed"
        assert run.status()["step"] >= seen
        assert history.steps.tolist() == list(range(len(history)))
        assert len(history) > seen
        assert [entry["step"] for entry in run.metrics()][: seen + 1] == list(range(seen + 1))
        for step in history.steps:
            assert (history.at(int(step))["scale_norm"] == step).all()

    def test_readers_never_see_a_part_of_anything(self, run: Run) -> None:
        stop = threading.Event()
        failures: list[BaseException] = []

        def read() -> None:
            try:
                while not stop.is_set():
                    status = run.status()
                    assert status["state"] == "training"
                    assert status["message"] == "x" * status["step"]
                    history = run.gates()
                    assert history.steps.tolist() == list(range(len(history)))
                    last = run.last_gates()
                    assert last is None or (last[1]["offset_gate"] == gates(last[0])["offset_gate"]).all()
                    steps = [entry["step"] for entry in run.metrics()]
                    assert steps == list(range(len(steps)))
            except BaseException as error:
                failures.append(error)

        run.write_status(state="training")
        with run.gate_writer("heads", LAYERS, UNITS) as writer:
            reader = threading.Thread(target=read)
            reader.start()
            for step in range(300):
                writer.append(step, gates(step))
                run.append_metrics({"step": step})
                run.write_status(step=10 * step, message="x" * (10 * step))
            stop.set()
            reader.join()
        assert failures == []


class TestResume:
    def test_the_history_goes_on_as_if_nothing_had_happened(self, run: Run) -> None:
        record(run, 0, 5, 10, 15)
        for step in range(17):
            run.append_metrics({"step": step})
        run.write_result({"seconds": 1})
        as_if_killed(run, step=16, total_steps=20)
        again = Run.create(run.path, RunConfig(), resume=True)
        assert again.state == "starting"
        assert len(again.gates()) == 4
        again.truncate_after(10)
        assert again.status()["step"] == 10
        assert again.result() is None
        record(again, 15, 20)
        assert again.gates().steps.tolist() == [0, 5, 10, 15, 20]
        assert [entry["step"] for entry in again.metrics()] == list(range(11))

    def test_it_stays_the_run_it_was(self, run: Run) -> None:
        created = run.created
        as_if_killed(run)
        again = Run.create(run.path, RunConfig(), {"geometry": {"num_layers": 3}}, resume=True)
        assert again.created == created
        assert again.config()["geometry"] == {"num_layers": 3}

    def test_one_of_two_processes_resumes_it(self, run: Run) -> None:
        script = f"""
import sys, time
import jola.runs.run as runs
from jola.config import RunConfig
from jola.errors import InputError
write = runs.replace_file
runs.replace_file = lambda *data, **options: (time.sleep(0.5), write(*data, **options))
print("ready", flush=True)
sys.stdin.readline()
try:
    runs.Run.create({str(run.path)!r}, RunConfig(), resume=True)
    print("resumed", flush=True)
except InputError as error:
    print(error, flush=True)
sys.stdin.readline()  # the first one still works on the run when the second one looks at it
"""
        as_if_killed(run)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        both = [subprocess.Popen([sys.executable, "-c", script], **pipes) for _ in range(2)]
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        said = {process.pid: process.stdout.readline() for process in both}
        for process in both:
            process.communicate("\n")
        writer = run.status()["pid"]
        assert said.pop(writer) == "resumed\n"
        assert f"is being written by process {writer}" in "".join(said.values())

    def test_resuming_nothing_begins(self, tmp_path: Path) -> None:
        assert Run.create(tmp_path / "new", RunConfig(), resume=True).state == "starting"

    @pytest.mark.parametrize("state", ["finished", "failed", "cancelled", "training"])
    def test_a_run_is_never_overwritten_by_accident(self, run: Run, state: str) -> None:
        as_if_killed(run)
        run.write_status(state=state)
        with pytest.raises(InputError, match=r"already contains a run .*; resume it or choose another directory"):
            Run.create(run.path, RunConfig())
        Run.create(run.path, RunConfig(), resume=True)


class TestVersion:
    def test_it_grows_with_everything_that_is_written(self, run: Run) -> None:
        seen = [run.version()]

        def grown() -> None:
            seen.append(run.version())
            assert seen[-1] > seen[-2]

        assert Run.open(run.path).version() == seen[0]
        run.write_status(step=1)
        grown()
        run.write_status(step=1)
        grown()
        run.append_metrics({"step": 1})
        grown()
        with run.gate_writer("heads", LAYERS, UNITS) as writer:
            writer.append(1, gates(1))
            grown()
            writer.append(2, gates(2))
            grown()
        run.write_result({"seconds": 2})
        grown()
        as_if_killed(run)
        grown()
        Run.create(run.path, RunConfig(), resume=True)
        grown()
        run.truncate_after(0)
        grown()
        assert seen[-1] < 2**53


class TestRun:
    def test_configuration_with_what_was_found(self, tmp_path: Path) -> None:
        config = RunConfig(data=DataConfig(task="sentiment"), training=TrainingConfig(seed=7))
        run = Run.create(tmp_path / "a" / "b", config, {"task": {"name": "sentiment", "labels": ["x"]}})
        assert run.config()["task"]["labels"] == ["x"]
        assert run.config()["training"] == config.to_dict()["training"]
        assert run.run_config() == config

    def test_opening_what_is_not_a_run(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="There is no run directory"):
            Run.open(tmp_path / "absent")
        with pytest.raises(InputError, match="is not a run directory"):
            Run.open(tmp_path)

    def test_a_run_is_not_mixed_with_other_files(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(InputError, match=r"contains other files \(thesis.tex\)"):
            Run.create(tmp_path, RunConfig())
        with pytest.raises(InputError, match="a file is in the way"):
            Run.create(tmp_path / "thesis.tex", RunConfig())
        with pytest.raises(InputError, match="a file is in the way"):
            Run.create(tmp_path / "thesis.tex" / "run", RunConfig())
        with pytest.raises(InputError, match="too long for the file system"):
            Run.create(tmp_path / ("a" * 300), RunConfig())

    def test_a_damaged_configuration_is_named(self, run: Run) -> None:
        (run.path / "config.json").write_text('{"model": ')
        with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
            run.config()
        assert run.summary()["model"] is None

    def test_summary_of_a_run_that_finished(self, tmp_path: Path) -> None:
        test = {"accuracy": 0.5, "n": 4, "low": 0.1, "high": 0.9}
        extra = {"task": {"name": "snips", "n_train": 40}}
        run = Run.create(tmp_path / "one", RunConfig(training=TrainingConfig(seed=3)), extra)
        assert (run.summary()["accuracy"], run.summary()["score"]) == (None, None)
        run.write_result({"test": test, "closed": {"offset": 0.25, "scale": 0.75}, "seconds": 12.5})
        run.write_status(state="finished", step=9, total_steps=9)
        assert run.summary() == {
            "id": "one",
            "device": None,
            "label": "",
            "note": "",
            "state": "finished",
            "task": "snips",
            "model": "default",
            "method": "JoLA",
            "n_train": 40,
            "seed": 3,
            "accuracy": test,
            "score": {
                "metric": "exact_match",
                "title": "Test accuracy",
                "value": 0.5,
                "n": 4,
                "low": 0.1,
                "high": 0.9,
                "share": True,
            },
            "closed": {"offset": 0.25, "scale": 0.75},
            "open": None,
            "seconds": 12.5,
            "created": run.created,
            "step": 9,
            "total_steps": 9,
            "size": sum(path.stat().st_size for path in run.path.iterdir()),
            "adapter": False,
            "problem": "",
            "imported": False,
        }
