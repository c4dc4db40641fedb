"""What the page is told of a run while it is written."""

import base64
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jola.errors import InputError
from jola.runs import RunStore
from tests.workbench.recorded import ACCURACY, Recorder, gate_values
from workbench import follow
from workbench.follow import UNTRAINED, Follower, Followers, encode_gates, state_counts


def decode(frame: dict[str, Any], half: str) -> np.ndarray:
    codes = np.frombuffer(base64.b64decode(frame[half]), dtype=np.uint8)
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


def test_the_last_record_is_shown_with_its_counts(recorder: Recorder) -> None:
    recorder.until(7)
    snapshot = Follower(recorder.run).snapshot()
    frame = snapshot["frame"]
    expected = gate_values(7, 40, 4, 3)
    assert (frame["site"], frame["step"], frame["layers"], frame["units"]) == ("heads", 7, 4, 3)
    for half in ("offset", "scale"):
        assert np.array_equal(decode(frame, half), encode_gates(expected[f"{half}_gate"]))
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
    monkeypatch.setattr("jola.runs.process_alive", lambda pid, created: False)
    tokens.append(follower.token())
    assert tokens[-1].endswith("killed")
    assert len(set(tokens)) == len(tokens)


def test_any_earlier_record_can_be_shown(recorder: Recorder) -> None:
    follower = Follower(recorder.until(12).run)
    frame = follower.frame("heads", 5)
    assert frame is not None and frame["step"] == 5
    assert np.array_equal(decode(frame, "offset"), encode_gates(gate_values(5, 40, 4, 3)["offset_gate"]))
    assert follower.frame("heads", 13) is None
    assert follower.frame("heads", -1) is None
    with pytest.raises(InputError, match="mlp"):
        follower.frame("mlp", 0)


def test_the_history_grows_and_follows_a_run_that_went_back(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "_READING_SHARE", 1e9)
    follower = Follower(recorder.until(9).run)
    assert follower.snapshot()["states"]["steps"] == list(range(10))
    recorder.run.truncate_after(4)
    recorder.until(6, begin=5)
    time.sleep(0.12)  # readings are at least this far apart
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
    assert snapshot["result"][0] == ("Test accuracy", "86.0 % (95 % interval 82.7 to 88.8, n = 500)")
    assert ("Scale gates closed", "74.0 %") in snapshot["result"]
    assert snapshot["facts"]["step"] == "40 / 40"
    assert not snapshot["active"]
    assert ACCURACY["n"] == 500


def test_a_cancelled_run_without_a_test_has_no_accuracy() -> None:
    rows = follow.result_facts({"test": None, "closed": {"offset": 0.5, "scale": None}})
    assert rows == [("Offset gates closed", "50.0 %")]
    assert follow.result_facts(None) == []


def test_a_failed_run_shows_its_sentence_and_its_log(recorder: Recorder) -> None:
    recorder.until(3).finish("failed")
    recorder.run.log_path.write_text("Loading the model\nerror: The disk is full.\n")
    snapshot = Follower(recorder.run).snapshot()
    assert snapshot["message"] == "Failed: The disk is full."
    assert "Loading the model" in snapshot["log"]


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
