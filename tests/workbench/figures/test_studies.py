"""Figures of studies: curves over the number of training examples, and Pareto figures."""

import dataclasses
from pathlib import Path

import pytest

from jola.studies.axes import PlannedCell
from jola.studies.grid import Grid
from jola.studies.rows import Row
from tests.jola.studies.grids import plan, result
from tests.workbench.figures.reading import words
from workbench.figures import studies as draw
from workbench.figures.style import Figure

ARMS = ["jola", "lora", "lora:learning_rate=1e-3", "zero-shot"]
SIZES = (100, 1000, 0)
COSTS = {"jola": 5000, "lora": 90_000, "lora:learning_rate=1e-3": 90_000, "zero-shot": 0}
SCORES = {"jola": 0.8, "lora": 0.85, "lora:learning_rate=1e-3": 0.7, "zero-shot": 0.3}


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return plan(tmp_path / "grid", ["sentiment"], ARMS, [1, 2, 3], sizes=SIZES)


def fill(grid: Grid) -> list[Row]:
    def value(cell: PlannedCell) -> float:
        return SCORES[cell.arm] + (cell.train_size == 0) * 0.05 + cell.seed / 100

    for cell in grid.planned.values():
        more = {"trainable": COSTS[cell.arm], "adapter_bytes": 4 * COSTS[cell.arm]}
        grid.cell(cell.name).write_result(result(value(cell), **more))
    return grid.rows()


def trace(figure: Figure, name: str) -> object:
    return next(one for one in figure.data if one.name == name)


def test_the_curve_of_an_arm_has_its_sizes_and_its_intervals(grid: Grid) -> None:
    rows = fill(grid)
    figure = draw.data_size_curves(rows)
    jola = trace(figure, "JoLA")
    row = next(row for row in rows if row.arm == "jola" and row.train_size == 100)
    # The point of all examples is to the right of the largest number.
    assert list(jola.x)[:2] == [100, 1000] and jola.x[2] > 1000
    assert list(figure.layout.xaxis.ticktext) == ["100", "1,000", "all"]
    assert jola.y[0] == pytest.approx(0.82)
    assert jola.y[0] + jola.error_y.array[0] == pytest.approx(row.high)
    assert jola.y[0] - jola.error_y.arrayminus[0] == pytest.approx(row.low)
    # An arm that trains nothing is a line over all sizes, without points.
    assert trace(figure, "Zero-shot").mode == "lines" and len(trace(figure, "Zero-shot").x) == 3
    assert "n = 100 test examples" in words(figure) and "3 seeds" in words(figure)


def test_the_front_of_a_pareto_figure_is_filled_and_joined(grid: Grid) -> None:
    rows = [row for row in fill(grid) if row.train_size == 100]
    figure = draw.pareto(rows, "trainable")
    line = trace(figure, "Pareto front")
    assert list(line.y) == pytest.approx([0.31, 0.82, 0.87])
    lora = trace(figure, "LoRA")
    assert list(lora.marker.symbol) == ["square", "square-open"]
    assert list(lora.text) == ["", "1e-3"]
    # Zero trained parameters have a position and a label on the logarithmic axis.
    assert trace(figure, "Zero-shot").x[0] < 5000 and figure.layout.xaxis.ticktext[0] == "0"
    assert figure.layout.xaxis.type == "log"


def test_a_method_has_one_colour_and_symbol_in_every_figure(grid: Grid) -> None:
    rows = fill(grid)
    curves = draw.data_size_curves(rows)
    of_lora = [one for one in curves.data if one.name.startswith("LoRA")]
    found = trace(draw.pareto([row for row in rows if row.train_size == 100], "trainable"), "LoRA")
    assert {one.line.color for one in of_lora} == {found.marker.color}
    assert {one.marker.symbol for one in of_lora} == {found.marker.symbol[0].removesuffix("-open")}
    assert len({one.line.dash for one in of_lora}) == len(of_lora) == 2


def test_equal_costs_are_on_a_linear_axis(grid: Grid) -> None:
    rows = [row for row in fill(grid) if row.train_size == 100]
    figure = draw.pareto(rows, "seconds")
    assert figure.layout.xaxis.type is None
    assert set(trace(figure, "JoLA").x) == {60.0}


def test_a_figure_without_results_says_so(grid: Grid) -> None:
    for figure in (draw.data_size_curves(grid.rows()), draw.pareto(grid.rows()), draw.pareto([])):
        assert "No cell of this task is done yet" in words(figure)


@pytest.mark.parametrize("dark", [False, True])
def test_names_never_become_markup(grid: Grid, dark: bool) -> None:
    row = dataclasses.replace(fill(grid)[0], arm="lora:<img src=x>=1", metric="<i>")
    for figure in (draw.data_size_curves([row], dark=dark), *(draw.pareto([row], c, dark=dark) for c in draw.COSTS)):
        assert "<img" not in figure.to_json() and "<i>" not in figure.to_json()


def test_one_size_shows_what_trains_nothing_as_a_point(grid: Grid) -> None:
    figure = draw.data_size_curves([row for row in fill(grid) if row.train_size == 100])
    zero = trace(figure, "Zero-shot")
    assert zero.mode == "lines+markers" and len(zero.x) == 1


def test_a_method_whose_arm_validation_chooses_for_each_size_is_one_line(grid: Grid) -> None:
    for cell in grid.planned.values():
        better = ("lora" if cell.train_size == 1000 else "lora:learning_rate=1e-3") == cell.arm
        more = {"validation": 0.1 if better else 0.9}
        grid.cell(cell.name).write_result(result(SCORES[cell.arm], **more))
    figure = draw.data_size_curves(grid.rows(best=True))
    lora = trace(figure, "LoRA, best of 2")
    assert [one.name for one in figure.data] == ["JoLA", "LoRA, best of 2", "Zero-shot"]
    assert list(lora.y) == pytest.approx([0.7, 0.85, 0.7])
    assert [entry[3] for entry in lora.customdata] == [
        "LoRA, learning rate 1e-3, best of 2", "LoRA, best of 2", "LoRA, learning rate 1e-3, best of 2",
    ]  # fmt: skip
