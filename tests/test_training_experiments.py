"""The experiments on training: their plan, one of its training runs, the policies, and the pages of results."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn, optim
from transformers import get_cosine_schedule_with_warmup

from benchmarks import training_cell
from benchmarks.pages import with_body
from benchmarks.training_experiments import ARMS, BEGIN, DEFAULT_ARM, END, FOLDER, Arm, Cell, bodies, plan
from benchmarks.training_results import Policy, Training, agreement, summarise
from benchmarks.training_tables import overview
from jola import JoLAModel
from jola.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from jola.data.examples import Encoded
from jola.training import run_training


def test_the_pages_say_what_the_stored_files_say() -> None:
    for path, body in bodies(FOLDER).items():
        page = path.read_text("utf-8")
        assert with_body(page, body, BEGIN, END) == page, (
            "run: python -m benchmarks.training_experiments show --markdown"
        )


def test_stored_trainings_are_cells_of_the_plan() -> None:
    names = {(cell.experiment, f"{cell.name}.json") for cell in plan()}
    assert len(names) == len(plan())
    assert {(path.parent.name, path.name) for path in FOLDER.glob("*/*.json")} <= names


# Policies


def training(curve: list[tuple[float, str]], penalties: list[float] | None = None) -> Training:
    """Return a stored training of 100 steps; ``curve``: (validation cross-entropy, correct answers) per epoch."""
    epochs = [
        {
            "step": 100 * (index + 1) // len(curve),
            "penalty": (penalties or [0.0] * len(curve))[index],
            "cross_entropy": loss,
            "correct": correct,
        }
        for index, (loss, correct) in enumerate(curve)
    ]
    data: dict[str, Any] = {
        "arm": "baseline", "seed": 1, "task": "t", "data_seed": 2, "dtype": "float32", "settings": {}, "steps": 100,
        "n": {"validation": len(curve[0][1])}, "epochs": epochs, "averages": {"mean": {**epochs[0], "penalty": 7.0}},
    }  # fmt: skip
    return Training(data)


def test_policies_stop_and_keep_where_they_say() -> None:
    # The rate falls below half of its peak after step 55.
    curve = [(3.0, "00"), (1.0, "01"), (2.0, "01"), (1.5, "11"), (1.2, "11"), (1.1, "01"), (0.5, "01"), (0.9, "01")]
    run = training(curve, [4.0, 3.0, 1.0, 0.5, 0.5, 0.4, 0.4, 0.1])

    def kept(keep: str, patience: int = 0, below: float = 1.0) -> int:
        return Policy("", keep, patience, below).kept(run).step

    assert Policy("", "last", 3).epochs_run(run) == 5
    assert Policy("", "last", 3, 0.5).epochs_run(run) == 5
    assert Policy("", "last", 3, 0.3).epochs_run(run) == 6
    assert Policy("", "last", 2).epochs_run(run) == 4
    assert Policy("", "last").epochs_run(run) == 8
    assert kept("cross_entropy", 3) == 25 and kept("cross_entropy") == 87
    assert kept("objective", 3) == 62 and kept("objective") == 87
    assert kept("accuracy") == 62 and kept("accuracy", 2) == 50
    assert kept("accuracy-later", 3) == 62 and kept("accuracy-later", 2) == 50 and kept("accuracy-later") == 62
    assert kept("last") == 100
    assert Policy("", "mean").kept(run).penalty == 7.0


def test_what_is_kept_is_scored_on_held_out_examples() -> None:
    run = training([(2.0, "10"), (1.0, "10")])
    run.data["held_out"] = {
        "epoch-1": {"correct": 3, "n": 4, "cross_entropy": 5.0},
        "epoch-2": {"correct": 1, "n": 4, "cross_entropy": 6.0},
    }
    assert [epoch.accuracy for epoch in run.epochs] == [0.5, 0.5]
    assert run.held_out(Policy("", "last")) == (0.25, 6.0)


def test_the_rate_is_that_of_the_scheduler() -> None:
    run = training([(1.0, "1")])
    optimizer = optim.SGD([nn.Parameter(nn.Linear(1, 1).weight)], lr=1.0)
    scheduler = get_cosine_schedule_with_warmup(optimizer, 10, 100)
    for step in range(100):
        assert run.rate(step) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_intervals_are_those_of_student() -> None:
    found = summarise([0.8, 0.9, 1.0])
    assert (found.n, found.worst) == (3, 0.8)
    assert found.mean == pytest.approx(0.9) and found.deviation == pytest.approx(0.1)
    # t(0.975, 2) = 4.3027
    assert found.low == pytest.approx(0.9 - 4.30265 * 0.1 / math.sqrt(3), abs=1e-5)
    assert summarise([0.7]).low is None


def test_agreement_counts_open_gates_and_ranks() -> None:
    found = agreement([3.0, 2.0, -3.0, -4.0], [3.0, -2.5, -2.0, -4.0])
    assert found.spearman == pytest.approx(0.8) and found.jaccard == pytest.approx(1 / 3)
    # Two random pairs out of four share 0, 1 or 2 with probabilities 1/6, 4/6, 1/6.
    assert found.chance == pytest.approx(4 / 6 / 3 + 1 / 6)
    assert math.isnan(agreement([1.0, 1.0], [1.0, 2.0]).spearman)


def scored(arm: str, seed: int, task: str, held_out: int, test: int) -> Training:
    """Return a training of one epoch with a quarter of the offset gates open, 10 held-out and 20 test examples."""
    run = training([(1.0, "1")])
    changes = {"arm": arm, "seed": seed, "task": task, "phi": {} if arm == "no-gates" else {"offset": [0.0] * 4}}
    changes["epochs"] = [{**run.data["epochs"][0], "open": {"offset": 1}}]
    changes["n"] = {"train": 5, "validation": 1}
    for part, correct, n in (("held_out", held_out, 10), ("test", test, 20)):
        scores = {"correct": correct, "n": n, "cross_entropy": 1.0}
        changes[part] = {"epoch-1": scores, "mean": scores}
    return Training(run.data | changes)


def test_what_gates_cost_is_paired_by_seed_and_averaged_over_tasks() -> None:
    runs = [scored(DEFAULT_ARM, seed, "a", 5, 10 + seed) for seed in (1, 2, 3)]
    runs += [scored("no-gates", seed, "a", 5 + seed, 10) for seed in (1, 2)]
    runs += [scored(arm, seed, "b", 8, 20) for arm in (DEFAULT_ARM, "no-gates") for seed in (1, 2)]
    page = overview(runs, {DEFAULT_ARM: "defaults", "no-gates": "no gates"})
    rows = [line.strip("| ").split(" | ") for line in page.splitlines()]
    test = [row for row in rows if row[:3] == ["a", "float32", f"`{DEFAULT_ARM}`"]]
    # Accuracies 0.55, 0.6 and 0.65.
    assert test[0][3:] == ["3", "0.600 (0.476 to 0.724)", "0.050", "0.55", "0.050", "75 % / –", "0.550, 0.600, 0.650"]
    costs = {(row[0], row[2]): row[3:] for row in rows if len(row) == 5 and row[1] == "float32"}
    interval = summarise([-0.1, -0.2])
    assert costs["a", "held out"] == ["2", f"-0.150 ({interval.low:+.3f} to {interval.high:+.3f})"]
    assert costs["a", "test"][1].startswith("+0.075 (")
    assert costs["b", "test"] == ["2", "+0.000 (+0.000 to +0.000)"]
    assert costs["mean of 2 tasks", "held out"][1].startswith("-0.075 (")
    over_tasks = summarise([0.15, 0.0])
    (changes,) = [row[1:] for row in rows if row[0] == "no gates (`no-gates`)"]
    assert changes == [
        "float32",
        "2 (4)",
        f"+0.075 ({over_tasks.low:+.3f} to {over_tasks.high:+.3f})",
        "a +0.150, b +0.000",
        "– / –",
        "75 % / –",
    ]


# Training


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task with 5 validation examples and 7 more that are held out."""
    monkeypatch.setattr(training_cell, "VALIDATION", 5)
    folder = tmp_path / "task"
    folder.mkdir()
    for part, count in (("train", 20), ("validation", 12), ("test", 4)):
        labels = ("warm", "cold")
        rows = [{"instruction": f"{part} {n}: {' or '.join(labels)}?", "answer": labels[n % 2]} for n in range(count)]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_training_stores_what_policies_need(task: Path, tiny_folder: Path, tmp_path: Path) -> None:
    arm = Arm("", {"epochs": 3, "train_size": 16}, clip="apart", adam=(0.9, 0.99, 1e-6))
    cell = Cell("e", str(task), 3, "baseline", 4, "float32")
    result = training_cell.train(cell, arm, tmp_path / "states", str(tiny_folder))
    assert result["n"] == {"train": 16, "validation": 5}
    assert [epoch["step"] for epoch in result["epochs"]] == [4, 8, 12]
    for found in (*result["epochs"], *result["averages"].values()):
        assert len(found["nll"]) == len(found["correct"]) == 5
        assert found["cross_entropy"] == pytest.approx(sum(found["nll"]) / 5, abs=0.01)
    states = {path.stem for path in (tmp_path / "states").iterdir()}
    assert states >= {"epoch-1", "epoch-3", "mean"}
    assert {half: len(phi) for half, phi in result["phi"].items()} == {"offset": 12, "scale": 12}
    assert result["levers"] == {"clip": "apart", "adam": (0.9, 0.99, 1e-6)}
    names = ["epoch-2", "mean"]
    tested = training_cell.score_test(cell, arm, tmp_path / "states", names, str(tiny_folder))
    assert {name: found["n"] for name, found in tested.items()} == dict.fromkeys(names, 4)
    # 7 other validation examples, and the 4 examples of the training part that are left.
    held_out = training_cell.score_held_out(cell, arm, tmp_path / "states", names, str(tiny_folder))
    assert {name: found["n"] for name, found in held_out.items()} == dict.fromkeys(names, 7 + 4)


