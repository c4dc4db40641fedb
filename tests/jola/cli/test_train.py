"""``jola train``: its output on both streams, and one sentence for each error."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BloomConfig

from jola.config import RunConfig, flag
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.store import RunStore
from jola.training.trainer import JoLATrainer
from tests import ROOT
from tests.jola.cli.commands import Result, assert_refused, lines, train

SUMMARY = ["run", "task", "n_train", "seed", "validation", "test", "scores", "closed", "seconds"]


class TestTrain:
    def test_one_json_object_on_standard_output(self, jola: Callable[..., Result], place: Path, home: Path) -> None:
        result = jola(*train(place, "--train-size", 8, "--test-size", 5, "--seed", 3, "--json"))
        assert result.code == 0
        summary = result.json
        assert list(summary) == SUMMARY
        run = Run.open(summary["run"])
        assert run.path.parent == home / "runs"
        assert run.state == "finished"
        assert (summary["task"], summary["n_train"], summary["seed"]) == (str(place / "task"), 8, 3)
        assert summary["test"]["n"] == 5
        assert 0 <= summary["test"]["low"] <= summary["test"]["accuracy"] <= summary["test"]["high"] <= 1
        assert set(summary["closed"]) == {"offset", "scale"}
        assert all(0 <= share <= 1 for share in summary["closed"].values())
        assert summary["seconds"] > 0
        assert (run.path / "adapter" / "adapter_model.safetensors").is_file()
        assert "Training" in result.err
        assert "Testing" in result.err

    def test_for_people_it_says_where_and_how_well(
        self, jola: Callable[..., Result], place: Path, tmp_path: Path
    ) -> None:
        # The path is longer than a line and must not be wrapped, so that it can be copied.
        output = tmp_path / ("a" * 60) / ("b" * 60)
        result = jola(*train(place, "--output", output))
        assert result.code == 0
        assert f"run       {output}\nadapter   {output}/adapter\n" in result.out
        assert re.search(r"^accuracy  \d\.\d{3} \(n = 6, 95 % interval \d\.\d{3}–\d\.\d{3}\)$", result.out, re.M)
        assert re.search(r"^closed    offset \d+%  scale \d+% of the gates are exactly 0$", result.out, re.M)

    def test_more_examples_than_there_are(self, jola: Callable[..., Result], place: Path) -> None:
        result = jola(*train(place, "--train-size", 500, "--json"))
        assert result.code == 0
        assert result.json["n_train"] == 12
        assert "note: 500 training examples were requested, but only 12 exist; all are used." in result.err

    def test_every_setting_is_a_flag(self, jola: Callable[..., Result]) -> None:
        shown = jola("train", "--help")
        assert shown.code == 0
        for part in RunConfig().parts():
            for field in dataclasses.fields(part):
                assert flag(field.name) in shown.out

    def test_flags_reach_the_run(self, jola: Callable[..., Result], place: Path) -> None:
        given = ["--l0-weight", "0.5", "--gate-learning-rate", "0.25", "--gates", "shared", "--layers", "0,2"]
        run = Run.open(jola(*train(place, *given, "--json")).json["run"])
        config = run.run_config()
        assert (config.training.l0_weight, config.training.gate_learning_rate) == (0.5, 0.25)
        assert (config.edits.gates, config.edits.layers) == ("shared", "0,2")
        assert run.metrics()[0]["l0_weight"] == 0.5
        norms = run.gates().fields["scale_norm"][-1]
        assert np.isnan(norms[1]).all() and norms[[0, 2]].min() > 0

    def test_as_a_command_of_the_shell(self) -> None:
        command = [sys.executable, "-m", "jola", "train", "--l0-weight", "-1"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: --l0-weight is -1.0; it must be at least 0.\n"


FILES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", r"one\.jsonl is empty"),
    "blank lines": (b"\n\n", r"one\.jsonl is empty"),
    "wrong columns": (
        b'{"text": "x", "label": 1}\n',
        r"Line 1 of .*one\.jsonl: the columns found are text, label, but prompt \+ completion.* is needed",
    ),
    "invalid JSON on line 7": (
        (lines(0, 6) + '{"prompt": "x", "completion": \n' + lines(7, 6)).encode(),
        r"Line 7 of .*one\.jsonl is not valid JSON",
    ),
    "not UTF-8": (lines(0, 6).replace("film", "café").encode("latin-1"), r"one\.jsonl is not UTF-8 text"),
    "too few": (lines(0, 1).encode(), "are too few to set aside"),
}


class TestBadInput:
    """Mistakes that a user can make."""

    @pytest.mark.parametrize("name", FILES)
    def test_files(self, jola: Callable[..., Result], place: Path, tmp_path: Path, name: str) -> None:
        content, sentence = FILES[name]
        (tmp_path / "one.jsonl").write_bytes(content)
        assert_refused(jola(*train(place, "--task", tmp_path / "one.jsonl")), sentence)

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--task", "nowhere/data.jsonl"], "There is no task, folder or file 'nowhere/data.jsonl'"),
            (["--task", "."], "has no training file"),
            (["--max-length", "8"], "8 tokens"),
            (["--model", "nobody/nothing"], "The model nobody/nothing cannot be loaded .* --model default"),
            (["--model", "no/such/folder"], "There is no such file or folder: 'no/such/folder'"),
            (["--model", "."], "is not a model: it has no config.json"),
            (["--l0-weight", "-0.1"], "--l0-weight is -0.1; it must be at least 0"),
            (["--learning-rate", "0"], "--learning-rate is 0; it must be greater than 0"),
            (["--learning-rate", "nan"], "--learning-rate is nan; it must be a finite number"),
            (["--epochs", "0"], "--epochs is 0; it must be at least 1"),
            (["--layers", "0-9"], "--layers names layer 9, but the model has layers 0 to 2"),
            (["--heads", "0:7"], "--heads names 0:7, but the model has 3 layers of 4 heads"),
            (["--device", "cuda:99"], "There is no device 'cuda:99'"),
            (["--device", "toaster"], "There is no device 'toaster'"),
            (["--report-to", "nobody"], "--report-to is 'nobody'"),
            (["--resume"], "--resume needs --output"),
            (["--output", ""], ""),
        ],
    )
    def test_settings(
        self,
        jola: Callable[..., Result],
        place: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        sentence: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        if sentence:
            assert_refused(jola(*train(place, *arguments)), sentence)
            assert RunStore().list() == []
        else:
            assert jola(*train(place, *arguments)).code == 0

    def test_an_unknown_architecture(self, jola: Callable[..., Result], place: Path, tmp_path: Path) -> None:
        BloomConfig(hidden_size=8, n_layer=1, n_head=2).save_pretrained(tmp_path / "bloom")
        result = jola(*train(place, "--model", tmp_path / "bloom"))
        assert_refused(result, "architecture 'bloom', which is not supported; supported architectures are .*llama")

    def test_a_model_folder_that_is_damaged(self, jola: Callable[..., Result], place: Path, tmp_path: Path) -> None:
        broken = Path(shutil.copytree(place / "tiny", tmp_path / "broken"))
        weights = broken / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        assert_refused(jola(*train(place, "--model", broken)), "The model broken cannot be loaded")
        (broken / "config.json").write_text("{")
        assert_refused(jola(*train(place, "--model", broken)), "The model broken cannot be loaded")

    def test_a_place_for_the_run_that_is_taken(
        self, jola: Callable[..., Result], place: Path, run: Run, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("x")
        for age in (time.time(), 1):
            os.utime(tmp_path / "file", (age, age))
            for taken in (tmp_path / "file", tmp_path / "file" / "run"):
                assert_refused(jola(*train(place, "--output", taken)), "a file is in the way")
        assert_refused(jola(*train(place, "--output", tmp_path)), r"contains other files \(file\)")
        assert_refused(jola(*train(place, "--output", run.path)), r"already contains a run \(finished\)")
        (tmp_path / "songs").mkdir()
        (tmp_path / "songs" / "pause").write_text("x")
        os.utime(tmp_path / "songs", (1, 1))
        assert_refused(jola(*train(place, "--output", tmp_path / "songs")), r"contains other files \(pause\)")
        assert (tmp_path / "songs" / "pause").exists()

    def test_a_name_that_is_too_long(self, jola: Callable[..., Result], place: Path, tmp_path: Path) -> None:
        long, sentence = tmp_path / ("a" * 300), "a{300} is too long for the file system; choose a shorter name"
        assert_refused(jola(*train(place, "--output", long)), sentence)
        assert_refused(jola(*train(place, "--output", long, "--restarts", 1)), sentence)
        assert_refused(jola("export", "adapter", long, tmp_path / "adapter"), sentence)

    def test_a_full_disk(self, jola: Callable[..., Result], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = os.write

        def full(descriptor: int, data: bytes) -> int:
            if data.startswith(b'{"step": 2'):
                raise OSError(28, "No space left on device")
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", full)
        assert_refused(jola(*train(place)), "There is no space left on the disk for .*metrics.jsonl; free some")
        (run,) = RunStore().list()
        assert run.state == "failed"

    def test_a_full_disk_when_the_run_begins(
        self, jola: Callable[..., Result], place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: Any, **options: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        assert_refused(jola(*train(place)), "There is no space left on the disk for")

    def test_an_interruption_is_none(
        self, jola: Callable[..., Result], place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*arguments: Any, **options: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("jola.training.run.load_task", interrupted)
        result = jola(*train(place))
        assert (result.code, result.out) == (130, "")
        assert result.err.splitlines()[-1] == "interrupted"
        (run,) = RunStore().list()
        assert run.state == "cancelled"


class TestRestarts:
    def test_each_training_is_a_run_and_the_best_by_validation_is_named(
        self, jola: Callable[..., Result], place: Path, tmp_path: Path
    ) -> None:
        output = tmp_path / "run"
        result = jola(*train(place, "--output", output, "--seed", 3, "--restarts", 2, "--json"))
        assert result.code == 0
        runs = result.json["runs"]
        assert [run["run"] for run in runs] == [str(output), f"{output}-2", f"{output}-3"]
        assert [run["seed"] for run in runs] == [3, 4, 5]
        configs = [Run.open(run["run"]).run_config() for run in runs]
        assert [config.data.data_seed for config in configs] == [None, 3, 3]
        results = [Run.open(run["run"]).result() or {} for run in runs]
        found = [(each["validation"]["accuracy"], -each["validation_cross_entropy"]) for each in results]
        assert result.json["run"] == runs[found.index(max(found))]["run"]
        assert "Training 2 of 3, with seed 4." in result.err

    def test_resuming_trains_what_is_missing(self, jola: Callable[..., Result], place: Path, tmp_path: Path) -> None:
        output = tmp_path / "run"
        assert jola(*train(place, "--output", output, "--seed", 3)).code == 0
        first = (output / "result.json").read_bytes()
        result = jola("train", "--resume", "--output", str(output), "--restarts", "1")
        assert result.code == 0
        assert (output / "result.json").read_bytes() == first
        assert Run.open(f"{output}-2").run_config().training.seed == 4
        assert re.search(r"^seed 3 .*\n^seed 4 ", result.out, re.MULTILINE)

    def test_the_others_are_trained_if_one_diverges(
        self, jola: Callable[..., Result], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        diverging = {4}
        compute = JoLATrainer.compute_loss

        def loss(self: JoLATrainer, model: Any, inputs: Any, return_outputs: bool = False, **named: Any) -> Any:
            found = compute(self, model, inputs, return_outputs, **named)
            return found * float("nan") if self.args.seed in diverging and model.training else found

        monkeypatch.setattr(JoLATrainer, "compute_loss", loss)
        output = tmp_path / "run"
        made = jola(*train(place, "--output", output, "--seed", 3, "--restarts", 2, "--json"))
        assert made.code == 0
        assert "note: Training 2 of 3, with seed 4, diverged." in made.err
        runs = [Run.open(run["run"]) for run in made.json["runs"]]
        assert [run.state for run in runs] == ["finished", "failed", "finished"]
        assert made.json["run"] != str(runs[1].path)
        # With the same seed it would diverge again.
        before = [run.status() for run in runs]
        resumed = jola("train", "--resume", "--output", output, "--restarts", 2, "--json")
        assert (resumed.code, resumed.json["run"]) == (0, made.json["run"])
        assert [run.status() for run in runs] == before
        diverging |= {3, 5}
        refused = jola(*train(place, "--output", tmp_path / "other", "--seed", 3, "--restarts", 2))
        assert_refused(refused, "All 3 training runs diverged; train again with a lower --learning-rate.")

    def test_a_failure_of_another_kind_ends_the_restarts(
        self, jola: Callable[..., Result], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: Any, **options: Any) -> None:
            raise InputError("There is no space left on the disk.")

        output = tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr(JoLATrainer, "compute_loss", full)
            assert_refused(jola(*train(place, "--output", output, "--restarts", 1)), "no space left")
        assert not Path(f"{output}-2").exists()
        assert jola("train", "--resume", "--output", output, "--restarts", 1).code == 0

    @pytest.mark.parametrize(
        ("other", "words"),
        [
            (["--seed", 9, "--data-seed", 3], "its --seed is 9, not 4"),
            (["--seed", 4], "its --data-seed is None, not 3"),
            (["--seed", 4, "--data-seed", 3, "--epochs", 2], "its --epochs is 2, not 1"),
            (["--seed", 4, "--data-seed", 3, "--task", "TRAIN"], "its --task is .*train.jsonl, not .*task"),
            (["--seed", 4, "--data-seed", 3, "--method", "red"], "its --method is red, not jola"),
        ],
    )
    def test_another_run_is_not_counted_as_a_restart(
        self, jola: Callable[..., Result], place: Path, tmp_path: Path, other: list[Any], words: str
    ) -> None:
        output = tmp_path / "run"
        other = [place / "task" / "train.jsonl" if word == "TRAIN" else word for word in other]
        assert jola(*train(place, "--output", output, "--seed", 3)).code == 0
        assert jola(*train(place, "--output", f"{output}-2", *other)).code == 0
        before = Run(f"{output}-2").status()
        assert_refused(jola("train", "--resume", "--output", output, "--restarts", 2), f"run-2 is not .*: {words};")
        assert Run(f"{output}-2").status() == before and not Path(f"{output}-3").exists()

    def test_resuming_needs_a_run(self, jola: Callable[..., Result], place: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        (tmp_path / "folder").mkdir()
        for more in ([], ["--restarts", 1]):
            for name in ("typo", "file", "a" * 300):
                result = jola(*train(place, "--resume", "--output", tmp_path / name, *more))
                assert_refused(result, f"There is no run directory .*{name}; `jola runs` lists all runs")
            result = jola(*train(place, "--resume", "--output", tmp_path / "folder", *more))
            assert_refused(result, "folder is not a run directory")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]

    def test_directories_are_checked_before_the_first_training(
        self, jola: Callable[..., Result], place: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "run-2").mkdir()
        (tmp_path / "run-2" / "notes.txt").write_text("mine")
        result = jola(*train(place, "--output", f"{tmp_path / 'run'}/", "--restarts", 1))
        assert_refused(result, "run-2 already contains a run or other files; choose another --output")
        assert not (tmp_path / "run").exists()

    def test_without_a_directory_the_runs_are_in_the_store(
        self, jola: Callable[..., Result], place: Path, home: Path
    ) -> None:
        runs = jola(*train(place, "--restarts", 1, "--json")).json["runs"]
        first, second = (Path(run["run"]) for run in runs)
        assert first.parent == home / "runs" and second.name == f"{first.name}-2"

    def test_a_negative_number_is_refused(self, jola: Callable[..., Result], place: Path) -> None:
        assert_refused(jola(*train(place, "--restarts=-1")), "--restarts is -1; it must be from 0 to 99.")
