"""Comparisons of methods: equal tries, the choice by validation, Pareto fronts, and the table."""

import math
from pathlib import Path
from typing import Any

import pytest

from jola.errors import InputError
from jola.methods import METHODS
from jola.studies.axes import PlannedCell
from jola.studies.grid import Grid
from jola.studies.methods import (
    COSTS,
    arms_with_tries,
    compared,
    methods_table,
    plan_comparison,
    tried_rates,
    variant,
)
from tests.jola.studies.grids import SETTINGS, make_task, result

TRAINED = {"jola": 500, "red": 100, "lora": 900, "zero-shot": 0}
VALUES = {"jola": 0.8, "red": 0.8, "lora": 0.9, "zero-shot": 0.4}


@pytest.mark.parametrize(
    ("tries", "spacing", "rates"),
    [
        (1, 3.0, (1e-3,)),
        (2, 10.0, (1e-4, 1e-3)),
        (3, 3.0, (3.33e-4, 1e-3, 3e-3)),
        (4, 2.0, (2.5e-4, 5e-4, 1e-3, 2e-3)),
    ],
)
def test_tried_rates_are_spaced_around_the_default(tries: int, spacing: float, rates: tuple[float, ...]) -> None:
    assert tried_rates(1e-3, tries, spacing) == rates


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_same_number_of_tries(method: str) -> None:
    (text,) = arms_with_tries([method], 3, 3.0)
    default = METHODS[method].learning_rate
    if default is None:
        assert text == method
        return
    rates = [float(rate) for rate in text.removeprefix(f"{method}:learning_rate=").split("/")]
    assert len(rates) == 3 and rates[1] == pytest.approx(default)
    assert rates[1] / rates[0] == pytest.approx(3, rel=0.01) and rates[2] / rates[1] == pytest.approx(3, rel=0.01)


def test_tries_of_a_recipe_are_around_its_rate(tmp_path: Path) -> None:
    task = make_task(tmp_path / "films")
    methods = [
        "jola:recipe=paper/reference:epochs=2",
        "jola:recipe=paper:gate_learning_rate=0.1",
        "jola:recipe=default",
    ]
    grid = plan_comparison(tmp_path / "g", methods, [task], tries=3, spacing=2.0, train_sizes=(8,))
    found: dict[str, list[tuple[float, float]]] = {}
    for arm in grid.arms.values():
        training = arm.settings["training"]
        found.setdefault(variant(arm), []).append((training["learning_rate"], training["gate_learning_rate"]))
    assert found == {
        "jola:recipe=paper:epochs=2": [(2.5e-4, 2.5e-4), (5e-4, 5e-4), (1e-3, 1e-3)],
        "jola:recipe=reference:epochs=2": [(2.5e-3, 2.5e-3), (5e-3, 5e-3), (1e-2, 1e-2)],
        "jola:recipe=paper:gate_learning_rate=0.1": [(2.5e-4, 0.1), (5e-4, 0.1), (1e-3, 0.1)],
        "jola:recipe=default": [(2.5e-3, 0.15), (5e-3, 0.15), (1e-2, 0.15)],
    }


def test_settings_of_a_method_may_be_of_a_group_that_is_not_shared(tmp_path: Path) -> None:
    task = make_task(tmp_path / "films")
    grid = plan_comparison(tmp_path / "g", ["jola:template=plain"], [task], settings={"training": {"epochs": 4}})
    found = [(arm.settings["data"]["template"], arm.settings["training"]["epochs"]) for arm in grid.arms.values()]
    assert found == [("plain", 4)] * 3


