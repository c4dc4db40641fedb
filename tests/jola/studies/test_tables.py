"""Tables of grids: means and differences over seeds, and what is missing."""

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from jola.errors import InputError
from jola.methods import METHODS
from jola.studies.axes import PlannedCell
from jola.studies.export import export_grid
from jola.studies.formats import FORMATS
from jola.studies.grid import Grid
from jola.studies.paper import paper_value
from jola.studies.statistics import holm
from jola.studies.tables import TABLES, Table, cells_table, pivot, score_text, seeds_text
from tests.jola.studies.grids import SETTINGS, fill, make_task, plan, result

SCORES = {
    "jola": (0.80, 0.84, 0.85),
    "red": (0.70, 0.75, 0.72),
    "lora": (0.81, 0.82, 0.86),
}


def score(cell: PlannedCell) -> float:
    return SCORES[cell.arm][cell.seed - 1] + (0.05 if cell.task.endswith("books") else 0)


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    tasks = [make_task(tmp_path / name) for name in ("films", "books")]
    return plan(tmp_path / "g", tasks, list(SCORES), [1, 2, 3])


def test_rows_are_means_over_seeds_with_t_intervals_and_paired_tests(grid: Grid) -> None:
    fill(grid, score)
    rows = grid.rows()
    assert [(Path(row.task).name, row.arm) for row in rows] == [(t, a) for t in ("films", "books") for a in SCORES]
    jola, red, lora = rows[:3]
    expected = stats.t.interval(0.95, 2, loc=np.mean(SCORES["red"]), scale=stats.sem(SCORES["red"]))
    assert (red.low, red.high) == pytest.approx(expected)
    assert (red.value, red.interval, red.seeds, red.planned, red.items) == (
        pytest.approx(0.7233333),
        "seeds",
        3,
        3,
        100,
    )
    paired = stats.ttest_rel(SCORES["red"], SCORES["jola"])
    assert red.p_value == pytest.approx(paired.pvalue)
    assert (red.difference_low, red.difference_high) == pytest.approx(tuple(paired.confidence_interval()))
    assert jola.difference is None and jola.p_holm is None
    assert (jola.baseline, red.baseline) == (None, "jola")
    assert not any("minus JoLA" in note for note in TABLES["results"](rows).notes)
    p_values = [row.p_value for row in rows if row.p_value is not None]
    assert [row.p_holm for row in rows if row.p_value is not None] == pytest.approx(holm(p_values))
    assert len(p_values) == 4 and lora.pairs == 3


def test_one_seed_has_the_interval_of_its_test_examples_and_no_test(tmp_path: Path) -> None:
    grid = plan(tmp_path / "g", [make_task(tmp_path / "films")], ["jola", "red"], [1])
    fill(grid, score)
    row = grid.rows()[1]
    assert (row.low, row.high, row.interval) == (pytest.approx(0.6), pytest.approx(0.8), "examples")
    assert (row.difference, row.difference_low, row.p_value, row.pairs) == (pytest.approx(-0.1), None, None, 1)


def test_missing_and_failed_cells_are_shown(grid: Grid) -> None:
    fill(grid, lambda cell: score(cell) if cell.arm == "jola" and cell.seed != 2 else None)
    for name, cell in grid.planned.items():
        if cell.arm == "red" or (cell.arm, cell.seed) == ("jola", 2):
            grid.cell(name).write_failure("It diverged.")
    jola, red, lora = grid.rows()[:3]
    assert (score_text(red), seeds_text(red)) == ("failed", "0 of 3, 3 failed")
    assert (score_text(lora), seeds_text(lora)) == ("missing", "0 of 3")
    assert seeds_text(jola) == "2 of 3, 1 failed"
    table = pivot(grid.rows(), "task")
    assert table.columns == ("arm", "films", "books")
    assert table.rows[1] == ("red", *["failed (0 of 3, 3 failed)"] * 2)
    assert re.fullmatch(r"0\.8250 ± 0\.31\d\d \(2 of 3, 1 failed\)", table.rows[0][1])
    cells = cells_table(grid).rows
    assert [row[1:] for row in cells if row[0].startswith("red")] == [("failed", "It diverged.")] * 6


