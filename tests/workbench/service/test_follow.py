"""What the page shows of a run while the run is written."""

import base64
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jola.config import EditConfig, RunConfig
from jola.errors import InputError
from jola.methods import METHODS
from jola.runs.history import GATE_FIELDS
from jola.runs.store import RunStore
from tests.workbench.recorded import ACCURACY, MODULES, MethodRecorder, Recorder, gate_values
from workbench.service import follow
from workbench.service.follow import Follower, Followers
from workbench.service.processes import Turns
from workbench.service.run_frames import UNTRAINED, encode_gates, round_up, state_counts
from workbench.service.waiting import Waiting


def decode(frame: dict[str, Any], field: str) -> np.ndarray:
    codes = np.frombuffer(base64.b64decode(frame["fields"][field]), dtype=np.uint8)
    return codes.reshape(frame["layers"], frame["units"])


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path / "runs" / "one", steps=40, layers=4, units=3)


def test_a_closed_gate_and_one_nearly_closed_stay_different() -> None:
    codes = encode_gates(np.array([0.0, 1e-6, 0.5, 1.0, np.nan], dtype=np.float32))
    assert codes.tolist() == [0, 1, 127, 254, UNTRAINED]


def test_states_are_counted_per_head() -> None:
    offset, scale = np.array([0, 9, 0, 9, 9], np.uint8), np.array([0, 0, 9, 9, UNTRAINED], np.uint8)
    assert state_counts(offset, scale) == [1, 2, 1, 1]
    assert state_counts(np.array([UNTRAINED, 9], np.uint8), np.array([UNTRAINED, 9], np.uint8)) == [0, 0, 0, 1]


def test_one_colour_is_one_norm_at_every_step(recorder: Recorder) -> None:
    follower = Follower(recorder.until(3).run)
    values = gate_values(4, 40, 4, 3)
    values["offset_norm"] = values["offset_norm"] + 0.7  # longer than any before
    with recorder.run.gate_writer("heads", 4, 3) as writer:
        writer.append(4, values)
    assert [round_up(value) for value in (0.0, 0.3, 0.5, 1.01, 7)] == [1.0, 0.5, 0.5, 2.0, 10.0]
    assert follower.snapshot()["frame"]["norm_top"] == 2.0
    earlier = follower.frame("heads", 0)
    assert earlier is not None and earlier["norm_top"] == 2.0


def test_a_half_that_is_not_trained_is_neither_open_nor_closed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "runs" / "half", steps=4, layers=2, units=2)
    values = {name: v * (np.nan if name.startswith("scale") else 1) for name, v in gate_values(0, 4, 2, 2).items()}
    with recorder.run.gate_writer("heads", 2, 2) as writer:
        writer.append(0, values)
    snapshot = Follower(recorder.run).snapshot()
    assert (decode(snapshot["frame"], "scale_gate") == UNTRAINED).all()
    assert (decode(snapshot["frame"], "scale_norm") == UNTRAINED).all()
    assert snapshot["frame"]["counts"] == [0, 4, None, None]
    assert snapshot["states"]["closed"][0][1] is None and snapshot["states"]["closed"][0][0] is not None


@pytest.mark.parametrize(
    ("method", "site", "channels"), [("lora", "weights", ["update"]), ("red", "mlp", ["offset", "scale"])]
)
def test_a_run_of_a_method_without_gates_has_norms_only(
    tmp_path: Path, method: str, site: str, channels: list[str]
) -> None:
    run = MethodRecorder(tmp_path / "runs" / "one", RunConfig(method=method)).until(4).finish()
    follower = Follower(run)
    snapshot = follower.snapshot()
    frame = snapshot["frame"]
    assert (frame["site"], list(frame["channels"]), frame["has_gates"]) == (site, channels, False)
    assert set(frame["fields"]) == {f"{channel}_norm" for channel in channels}
    assert frame["counts"] == snapshot["states"]["counts"] == snapshot["states"]["closed"] == []
    means = snapshot["states"]["norms"]
    assert len(means) == 5 and means[0] == [0.0] * len(channels)
    assert all(later > before for before, later in pairwise(mean[0] for mean in means))
    assert (snapshot["gates"], snapshot["method"]) == ("none", METHODS[method].title)
    assert [what for what, _ in snapshot["result"]] == ["Test accuracy"]
    assert snapshot["about"].startswith(METHODS[method].title)
    assert follower.frame(site, 0)["norm_top"] == frame["norm_top"]
    assert [one["step"] for one in follower.course(site)] == [0, 1, 2, 3, 4]