def test_with_one_seed_the_default_arm_is_what_jola_train_does(task: Path, tiny_folder: Path, tmp_path: Path) -> None:
    cell = Cell("e", str(task), 4, DEFAULT_ARM, 4, "float32")
    arm = replace(ARMS[DEFAULT_ARM], settings={**ARMS[DEFAULT_ARM].settings, "epochs": 2, "train_size": 16})
    training_cell.train(cell, arm, tmp_path / "states", str(tiny_folder))
    run = run_training(
        RunConfig(
            model=ModelConfig(str(tiny_folder), dtype="float32"),
            data=DataConfig(task=str(task), train_size=16, validation_size=5),
            training=TrainingConfig(epochs=2, patience=0, keep="last", seed=4, output=str(tmp_path / "run")),
        )
    )
    for site, edits in JoLAModel.from_adapter(run.adapter_dir).interventions.named_children():
        trained = edits.state_dict()
        stored = load_file(tmp_path / "states" / "epoch-2.safetensors")
        assert {f"{site}.{name}" for name in trained} == set(stored)
        for name, values in trained.items():
            torch.testing.assert_close(values, stored[f"{site}.{name}"])


def test_clipping_apart_clips_each_group_to_the_norm(tiny: Callable[..., JoLAModel], tmp_path: Path) -> None:
    norms = {}
    for clip in ("together", "apart"):
        model = tiny()
        observer = training_cell.Observer(model, [], tmp_path, clip, 1.0)
        for name, size in (("edits", 30.0), ("gates", 4.0)):
            count = sum(parameter.numel() for parameter in observer.groups[name])
            for parameter in observer.groups[name]:
                parameter.grad = torch.full_like(parameter, size / count**0.5)
        observer.on_pre_optimizer_step(*[None] * 3)
        norms[clip] = [float(torch.cat([p.grad.flatten() for p in group]).norm()) for group in observer.groups.values()]
        assert observer.norms == {"edits": [pytest.approx(30.0)], "gates": [pytest.approx(4.0)]}
    assert norms["apart"] == pytest.approx([1.0, 1.0], rel=1e-4)
    assert norms["together"] == pytest.approx([30 / 916**0.5, 4 / 916**0.5], rel=1e-4)


def test_one_pass_says_what_greedy_decoding_would_answer(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny()
    prompts = torch.randint(3, 100, (5, 9), generator=torch.Generator().manual_seed(0))
    answers = model.generate(prompts, max_new_tokens=4, do_sample=False, eos_token_id=-1)
    rows = []
    for number, ids in enumerate(answers.tolist()):
        place = 8 + number  # each token of the answer in turn; the first row stays as it is
        changed = [*ids[:place], 101, *ids[place + 1 :]] if number else ids
        rows.append(Encoded(changed, 9))
    nll, correct = training_cell.score_answers(model, rows, batch_size=4)
    assert correct == [True, False, False, False, False]
    labels = torch.tensor(rows[2].input_ids)[None]
    own = model(labels, labels=labels.where(torch.arange(13) >= 9, -100), reduction="answer").loss
    assert nll[2] == pytest.approx(float(own), rel=1e-4)
