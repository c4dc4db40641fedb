"""The recorded gates of a run."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jola.errors import InputError
from jola.runs import history as gate_history
from jola.runs.history import GATE_FIELDS, GateHistory, GateWriter
from jola.runs.run import Run
from tests.jola.runs.records import LAYERS, RECORD, UNITS, gates, record


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
        # Units, from the left: none, only the offset, only the scale, both.
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
        # Units where nothing is trained are not counted.
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
        """A limit on the file size interrupts a write, like a disk that becomes full."""
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
