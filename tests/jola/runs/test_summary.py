"""Runs as rows of a table: names, open gates, sizes, and the speed of a long list."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jola.config import EditConfig, RunConfig
from jola.errors import InputError
from jola.runs.history import GATE_FIELDS
from jola.runs.notes import LABEL_LENGTH, NOTE_LENGTH, RunNotes, read_notes
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.runs.trash import folder_size

LAYERS, UNITS = 3, 4


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.fixture
def run(store: RunStore) -> Run:
    return Run.create(store.root / "one", RunConfig())


def record(run: Run, step: int, offset: np.ndarray, scale: np.ndarray, editable: np.ndarray | None = None) -> None:
    """Append a record of gates; units that may not be edited have 0 everywhere."""
    editable = np.ones((LAYERS, UNITS)) if editable is None else editable
    fields = dict.fromkeys(GATE_FIELDS, 0.5 * editable) | {
        "offset_gate": offset * editable,
        "scale_gate": scale * editable,
    }
    with run.gate_writer("heads", LAYERS, UNITS) as writer:
        writer.append(step, fields)


class TestNotes:
    def test_a_label_and_a_note_are_kept_and_the_directory_keeps_its_name(self, run: Run, store: RunStore) -> None:
        assert run.notes() == RunNotes()
        assert run.annotate(label="  Fewer\n layers ") == RunNotes("Fewer layers")
        assert run.annotate(note="Worse than\nthe first.\n") == RunNotes("Fewer layers", "Worse than\nthe first.")
        assert store.get("one").notes() == RunNotes("Fewer layers", "Worse than\nthe first.")
        summary = run.summary()
        assert (summary["id"], summary["label"], summary["note"]) == ("one", "Fewer layers", "Worse than\nthe first.")
        assert run.annotate(label="") == RunNotes("", "Worse than\nthe first.")

    @pytest.mark.parametrize(
        "label", ["../../etc", "<img src=x onerror=alert(1)>", "'; rm -rf /", "日本語 🎬", "a/b\\c"]
    )
    def test_a_label_is_data_and_nothing_else(self, run: Run, label: str) -> None:
        run.annotate(label=label)
        assert run.notes().label == label
        assert sorted(path.name for path in run.path.parent.iterdir()) == ["one"]

    def test_what_nobody_can_see_is_taken_out(self, run: Run) -> None:
        # A right-to-left override reverses the rest of the line: "exe.txt" could look like "txt.exe".
        assert run.annotate(label="a\u202eb\x1b[31mc\x00\u2066d\ud800").label == "ab[31mcd"
        assert run.annotate(note="one\r\ntwo\rthree\x07").note == "one\ntwo\nthree"

    def test_texts_that_are_too_long_are_refused_and_nothing_changes(self, run: Run) -> None:
        run.annotate(label="x" * LABEL_LENGTH, note="y" * NOTE_LENGTH)
        with pytest.raises(InputError, match="label has 81 characters, but the limit is 80"):
            run.annotate(label="x" * (LABEL_LENGTH + 1))
        with pytest.raises(InputError, match="note has 4,001 characters"):
            run.annotate(note="y" * (NOTE_LENGTH + 1))
        assert run.notes() == RunNotes("x" * LABEL_LENGTH, "y" * NOTE_LENGTH)

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", '{"label": 3, "note": null}', "[" * 50_000, '"x"', "9" * 70_000]
    )
    def test_a_damaged_file_is_no_notes(self, run: Run, content: str) -> None:
        (run.path / "notes.json").write_text(content)
        assert run.notes() == RunNotes()
        assert run.summary()["label"] == ""

    @settings(max_examples=60)
    @given(label=st.text(max_size=200), note=st.text(max_size=300))
    def test_whatever_was_written_is_read_again(
        self, tmp_path_factory: pytest.TempPathFactory, label: str, note: str
    ) -> None:
        run = Run.create(tmp_path_factory.mktemp("notes") / "run", RunConfig())
        try:
            written = run.annotate(label=label, note=note)
        except InputError:
            assert len(" ".join(label.split())) > LABEL_LENGTH
            return
        assert read_notes(run.path) == written
        assert "\n" not in written.label

    def test_a_label_does_not_wake_those_who_follow_the_run(self, run: Run) -> None:
        before = run.version()
        run.annotate(label="a")
        assert run.version() == before


class TestOpenGates:
    def test_before_the_end_the_last_record_counts(self, run: Run) -> None:
        assert run.summary()["open"] is None
        offset, scale = np.ones((LAYERS, UNITS)), np.zeros((LAYERS, UNITS))
        offset[0] = 0
        scale[1, 2] = 0.3
        record(run, 1, np.ones((LAYERS, UNITS)), np.ones((LAYERS, UNITS)))
        assert run.summary()["open"] == {"offset": 12, "scale": 12, "units": 12}
        record(run, 2, offset, scale)
        assert run.summary()["open"] == {"offset": 8, "scale": 1, "units": 12}

    def test_the_edits_kept_count_where_they_are_older_than_the_last_record(self, run: Run) -> None:
        record(run, 9, np.zeros((LAYERS, UNITS)), np.zeros((LAYERS, UNITS)))
        run.write_result({"closed": {"offset": 7 / 12, "scale": np.float32(1 / 3)}})
        assert run.summary()["open"] == {"offset": 5, "scale": 8, "units": 12}

    def test_units_that_may_not_be_edited_are_not_counted(self, run: Run) -> None:
        editable = np.zeros((LAYERS, UNITS))
        editable[1] = 1
        record(run, 1, np.ones((LAYERS, UNITS)), np.zeros((LAYERS, UNITS)), editable)
        assert run.summary()["open"] == {"offset": 4, "scale": 0, "units": 4}
        run.write_result({"closed": {"offset": 0.25, "scale": 1.0}})
        assert run.summary()["open"] == {"offset": 3, "scale": 0, "units": 4}

    def test_a_half_that_is_not_trained_is_not_known(self, run: Run) -> None:
        record(run, 1, np.ones((LAYERS, UNITS)), np.full((LAYERS, UNITS), np.nan))
        assert run.summary()["open"] == {"offset": 12, "scale": None, "units": 12}

    def test_a_damaged_history_is_not_known(self, run: Run) -> None:
        record(run, 1, np.ones((LAYERS, UNITS)), np.ones((LAYERS, UNITS)))
        (run.gates_dir / "heads.json").write_text('{"layers": -1, "units": 4, "fields": []}')
        assert run.summary()["open"] is None

    @pytest.mark.parametrize(
        ("edits", "method"),
        [
            (EditConfig(), "JoLA"),
            (EditConfig(sites="mlp", gates="none"), "JoLA (MLP, no gates)"),
            (EditConfig(operation="offset", gates="shared"), "JoLA (offset, shared gates)"),
            (EditConfig(sites="both", operation="scale"), "JoLA (heads and MLP, scale)"),
        ],
    )
    def test_the_method_in_words(self, store: RunStore, edits: EditConfig, method: str) -> None:
        assert Run.create(store.root / "m", RunConfig(edits=edits)).summary()["method"] == method


class TestSummaries:
    def test_newest_first_like_the_list(self, store: RunStore) -> None:
        for name in ("b", "c", "a"):
            Run.create(store.root / name, RunConfig())
            time.sleep(0.002)
        (store.root / "no run").mkdir()
        (store.root / "link").symlink_to(store.root / "a")
        assert [row["id"] for row in store.summaries()] == ["a", "c", "b"]
        assert store.summaries() == [run.summary() for run in store.list()]

    def test_every_change_is_seen(self, store: RunStore, run: Run) -> None:
        def row() -> dict[str, object]:
            (found,) = store.summaries()
            assert found == run.summary()
            return dict(found)

        before = row()
        for change in (
            lambda: run.write_status(state="training", step=3, total_steps=9),
            lambda: run.annotate(label="A name"),
            lambda: run.annotate(label="Another name"),
            lambda: run.write_result({"test": {"accuracy": 1.0, "n": 1, "low": 0.2, "high": 1.0}, "seconds": 2.0}),
            lambda: (run.adapter_dir.mkdir(), (run.adapter_dir / "adapter_model.safetensors").touch()),
            lambda: run.write_status(state="finished"),
        ):
            change()
            after = row()
            assert after != before
            before = after

    def test_a_process_that_is_gone_is_seen_although_it_writes_nothing(
        self, store: RunStore, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert store.summaries()[0]["state"] == "starting"
        monkeypatch.setattr("jola.runs.state.process_alive", lambda pid, created: False)
        assert store.summaries()[0]["state"] == "killed"

    def test_sizes_are_those_of_all_files(self, store: RunStore, run: Run, tmp_path: Path) -> None:
        (run.checkpoints_dir / "checkpoint-1").mkdir(parents=True)
        (run.checkpoints_dir / "checkpoint-1" / "weights").write_bytes(b"x" * 5000)
        (tmp_path / "outside").write_bytes(b"x" * 90_000)
        (run.path / "link").symlink_to(tmp_path / "outside")
        files = [path for path in run.path.rglob("*") if path.is_file() and not path.is_symlink()]
        size = sum(path.stat().st_size for path in files)
        link = (run.path / "link").lstat().st_size
        assert run.summary()["size"] == folder_size(run.path) == size + link
        assert folder_size(tmp_path / "absent") == 0

    def test_a_thousand_whole_runs_are_listed_in_few_times_what_reading_them_takes(self, store: RunStore) -> None:
        first = Run.create(store.root / "first", RunConfig(), {"task": {"name": "sentiment", "n_train": 200}})
        rng = np.random.default_rng(0)
        with first.gate_writer("heads", 30, 9) as writer:
            for step in range(3):
                writer.append(step, {name: rng.random((30, 9), dtype=np.float32) for name in GATE_FIELDS})
        first.write_result({"test": {"accuracy": 0.5, "n": 4, "low": 0.1, "high": 0.9}, "closed": {"offset": 0.5}})
        first.annotate(label="One of many")
        first.write_status(state="finished")
        names = ("config.json", "status.json", "result.json", "notes.json", "gates/heads.json", "gates/heads.f32")
        contents = {name: (first.path / name).read_bytes() for name in names}
        for index in range(999):
            folder = store.root / f"run{index:03}"
            (folder / "gates").mkdir(parents=True)
            for name, content in contents.items():
                (folder / name).write_bytes(content)

        def listed(store: RunStore) -> None:
            rows = store.summaries()
            assert len(rows) == 1000
            assert {json.dumps(row["open"]) for row in rows} == {'{"offset": 135, "scale": 270, "units": 270}'}

        def read() -> None:
            for run in store.list():
                for name in names:
                    content = (run.path / name).read_bytes()
                    assert content if name.endswith(".f32") else json.loads(content)

        def spent(work: Callable[[], None]) -> float:
            begun = time.process_time()
            work()
            return time.process_time() - begun

        plain = min(spent(read) for _ in range(3))
        fresh = min(spent(lambda: listed(RunStore(store.root))) for _ in range(3))
        known = RunStore(store.root)
        listed(known)
        again = min(spent(lambda: listed(known)) for _ in range(3))
        assert fresh < 5 * plain
        assert again < fresh / 3
