"""Two processes train, validate and test together, with the results of one process."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jola.config import EditConfig, RunConfig
from jola.data.examples import Template
from jola.data.tasks import load_task
from jola.errors import InputError
from jola.evaluation.answering import answer_examples, answer_together
from jola.jola_model import JoLAModel
from jola.methods.houlsby import HoulsbyConfig
from jola.methods.lora import LoRAConfig
from jola.runs.run import Run
from jola.system import distributed
from jola.system.progress import Stopped
from jola.training.run import run_training
from tests import ROOT
from tests.jola.training.printed import summaries
from tests.jola.training.tiny_runs import TOGETHER, Place, environment, tensors

METHODS = {"lora": LoRAConfig(rank=2, dropout=0.0), "houlsby": HoulsbyConfig(reduction_factor=4)}
RUNS = ("jola", "ungated", *METHODS)
"""Training runs of the two processes, in order."""
# In one process, the same examples are in the batches of two accumulated steps.
COMMON = {"max_grad_norm": 0.0, "epochs": 2}


def settings(place: Place, method: str, output: Path, **training: Any) -> RunConfig:
    config = dataclasses.replace(place.settings(output, **COMMON | training), method=method, edits=METHODS[method])
    config.data.test_size = 5  # which two processes cannot share evenly
    return config


@dataclass(frozen=True)
class Together:
    """Results of two processes that ran several commands one after the other."""

    folder: Path
    printed: list[dict[str, Any]]


@pytest.fixture(scope="module")
def together(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Together:
    """Runs of two processes, and a test of one of them."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "train.py").write_text(TOGETHER)
    gated = place.settings(folder / "jola", l0_schedule="performance", settle_ratio=0.4)
    ungated = place.settings(folder / "ungated", EditConfig(gates="none"), max_grad_norm=0.0)
    commands = [["train", "--json", *config.flags()] for config in (gated, ungated)]
    commands += [
        ["train", "--json", "--method", name, *settings(place, name, folder / name).flags()] for name in METHODS
    ]
    commands.append(["evaluate", str(folder / "lora"), "--base", "--dtype", "float32", "--device", "cpu", "--json"])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(folder / "train.py"), str(folder), *("|".join(arguments) for arguments in commands)]
    done = subprocess.run(
        command, env=environment(JOLA_HOME=str(folder / "home")), cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return Together(folder, summaries(done.stdout))


def test_restarts_of_two_processes(place: Place, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "jola"]
    flags = place.settings(tmp_path / "run", epochs=1).flags()
    done = subprocess.run(
        [*command, "train", "--json", "--restarts", "1", *flags],
        env=environment(JOLA_HOME=str(tmp_path / "home")), cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (summary,) = summaries(done.stdout)
    assert [Path(run["run"]).name for run in summary["runs"]] == ["run", "run-2"]
    assert [Run.open(run["run"]).state for run in summary["runs"]] == ["finished"] * 2


class TestTogether:
    def test_one_directory_and_one_line_for_each_run(self, together: Together) -> None:
        found = together.printed[: len(RUNS)]
        assert [Path(summary["run"]).name for summary in found] == list(RUNS)
        for summary in found[:2]:
            run = Run.open(summary["run"])
            assert run.state == "finished"
            # Two processes with four examples each: three steps per epoch.
            assert [e["step"] for e in run.metrics() if "loss" in e] == list(range(1, 10))
            assert run.gates().steps.tolist() == list(range(10))
            assert summary["test"]["n"] == 6
            result = run.result()
            assert result is not None
            assert result["n_train"] == 24
        folders = {path.name for path in together.folder.iterdir() if path.is_dir()}
        assert folders <= {*RUNS, "home"}
        assert not (together.folder / "home" / "runs").exists()

    def test_both_processes_end_with_the_same_edits(self, together: Together) -> None:
        for number, name in enumerate(("jola", "ungated"), 1):
            first, second = (load_file(together.folder / f"{number}-{rank}.safetensors") for rank in (0, 1))
            assert first
            assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
            kept = tensors(Run.open(together.folder / name))
            assert all(torch.equal(t, kept["heads." + n.removeprefix("interventions.0.")]) for n, t in first.items())

    def test_together_they_learn_what_one_does_from_the_same_batches(
        self, together: Together, place: Place, tmp_path: Path
    ) -> None:
        config = place.settings(tmp_path / "run", EditConfig(gates="none"), max_grad_norm=0.0, gradient_accumulation=2)
        one, two = run_training(config), Run.open(together.folder / "ungated")
        alone, joint = tensors(one), tensors(two)
        for name, tensor in alone.items():
            torch.testing.assert_close(joint[name], tensor, rtol=1e-2, atol=1e-4)
        for name in ("loss", "cross_entropy", "validation_cross_entropy"):
            values = [[entry[name] for entry in run.metrics() if name in entry] for run in (one, two)]
            assert values[0] == pytest.approx(values[1], rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
class TestMethods:
    def test_both_processes_end_with_the_same_edits(self, method: str, together: Together) -> None:
        number = RUNS.index(method) + 1
        first, second = (load_file(together.folder / f"{number}-{rank}.safetensors") for rank in (0, 1))
        assert first
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())

    def test_they_learn_what_one_learns_from_the_same_batches(
        self, method: str, together: Together, place: Place, tmp_path: Path
    ) -> None:
        one = run_training(settings(place, method, tmp_path / "run", gradient_accumulation=2))
        two = Run.open(together.folder / method)
        expected, found = tensors(one), tensors(two)
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-2, atol=1e-4)
        for measure in ("loss", "validation_cross_entropy", "validation_accuracy"):
            values = [[entry[measure] for entry in run.metrics() if measure in entry] for run in (one, two)]
            assert values[0] == pytest.approx(values[1], rel=1e-3)
            assert values[0]


class TestAnswers:
    def test_all_examples_are_answered_once_and_as_by_one_process(self, together: Together, place: Place) -> None:
        for method in METHODS:
            run = Run.open(together.folder / method)
            task = load_task(run.run_config().data, run.run_config().training.seed)
            model = JoLAModel.from_adapter(run.adapter_dir, model=place.model, dtype="float32", device="cpu")
            template = Template(model.tokenizer, run.run_config().data.template)
            expected = answer_examples(model, task.test, template, task.labels, max_new_tokens=task.max_new_tokens)
            assert [(a.id, a.answer) for a in run.answers()] == [(a.id, a.answer) for a in expected]
            assert len(expected) == 5

    def test_evaluate_prints_once_and_counts_all(self, together: Together) -> None:
        assert len(together.printed) == len(RUNS) + 1
        evaluated = together.printed[len(RUNS)]
        assert evaluated["edited"]["exact_match"]["n"] == evaluated["base"]["exact_match"]["n"] == 5
        tested = Run.open(together.folder / "lora").result()
        assert tested is not None
        assert evaluated["edited"]["exact_match"]["accuracy"] == tested["test"]["accuracy"]


def test_a_stop_in_the_progress_leaves_no_answers(place: Place) -> None:
    model = JoLAModel.from_pretrained(place.model, dtype="float32")
    config = settings(place, "lora", Path("unused"))
    task = load_task(config.data, 0)
    told = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        raise Stopped

    template = Template(model.tokenizer, "plain")
    assert answer_together(model, task.test, template, task.labels, progress=stop) is None
    assert told == [(5, 5)]


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_shares_are_joined_in_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    items, processes = list(range(count)), 3
    monkeypatch.setattr(distributed, "processes", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(distributed.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(distributed.share(items))

    def gather(into: list[Any], mine: Any) -> None:
        into[:] = shares

    monkeypatch.setattr(distributed.distributed, "all_gather_object", gather)
    assert distributed.joined(shares[0]) == items
    shares[1] = None
    assert distributed.joined(shares[0]) is None


def test_a_device_map_needs_a_single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from jola.cli.common import Loading
    from jola.cli.evaluate import evaluate

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--device-map spreads one process"):
        evaluate("some-run", loading=Loading(device_map="auto"))
