"""The Runs tab with runs of different methods."""

from pathlib import Path

import pytest

from jola.config import EditConfig, RunConfig
from jola.methods import METHODS
from jola.runs.run import Run
from tests.workbench.recorded import MethodRecorder, Recorder
from workbench.runs import export_panel
from workbench.runs import tab as runs
from workbench.runs.run_table import Listing
from workbench.service.bench import Workbench
from workbench.service.exports import FORMS


@pytest.fixture
def bench(bench: Workbench) -> Workbench:
    for method in ("lora", "red"):
        MethodRecorder(bench.store.root / method, RunConfig(method=method), steps=4).until(4).finish()
    ablation = RunConfig(edits=EditConfig(operation="offset"))
    Recorder(bench.store.root / "jola", steps=4, layers=4, units=3, config=ablation).until(4).finish()
    return bench


def test_the_table_has_the_title_of_the_method_and_counts_gates_only_where_there_are_some(bench: Workbench) -> None:
    rows = {row["id"]: row for row in Listing(bench.store).news("")["runs"]}
    methods = {id: row["method"] for id, row in rows.items()}
    assert methods == {"lora": "LoRA", "red": "RED", "jola": "JoLA (offset)"}
    assert rows["lora"]["open"] is rows["red"]["open"] is None
    assert rows["jola"]["open"]["units"] == 12
    assert not any(row["problem"] for row in rows.values())


@pytest.mark.parametrize("ids", [("lora", "jola"), ("red", "lora"), ("red", "jola")])
def test_runs_of_two_methods_are_compared_without_maps_of_gates(bench: Workbench, ids: tuple[str, str]) -> None:
    found = runs.compare(bench, ids)
    assert found is not None and found.gates is None
    for id in ids:
        assert f"<td><code>{METHODS[id].title}</code></td>" in found.tables
    assert "Test accuracy" in found.tables
    assert found.validation.data and found.training.data


def test_two_runs_with_gates_are_compared_with_their_maps(bench: Workbench) -> None:
    Recorder(bench.store.root / "other", steps=4, layers=4, units=3).until(4).finish()
    found = runs.compare(bench, ("jola", "other"))
    assert found is not None and found.gates is not None and found.gates.data


def test_a_form_that_the_method_has_not_is_a_sentence(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    form = next(form for form in FORMS.values() if form.kind == "ia3")
    sentence = "LoRA has no IA3 form, which only scales."
    monkeypatch.setattr(type(METHODS["lora"]), "export_refusal", lambda self, kind: sentence if kind == "ia3" else None)
    assert export_panel.refusal_of(bench, "lora", form) == sentence
    assert export_panel.refusal_of(bench, "jola", form) is None
    assert export_panel.refusal_of(bench, "gone", form) is None
    formats, help = export_panel.choices(form, sentence)
    assert sentence in help and formats.visible is False
    assert form.help in export_panel.choices(form)[1]


def test_a_run_without_a_method_in_its_file_is_one_of_jola(bench: Workbench, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "old", RunConfig(), {})
    config = run.path / "config.json"
    config.write_text(config.read_text().replace('"method"', '"was"'))
    assert Run.open(run.path).summary()["method"] == "JoLA"