def test_what_trains_nothing_has_one_cell_and_is_compared_with_every_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(METHODS["red"]), "trains", False)
    grid = plan(tmp_path / "g", [make_task(tmp_path / "films")], ["red", "jola"], [1, 2, 3], sizes=(4, 8))
    grid = plan(grid.folder, [str(tmp_path / "films")], ["red", "jola"], [4], sizes=(16, 8))
    assert [cell.arm for cell in grid.planned.values()].count("red") == 1
    assert len(grid.planned) == 1 + 6 + 2
    fill(grid, lambda cell: 0.5 if cell.arm == "red" else 0.5 + cell.seed / 10)
    rows = [row for row in grid.rows() if row.arm == "red"]
    assert [(row.train_size, row.value, row.seeds, row.interval) for row in rows] == [
        (size, 0.5, 1, "examples") for size in (4, 8, 16)
    ]
    assert [row.pairs for row in rows] == [3, 4, 1]
    paired = stats.ttest_1samp([-0.1, -0.2, -0.3], 0)
    assert (rows[0].difference, rows[0].p_value) == (pytest.approx(-0.2), pytest.approx(paired.pvalue))


@pytest.mark.parametrize(
    ("accuracies", "losses", "best"),
    [
        ((0.8, 0.9, 0.7), (0.1, 0.5, 0.2), 2),
        ((0.9, 0.9, 0.7), (0.4, 0.3, 0.2), 2),
        ((0.8, None, 0.7), (0.3, 0.2, 0.1), 3),
    ],
    ids=["accuracy before cross-entropy", "cross-entropy among equals", "cross-entropy if one has no accuracy"],
)
def test_validation_accuracy_chooses_where_all_arms_have_one(
    tmp_path: Path, accuracies: tuple[float | None, ...], losses: tuple[float, ...], best: int
) -> None:
    grid = plan(tmp_path / "g", [make_task(tmp_path / "films")], ["red:epochs=1/2/3"], [1, 2])
    for name, cell in grid.planned.items():
        at = int(cell.arm[-1]) - 1
        own = {"validation": losses[at], "validation_accuracy": accuracies[at]}
        grid.cell(name).write_result(result(0.5 - at / 10, **own))
    (row,) = grid.rows(best=True)
    assert (row.arm, row.validation_accuracy) == (f"red:epochs={best}", accuracies[best - 1])


def test_an_arm_with_failed_cells_is_chosen_last(tmp_path: Path) -> None:
    grid = plan(tmp_path / "g", [make_task(tmp_path / "films")], ["red:epochs=1/2"], [1, 2])
    for name, cell in grid.planned.items():
        fits = cell.arm == "red:epochs=2"
        if fits and cell.seed == 2:
            grid.cell(name).write_failure("The training diverged.")
        else:
            grid.cell(name).write_result(result(0.5, validation=0.1, validation_accuracy=0.9 if fits else 0.8))
    assert [row.arm for row in grid.rows(best=True)] == ["red:epochs=1"]


def test_the_best_arm_of_a_method_is_chosen_by_validation(tmp_path: Path) -> None:
    tasks = [make_task(tmp_path / name) for name in ("films", "books")]
    grid = plan(tmp_path / "g", tasks, ["jola:epochs=1/2", "red:epochs=1/2/3"], [1, 2])
    for name, cell in grid.planned.items():
        epochs = int(cell.arm[-1])
        # More epochs fit films worse and books better; the test scores contradict this.
        loss = epochs if cell.task.endswith("films") else -epochs
        if (cell.arm, cell.task) != ("red:epochs=1", tasks[0]):
            grid.cell(name).write_result(result(0.5 + loss / 100 + cell.seed / 10, validation=10.0 + loss))
    rows = grid.rows(best=True)
    assert [(row.arm, row.best_of) for row in rows] == [
        ("jola:epochs=1", 2), ("red:epochs=2", 3), ("jola:epochs=2", 2), ("red:epochs=3", 3),
    ]  # fmt: skip
    assert [row.difference for row in rows] == [None, pytest.approx(0.01), None, pytest.approx(-0.01)]
    assert [row[0] for row in pivot(rows, "task").rows] == ["jola (best of 2)", "red (best of 3)"]
    assert [row[0] for row in TABLES["results"](rows).rows][:2] == [
        "jola:epochs=1 (best of 2)", "red:epochs=2 (best of 3)",
    ]  # fmt: skip
    assert {row.best_of for row in grid.rows()} == {1}
    assert [row.baseline for row in rows] == [None, "jola:epochs=1", None, "jola:epochs=2"]
    assert "minus JoLA: the difference to jola:epochs=1 or jola:epochs=2." in TABLES["results"](rows).notes


