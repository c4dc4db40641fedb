"""Two processes with half of the frozen model each have the results of one process with the whole model."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from jola.adapters.directory import CONFIG_NAME
from jola.cli.main import main
from jola.config import ModelConfig, RunConfig, TrainingConfig
from jola.data.examples import Example, Message, Template
from jola.data.tasks import load_task
from jola.errors import InputError
from jola.evaluation.answering import answer_examples
from jola.jola_model import JoLAModel
from jola.runs.run import Run
from jola.training.run import run_training
from tests import ROOT
from tests.jola.training.printed import summaries
from tests.jola.training.sharded import PASSES
from tests.jola.training.tiny_runs import Place, assert_equal_runs, environment, tensors
from tests.methods.contract import case_of

METHODS = ("jola", "lora", "repe")
# In one process, the same examples are in the batches of two accumulated steps.
COMMON: dict[str, Any] = {"max_grad_norm": 0.0, "epochs": 2}


def settings(place: Place, method: str, output: Path, *, sharded: bool, **training: Any) -> RunConfig:
    case, config = case_of(method), place.settings(output, **COMMON | training)
    edits = case.fitted_with or case.settings
    if method == "lora":
        edits = dataclasses.replace(edits, dropout=0.0)
    config = dataclasses.replace(config, method=method, edits=edits)
    config.data.test_size = 5  # which two processes cannot share evenly
    config.model.shard_base = sharded
    return config


@dataclass(frozen=True)
class Together:
    folder: Path
    passes: dict[str, list[dict[str, Any]]]
    printed: list[dict[str, Any]]


@pytest.fixture(scope="module")
def together(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Together]:
    """Results of two processes: passes, trained and resumed runs, tests and answers."""
    folder = tmp_path_factory.mktemp("together")
    jobs = [
        ["done", "train", "--json", *settings(place, name, folder / name, sharded=True).flags()] for name in METHODS
    ]
    ended = settings(place, "jola", folder / "ended", sharded=True).flags()
    jobs += [["ended", "train", "--json", *ended], ["done", "train", "--json", "--resume", *ended]]
    jobs.append(["ended", "train", "--json", *settings(place, "jola", folder / "left", sharded=True).flags()])
    tiny = ["--dtype", "float32", "--device", "cpu", "--shard-base", "--json"]
    jobs.append(["done", "evaluate", str(folder / "lora"), "--base", *tiny])
    jobs.append(["done", "generate", "-", "--adapter", str(folder / "jola"), "--max-new-tokens", "6", *tiny])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.jola.training.sharded", str(folder / "passes.json"), *map("|".join, jobs)]
    done = subprocess.run(
        command, input="Is film 3 good?",  # for `jola generate -`
        env=environment(JOLA_HOME=str(folder / "home")), cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not supported" not in done.stderr
    yield Together(folder, json.loads((folder / "passes.json").read_text()), summaries(done.stdout))


@pytest.mark.parametrize(("case", "architecture"), PASSES, ids=lambda each: getattr(each, "name", each))
def test_passes_are_those_of_the_whole_model(case: Any, architecture: str, together: Together) -> None:
    whole, *sharded = together.passes[f"{case.name} {architecture}"]
    for found in sharded:
        assert 0.5 <= found["part"] < 0.55  # parts of weights that do not divide evenly are padded
        assert found["answer"] == whole["answer"]
        if case.by_gradients:
            assert found["loss"] == pytest.approx(whole["loss"], rel=1e-6)
            assert found["gradients"].keys() == whole["gradients"].keys()
            for name, gradient in whole["gradients"].items():
                torch.testing.assert_close(torch.tensor(found["gradients"][name]), torch.tensor(gradient))


@pytest.mark.parametrize("method", METHODS)
def test_runs_are_those_of_one_process(method: str, together: Together, place: Place, tmp_path: Path) -> None:
    one = run_training(settings(place, method, tmp_path / "run", sharded=False, gradient_accumulation=2))
    two = Run.open(together.folder / method)
    assert two.state == "finished" and two.run_config().model.shard_base
    expected, found = tensors(one), tensors(two)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=1e-4)
    descriptions = [json.loads((run.adapter_dir / CONFIG_NAME).read_text()) for run in (one, two)]
    assert descriptions[0] == descriptions[1]
    for measure in ("loss", "validation_cross_entropy", "validation_accuracy"):
        values = [[entry[measure] for entry in run.metrics() if measure in entry] for run in (one, two)]
        assert values[0] == pytest.approx(values[1], rel=1e-3)
    task = load_task(two.run_config().data, two.run_config().training.seed)
    model = JoLAModel.from_adapter(two.adapter_dir, model=place.model, dtype="float32", device="cpu")
    template = Template(model.tokenizer, two.run_config().data.template)
    answers = answer_examples(model, task.test, template, task.labels, max_new_tokens=task.max_new_tokens)
    assert [(a.id, a.answer) for a in two.answers()] == [(a.id, a.answer) for a in answers]
    assert len(answers) == 5


def test_a_resumed_run_is_an_uninterrupted_one(together: Together) -> None:
    assert_equal_runs(Run.open(together.folder / "ended"), Run.open(together.folder / "jola"))


def test_one_process_resumes_a_sharded_run(together: Together, place: Place) -> None:
    config = settings(place, "jola", together.folder / "left", sharded=False, gradient_accumulation=1)
    assert Run.open(together.folder / "left").run_config().model.shard_base
    run = run_training(config, resume=True)
    assert run.state == "finished" and run.answers()
    assert not run.run_config().model.shard_base


def test_commands_print_once(together: Together, place: Place) -> None:
    *trained, evaluated, generated = together.printed
    assert [Path(each["run"]).name for each in trained] == [*METHODS, "ended"]
    assert evaluated["edited"]["exact_match"]["n"] == evaluated["base"]["exact_match"]["n"] == 5
    model = JoLAModel.from_adapter(
        together.folder / "jola" / "adapter", model=place.model, dtype="float32", device="cpu"
    )
    template = Template(model.tokenizer, "auto")
    ids = torch.tensor([template.encode_prompt(Example((Message("user", "Is film 3 good?"),), ""))])
    tokens = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=template.end_token_ids)
    answer = model.tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True)
    assert generated["edited"] == str(answer).strip()
    assert set(generated) == {"prompt", "base", "edited"}


def test_an_error_inside_a_layer_ends_all_processes(place: Place, tmp_path: Path) -> None:
    """The other processes wait inside that layer: a process that waited for them would wait forever."""
    config = settings(place, "repe", tmp_path / "run", sharded=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.jola.training.broken", "train", *config.flags()]
    home = environment(JOLA_HOME=str(tmp_path / "home"))
    done = subprocess.run(command, env=home, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "no memory for this layer" in done.stderr
    assert Run.open(tmp_path / "run").state == "failed"


class TestRefusals:
    def test_one_process(self) -> None:
        with pytest.raises(InputError, match="there is only one; start jola with torchrun --nproc-per-node N -m jola"):
            JoLAModel.from_pretrained(shard_base=True)
        with pytest.raises(InputError, match="but there is only one"):
            run_training(RunConfig(model=ModelConfig(shard_base=True)))

    def test_resuming_in_one_process_leaves_the_run_as_it_was(self, tmp_path: Path) -> None:
        run = Run.create(tmp_path / "run", RunConfig(model=ModelConfig(shard_base=True)))
        run.write_status(state="cancelled")
        config = RunConfig(model=ModelConfig(shard_base=True), training=TrainingConfig(output=str(run.path)))
        with pytest.raises(InputError, match="but there is only one"):
            run_training(config, resume=True)
        assert run.state == "cancelled"

    def test_settings_of_the_run_that_exclude_sharding(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = Run.create(tmp_path / "run", RunConfig(model=ModelConfig(quantize="4bit")))
        run.write_status(state="cancelled")
        config = RunConfig(model=ModelConfig(shard_base=True), training=TrainingConfig(output=str(run.path)))
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr("jola.training.run.meet", lambda on_cpu: True)
        with pytest.raises(InputError, match="does not divide weights in 4bit"):
            run_training(config, resume=True)
        assert run.state == "cancelled"

    def test_other_placements(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InputError, match="in 4bit; leave out --shard-base, or use --quantize none"):
            run_training(RunConfig(model=ModelConfig(shard_base=True, quantize="4bit")))
        with pytest.raises(InputError, match="both place the weights; leave one of them out"):
            run_training(RunConfig(model=ModelConfig(shard_base=True, device_map="auto")))

    def test_a_quantized_checkpoint(self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copytree(place.model, tmp_path / "quantized")
        file = tmp_path / "quantized" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": "fp8"}}))
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr("jola.model.loading.meet", lambda on_cpu: True)
        with pytest.raises(InputError, match=r"is quantized \(quantization_config in its config"):
            JoLAModel.from_pretrained(str(tmp_path / "quantized"), dtype="float32", device="cpu", shard_base=True)

    @pytest.mark.parametrize("launched", ["1", "2"])
    def test_kept_answers_are_scored_in_one_process(
        self, launched: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", launched)
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "run", "--metrics", "bleu", *(["--shard-base"] if launched == "1" else [])])
        assert ended.value.code == 2
        assert "leave out --shard-base, and start jola without a launcher" in capsys.readouterr().err

    @pytest.mark.parametrize("command", [["evaluate", "run"], ["generate", "text", "--adapter", "run"], ["train"]])
    def test_the_command_line(self, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            main([*command, "--shard-base"])
        assert ended.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
