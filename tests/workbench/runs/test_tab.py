"""The Runs tab, without a browser."""

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from jola.config import EditConfig, ModelConfig, RunConfig, TrainingConfig
from jola.runs.compare import compare_runs
from jola.runs.run import Run
from tests.workbench.recorded import ACCURACY, Recorder
from workbench.runs import tab as runs
from workbench.runs.run_table import Listing
from workbench.service import sample
from workbench.service.bench import Workbench

TAG = "<img src=x onerror=alert(1)>"


@pytest.fixture
def run(bench: Workbench) -> Run:
    return recorded(bench, "one")


def recorded(bench: Workbench, id: str, **settings: Any) -> Run:
    config = RunConfig(training=TrainingConfig(**settings))
    return Recorder(bench.store.root / id, steps=8, layers=3, units=4, config=config).until(8).finish()


class TestActions:
    def test_a_name_and_a_note_are_kept(self, bench: Workbench, run: Run) -> None:
        answer = runs.annotate(bench, "one", TAG, "Good.")
        assert (answer["saved"], answer["run"], answer["kind"]) == ("Saved.", "one", "good")
        assert (run.notes().label, run.notes().note) == (TAG, "Good.")
        refused = runs.annotate(bench, "one", "x" * 81, "Lost?")
        assert "81 characters" in refused["saved"]
        assert run.notes().label == TAG
        refused = runs.annotate(bench, "absent", "a", "")
        assert "no run" in refused["saved"] and refused["kind"] == "error"

    def test_delete_offers_to_undo_and_undo_brings_it_back(self, bench: Workbench, run: Run) -> None:
        run.annotate(label="First")
        deleted = runs.remove(bench, "one")
        assert (deleted["words"], deleted["undo"], deleted["kind"]) == ("Deleted First.", "one", "plain")
        assert bench.store.list() == []
        restored = runs.restore(bench, deleted["undo"])
        assert (restored["words"], restored["chosen"]) == ("Restored First.", "one")
        assert run.notes().label == "First"
        assert runs.restore(bench, "one")["kind"] == "error"

    def test_a_waiting_run_that_is_brought_back_waits_again(
        self, bench: Workbench, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bench.jobs, "at_once", 0)
        monkeypatch.setattr(bench.jobs, "_attend_queue", lambda: None)
        run.write_status(state="queued")
        bench.jobs.continue_queue()
        assert bench.jobs.waiting.ids() == ["one"]
        runs.remove(bench, "one")
        bench.jobs.waiting.take("one")
        assert bench.jobs.waiting.ids() == []
        runs.restore(bench, "one")
        assert bench.jobs.waiting.ids() == ["one"]

    def test_a_run_at_work_is_not_deleted(self, bench: Workbench) -> None:
        Recorder(bench.store.root / "busy", steps=8, layers=3, units=4).until(2)
        refused = runs.remove(bench, "busy")
        assert refused["kind"] == "error" and "cancel it" in refused["words"] and not refused["undo"]
        assert bench.store.get("busy").alive
        assert runs.remove(bench, "../busy")["kind"] == "error"

    def test_what_cannot_be_imported_is_a_sentence(self, bench: Workbench, run: Run, tmp_path: Path) -> None:
        (tmp_path / "broken.zip").write_bytes(b"PK")
        refused = runs.take_in(bench.store, str(tmp_path / "broken.zip"))
        assert refused["kind"] == "error"
        assert refused["words"].startswith("broken.zip is not a zip file")
        assert str(tmp_path) not in refused["words"]
        assert [found.id for found in bench.store.list()] == ["one"]


