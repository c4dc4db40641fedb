"""``jola select`` and ``jola compare``."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jola.selectors import HeadSet
from jola.studies.results import SelectorRow
from tests.jola.cli.commands import Result, assert_refused


@pytest.fixture
def flags(place: Path) -> list[Any]:
    return ["--model", place / "tiny", "--dtype", "float32", "--device", "cpu", "--task", place / "task"]


def test_select_prints_heads_as_train_takes_them(jola: Callable[..., Result], flags: list[Any], tmp_path: Path) -> None:
    files = ["--output", tmp_path / "heads.json", "--scores", tmp_path / "scores.json"]
    result = jola("select", "gradient", *flags, "--k", 3, *files)
    assert result.code == 0, result.err
    heads = HeadSet.load(tmp_path / "heads.json")
    assert result.out == heads.to_text() + "\n"
    assert len(heads) == 3
    assert json.loads((tmp_path / "scores.json").read_text())["provenance"]["method"] == "gradient"
    printed = jola("select", "gradient", *flags, "--k", 3, "--json").json
    assert HeadSet.from_dict({key: value for key, value in printed.items() if key in heads.to_dict()}) == heads
    given = ["--heads", heads.to_text(), "--gates", "none", "--epochs", 1, "--output", tmp_path / "run"]
    trained = jola("train", *flags, *given)
    assert trained.code == 0, trained.err


def test_select_takes_the_open_heads_of_an_adapter(
    jola: Callable[..., Result], flags: list[Any], run: Any, tmp_path: Path
) -> None:
    result = jola("select", "jola", *flags, "--k", 2, "--adapter", run.path)
    assert result.code == 0, result.err
    assert len(HeadSet.from_text(result.out.strip(), 3, 4)) == 2
    assert_refused(jola("select", "jola", *flags, "--k", 2, "--adapter", tmp_path / "none"), str(tmp_path / "none"))


def test_a_result_is_printed_even_if_its_file_cannot_be_written(
    jola: Callable[..., Result], flags: list[Any], tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    result = jola("select", "random", *flags, "--k", 3, "--output", tmp_path / "there")
    assert result.code == 2
    assert len(HeadSet.from_text(result.out.strip(), 3, 4)) == 3
    assert "there cannot be written" in result.err
    assert "Traceback" not in result.err
    file = tmp_path / "new" / "scores.json"
    assert jola("select", "random", *flags, "--k", 3, "--scores", file).code == 0
    assert file.is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["select", "nonsense"], "is not a selector"),
        (["select", "jola"], "--adapter is required"),
        (["select", "random", "--k", "99"], "choose a k from 1 to 12"),
        (["compare", "--output", "OUT", "--seeds", "one"], "write whole numbers"),
        (["compare", "--output", "OUT", "--gates", "none"], "--gates two or shared"),
    ],
)
def test_bad_input_is_one_sentence(
    jola: Callable[..., Result], flags: list[Any], arguments: list[str], words: str, tmp_path: Path
) -> None:
    given = [tmp_path / "c" if argument == "OUT" else argument for argument in arguments]
    assert_refused(jola(*given, *flags), words)


def test_compare_prints_a_table_and_json(jola: Callable[..., Result], flags: list[Any], tmp_path: Path) -> None:
    more = ["--selectors", "random", "--swaps", "pass", "--k", 2, "--epochs", 1]
    command = ["compare", "--output", tmp_path / "c", *flags, *more]
    result = jola(*command)
    assert result.code == 0, result.err
    assert "select-then-edit" in result.out
    assert "n = 6" in result.out
    assert "gate swap" in result.out
    assert "2 of 3: edit-random-k2-seed42" in result.err
    rows = jola(*command, "--json").json["rows"]
    assert [row["protocol"] for row in rows] == ["base", "jola", "edit", "swap"]
    assert set(rows[0]) == {field.name for field in dataclasses.fields(SelectorRow)}