def test_side_effects_are_means_over_seeds(grid: Grid) -> None:
    def effects(kl: float) -> dict[str, Any]:
        means = {"kl": kl, "change": -kl, "cross_entropy": 3 - kl, "base_cross_entropy": 3.0}
        entries = {name: {"value": value, "low": value - 0.1, "high": value + 0.1} for name, value in means.items()}
        return {"text": "a text", "passages": 4, "tokens": 2000, **entries}

    for name, cell in grid.planned.items():
        own = {"side_effects": effects(cell.seed / 10)} if cell.arm != "red" else {}
        if cell.arm != "lora" or cell.seed == 2:
            grid.cell(name).write_result(result(score(cell), **own))
    jola, red, lora = grid.rows()[:3]
    expected = stats.t.interval(0.95, 2, loc=0.2, scale=stats.sem([0.1, 0.2, 0.3]))
    assert (jola.text_kl, jola.text_kl_low, jola.text_kl_high) == pytest.approx((0.2, *expected))
    assert jola.text_change == pytest.approx(-0.2) and jola.text_tokens == 2000
    assert (lora.text_kl, lora.text_kl_low, lora.text_kl_high) == pytest.approx((0.2, 0.1, 0.3))
    assert red.text_kl is red.text_change is red.text_tokens is None
    table = TABLES["results"](grid.rows())
    assert table.columns[-2:] == ("KL on text", "nats on text") and "2,000 tokens" in table.notes[-1]
    assert table.rows[1][-2:] == ("", "") and table.rows[2][-1] == "-0.2000 (-0.3000 to -0.1000)"


def test_side_effects_that_a_seed_lacks_are_not_shown(grid: Grid) -> None:
    entry = {"value": 0.1, "low": 0.0, "high": 0.2}
    names = ("kl", "change", "cross_entropy", "base_cross_entropy")
    effects = {"text": "a text", "passages": 4, "tokens": 2000, **dict.fromkeys(names, entry)}
    for name, cell in grid.planned.items():
        own = {"side_effects": effects} if cell.arm != "jola" or cell.seed != 2 else {}
        grid.cell(name).write_result(result(score(cell), **own))
    jola, red = grid.rows()[:2]
    assert jola.seeds == red.seeds == 3
    assert jola.text_kl is jola.text_change is jola.text_tokens is None and red.text_kl == pytest.approx(0.1)


def test_a_metric_can_be_chosen(grid: Grid) -> None:
    scores = [{"metric": m, "value": v, "n": 10} for m, v in (("bleu", 20.0), ("rouge", 0.5))]
    fill(grid, lambda cell: 0.0, scores=scores)
    assert {(row.metric, row.value) for row in grid.rows()} == {("bleu", 20.0)}
    assert {(row.metric, row.value, row.interval) for row in grid.rows("rouge")} == {("rouge", 0.5, "")}
    with pytest.raises(InputError, match="'nonsense'; they have bleu, rouge"):
        grid.rows("nonsense")
    other = next(cell for cell in grid.planned.values() if cell.arm == "lora")
    for cell in grid.planned.values():
        if (cell.task, cell.arm) == (other.task, other.arm):
            grid.cell(cell.name).write_result(result(0.5))
    row = next(row for row in grid.rows("rouge") if (row.task, row.arm) == (other.task, other.arm))
    assert (score_text(row), seeds_text(row)) == ("no such metric", "3")


