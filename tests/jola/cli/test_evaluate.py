"""``jola evaluate`` and ``jola generate``."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from jola.config import RunConfig
from jola.data.records import Example
from jola.data.tasks import load_task
from jola.insight import layer_changes
from jola.remote import RemoteModel
from jola.runs.run import Run
from tests.jola.cli.commands import Result, assert_refused, lines, train
from tests.tiny import make_model


def with_own_answers(run: Run, folder: Path) -> Run:
    """Return a copy of a run whose answers have no base answers and no log-likelihoods."""
    own = Run(shutil.copytree(run.path, folder / "own"))
    nothing = {"base_answer": None, "log_likelihoods": None, "base_log_likelihoods": None}
    own.write_answers([replace(answer, **nothing) for answer in own.answers()])
    return own


class TestEvaluate:
    def test_edited_base_and_options(self, jola: Callable[..., Result], run: Run) -> None:
        result = jola("evaluate", run.path, "--base", "--json")
        assert result.code == 0
        content = result.json
        assert content["adapter"] == str(run.adapter_dir)
        assert content["task"] == "task"
        for name in ("edited", "base"):
            assert set(content[name]) == {"exact_match", "first_label", "options"}
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
        assert set(result.json["edited"]) == {"exact_match", "first_label"}
        assert result.json["edited"]["exact_match"]["n"] == 2
        assert "base" not in result.json

    @pytest.mark.parametrize("size", [0, 20])
    def test_a_larger_test_part_has_no_examples_of_the_training(
        self, jola: Callable[..., Result], place: Path, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "one.jsonl").write_text(lines(0, 80))
        sizes = ["--test-size", 5, "--validation-size", 5, "--train-size", 60, "--output", tmp_path / "run"]
        assert jola(*train(place, "--task", tmp_path / "one.jsonl", *sizes)).code == 0
        own = load_task(Run.open(tmp_path / "run").run_config().data, 42)
        monkeypatch.chdir(tmp_path)
        tested: list[Example] = []
        monkeypatch.setattr(
            "jola.insight.layer_changes", lambda model, test, **more: tested.extend(test) or layer_changes(model, test)
        )
        # The same task under another name.
        layers = jola("evaluate", tmp_path / "run", "--task", "one.jsonl", "--test-size", size, "--layers")
        assert layers.code == 0, layers.err
        assert set(own.test) < set(tested) and not set(tested) & {*own.train, *own.validation}
        result = jola("evaluate", tmp_path / "run", "--test-size", size, "--json")
        assert result.json["edited"]["exact_match"]["n"] == len(tested)
        assert f"note: {20 - len(tested)} of these test examples are left out" in result.err

    def test_the_id_of_a_run(self, jola: Callable[..., Result], run: Run, home: Path) -> None:
        shutil.copytree(run.path, home / "runs" / "my-run")
        assert jola("evaluate", "my-run", "--no-options", "--json").json["edited"]["exact_match"]["n"] == 6

    def test_a_table_for_people(self, jola: Callable[..., Result], run: Run) -> None:
        result = jola("evaluate", run.path, "--base")
        assert result.code == 0
        header, *rows = result.out.splitlines()
        assert header.split() == ["model", "measure", "score"]
        assert [row.split()[0] for row in rows] == ["edited"] * 3 + ["base"] * 3
        assert all(re.search(r"\d\.\d{3} \(n = 6, 95 % interval \d\.\d{3}–\d\.\d{3}\)", row) for row in rows)

    def test_metrics_are_added_from_kept_answers_without_a_model(
        self, jola: Callable[..., Result], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = with_own_answers(run, tmp_path)
        before = own.result() or {}
        monkeypatch.delattr("jola.jola_model.JoLAModel.from_adapter")
        result = jola("evaluate", own.path, "--metrics", "rouge_l", "exact_match", "--json")
        assert result.code == 0
        assert result.json["edited"]["exact_match"] == before["test"]
        after = own.result() or {}
        assert [score["metric"] for score in after["scores"]] == ["exact_match", "first_label", "rouge_l"]
        assert after["scores"][2] == result.json["edited"]["rouge_l"] and after["scores"][2]["n"] == 6
        assert {name: value for name, value in after.items() if name != "scores"} == {
            name: value for name, value in before.items() if name != "scores"
        }
        text = jola("evaluate", own.path, "--metrics", "rouge_l", "--first-reference").out
        assert re.search(r"edited +rouge l first reference +\d\.\d{3} \(n = 6", text)
        assert (
            jola("runs", "show", own.path, "--json").json["result"]["scores"][3]["metric"].endswith("_first_reference")
        )

    def test_answers_without_edits_are_kept_with_the_run(
        self, jola: Callable[..., Result], run: Run, tmp_path: Path
    ) -> None:
        own = with_own_answers(run, tmp_path)
        assert_refused(jola("evaluate", own.path, "--metrics", "exact_match", "--base"), "needs answers without edits")
        tested = jola("evaluate", own.path, "--base", "--dtype", "float32", "--json")
        assert "now stored with the run" in tested.err
        kept = own.answers()
        assert [answer.answer for answer in kept] == [answer.answer for answer in run.answers()]
        assert all(len(answer.base_log_likelihoods or ()) == len(answer.log_likelihoods or ()) == 2 for answer in kept)
        again = jola("evaluate", own.path, "--metrics", "exact_match", "options", "--base", "--json").json
        for name in ("edited", "base"):
            assert again[name] == {metric: tested.json[name][metric] for metric in ("exact_match", "options")}

    @pytest.mark.parametrize(
        ("flags", "dtype"), [(["--dtype", "bfloat16"], "float32"), (["--dtype", "float32"], "bfloat16")]
    )
    def test_answers_of_another_computation_are_not_kept(
        self, jola: Callable[..., Result], run: Run, tmp_path: Path, flags: list[str], dtype: str
    ) -> None:
        """Otherwise, the answers with and without edits of a run would differ by more than the edits."""
        own = with_own_answers(run, tmp_path)
        settings = own.raw_config()
        settings["model"]["dtype"] = dtype
        (own.path / "config.json").write_text(json.dumps(settings))
        tested = jola("evaluate", own.path, "--base", *flags)
        assert tested.code == 0 and f"own answers were computed with --dtype {dtype} --quantize none" in " ".join(
            tested.err.split()
        )
        assert all(answer.base_answer is None for answer in own.answers())

    def test_metrics_that_cannot_be_computed(self, jola: Callable[..., Result], run: Run, tmp_path: Path) -> None:
        own = with_own_answers(run, tmp_path)
        assert_refused(jola("evaluate", own.path, "--metrics", "blue"), "There is no metric 'blue'")
        assert_refused(jola("evaluate", own.path, "--metrics", "options"), "needs the log-likelihoods of options")
        assert_refused(jola("evaluate", own.path, "--task", "x", "--metrics", "bleu"), "leave --task out")
        (own.path / "answers.jsonl").unlink()
        assert_refused(jola("evaluate", own.path, "--metrics", "bleu"), "has no stored answers; leave --metrics out")

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


class TestBadAdapters:
    """Adapters that do not fit the model, or that are damaged."""

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
        assert_refused(jola("generate", "x", "--adapter", adapter), "contains values that are not finite")
        save_file({name: tensor for name, tensor in tensors.items() if name != first}, weights)
        assert_refused(jola("generate", "x", "--adapter", adapter), f"lacks the tensor {first}")
        weights.write_bytes(b"nonsense")
        assert_refused(
            jola("generate", "x", "--adapter", adapter), "adapter_model.safetensors is .*; the adapter is incomplete"
        )
        (adapter / "adapter_config.json").write_text("[]")
        assert_refused(jola("generate", "x", "--adapter", adapter), "of type unknown, not one of JoLA Workbench")
        assert_refused(jola("generate", "x", "--adapter", tmp_path / "nowhere"), "is not a valid run id")
        assert_refused(jola("generate", "x", "--adapter", tmp_path), "is not a run directory")


class TestNextTokens:
    def test_table_and_json(self, jola: Callable[..., Result], run: Run) -> None:
        found = jola("generate", "A fine film.", "--adapter", run.path, "--next-tokens", "3", "--json").json
        tokens = found["next_tokens"]
        assert len(tokens) == 3 and found["kl_nats"] > 0
        assert all(0 < token["base"] < 1 and token["base"] != token["edited"] for token in tokens)
        shown = jola("generate", "A fine film.", "--adapter", run.path, "--next-tokens", "3").out
        assert all(f"{token['edited']:.4f}" in shown for token in tokens)
        assert f"{found['kl_nats']:.4f} nats" in shown

    def test_none(self, jola: Callable[..., Result], run: Run) -> None:
        result = jola("generate", "x", "--adapter", run.path, "--next-tokens", "0")
        assert_refused(result, "--next-tokens is 0; it must be at least 1")


class TestRemote:
    @pytest.fixture
    def simulated(self, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        """Set an API key, and run requests in this process with the tiny model."""
        load = RemoteModel.from_adapter.__func__

        def from_adapter(cls: Any, adapter: Path, *, model: str | None) -> RemoteModel:
            assert model in (None, "owner/name")
            return load(cls, adapter, model=str(place / "tiny"), simulate=True)

        monkeypatch.setenv("NDIF_API_KEY", "a key")
        monkeypatch.setattr(RemoteModel, "from_adapter", classmethod(from_adapter))

    @pytest.mark.usefixtures("simulated")
    def test_equals_local_results(self, jola: Callable[..., Result], run: Run) -> None:
        remote = ["--remote", "--model", "owner/name", "--json"]
        here = ["--dtype", "float32", "--json"]
        answer = ["generate", "A fine film.", "--adapter", run.path, "--max-new-tokens", "4"]
        found = jola(*answer, *remote)
        assert found.json == jola(*answer, *here).json
        assert "note: Prompts and edits leave this machine" in " ".join(found.err.split())
        tested = ["evaluate", run.path, "--base"]
        found = jola(*tested, *remote)
        assert found.json == jola(*tested, *here).json
        assert "note: Prompts and edits leave this machine" in " ".join(found.err.split())

    @pytest.mark.usefixtures("simulated")
    def test_answers_are_not_kept(self, jola: Callable[..., Result], run: Run, tmp_path: Path) -> None:
        own = with_own_answers(run, tmp_path)
        tested = jola("evaluate", own.path, "--base", "--remote")
        assert tested.code == 0 and "its own answers were computed on this machine" in " ".join(tested.err.split())
        assert all(answer.base_answer is None for answer in own.answers())

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            ([], "Remote models need an API key of NDIF; get one at https://ndif.us and set NDIF_API_KEY to it"),
            (["--device", "cpu"], "NDIF decides how it runs a model; leave out --dtype, --device"),
        ],
    )
    def test_refusals(
        self,
        jola: Callable[..., Result],
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        sentence: str,
    ) -> None:
        monkeypatch.delenv("NDIF_API_KEY", raising=False)
        assert_refused(jola("generate", "x", "--adapter", run.path, "--remote", *arguments), sentence)

    def test_only_tests(self, jola: Callable[..., Result], run: Run) -> None:
        assert_refused(jola("evaluate", run.path, "--remote", "--layers"), "--remote tests an adapter on a task")