def test_modules_have_names_and_those_that_a_layer_lacks_are_not_trained(tmp_path: Path) -> None:
    frame = Follower(MethodRecorder(tmp_path / "runs" / "one", RunConfig(method="lora")).until(4).run).snapshot()[
        "frame"
    ]
    assert frame["unit_names"] == MODULES
    codes = decode(frame, "update_norm")
    assert codes[-1, 2] == UNTRAINED and (codes[:-1] < UNTRAINED).all()


def test_a_run_without_gates_tells_no_probability_of_a_gate(tmp_path: Path) -> None:
    config = RunConfig(edits=EditConfig(gates="none"))
    recorder = Recorder(tmp_path / "runs" / "ungated", steps=4, layers=2, units=2, config=config)
    values = {name: np.ones_like(field) for name, field in gate_values(0, 4, 2, 2).items()}
    with recorder.run.gate_writer("heads", 2, 2) as writer:
        writer.append(0, values)
    recorder.run.write_result({"closed": {"offset": 0.0, "scale": 0.0}, "test": None})
    snapshot = Follower(recorder.run).snapshot()
    assert snapshot["gates"] == "none"
    assert (decode(snapshot["frame"], "offset_open") == UNTRAINED).all()
    assert snapshot["frame"]["counts"] == [0, 0, 0, 4]  # the edits are on nevertheless
    assert snapshot["states"]["closed"] == [(None, None)]
    assert snapshot["result"] == []


def test_the_record_at_a_step_is_the_nearest_one_before(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "runs" / "sparse", steps=9, layers=2, units=2)
    follower = Follower(recorder.run)
    for step in (2, 5, 9):
        recorder.step(step)
    found = {}
    for step in (0, 2, 4, 5, 9, 99):
        frame = follower.frame_at("heads", step)
        assert frame is not None
        found[step] = (frame["record"], frame["step"])
    assert found == {0: (0, 2), 2: (0, 2), 4: (0, 2), 5: (1, 5), 9: (2, 9), 99: (2, 9)}


def test_the_course_shows_few_steps_from_the_first_to_the_last(recorder: Recorder) -> None:
    follower = Follower(recorder.until(40).run)
    steps = [frame["step"] for frame in follower.course("heads")]
    assert len(steps) == 5 and (steps[0], steps[-1]) == (0, 40)
    gaps = np.diff(steps)
    assert (np.diff(gaps) >= 0).all()


def test_curves_hold_what_the_metrics_hold(recorder: Recorder) -> None:
    curves = Follower(recorder.until(8).run).snapshot()["curves"]
    metrics = [entry for entry in recorder.run.metrics() if "loss" in entry]
    for name, metric in follow.CURVES.items():
        if name != "validation":
            assert curves[name] == [(m["step"], pytest.approx(m[metric], rel=1e-5)) for m in metrics]


