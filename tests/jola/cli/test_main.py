"""The command line: what it prints where, with which exit code, and one sentence for whatever is wrong."""

import ast
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, PreTrainedTokenizerFast

from jola.cli.main import main
from jola.config import RunConfig, flag
from jola.runs.run import Run
from jola.runs.store import RunStore
from tests import ROOT
from tests.tiny import make_model

QUICK = ["--epochs", "1", "--batch-size", "4", "--patience", "0", "--dtype", "float32", "--device", "cpu"]
SUMMARY = ["run", "task", "n_train", "seed", "test", "closed", "seconds"]


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on standard output."""
        assert self.out.count("\n") == 1
        assert self.out.endswith("\n")
        return json.loads(self.out)


@pytest.fixture
def jola(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command in this process."""

    def run(*arguments: Any) -> Result:
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as exit:
            assert exit.code is None or isinstance(exit.code, int)
            code = exit.code or 0
        return Result(code, *capsys.readouterr())

    return run


def lines(start: int, count: int) -> str:
    answers = {"fine": "good", "warm": "good", "sad": "bad", "poor": "bad"}
    words = [(list(answers)[i % 4], i) for i in range(start, start + count)]
    rows = [{"prompt": f"Is film {i}, a {word} one, good or bad?", "completion": answers[word]} for word, i in words]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a tiny model and a task, which no test changes."""
    folder = tmp_path_factory.mktemp("place")
    make_model("llama").save_pretrained(folder / "tiny")
    tokenizer.save_pretrained(folder / "tiny")
    (folder / "task").mkdir()
    for part, start, count in (("train", 0, 12), ("validation", 12, 4), ("test", 16, 6)):
        (folder / "task" / f"{part}.jsonl").write_text(lines(start, count))
    return folder


@pytest.fixture(scope="module")
def run(place: Path) -> Run:
    """A finished run on that task."""
    output = place / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOLA_HOME", str(place / "home"))
        main(["train", "--model", f"{place}/tiny", "--task", f"{place}/task", "--output", f"{output}", *QUICK])
    return Run.open(output)


def train(place: Path, *more: Any) -> list[Any]:
    """Arguments of a quick training; what is given later wins."""
    return ["train", "--model", place / "tiny", "--task", place / "task", *QUICK, *more]


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
        # Longer than a line, and it must stay one: it is there to be copied.
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
        assert "note: 500 training examples were asked for, and there are 12: all are taken." in result.err

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


class TestHelp:
    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ([], ["train", "evaluate", "generate", "runs", "assets"]),
            (["train"], ["--resume", "--json", "λ"]),
            (["evaluate"], ["--task", "--base", "--no-options", "--test-size", "--model", "--json", "Wilson"]),
            (["generate"], ["--adapter", "--show", "--max-new-tokens", "--strength", "--json"]),
            (["runs"], ["list", "show", "remove"]),
            (["runs", "list"], ["--json"]),
            (["runs", "show"], ["--json"]),
            (["runs", "remove"], ["Ids of runs"]),
            (["assets"], ["show", "fetch", "remove"]),
            (["assets", "show"], ["--json"]),
            (["assets", "fetch"], ["Names of assets"]),
            (["assets", "remove"], ["Names of assets"]),
        ],
    )
    def test_each_command_explains_itself(
        self, jola: Callable[..., Result], command: list[str], words: list[str]
    ) -> None:
        shown = jola(*command, "--help")
        assert (shown.code, shown.err) == (0, "")
        assert not [word for word in words if word not in shown.out]

    @pytest.mark.parametrize("command", [[], ["train"], ["runs"], ["export", "merged"]])
    def test_help_imports_nothing_heavy(self, command: list[str]) -> None:
        code = (
            "import sys\nfrom jola.cli.main import main\n"
            "try:\n    main([*sys.argv[1:], '--help'])\n"
            "finally:\n    print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *command], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0
        loaded = set(ast.literal_eval(done.stderr))
        assert "tyro" in loaded
        assert not loaded & {"torch", "transformers", "huggingface_hub", "nnsight", "numpy", "scipy", "pandas"}

    @pytest.mark.parametrize("command", [[], ["nonsense"], ["train", "--nonsense"], ["train", "--epochs", "many"]])
    def test_what_is_no_command_is_exit_code_2(self, jola: Callable[..., Result], command: list[str]) -> None:
        result = jola(*command)
        assert (result.code, result.out) == (2, "")
        assert result.err
        assert "Traceback" not in result.err


class TestEvaluate:
    def test_edited_base_and_options(self, jola: Callable[..., Result], run: Run) -> None:
        result = jola("evaluate", run.path, "--base", "--json")
        assert result.code == 0
        content = result.json
        assert content["adapter"] == str(run.adapter_dir)
        assert content["task"] == "task"
        for name in ("edited", "base"):
            assert set(content[name]) == {"exact_match", "options"}
            for accuracy in content[name].values():
                assert set(accuracy) == {"accuracy", "n", "low", "high"}
                assert accuracy["n"] == 6
        stored = run.result()
        assert stored is not None
        assert content["edited"]["exact_match"] == stored["test"]

    def test_an_adapter_directory_a_task_and_no_options(
        self, jola: Callable[..., Result], run: Run, place: Path
    ) -> None:
        given = ["--task", place / "task" / "train.jsonl", "--test-size", 2, "--no-options", "--model", place / "tiny"]
        result = jola("evaluate", run.adapter_dir, *given, "--json")
        assert result.code == 0
        assert result.json["task"] == "train"
        assert set(result.json["edited"]) == {"exact_match"}
        assert result.json["edited"]["exact_match"]["n"] == 2
        assert "base" not in result.json

    def test_the_id_of_a_run(self, jola: Callable[..., Result], run: Run, home: Path) -> None:
        shutil.copytree(run.path, home / "runs" / "my-run")
        assert jola("evaluate", "my-run", "--no-options", "--json").json["edited"]["exact_match"]["n"] == 6

    def test_a_table_for_people(self, jola: Callable[..., Result], run: Run) -> None:
        result = jola("evaluate", run.path, "--base")
        assert result.code == 0
        header, *rows = result.out.splitlines()
        assert header.split() == ["model", "measure", "accuracy"]
        assert [row.split()[0] for row in rows] == ["edited", "edited", "base", "base"]
        assert all(re.search(r"\d\.\d{3} \(n = 6, 95 % interval \d\.\d{3}–\d\.\d{3}\)", row) for row in rows)

    def test_an_adapter_without_a_run_needs_a_task(self, jola: Callable[..., Result], run: Run, tmp_path: Path) -> None:
        adapter = Path(shutil.copytree(run.adapter_dir, tmp_path / "adapter"))
        assert_refused(jola("evaluate", adapter), "name the task with --task")

    def test_test_size_below_zero(self, jola: Callable[..., Result], run: Run) -> None:
        assert_refused(jola("evaluate", run.path, "--test-size", -1), "--test-size is -1; it must be at least 0")


class TestGenerate:
    PROMPT = "Is film 3, a poor one, good or bad?"

    @pytest.mark.parametrize(
        ("show", "names"), [("both", ["base", "edited"]), ("edited", ["edited"]), ("base", ["base"])]
    )
    def test_which_answers(self, jola: Callable[..., Result], run: Run, show: str, names: list[str]) -> None:
        given = ["--adapter", run.path, "--show", show, "--max-new-tokens", 8]
        result = jola("generate", self.PROMPT, *given, "--json")
        assert result.code == 0
        assert list(result.json) == ["prompt", *names]
        assert result.json["prompt"] == self.PROMPT
        plain = jola("generate", self.PROMPT, *given)
        expected = [result.json[name] for name in names]
        if len(names) == 2:
            assert plain.out == f"── base\n{expected[0]}\n── edited\n{expected[1]}\n"
        else:
            assert plain.out == f"{expected[0]}\n"

    def test_edits_of_strength_0_are_none(self, jola: Callable[..., Result], run: Run, tmp_path: Path) -> None:
        adapter = Path(shutil.copytree(run.adapter_dir, tmp_path / "adapter"))
        strong = {name: tensor * 300 for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
        save_file(strong, adapter / "adapter_model.safetensors")
        given = ["generate", self.PROMPT, "--adapter", adapter, "--max-new-tokens", 8, "--json", "--strength"]
        off, on = jola(*given, 0).json, jola(*given, 1).json
        assert off["edited"] == off["base"] == on["base"]
        assert on["edited"] != on["base"]

    def test_a_prompt_from_standard_input(
        self, jola: Callable[..., Result], run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = ["--adapter", run.path, "--max-new-tokens", 4, "--json"]
        monkeypatch.setattr(sys, "stdin", io.StringIO(self.PROMPT))
        assert jola("generate", "-", *given).json == jola("generate", self.PROMPT, *given).json

    def test_an_answer_is_printed_as_it_is(
        self, jola: Callable[..., Result], run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said = "a long answer " * 20 + "[bold]of[/bold] :smile: words"
        monkeypatch.setattr(PreTrainedTokenizerFast, "decode", lambda *a, **k: said)
        assert jola("generate", "x", "--adapter", run.path, "--show", "edited").out == said + "\n"

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["  "], "The prompt is empty"),
            (["x", "--max-new-tokens", "0"], "--max-new-tokens is 0; it must be at least 1"),
            (["broken \udcff byte"], "The prompt is not UTF-8 text"),
        ],
    )
    def test_prompts_that_are_none(
        self, jola: Callable[..., Result], run: Run, arguments: list[str], sentence: str
    ) -> None:
        assert_refused(jola("generate", *arguments, "--adapter", run.path), sentence)

    def test_standard_input_that_is_no_text(
        self, jola: Callable[..., Result], run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
        assert_refused(jola("generate", "-", "--adapter", run.path), "The prompt is not UTF-8 text")

    def test_a_run_that_has_no_adapter_yet(self, jola: Callable[..., Result], tmp_path: Path) -> None:
        Run.create(tmp_path / "new", RunConfig())
        result = jola("generate", "x", "--adapter", tmp_path / "new")
        assert_refused(result, r"The run new has no adapter yet \(starting\)")


class TestRuns:
    def test_none_yet(self, jola: Callable[..., Result], home: Path) -> None:
        for command in (["runs"], ["runs", "list"]):
            result = jola(*command)
            assert result.code == 0
            assert f"No runs yet in {home / 'runs'}" in result.out
        assert jola("runs", "list", "--json").json == {"runs": []}

    def test_list_show_and_remove(self, jola: Callable[..., Result], run: Run, home: Path) -> None:
        names = ["20260102-150405-a-task-with-a-long-name-3f2a", "20260102-150405-a-task-with-a-long-name-3f2b"]
        for name in names:
            shutil.copytree(run.path, home / "runs" / name)
        listed = jola("runs", "list", "--json").json["runs"]
        assert sorted(summary["id"] for summary in listed) == names
        assert listed[0]["state"] == "finished"
        assert listed[0]["accuracy"]["n"] == 6
        table = jola("runs").out.splitlines()
        # In a pipe nothing is cut off, and a run is one line.
        assert len(table) == 3
        assert sorted(line.split()[0] for line in table[1:]) == names
        assert all("(n = 6, 95 % interval" in line for line in table[1:])
        shown = jola("runs", "show", names[0], "--json").json
        assert shown["config"]["training"]["epochs"] == 1
        assert shown["result"] == run.result()
        assert shown["summary"]["id"] == names[0]
        assert shown["status"]["state"] == "finished"
        assert json.loads(jola("runs", "show", home / "runs" / names[1]).out)["result"] == run.result()
        removed = jola("runs", "remove", names[0])
        assert (removed.code, removed.out) == (0, f"removed {names[0]}\n")
        assert [run.id for run in RunStore().list()] == names[1:]

    def test_ids_that_are_none(self, jola: Callable[..., Result], home: Path) -> None:
        (home / "runs").mkdir(parents=True)
        (home / "keep").mkdir()
        for command in (["show", "nothing"], ["remove", "nothing"], ["remove", "../keep"], ["show", "../keep"]):
            assert_refused(jola("runs", *command), "`jola runs` lists the")
        assert (home / "keep").is_dir()

    def test_a_deleted_run_comes_back(self, jola: Callable[..., Result], run: Run, home: Path) -> None:
        shutil.copytree(run.path, home / "runs" / "one")
        assert jola("runs", "restore").out == "No deleted run can be restored.\n"
        removed = jola("runs", "remove", "one")
        assert "`jola runs restore one` brings them back" in removed.err
        assert jola("runs", "list", "--json").json == {"runs": []}
        assert jola("runs", "restore").out.splitlines()[1].split()[0] == "one"
        assert [found["id"] for found in jola("runs", "restore", "--json").json["deleted"]] == ["one"]
        restored = jola("runs", "restore", "one")
        assert (restored.code, restored.out) == (0, "restored one\n")
        assert jola("runs", "show", "one", "--json").json["result"] == run.result()
        assert_refused(jola("runs", "restore", "one"), "There is no deleted run 'one'")
        jola("runs", "remove", "--for-good", "one")
        assert_refused(jola("runs", "restore", "one"), "There is no deleted run 'one'")

    def test_a_label_and_a_note(self, jola: Callable[..., Result], run: Run, home: Path) -> None:
        shutil.copytree(run.path, home / "runs" / "one")
        assert jola("runs", "rename", "one", "[red]A label[/red]").out == "one  [red]A label[/red]\n"
        assert jola("runs", "note", "one", "Two\nlines.", "--json").json == {
            "run": "one",
            "label": "[red]A label[/red]",
            "note": "Two\nlines.",
        }
        assert jola("runs").out.splitlines()[1].split()[:3] == ["one", "[red]A", "label[/red]"]
        summary = jola("runs", "list", "--json").json["runs"][0]
        assert (summary["id"], summary["label"], summary["note"]) == ("one", "[red]A label[/red]", "Two\nlines.")
        assert_refused(jola("runs", "rename", "one", "x" * 81), "The label has 81 characters and at most 80")

    def test_a_run_is_given_away_and_taken_in(
        self, jola: Callable[..., Result], run: Run, home: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(run.path, home / "runs" / "one")
        exported = jola("runs", "export", "one", "--output", tmp_path, "--json").json
        assert exported == {"run": "one", "file": f"{tmp_path}/one.zip", "bytes": os.path.getsize(tmp_path / "one.zip")}
        assert_refused(jola("runs", "export", "one", "--output", tmp_path), "one.zip exists already")
        imported = jola("runs", "import", tmp_path / "one.zip", "--label", "A gift", "--json").json
        assert imported["summary"]["label"] == "A gift"
        assert imported["summary"]["imported"] is True
        back = Run.open(imported["path"])
        assert (back.result(), back.metrics()) == (run.result(), run.metrics())
        taken = jola("runs", "import", run.adapter_dir)
        assert taken.code == 0
        assert "adapter   " in taken.out
        assert len(RunStore().list()) == 3
        (tmp_path / "broken.zip").write_bytes(b"PK")
        assert_refused(jola("runs", "import", tmp_path / "broken.zip"), "broken.zip is not a zip file")
        assert_refused(jola("runs", "import", tmp_path / "one.zip", "--label", "x" * 99), "The label has 99")
        assert len(RunStore().list()) == 3

    def test_runs_beside_each_other(self, jola: Callable[..., Result], run: Run, place: Path, home: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JOLA_HOME", str(home))
            main([str(a) for a in train(place, "--seed", "7", "--batch-size", "6", "--output", home / "runs" / "two")])
        shutil.copytree(run.path, home / "runs" / "one")
        jola("runs", "rename", "two", "The second")
        compared = jola("runs", "compare", "one", "two", "--json").json
        differ = {row["name"]: row["values"] for row in compared["settings"]}
        assert differ == {"seed": [42, 7], "batch_size": [4, 6]}
        figures = {row["name"]: row["values"] for row in compared["figures"]}
        assert figures["steps"] == [3, 2]
        assert figures["accuracy"][0] == (run.result() or {})["test"]
        assert figures["validation_cross_entropy"][0] == min(
            entry["validation_cross_entropy"] for entry in run.metrics() if "validation_cross_entropy" in entry
        )
        assert compared["same_test"] is True
        shown = jola("runs", "compare", "one", "two").out
        assert re.search(r"^ +one +The second *$", shown, re.MULTILINE)
        assert re.search(r"^ *batch_size +4 +6 *$", shown, re.MULTILINE)
        assert "(n = 6, 95 % interval" in shown
        assert_refused(jola("runs", "compare", "one"), "Name two or more runs")

    def test_removing_nothing_is_a_mistake(self, jola: Callable[..., Result]) -> None:
        assert_refused(jola("runs", "remove"), "Name the runs to remove")

    def test_a_run_at_work_is_not_removed(self, jola: Callable[..., Result], home: Path) -> None:
        Run.create(home / "runs" / "busy", RunConfig())
        assert_refused(jola("runs", "remove", "busy"), "The run 'busy' is starting; cancel it before removing it")
        assert (home / "runs" / "busy").is_dir()


class TestAssets:
    def test_what_there_is(self, jola: Callable[..., Result]) -> None:
        result = jola("assets")
        assert result.code == 0
        assert "smollm2-135m-instruct" in result.out
        assert result.out.count("not fetched") == 2
        assets = jola("assets", "show", "--json").json["assets"]
        assert {asset["name"]: asset["ready"] for asset in assets} == {
            "smollm2-135m-instruct": False,
            "movie-reviews": False,
        }

    def test_removing_what_is_not_there(self, jola: Callable[..., Result]) -> None:
        result = jola("assets", "remove", "movie-reviews")
        assert (result.code, result.out) == (0, "movie-reviews  0.0 MB freed\n")

    @pytest.mark.parametrize("action", ["fetch", "remove"])
    def test_names_that_are_none(self, jola: Callable[..., Result], action: str) -> None:
        assert_refused(jola("assets", action, "nothing"), "There is no asset 'nothing'; known are")


def assert_refused(result: Result, sentence: str) -> None:
    """Exit code 2, nothing on standard output, and one sentence that begins with ``error:`` and ends the output."""
    assert result.code == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    *before, last = result.err.splitlines()
    assert last.startswith("error: ")
    assert last.endswith((".", ".)"))
    assert re.search(sentence, last)
    assert not [line for line in before if not re.match(r"Loading model and data|note: |Training|$", line)]


def bytes_of(text: str) -> bytes:
    return text.encode()


FILES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", r"one\.jsonl is empty"),
    "blank lines": (b"\n\n", r"one\.jsonl is empty"),
    "wrong columns": (
        b'{"text": "x", "label": 1}\n',
        r"Line 1 of .*one\.jsonl: the columns found are text, label, but prompt \+ completion.* is needed",
    ),
    "invalid JSON on line 7": (
        bytes_of(lines(0, 6) + '{"prompt": "x", "completion": \n' + lines(7, 6)),
        r"Line 7 of .*one\.jsonl is not valid JSON",
    ),
    "not UTF-8": (lines(0, 6).replace("film", "café").encode("latin-1"), r"one\.jsonl is not UTF-8 text"),
    "too few": (bytes_of(lines(0, 1)), "are too few to set aside"),
}


class TestBadInput:
    """What a user can do wrong."""

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
            (["--model", "."], "is no model: it has no config.json"),
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
            runs = RunStore().list()
            assert all(run.state == "failed" for run in runs)
        else:
            assert jola(*train(place, *arguments)).code == 0

    def test_an_unknown_architecture(self, jola: Callable[..., Result], place: Path, tmp_path: Path) -> None:
        BloomConfig(hidden_size=8, n_layer=1, n_head=2).save_pretrained(tmp_path / "bloom")
        result = jola(*train(place, "--model", tmp_path / "bloom"))
        assert_refused(result, "bloom is a model of architecture 'bloom', which is not known; known are .*llama")

    def test_a_model_folder_that_is_damaged(self, jola: Callable[..., Result], place: Path, tmp_path: Path) -> None:
        broken = Path(shutil.copytree(place / "tiny", tmp_path / "broken"))
        weights = broken / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        assert_refused(jola(*train(place, "--model", broken)), "The model broken cannot be loaded")
        (broken / "config.json").write_text("{")
        assert_refused(jola(*train(place, "--model", broken)), "The model broken cannot be loaded")

    def test_an_adapter_of_another_model(
        self, jola: Callable[..., Result], run: Run, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        for name, architecture, seed in (("relative", "llama", 1), ("stranger", "gpt2", 0)):
            make_model(architecture, seed).save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)
        relative = jola("evaluate", run.path, "--model", tmp_path / "relative")
        assert_refused(relative, "was trained on .*tiny, and .*relative has the same shape but other weights")
        stranger = jola("generate", "x", "--adapter", run.path, "--model", tmp_path / "stranger")
        assert_refused(stranger, "was trained on .*tiny with .*, but .*stranger has .*")

    def test_adapters_that_are_damaged(self, jola: Callable[..., Result], run: Run, tmp_path: Path) -> None:
        adapter = Path(shutil.copytree(run.adapter_dir, tmp_path / "adapter"))
        weights = adapter / "adapter_model.safetensors"
        tensors = load_file(weights)
        first = next(iter(tensors))
        save_file(tensors | {first: torch.full_like(tensors[first], torch.nan)}, weights)
        assert_refused(jola("generate", "x", "--adapter", adapter), "holds values that are not finite numbers")
        save_file({name: tensor for name, tensor in tensors.items() if name != first}, weights)
        assert_refused(jola("generate", "x", "--adapter", adapter), f"lacks the tensor {first}")
        weights.write_bytes(b"nonsense")
        assert_refused(
            jola("generate", "x", "--adapter", adapter), "adapter_model.safetensors is .*; the adapter is incomplete"
        )
        (adapter / "adapter_config.json").write_text("[]")
        assert_refused(jola("generate", "x", "--adapter", adapter), "is an adapter of type unknown, not JOLA")
        assert_refused(jola("generate", "x", "--adapter", tmp_path / "nowhere"), "is not the id of a run")
        assert_refused(jola("generate", "x", "--adapter", tmp_path), "is not a run directory")

    def test_a_place_for_the_run_that_is_taken(
        self, jola: Callable[..., Result], place: Path, run: Run, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("x")
        assert_refused(jola(*train(place, "--output", tmp_path / "file")), "a file has the name of the run directory")
        assert_refused(jola(*train(place, "--output", tmp_path)), r"holds other files \(file\)")
        assert_refused(jola(*train(place, "--output", run.path)), r"already holds a run \(finished\)")

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
