"""Exports from a page: written files, refusals, and one export at a time."""

import json
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
import torch
from transformers import AutoModelForCausalLM

from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.runs.archive import import_archive
from jola.runs.run import Run
from jola.runs.store import RunStore
from tests.workbench.edited import edited_run
from workbench.runs import export_panel
from workbench.service import sample
from workbench.service.bench import Workbench
from workbench.service.exports import FORMS, Exported, Exports
from workbench.settings import Settings

IDS = torch.tensor([[5, 17, 250, 9, 44, 3]])
SLEEPER = (
    sys.executable,
    "-c",
    "import sys, time; sys.stderr.write('Measuring …\\n'); sys.stderr.flush(); time.sleep(600)",
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Workbench]:
    bench = Workbench.from_settings(Settings(runs=tmp_path / "runs"))
    yield bench
    bench.session.close()


@pytest.fixture
def run(bench: Workbench, tiny_folder: Path) -> Run:
    """A finished run of the tiny model."""
    return edited_run(bench.store.root / "one", tiny_folder)


@pytest.fixture
def exports(bench: Workbench) -> Exports:
    """`Exports`, which keeps its files for download as long as it exists."""
    return Exports(bench.settings)


def done(exports: Exports, run: Run, title: str, chosen: str | None = None, **where: Any) -> tuple[list[str], Exported]:
    """Return (progress messages, the export)."""
    *said, last = exports.export("page", run, FORMS[title], chosen, **where)
    assert isinstance(last, Exported)
    return [str(words) for words in said], last


def refusal(exports: Exports, run: Run, title: str, chosen: str | None = None, **where: Any) -> str:
    with pytest.raises(InputError) as error:
        list(exports.export("page", run, FORMS[title], chosen, **where))
    assert "\n" not in str(error.value)
    return str(error.value)


class TestForms:
    def test_the_whole_run_can_be_imported(self, bench: Workbench, exports: Exports) -> None:
        installed = sample.install(bench.store)
        assert installed is not None
        _, found = done(exports, installed, "Whole run")
        assert found.place.name == "sample.zip" and found.download and found.size == found.place.stat().st_size
        assert import_archive(found.place, bench.store).result() == installed.result()

    def test_a_checkpoint_is_measured_and_is_the_edited_model(self, run: Run, exports: Exports, tmp_path: Path) -> None:
        said, found = done(exports, run, "Plain checkpoint", "float32", folder=str(tmp_path))
        assert any(words.startswith("Measuring") for words in said)
        assert found.place == tmp_path / "one-merged-float32" and not found.download
        assert f"from_pretrained({str(found.place)!r})" in found.code
        loaded = AutoModelForCausalLM.from_pretrained(found.place)
        model = JoLAModel.from_adapter(run.adapter_dir, dtype="float32")
        with torch.no_grad():
            assert (loaded(IDS).logits - model(IDS).logits).abs().max() <= 1e-5
        words = export_panel.measured(found)
        assert f"n = {found.report['prompts']} prompts, {found.report['tokens']} tokens" in words
        assert "before the cast to float32" in words and "Written to" in words

    @pytest.mark.parametrize("title", FORMS)
    def test_every_form_is_one_file_to_download(self, run: Run, exports: Exports, title: str) -> None:
        form = FORMS[title]
        _, found = done(exports, run, title, form.formats[0] if form.formats else None)
        assert found.download and found.place.is_file() and found.size > 0
        assert found.place.name.split(".")[0].removeprefix("one-") in found.code or title == "Python script"
        if found.place.suffix == ".zip":
            with zipfile.ZipFile(found.place) as archive:
                assert archive.testzip() is None and archive.namelist()
        assert "<script" not in export_panel.measured(found)

    def test_a_table_as_json(self, run: Run, exports: Exports) -> None:
        _, found = done(exports, run, "Table", "JSON")
        assert len(json.loads(found.place.read_text())["edits"]) == found.report["rows"] == 24
        assert "json.load" in found.code

    def test_downloads_do_not_pile_up(self, run: Run, exports: Exports) -> None:
        places = [done(exports, run, "Whole run")[1].place for _ in range(4)]
        assert [place.is_file() for place in places] == [False, False, True, True]


class TestRefusals:
    def test_its_own_sentence(self, run: Run, bench: Workbench, tmp_path: Path) -> None:
        exports = Exports(bench.settings)
        (tmp_path / "one-ia3").mkdir()
        assert "already exists" in refusal(exports, run, "IA3 adapter", folder=str(tmp_path))
        assert "There is no folder" in refusal(exports, run, "Table", "CSV", folder=str(tmp_path / "none"))
        assert "There is no folder" in refusal(exports, run, "Table", "CSV", folder="relative")
        assert "choose one of float32" in refusal(exports, run, "Plain checkpoint", "int8")
        (run.adapter_dir / "adapter_config.json").unlink()
        assert "has no adapter yet" in refusal(exports, run, "Whole run")
        assert "has no adapter yet" in refusal(exports, run, "IA3 adapter")
        assert sorted(path.name for path in (tmp_path / "one-ia3").iterdir()) == []

    def test_one_at_a_time_and_stopped_on_request(self, run: Run, bench: Workbench) -> None:
        exports = Exports(bench.settings, command=SLEEPER)
        working = exports.export("page", run, FORMS["IA3 adapter"])
        assert next(working) == "Measuring …"
        assert "Another export is running" in refusal(exports, run, "Table", "CSV")
        exports.stop("another page")
        threading.Timer(0.1, exports.stop, ["page"]).start()
        with pytest.raises(InputError, match="Stopped; nothing was written"):
            list(working)
        assert "Another" not in refusal(Exports(bench.settings), run, "Plain checkpoint", "int8")

    def test_a_page_that_is_gone_stops_its_export(self, run: Run, bench: Workbench) -> None:
        exports = Exports(bench.settings, command=SLEEPER)
        working: Any = exports.export("page", run, FORMS["IA3 adapter"])
        next(working)
        process = exports._at_work["page"].process
        working.close()
        assert process.wait(timeout=300) != 0