def test_a_waiting_run_tells_its_place_and_the_page_hears_of_the_queue(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    line = Waiting(store)
    runs = [Recorder(tmp_path / "runs" / name, steps=2, layers=1, units=1).run for name in ("a", "b")]
    follower = Followers(store).get("b")
    assert follower is not None
    tokens = {follower.token()}
    for run in runs:
        with Turns(line.store.root).locked():
            line.add(run)
        tokens.add(follower.token())
    assert len(tokens) == 3
    snapshot = follower.snapshot()
    assert snapshot["message"] == "Waiting for its turn: 2. in line"
    assert [entry["id"] for entry in snapshot["queue"]] == ["a", "b"]
    assert snapshot["can"] == ["cancel"] and not snapshot["active"]
    with Turns(line.store.root).locked():
        line.take("a")
    runs[0].write_status(state="finished")
    assert follower.snapshot()["message"] == "Waiting for its turn: next in line"


@pytest.mark.parametrize(
    ("state", "can"),
    [
        ("training", ["pause", "cancel"]), ("starting", ["pause", "cancel"]), ("queued", ["cancel"]),
        ("paused", ["resume", "cancel"]), ("killed", ["resume"]), ("cancelled", ["resume"]), ("finished", []),
    ],
)  # fmt: skip
def test_what_can_be_done_in_each_state(state: str, can: list[str]) -> None:
    assert follow.actions(state, pausing=False) == can


def test_a_pause_that_was_asked_for_is_told(recorder: Recorder) -> None:
    follower = Follower(recorder.until(2).run)
    before = follower.token()
    (recorder.run.path / "pause").touch()
    assert follower.token() != before
    snapshot = follower.snapshot()
    assert snapshot["message"] == "Training: pauses at the next step" and snapshot["can"] == ["cancel"]


def test_a_pause_is_no_part_of_the_pace() -> None:
    times = [*(10 + step for step in range(5)), *(5000 + step for step in range(5, 10))]
    metrics = [{"step": step, "time": at, "loss": 1.0} for step, at in enumerate(times)]
    assert follow.seconds_left(metrics, 19, since=4000) == pytest.approx(10)


def test_the_last_record_is_shown_with_its_counts(recorder: Recorder) -> None:
    recorder.until(7)
    snapshot = Follower(recorder.run).snapshot()
    frame = snapshot["frame"]
    expected = gate_values(7, 40, 4, 3)
    assert (frame["site"], frame["step"], frame["layers"], frame["units"]) == ("heads", 7, 4, 3)
    for name in GATE_FIELDS:
        top = frame["norm_top"] if name.endswith("norm") else 1.0
        assert np.array_equal(decode(frame, name), encode_gates(expected[name], top))
    assert sum(frame["counts"]) == 12
    assert snapshot["active"] and snapshot["state"] == "training"
    assert snapshot["records"] == 8


def test_a_run_without_gates_has_no_frame(recorder: Recorder) -> None:
    snapshot = Follower(recorder.run).snapshot()
    assert snapshot["frame"] is None and snapshot["sites"] == []


def test_the_token_changes_with_every_step_and_with_a_death(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(recorder.run)
    tokens = [follower.token()]
    for step in range(3):
        recorder.step(step)
        tokens.append(follower.token())
    assert follower.token() == tokens[-1]
    monkeypatch.setattr("jola.runs.state.process_alive", lambda pid, created: False)
    tokens.append(follower.token())
    assert tokens[-1].endswith("killed")
    assert len(set(tokens)) == len(tokens)


def test_any_earlier_record_can_be_shown(recorder: Recorder) -> None:
    follower = Follower(recorder.until(12).run)
    frame = follower.frame("heads", 5)
    assert frame is not None and frame["step"] == 5
    assert np.array_equal(decode(frame, "offset_gate"), encode_gates(gate_values(5, 40, 4, 3)["offset_gate"]))
    assert np.array_equal(decode(frame, "scale_open"), encode_gates(gate_values(5, 40, 4, 3)["scale_open"]))
    assert follower.frame("heads", 13) is None
    assert follower.frame("heads", -1) is None
    with pytest.raises(InputError, match="mlp"):
        follower.frame("mlp", 0)


def test_the_history_grows_and_follows_a_run_that_went_back(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.service.run_frames._READING_SHARE", 1e9)
    monkeypatch.setattr("workbench.service.run_frames._READING_PAUSE", 0.0)
    follower = Follower(recorder.until(9).run)
    assert follower.snapshot()["states"]["steps"] == list(range(10))
    recorder.run.truncate_after(4)
    recorder.until(6, begin=5)
    snapshot = follower.snapshot()
    assert snapshot["states"]["steps"] == list(range(7))
    assert len(snapshot["states"]["counts"]) == 7


def test_long_histories_are_thinned_to_what_a_chart_can_show(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "long", steps=600, layers=2, units=2).until(600)
    snapshot = Follower(recorder.run).snapshot()
    assert snapshot["records"] == 601
    for points in (snapshot["states"]["steps"], [step for step, _ in snapshot["curves"]["train"]]):
        assert len(points) <= 241
        assert points[-1] == 600 and points == sorted(points)


def test_figures_carry_n_and_interval(recorder: Recorder) -> None:
    recorder.until(40).finish()
    snapshot = Follower(recorder.run).snapshot()
    assert snapshot["result"][0] == ("Test accuracy", "86.0 % (n = 500, 95 % interval 82.7–88.8)")
    assert ("Scale gates closed", "74.0 % (n = 12)") in snapshot["result"]
    assert snapshot["facts"]["step"] == "40 / 40"
    assert not snapshot["active"]
    assert ACCURACY["n"] == 500


def test_a_run_that_ended_early_says_why_and_which_edits_were_kept(recorder: Recorder) -> None:
    recorder.until(30)
    recorder.run.write_result(
        {
            "kept_step": 15,
            "steps": 30,
            "test": None,
            "validation": {"accuracy": 0.9, "n": 100, "low": 0.8, "high": 0.95},
        }
    )
    recorder.run.write_status(state="finished")
    snapshot = Follower(recorder.run).snapshot()
    assert snapshot["message"] == "Finished at step 30 of 40, because validation did not improve"
    assert snapshot["kept"] == 15
    assert snapshot["result"] == [
        ("Edits kept", "step 15"),
        ("Validation accuracy", "90.0 % (n = 100, 95 % interval 80.0–95.0)"),
    ]


def test_a_cancelled_run_without_a_test_has_no_accuracy() -> None:
    rows = follow.result_facts({"test": None, "closed": {"offset": 0.5, "scale": None}})
    assert rows == [("Offset gates closed", "50.0 %"), ("Scale gates closed", "not trained")]
    assert follow.result_facts(None) == []


def test_a_failed_run_shows_its_sentence_and_its_log(recorder: Recorder) -> None:
    recorder.until(3).finish("failed")
    recorder.run.log_path.write_text("Loading the model\nerror: The disk is full.\n")
    snapshot = Follower(recorder.run).snapshot()
    assert snapshot["message"] == "Failed: The disk is full."
    assert "Loading the model" in snapshot["log"]


def test_what_is_printed_after_the_end_is_news(recorder: Recorder) -> None:
    recorder.until(3).finish("failed")
    follower = Follower(recorder.run)
    token = follower.token()
    assert follower.token() == token
    recorder.run.log_path.write_text("error: The disk is full.\n")
    assert follower.token() != token
    assert follower.snapshot()["token"] == follower.token()


def test_time_left_comes_from_the_pace_since_the_first_step() -> None:
    metrics = [{"step": step, "time": 100 + 2 * step, "loss": 1.0} for step in range(1, 11)]
    assert follow.seconds_left(metrics, 40) == pytest.approx(60)
    assert follow.seconds_left(metrics[:1], 40) is None
    assert follow.seconds_left(metrics, 0) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0:00"), (59.6, "1:00"), (75, "1:15"), (3725, "1:02:05"), (-3, "0:00")]
)
def test_times_are_written_as_clocks(seconds: float, words: str) -> None:
    assert follow.clock(seconds) == words


def test_followers_know_only_the_runs_of_the_store(recorder: Recorder, tmp_path: Path) -> None:
    followers = Followers(RunStore(tmp_path / "runs"))
    assert followers.get("one") is followers.get("one")
    for id in ("", "none", "../runs/one", "one/../one", ".", ".."):
        assert followers.get(id) is None


def test_a_damaged_configuration_does_not_hide_the_map(recorder: Recorder) -> None:
    recorder.until(2)
    (recorder.run.path / "config.json").write_text("{")
    snapshot = Follower(recorder.run).snapshot()
    assert snapshot["frame"]["step"] == 2 and snapshot["about"] == ""
