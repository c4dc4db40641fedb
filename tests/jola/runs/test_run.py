"""A run's directory: what one process writes, others read at any moment, also after a kill."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

from jola.config import DataConfig, RunConfig, TrainingConfig
from jola.errors import InputError
from jola.runs import history as gate_history
from jola.runs.history import GATE_FIELDS, GateHistory, GateWriter
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.system.files import append_whole
from jola.system.processes import process_alive

LAYERS, UNITS = 3, 4
RECORD = 4 * (1 + len(GATE_FIELDS) * LAYERS * UNITS)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", RunConfig())


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def gates(step: int) -> dict[str, np.ndarray]:
    """Values that tell field, step, layer and unit apart."""
    grid = np.arange(LAYERS * UNITS, dtype=np.float32).reshape(LAYERS, UNITS)
    return {name: grid + 100 * step + 10_000 * index for index, name in enumerate(GATE_FIELDS)}


def record(run: Run, *steps: int) -> None:
    with run.gate_writer("heads", LAYERS, UNITS) as writer:
        for step in steps:
            writer.append(step, gates(step))


def as_if_killed(run: Run, **changes: object) -> None:
    """The status of a run whose process is gone: a process number that was used by an older process."""
    run.write_status(state="training", pid=os.getpid(), pid_created=1.0, **changes)


class TestGateHistory:
    def test_what_is_written_is_read(self, run: Run) -> None:
        record(run, 0, 5, 10)
        history = run.gates()
        assert history.steps.tolist() == [0, 5, 10]
        for index, step in enumerate((0, 5, 10)):
            for name in GATE_FIELDS:
                np.testing.assert_array_equal(history.fields[name][index], gates(step)[name])

    def test_the_file_is_what_its_description_says(self, run: Run) -> None:
        record(run, 7)
        assert json.loads((run.gates_dir / "heads.json").read_text()) == {
            "layers": LAYERS,
            "units": UNITS,
            "fields": list(GATE_FIELDS),
        }
        values = np.fromfile(run.gates_dir / "heads.f32", dtype="<f4")
        assert values[0] == 7
        np.testing.assert_array_equal(values[1:], np.concatenate([gates(7)[name].ravel() for name in GATE_FIELDS]))

    def test_the_last_record_alone(self, run: Run) -> None:
        assert run.last_gates() is None
        record(run, 0, 5)
        last = run.last_gates()
        assert last is not None
        assert last[0] == 5
        np.testing.assert_array_equal(last[1]["scale_norm"], gates(5)["scale_norm"])

    @settings(deadline=None)
    @given(extra=st.integers(1, RECORD - 1))
    def test_an_unfinished_record_is_ignored_and_then_cut_off(
        self, tmp_path_factory: pytest.TempPathFactory, extra: int
    ) -> None:
        folder = tmp_path_factory.mktemp("gates")
        with GateWriter(folder, "heads", LAYERS, UNITS) as writer:
            writer.append(1, gates(1))
        with open(folder / "heads.f32", "ab") as file:
            file.write(b"\1" * extra)
        last = gate_history.read_last(folder)
        assert GateHistory.read(folder).steps.tolist() == [1]
        assert last is not None
        assert last[0] == 1
        with GateWriter(folder, "heads", LAYERS, UNITS) as writer:
            writer.append(2, gates(2))
        assert GateHistory.read(folder).steps.tolist() == [1, 2]
        np.testing.assert_array_equal(GateHistory.read(folder).at(2)["offset_gate"], gates(2)["offset_gate"])

    def test_at_takes_the_nearest_record_that_is_not_after(self, run: Run) -> None:
        record(run, 2, 5, 10)
        history = run.gates()
        for asked, found in ((2, 2), (4, 2), (5, 5), (9, 5), (10, 10), (99, 10)):
            np.testing.assert_array_equal(history.at(asked)["offset_gate"], gates(found)["offset_gate"])
        with pytest.raises(InputError, match="recorded at step 2"):
            history.at(1)

    def test_counts_and_closed(self, run: Run) -> None:
        # Units, from the left: none, offset alone, scale alone, both.
        offset, scale = [0.0, 0.5, 0.0, 1.0], [0.0, 0.0, 0.1, 1.0]
        values = {
            **gates(0),
            "offset_gate": np.tile(offset, (LAYERS, 1)),
            "scale_gate": np.tile(scale, (LAYERS, 1)),
        }
        with run.gate_writer("heads", LAYERS, UNITS) as writer:
            writer.append(0, values)
            writer.append(1, {**values, "scale_gate": np.zeros((LAYERS, UNITS))})
        history = run.gates()
        assert {name: count.tolist() for name, count in history.counts().items()} == {
            "none": [LAYERS, 2 * LAYERS],
            "offset": [LAYERS, 2 * LAYERS],
            "scale": [LAYERS, 0],
            "both": [LAYERS, 0],
        }
        assert history.closed(0) == {"offset": 0.5, "scale": 0.5}
        assert history.closed() == {"offset": 0.5, "scale": 1.0}

    def test_halves_that_do_not_train_are_not_counted_as_closed(self, run: Run) -> None:
        partly = np.full((LAYERS, UNITS), np.nan)
        partly[0] = [0, 0, 0, 1]
        nothing = np.full((LAYERS, UNITS), np.nan)
        with run.gate_writer("heads", LAYERS, UNITS) as writer:
            writer.append(0, {**gates(0), "offset_gate": partly, "scale_gate": nothing})
        closed = run.gates().closed()
        assert closed["offset"] == 0.75
        assert np.isnan(closed["scale"])
        # Where nothing is trained there is no edit to be on or off.
        assert {name: count.tolist() for name, count in run.gates().counts().items()} == {
            "none": [3], "offset": [1], "scale": [0], "both": [0],
        }  # fmt: skip

    def test_a_long_table(self, run: Run) -> None:
        record(run, 0, 5)
        frame = run.gates().to_frame()
        assert list(frame.columns) == ["step", "layer", "unit", *GATE_FIELDS]
        assert len(frame) == 2 * LAYERS * UNITS
        row = frame[(frame.step == 5) & (frame.layer == 2) & (frame.unit == 1)].iloc[0]
        assert row["scale_open"] == gates(5)["scale_open"][2, 1]

    def test_a_step_is_recorded_once(self, run: Run) -> None:
        with run.gate_writer("heads", LAYERS, UNITS) as writer:
            assert writer.append(5, gates(5))
            assert not writer.append(5, gates(6))
            with pytest.raises(ValueError, match="truncate_after"):
                writer.append(4, gates(4))
        np.testing.assert_array_equal(run.gates().at(5)["offset_gate"], gates(5)["offset_gate"])

    def test_wrong_values_are_refused_before_anything_is_written(self, run: Run) -> None:
        with run.gate_writer("heads", LAYERS, UNITS) as writer:
            with pytest.raises(ValueError, match="scale_norm is missing"):
                writer.append(0, {name: value for name, value in gates(0).items() if name != "scale_norm"})
            with pytest.raises(ValueError, match="offset_gate is of shape"):
                writer.append(0, {**gates(0), "offset_gate": np.zeros((UNITS, LAYERS))})
        assert len(run.gates()) == 0

    def test_a_history_of_another_model_is_not_continued(self, run: Run) -> None:
        record(run, 0)
        with pytest.raises(InputError, match="3 × 4 gates and this model has 5 × 4"):
            run.gate_writer("heads", 5, UNITS)

    def test_a_site_without_a_history(self, run: Run) -> None:
        record(run, 0)
        assert run.sites() == ["heads"]
        with pytest.raises(InputError, match=r"'mlp' \(recorded: heads\)"):
            run.gates("mlp")
        with pytest.raises(InputError, match="not the name of a site"):
            run.gates("../heads")

    def test_a_full_disk_leaves_whole_records(self, run: Run) -> None:
        """A limit on the file's size cuts a write in the middle, as a disk does that fills up."""
        script = f"""
import resource, signal
import numpy as np
from jola.runs.history import GATE_FIELDS, GateWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({2 * RECORD + 10}, {2 * RECORD + 10}))
values = {{name: np.ones(({LAYERS}, {UNITS})) for name in GATE_FIELDS}}
writer = GateWriter({str(run.gates_dir)!r}, "heads", {LAYERS}, {UNITS})
for step in range(5):
    writer.append(step, values)
"""
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "InputError: There is no space left on the disk" in ended.stderr
        assert (run.gates_dir / "heads.f32").stat().st_size == 2 * RECORD


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
    def test_a_damaged_status_is_starting_at_first_and_killed_later(self, run: Run, content: str) -> None:
        (run.path / "status.json").write_text(content)
        assert run.state == "starting"
        assert run.status()["step"] == 0
        os.utime(run.path, (1, 1))
        assert Run.open(run.path).state == "killed"
        assert run.summary()["state"] == "killed"
        assert run.version() >= 0

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

    def test_an_unknown_state_is_not_written(self, run: Run) -> None:
        with pytest.raises(ValueError, match="unknown state"):
            run.write_status(state="killed")

    def test_a_process_that_waits_to_be_noticed_is_gone(self) -> None:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        created = psutil.Process(process.pid).create_time()
        assert process_alive(process.pid, created)
        process.kill()
        deadline = time.time() + 10
        while process_alive(process.pid, created) and time.time() < deadline:
            time.sleep(0.01)
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

    def test_resuming_nothing_begins(self, tmp_path: Path) -> None:
        assert Run.create(tmp_path / "new", RunConfig(), resume=True).state == "starting"

    @pytest.mark.parametrize("state", ["finished", "failed", "cancelled", "training"])
    def test_a_run_is_never_overwritten_by_accident(self, run: Run, state: str) -> None:
        as_if_killed(run)
        run.write_status(state=state)
        with pytest.raises(InputError, match=r"already holds a run .*; resume it or choose another directory"):
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
        with pytest.raises(InputError, match=r"holds other files \(thesis.tex\)"):
            Run.create(tmp_path, RunConfig())
        with pytest.raises(InputError, match="a file has the name"):
            Run.create(tmp_path / "thesis.tex", RunConfig())
        with pytest.raises(InputError, match="a file has the name"):
            Run.create(tmp_path / "thesis.tex" / "run", RunConfig())

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