def test_sizes_and_models_are_columns(tmp_path: Path) -> None:
    task = make_task(tmp_path / "films")
    grid = plan(tmp_path / "g", [task], ["jola"], [1], sizes=(4, 8, 0), models=("default", "owner/small"))
    fill(grid, lambda cell: cell.train_size / 100)
    sizes = TABLES["sizes"](grid.rows())
    assert sizes.columns == ("arm", "model", "metric", "4", "8", "all")
    entries = [f"{value:.4f} [{value - 0.1:.4f} to {value + 0.1:.4f}] (1)" for value in (0.04, 0.08, 0.0)]
    assert sizes.rows[1] == ("jola", "small", "exact_match", *entries)
    assert "Test examples: 100." in sizes.notes[0]
    assert TABLES["models"](grid.rows()).columns == ("arm", "n train", "metric", "default", "small")


ODD = Table(("a_b", "c|d"), (("<i>&%", "=1+1"), ("50 % ± 1", "x\\y")), ("A note.",))


def test_formats_escape_what_they_must() -> None:
    made = {name: write(ODD) for name, write in FORMATS.items()}
    assert list(csv.reader(io.StringIO(made["csv"])))[1] == ["<i>&%", "'=1+1"]
    assert "c\\|d" in made["markdown"] and "\\<i>" in made["markdown"]
    assert r"<i>\&\% & =1+1 \\" in made["latex"] and r"50 \% $\pm$ 1 & x\textbackslash{}y" in made["latex"]
    assert "&lt;i&gt;&amp;%" in made["html"] and "<i>" not in made["html"]
    assert all("A note." in made[name] for name in ("markdown", "latex", "html"))


def test_the_papers_numbers_are_shown_only_for_the_same_measurement() -> None:
    llama = "meta-llama/Llama-3.1-8B-Instruct"
    assert paper_value("jola", "siqa", 200, llama, "first_label", {1954}) == pytest.approx(0.6622)
    assert paper_value("jola:gates=none:sites=mlp", "siqa", 200, llama, "first_label", {1954}) == pytest.approx(0.501)
    assert paper_value("zero-shot", "boolq", 0, llama, "first_label", {3270}) == pytest.approx(0.4199)
    for other in (
        ("jola", "siqa", 100, llama, "first_label", {1954}),
        ("jola", "siqa", 200, "default", "first_label", {1954}),
        ("jola", "siqa", 200, llama, "exact_match", {1954}),
        ("jola", "siqa", 200, llama, "first_label", {500}),
        ("jola:epochs=2", "siqa", 200, llama, "first_label", {1954}),
        ("jola", "sentiment", 200, llama, "first_label", {500}),
    ):
        assert paper_value(*other) is None


def test_an_export_has_every_score_and_no_path(grid: Grid, tmp_path: Path) -> None:
    fill(grid, lambda cell: score(cell) if cell.seed < 3 else None)
    failed = list(grid.planned)[-1]
    grid.cell(failed).write_failure(f"{grid.planned[failed].task} in {grid.folder} is gone, see {Path.home()}/x.")
    file = export_grid(grid, tmp_path / "out.zip")
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name).decode() for name in archive.namelist()}
    assert not [name for name, text in content.items() if str(tmp_path) in text]
    placed = {**SETTINGS, "model": {**SETTINGS["model"], "device_map": str(tmp_path / "map.json")}}
    spread = export_grid(plan(tmp_path / "spread", ["sentiment"], ["jola"], [1], settings=placed), tmp_path / "s.zip")
    with zipfile.ZipFile(spread) as archive:
        settings = archive.read("grid.json").decode()
    assert str(tmp_path) not in settings and json.loads(settings)["settings"]["model"]["device_map"] == "map.json"
    cells = list(csv.DictReader(io.StringIO(content["cells.csv"])))
    assert len(cells) == len(grid.planned) == 18
    assert [float(row["value"]) for row in cells[:3]] == [SCORES[arm][0] for arm in SCORES]
    assert (cells[-1]["state"], cells[-1]["message"]) == ("failed", "books in g is gone, see ~/x.")
    rows = list(csv.DictReader(io.StringIO(content["results.csv"])))
    assert [float(row["value"]) for row in rows] == [row.value for row in grid.rows()]
    assert json.loads(content["grid.json"])["plans"][0]["tasks"] == ["films", "books"]
    for name, words in (("out.zip", "already exists"), ("out.tar", "zip file")):
        with pytest.raises(InputError, match=words):
            export_grid(grid, tmp_path / name)