class TestCompare:
    def test_figures_and_the_settings_that_differ(self, bench: Workbench, run: Run) -> None:
        other = recorded(bench, "two", seed=7, learning_rate=0.01)
        run.annotate(label=TAG)
        found = runs.compare(bench, ["one", "two"])
        assert found is not None
        assert "<img" not in found.tables and "&lt;img src=x" in found.tables
        assert found.tables.count("86.0 % (n = 500, 95 % interval 82.7–88.8)") == 2
        assert "<code>42</code></td><td><code>7</code>" in found.tables
        assert "learning rate" in found.tables and "batch size" not in found.tables
        assert "10 of 12" in found.tables  # 19 % of the offset gates are closed
        assert len(found.validation.data) == len(found.training.data) == 2
        lines = {line.name: list(line.y) for line in found.validation.data}
        losses = [m["validation_cross_entropy"] for m in other.metrics() if "validation_cross_entropy" in m]
        assert lines["two"] == losses
        assert "<img" not in found.gates.to_json().replace("\\u003c", "<")

    def test_the_gates_of_the_edits_kept_are_shown(self, bench: Workbench, run: Run) -> None:
        recorded(bench, "two")
        run.write_result({"test": ACCURACY, "closed": {"offset": 0.0, "scale": 0.0}, "kept_step": 3})
        found = runs.compare(bench, ["one", "two"])
        assert found is not None
        shown = [trace.z for trace in found.gates.data if trace.type == "heatmap"]
        assert any((values == run.gates().at(3)["offset_gate"]).all() for values in shown)
        assert not any((values == run.gates().at(8)["offset_gate"]).all() for values in shown[:1])

    @pytest.mark.parametrize("ids", [[], ["one"], ["one", "absent"], ["one", "../one"]])
    def test_fewer_than_two_are_not_compared(self, bench: Workbench, run: Run, ids: list[str]) -> None:
        assert runs.compare(bench, ids) is None

    def test_the_maps_are_of_a_site_that_both_edit(self, bench: Workbench, run: Run) -> None:
        other = recorded(bench, "two")
        for path in sorted(other.gates_dir.glob("heads.*")):
            path.rename(path.with_stem("mlp"))
        for ids in (["one", "two"], ["two", "one"]):
            found = runs.compare(bench, ids)
            assert found is not None and found.gates is None
        for path in sorted(run.gates_dir.glob("heads.*")):
            path.rename(path.with_stem("mlp"))
        found = runs.compare(bench, ["one", "two"])
        assert (
            found is not None and "MLP" in found.gates.to_json() and "head" not in found.gates.layout.to_plotly_json()
        )

    def test_edits_without_gates_have_no_open_gates(self, bench: Workbench, run: Run) -> None:
        config = RunConfig(edits=EditConfig(gates="none"))
        Recorder(bench.store.root / "two", steps=8, layers=3, units=4, config=config).until(8).finish()
        assert {row["id"]: row["open"] is None for row in bench.store.summaries()} == {"one": False, "two": True}
        found = runs.compare(bench, ["one", "two"])
        assert found is not None and found.gates is None

    def test_runs_that_have_nothing_yet(self, bench: Workbench) -> None:
        for name in ("a", "b"):
            Run.create(bench.store.root / name, RunConfig(ModelConfig(model=TAG)))
        found = runs.compare(bench, ["a", "b"], dark=True)
        assert found is not None
        assert "All settings are the same." in found.tables
        assert len(found.validation.data) == 0

    def test_equal_names_are_told_apart(self, bench: Workbench, run: Run) -> None:
        recorded(bench, "two").annotate(label="Same")
        run.annotate(label="Same")
        found = runs.compare(bench, ["one", "two"])
        assert found is not None
        assert "Same (one)" in found.tables and "Same (two)" in found.tables
        assert len(found.validation.data) == 2

    def test_runs_tested_on_other_examples_are_told(self, bench: Workbench, run: Run) -> None:
        recorded(bench, "two")
        (bench.store.root / "two" / "config.json").write_text(
            (run.path / "config.json").read_text().replace('"n_test": 500', '"n_test": 50')
        )
        assert compare_runs([run, Run(bench.store.root / "two")]).same_test is False
        found = runs.compare(bench, ["one", "two"])
        assert found is not None and "tested on different examples" in found.tables


