"""``jola compare --methods``: run, resume and show a comparison, and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jola.cli.main import main
from jola.studies.grid import Grid
from tests.jola.cli.commands import QUICK, Result, assert_refused

Jola = Callable[..., Result]


def test_a_comparison_is_a_grid_that_resumes(jola: Jola, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "methods"
    common = ["compare", "--methods", "red,zero-shot", "--task", place / "task", "--model", place / "tiny"]
    common += ["--train-size", 8, "--tries", 2, *QUICK, "--output", folder]
    made = jola(*common)
    assert made.code == 0, made.err
    assert "3 of 3 cells done" in made.out and "Front: no other method" in made.out and "KL on text" in made.out
    cells = sorted(path.name for path in (folder / "cells").iterdir() if not path.name.startswith("."))
    assert len(cells) == len(Grid.open(folder).planned) == 3
    # A lost cell is computed again, and the others stay unchanged.
    stamps = {name: (folder / "cells" / name / "result.json").stat().st_mtime_ns for name in cells[:-1]}
    shutil.rmtree(folder / "cells" / cells[-1])
    found = jola(*common, "--json").json
    assert stamps == {name: (folder / "cells" / name / "result.json").stat().st_mtime_ns for name in cells[:-1]}
    assert found["counts"]["done"] == 3
    red, zero = found["methods"]
    assert red["rate"] in red["tried"] and len(red["tried"]) == 2 and red["trainable"] == 192 and zero["rate"] is None
    assert red["text_kl_low"] <= red["text_kl"] <= red["text_kl_high"] and len(red["layer_changes"]) == 3
    assert {entry["method"] for entry in found["fronts"]["trainable"]} >= {"zero-shot"}
    assert jola("grid", "show", folder, "--table", "methods", "--json").json == found
    shown = jola("grid", "show", folder, "--table", "methods", "--markdown")
    assert shown.out.startswith("| method | rate |")
    assert jola("grid", "show", folder).code == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--methods", "red,nonsense"], "no method 'nonsense'"),
        (["--methods", "red", "--tries", "0"], "--tries is 0"),
        (["--methods", "red", "--spacing", "0.5"], r"--spacing is 0\.5"),
        (["--methods", "red", "--seeds", "one"], "--seeds names 'one'"),
        (["--methods", "red", "--tasks", "nowhere"], "no task, group, folder or file 'nowhere'"),
        (["--methods", "red", "--train-size", "-1"], "--train-size is -1"),
        (["--methods", "red", "--workers", "0"], "--workers is 0"),
        (["--methods", "red:learning_rate=1"], "leave the rate out"),
        (["--methods", "red", "--metric", "exact_mach"], "No task of the comparison has the metric 'exact_mach'"),
        (["--methods", ","], "no arms"),
        (["--methods=red:rank=4"], "is not a setting of red"),
    ],
)
def test_bad_input_is_one_sentence(jola: Jola, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    assert_refused(jola("compare", "--output", tmp_path / "out", *arguments), sentence)


def test_flags_of_the_other_comparison_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--methods", "red", "--k", "4"], ["--tries", "2"], ["--methods", "red", "--learning-rate", "1"]):
        with pytest.raises(SystemExit) as exit:
            main(["compare", "--output", str(tmp_path / "out"), *arguments])
        assert exit.value.code == 2
        assert arguments[-2] in capsys.readouterr().err