@pytest.mark.parametrize(
    ("methods", "tries", "spacing", "words"),
    [
        (["nonsense"], 3, 3.0, "no method 'nonsense'"),
        (["lora:learning_rate=1e-3"], 3, 3.0, "leave the rate out"),
        (["lora:learning-rate=1e-3"], 3, 3.0, "leave the rate out"),
        (["lora:rank"], 3, 3.0, "not a method with settings"),
        (["lora"], 0, 3.0, "--tries is 0"),
        (["zero-shot"], 10, 3.0, None),
        (["lora"], 10, 3.0, "--tries is 10"),
        (["lora"], 3, 1.0, "--spacing is 1"),
        (["lora"], 3, math.nan, "--spacing is nan"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    methods: list[str], tries: int, spacing: float, words: str | None, tmp_path: Path
) -> None:
    task = make_task(tmp_path / "films")
    if words is None:
        words = "--tries is 10"
    with pytest.raises(InputError, match=words):
        plan_comparison(tmp_path / "g", methods, [task], tries=tries, spacing=spacing)
    assert not (tmp_path / "g").exists()


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    task = make_task(tmp_path / "films")
    settings = {**SETTINGS, "training": {"epochs": 3, "patience": 0}}
    return plan_comparison(tmp_path / "g", TRAINED, [task], [1, 2], train_sizes=(8,), settings=settings)


def finish(grid: Grid, cell: PlannedCell, name: str) -> None:
    """Write a result. Validation loss is lowest at LoRA's highest rate, RED's lowest and the others' default rate."""
    arm = grid.arms[cell.arm]
    rate, default = arm.settings["training"]["learning_rate"], METHODS[arm.method].learning_rate
    wanted = {"lora": 3.0, "red": 1 / 3}.get(arm.method, 1.0) * default if default else None
    loss = None if wanted is None else abs(math.log(rate / wanted))
    # Test scores contradict validation and must not be used.
    score = VALUES[arm.method] + cell.seed / 1000 + (0.0 if loss is None or loss < 0.1 else 0.05)
    own: dict[str, Any] = {"validation": loss, "trainable": TRAINED[arm.method], "seconds": 60.0 + len(arm.method)}
    if arm.method != "zero-shot":
        mean = {"value": TRAINED[arm.method] / 1000, "low": 0.0, "high": 1.0}
        names = ("kl", "change", "cross_entropy", "base_cross_entropy")
        own["side_effects"] = {"text": "t", "passages": 2, "tokens": 500, **dict.fromkeys(names, mean)}
        own["layer_changes"] = {"change": [0.1 * cell.seed, 0.3], "low": None, "high": None, "n": 6, "tokens": 90}
    grid.cell(name).write_result(result(score, **own))


def test_settings_of_edits_belong_to_an_arm(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gates is a setting of a method, which arms do not share; write it in an arm"):
        plan_comparison(tmp_path / "g", ["jola"], ["sentiment"], settings={"edits": {"gates": "none"}})
    assert not (tmp_path / "g").exists()


def test_validation_chooses_the_rates_and_the_front_is_of_the_chosen(grid: Grid) -> None:
    assert len(grid.planned) == 3 * 3 * 2 + 1
    for name, cell in grid.planned.items():
        finish(grid, cell, name)
    found = {each.name: each for each in compared(grid)}
    assert list(found) == list(TRAINED)
    assert {name: each.row.value for name, each in found.items()} == pytest.approx(
        {"jola": 0.8015, "red": 0.8015, "lora": 0.9015, "zero-shot": 0.401}
    )
    for name, factor, edge in (("jola", 1.0, ""), ("red", 1 / 3, "lowest"), ("lora", 3.0, "highest")):
        each, default = found[name], METHODS[name].learning_rate
        assert default and each.rate == pytest.approx(factor * default, rel=0.01)
        assert (each.edge, each.tried, each.row.best_of) == (edge, tried_rates(default), 3)
        assert each.row.interval == "seeds" and each.row.seeds == 2
        assert each.layer_changes == pytest.approx((0.15, 0.3))
    assert (found["zero-shot"].rate, found["zero-shot"].tried, found["zero-shot"].layer_changes) == (None, (), None)
    # JoLA has the score of RED with more parameters.
    on = {cost: [name for name, each in found.items() if each.pareto[cost]] for cost in COSTS}
    assert on["trainable"] == on["text_kl"] == ["red", "lora", "zero-shot"]
    assert on["adapter_bytes"] == ["lora"] and on["seconds"] == ["red", "lora"]


def test_the_table_says_what_was_chosen_and_marks_the_front(grid: Grid) -> None:
    for name, cell in grid.planned.items():
        finish(grid, cell, name)
    table = methods_table(compared(grid))
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["lora"]["rate"] == "0.003 (highest of 3)" and rows["jola"]["rate"] == "0.005 (of 3)"
    assert rows["zero-shot"]["rate"] == rows["zero-shot"]["KL on text"] == ""
    assert [row["front"] for row in rows.values()] == ["", "yes", "yes", "yes"]
    assert rows["red"]["trained"] == "100" and rows["red"]["seeds"] == "2" and rows["red"]["n test"] == "100"
    assert {"task", "n train", "model"}.isdisjoint(table.columns)
    assert any("test scores are not used" in note for note in table.notes)


def test_a_comparison_that_is_under_way_shows_what_is_there(grid: Grid) -> None:
    found = compared(grid)
    assert [each.row.seeds for each in found] == [0] * 4 and not any(each.rate for each in found)
    assert not any(each.pareto[cost] for each in found for cost in COSTS)
    assert {row[0] for row in methods_table(found).rows} == set(TRAINED)


def test_methods_with_settings_are_variants_with_tries_of_their_own(grid: Grid, tmp_path: Path) -> None:
    task = str(tmp_path / "films")
    settings = {**SETTINGS, "training": {"epochs": 3, "patience": 0}}
    methods = ["lora:rank=2/4", "jola"]
    other = plan_comparison(tmp_path / "h", methods, [task], [1], tries=2, train_sizes=(8,), settings=settings)
    assert [each.name for each in compared(other)] == ["lora:rank=2", "lora:rank=4", "jola"]
    assert len(other.planned) == 6
    # Planning again continues the comparison.
    again = plan_comparison(tmp_path / "h", methods, [task], [1], tries=2, train_sizes=(8,), settings=settings)
    assert list(again.planned) == list(other.planned)


def test_tries_are_those_of_the_task(tmp_path: Path) -> None:
    settings = {**SETTINGS, "training": {"epochs": 3, "patience": 0}}
    for name, tries in (("films", 3), ("books", 5)):
        task = make_task(tmp_path / name)
        planned = plan_comparison(
            tmp_path / "g", ["red"], [task], [1], tries=tries, train_sizes=(8,), settings=settings
        )
    for name, cell in planned.planned.items():
        rate = planned.arms[cell.arm].settings["training"]["learning_rate"]
        planned.cell(name).write_result(result(0.5, validation=1 / rate))
    films, books = compared(planned)
    assert (len(films.tried), films.edge, films.row.best_of) == (3, "highest", 3)
    assert (len(books.tried), books.edge, books.row.best_of) == (5, "highest", 5)
