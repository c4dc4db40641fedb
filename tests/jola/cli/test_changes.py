"""``jola evaluate`` with ``--side-effects``, ``--layers`` and ``--reading``."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jola.runs.run import Run
from tests.jola.cli.commands import Result, assert_refused

Jola = Callable[..., Result]


@pytest.fixture(scope="module")
def repe(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    from jola.cli.main import main

    folder = tmp_path_factory.mktemp("repe") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOLA_HOME", str(folder.parent / "home"))
        given = ["train", "--method", "repe", "--model", place / "tiny", "--task", place / "task"]
        main([str(word) for word in [*given, "--dtype", "float32", "--device", "cpu", "--output", folder]])
    return Run.open(folder)


def test_side_effects_on_the_own_text_and_on_a_file(jola: Jola, run: Run, tmp_path: Path) -> None:
    own = jola("evaluate", run.path, "--side-effects", "--json").json
    assert own["side_effects"]["text"] == "plain text of JoLA Workbench" and "layer_changes" not in own
    kl = own["side_effects"]["kl"]
    assert 0 <= kl["low"] <= kl["value"] <= kl["high"]
    file = tmp_path / "text.txt"
    file.write_text("A film.\n\nA number, and a word.\n")
    result = jola("evaluate", run.path, "--side-effects", file)
    assert result.code == 0 and "KL(base ‖ edited)" in result.out
    assert f"{file}: " in result.out.replace("\n", "") and "in 2 passages" in result.out.replace("\n", " ")


def test_layers_on_test_prompts(jola: Jola, run: Run, place: Path) -> None:
    found = jola("evaluate", run.path, "--layers", "--side-effects", "--json").json
    assert found["layer_changes"]["n"] == 6 and len(found["layer_changes"]["change"]) == 3
    assert found["side_effects"]["tokens"] > 0
    given = ["--task", place / "task" / "train.jsonl", "--test-size", 1, "--model", place / "tiny"]
    one = jola("evaluate", run.adapter_dir, "--layers", *given, "--json").json
    assert one["layer_changes"]["n"] == 1 and one["layer_changes"]["low"] is None
    shown = jola("evaluate", run.path, "--layers").out
    assert "6 prompts with" in shown and " to " in shown


def test_reading_chooses_layers_by_validation(jola: Jola, repe: Run) -> None:
    found = jola("evaluate", repe.path, "--reading", "--json").json
    assert (found["validation"]["n"], found["test"]["n"]) == (4, 6) and found["layers"]
    shown = jola("evaluate", repe.path, "--reading").out
    assert "accuracy of reading" in shown and "chosen on validation" in shown


def test_bad_input_is_one_sentence(jola: Jola, run: Run, place: Path, tmp_path: Path) -> None:
    for arguments, sentence in (
        (["--side-effects", tmp_path / "none.txt"], "cannot be read"),
        (["--side-effects", "a", "b"], "takes one file"),
        (["--layers", "--base"], "separate commands"),
        (["--reading", "--layers"], "separate commands"),
        (["--reading"], "needs the directions of RePE"),
        (["--layers", "--device-map", tmp_path / "none.json"], "which is not a file"),
    ):
        assert_refused(jola("evaluate", run.path, *arguments), sentence)
    alone = shutil.copytree(run.adapter_dir, tmp_path / "adapter")
    assert_refused(jola("evaluate", alone, "--layers", "--model", place / "tiny"), "name the task with --task")


def test_repe_needs_two_different_answers(jola: Jola, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "same"
    folder.mkdir()
    for part in ("train", "validation", "test"):
        rows = "".join(f'{{"prompt": "{part} {n}?", "completion": "good"}}\n' for n in range(4))
        (folder / f"{part}.jsonl").write_text(rows)
    method = ["--method", "repe", "--output", tmp_path / "run"]
    given = ["train", *method, "--model", place / "tiny", "--task", folder, "--dtype", "float32", "--device", "cpu"]
    assert_refused(jola(*given), "all answers of this task are the same")