class TestExposed:
    """An app that other computers can reach."""

    def settings(self, tmp_path: Path, *folders: Path) -> Settings:
        return Settings(host="0.0.0.0", auth="a:b", runs=tmp_path / "runs", folders=folders)

    def test_a_page_writes_into_named_folders_alone(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "open").mkdir()
        closed = Exports(self.settings(tmp_path))
        assert not closed.writes
        assert "is not allowed for this page" in refusal(closed, run, "Table", "CSV", folder=str(tmp_path))
        opened = Exports(self.settings(tmp_path, tmp_path / "open"))
        assert opened.writes
        for folder in (tmp_path, tmp_path / "open" / "..", Path("/etc")):
            assert "is not allowed for this page" in refusal(opened, run, "Table", "CSV", folder=str(folder))
        (tmp_path / "open" / "way-out").symlink_to(tmp_path)
        assert "is not allowed" in refusal(opened, run, "Table", "CSV", folder=str(tmp_path / "open" / "way-out"))
        assert done(opened, run, "Table", "CSV", folder=str(tmp_path / "open"))[1].place.is_file()

    def test_a_model_of_the_disk_is_loaded_from_named_folders_alone(
        self, run: Run, tmp_path: Path, tiny_folder: Path
    ) -> None:
        for title in ("Plain checkpoint", "GGUF file"):
            message = refusal(Exports(self.settings(tmp_path)), run, title, "float32")
            assert "is not allowed for this page; start the app with --models or --folders" in message
        done(Exports(self.settings(tmp_path)), run, "Table", "CSV")
        done(Exports(self.settings(tmp_path, tiny_folder)), run, "Plain checkpoint", "float32")

    def test_the_model_that_the_adapter_names_is_checked_too(self, run: Run, tmp_path: Path) -> None:
        config = json.loads((run.path / "config.json").read_text())
        config["model"]["model"] = "default"
        (run.path / "config.json").write_text(json.dumps(config))
        adapter = json.loads((run.adapter_dir / "adapter_config.json").read_text())
        adapter["base_model_name_or_path"] = "owner/private"
        (run.adapter_dir / "adapter_config.json").write_text(json.dumps(adapter))
        message = refusal(Exports(self.settings(tmp_path)), run, "Plain checkpoint", "float32")
        assert message.startswith("The model 'owner/private' is not allowed for this page")


class TestThePanel:
    def test_a_hostile_name_stays_text(self, bench: Workbench, run: Run) -> None:
        run.annotate(label="<img src=x onerror=alert(1)>")
        title = export_panel.shown(bench, "one")[2]
        assert "<img" not in title and "&lt;img" in title
        assert export_panel.shown(bench, "../one")[1] == ""

    def test_a_result_never_appears_under_the_name_of_another_run(
        self, bench: Workbench, run: Run, tiny_folder: Path
    ) -> None:
        exports = Exports(bench.settings, SLEEPER)
        with gr.Blocks() as page:
            panel = export_panel.build(bench, exports)
        (on_go,) = (listener.fn for listener in page.fns.values() if listener.name == "on_go")
        request = SimpleNamespace(session_hash="page")
        panel.opened(bench, "one", "page")
        steps = on_go("one", "Table", "CSV", "", request)
        assert "Starting" in next(steps)[2] and "Measuring" in next(steps)[2]
        assert exports.working("page")
        edited_run(bench.store.root / "two", tiny_folder)
        panel.opened(bench, "two", "page")
        assert list(steps) == [] and not exports.working("page")

    def test_every_form_has_a_line_of_help(self) -> None:
        for form in FORMS.values():
            radio, words = export_panel.choices(form)
            assert form.help.endswith(".") and len(form.help) < 130 and form.help.split("'")[0][:20] in words
            assert radio.visible == bool(form.formats)


def test_the_store_is_left_as_it_was(run: Run, bench: Workbench) -> None:
    before = {path: path.stat().st_mtime_ns for path in bench.store.root.rglob("*")}
    for title in ("Whole run", "Adapter", "Table"):
        done(Exports(bench.settings), run, title, "CSV" if title == "Table" else None)
    assert {path: path.stat().st_mtime_ns for path in RunStore(bench.store.root).root.rglob("*")} == before