class TestListing:
    def test_a_page_is_told_all_and_then_what_changed(self, bench: Workbench, run: Run) -> None:
        listing = Listing(bench.store)
        first = listing.news("")
        assert [row["id"] for row in first["runs"]] == ["one"]
        assert first["runs"][0]["model"] == "SmolLM2-135M-Instruct"
        assert (first["whole"], first["gone"], first["deleted"]) == (True, [], [])
        assert listing.news(first["token"]) == {"token": first["token"]}
        recorded(bench, "two")
        second = listing.news(first["token"])
        assert ([row["id"] for row in second["runs"]], second["whole"]) == (["two"], False)
        run.annotate(label="Named")
        bench.store.remove("two")
        third = listing.news(second["token"])
        assert [row["label"] for row in third["runs"]] == ["Named"]
        assert third["gone"] == ["two"]
        assert [found["id"] for found in third["deleted"]] == ["two"] and third["deleted_count"] == 1
        bench.store.restore("two")
        fourth = listing.news(third["token"])
        assert ([row["id"] for row in fourth["runs"]], fourth["deleted"]) == (["two"], [])
        assert listing.news(first["token"])["runs"] != []

    def test_a_page_that_was_away_for_long_is_told_all(self, bench: Workbench, run: Run) -> None:
        listing = Listing(bench.store)
        first = listing.news("")["token"]
        for number in range(10):
            run.annotate(label=str(number))
            listing.news("")
        late = listing.news(first)
        assert late["whole"] and len(late["runs"]) == 1
        assert listing.news("' or 1=1")["whole"]


class TestSample:
    def test_it_is_installed_once(self, bench: Workbench) -> None:
        run = sample.install(bench.store)
        assert run is not None and run.id == sample.SAMPLE_ID
        assert sample.install(bench.store) is None
        summary = run.summary()
        assert (summary["label"], summary["state"], summary["adapter"]) == ("Sample", "finished", True)
        assert summary["accuracy"] is not None and summary["accuracy"]["n"] == 500
        history = run.gates()
        kept = (run.result() or {})["kept_step"]
        assert len(history) > 50 and kept in history.steps
        assert run.run_config() == RunConfig()

    def test_the_packaged_file_is_small_and_holds_no_text_of_the_data(self, bench: Workbench) -> None:
        assert sample.ARCHIVE.stat().st_size < 1_500_000
        run = sample.install(bench.store)
        assert run is not None
        texts = {value for entry in run.metrics() for value in entry.values() if isinstance(value, str)}
        assert texts == set()
        assert sorted(path.name for path in run.path.iterdir()) == [
            "adapter", "config.json", "gates", "metrics.jsonl", "notes.json", "result.json", "status.json",
        ]  # fmt: skip

    def test_a_deleted_sample_does_not_come_back(self, bench: Workbench) -> None:
        sample.install(bench.store)
        bench.store.remove(sample.SAMPLE_ID)
        assert sample.install(bench.store) is None
        assert bench.store.list() == []

    def test_what_is_done_to_it_stays(self, bench: Workbench) -> None:
        run = sample.install(bench.store)
        assert run is not None
        before = sample.ARCHIVE.read_bytes()
        run.annotate(label="Mine")
        sample.install(bench.store)
        assert [found.notes().label for found in bench.store.list()] == ["Mine"]
        assert sample.ARCHIVE.read_bytes() == before

    def test_a_store_that_cannot_be_written_does_not_stop_the_app(
        self, bench: Workbench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.store.root.parent.mkdir(parents=True, exist_ok=True)
        bench.store.root.write_text("in the way")
        assert sample.install(bench.store) is None
        assert "The sample run is left out" in caplog.text

    def test_a_failed_install_is_tried_again(
        self, bench: Workbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(sample, "ARCHIVE", tmp_path / "absent.zip")
        assert sample.install(bench.store) is None
        monkeypatch.undo()
        assert sample.install(bench.store) is not None


def test_every_listener_of_the_page_is_private(bench: Workbench) -> None:
    with gr.Blocks(analytics_enabled=False) as page:
        tab = runs.build(bench)
    listeners = page.fns.values()
    assert listeners and all(listener.api_visibility == "private" for listener in listeners)
    assert tab.table.elem_id == "run-table"