class TestRunStore:
    def test_newest_first_and_nothing_else(self, store: RunStore) -> None:
        assert store.list() == []
        for name in ("b", "c", "a"):
            Run.create(store.root / name, RunConfig())
            time.sleep(0.002)
        (store.root / "no run").mkdir()
        (store.root / "file").touch()
        (store.root / "link").symlink_to(store.root / "a")
        assert [run.id for run in store.list()] == ["a", "c", "b"]

    def test_a_thousand_runs_that_were_killed(self, store: RunStore) -> None:
        config = json.dumps({**RunConfig().to_dict(), "created": 1.0})
        for index in range(1000):
            folder = store.root / f"run{index}"
            folder.mkdir(parents=True)
            (folder / "config.json").write_text(config)
            (folder / "status.json").write_text(json.dumps({"state": "training", "pid": index + 2, "pid_created": 1.0}))
        rows = [run.summary() for run in store.list()]
        assert len(rows) == 1000
        assert {row["state"] for row in rows} == {"killed"}

    def test_ids_are_unique_for_processes_that_ask_at_once(self, store: RunStore) -> None:
        script = (
            "import sys; from jola.runs.run import RunStore; store = RunStore(sys.argv[1]); "
            "print(*[store.new_id('hf:owner/My Task.v2') for _ in range(50)])"
        )
        command = [sys.executable, "-c", script, str(store.root)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        ids = [id for process in processes for id in process.communicate()[0].split()]
        assert len(set(ids)) == 100
        assert {run.id for run in store.list()} == set(ids)

    @pytest.mark.parametrize(
        ("task", "part"),
        [
            ("sentiment", "-sentiment-"),
            ("/data/my tasks/trec/", "-trec-"),
            ("../x/reviews.jsonl", "-reviews-"),
            ("hf:a/b", "-b-"),
            ("", "-run-"),
            ("日本", "-run-"),
            ("x" * 300, "-" + "x" * 32 + "-"),
        ],
    )
    def test_an_id_tells_the_task_and_is_a_plain_name(self, store: RunStore, task: str, part: str) -> None:
        id = store.new_id(task)
        assert part in id
        assert store.get(id).path == store.root / id

    def test_a_reserved_run_can_be_made_once(self, store: RunStore) -> None:
        id = store.new_id("sentiment")
        assert store.get(id).state == "starting"
        run = Run.create(store.get(id).path, RunConfig())
        assert run.config()["model"]
        with pytest.raises(InputError, match="already holds a run"):
            Run.create(run.path, RunConfig())

    @pytest.mark.parametrize(
        "id",
        ["", ".", "..", "../outside", "a/../../outside", "/etc", "a\\b", "c:x", "a\0b", ".hidden", "x" * 300],
    )
    def test_an_id_does_not_lead_out_of_the_store(self, store: RunStore, id: str) -> None:
        Run.create(store.root / "a", RunConfig())
        Run.create(store.root.parent / "outside", RunConfig())
        with pytest.raises(InputError, match="is not the id of a run"):
            store.get(id)
        with pytest.raises(InputError, match="is not the id of a run"):
            store.remove(id)

    def test_a_link_out_of_the_store_is_not_followed(self, store: RunStore) -> None:
        outside = Run.create(store.root.parent / "outside", RunConfig())
        store.root.mkdir()
        (store.root / "link").symlink_to(outside.path)
        with pytest.raises(InputError, match="is not the id of a run"):
            store.remove("link")
        assert outside.path.is_dir()

    def test_a_second_name_of_a_run_does_not_remove_it(self, store: RunStore) -> None:
        run = Run.create(store.root / "a", RunConfig())
        as_if_killed(run)
        (store.root / "alias").symlink_to(run.path)
        with pytest.raises(InputError, match="is not the id of a run"):
            store.remove("alias")
        assert run.path.is_dir()

    def test_an_unknown_run(self, store: RunStore) -> None:
        with pytest.raises(InputError, match="There is no run 'absent'"):
            store.get("absent")

    def test_a_run_at_work_is_not_removed(self, store: RunStore) -> None:
        run = Run.create(store.root / "a", RunConfig())
        record(run, 1)
        with pytest.raises(InputError, match="is starting; cancel it"):
            store.remove("a")
        assert run.gates().steps.tolist() == [1]
        as_if_killed(run)
        store.remove("a")
        assert store.list() == []

    def test_the_default_folder_moves_with_the_variable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JOLA_HOME", str(tmp_path))
        assert RunStore().root == tmp_path / "runs"
