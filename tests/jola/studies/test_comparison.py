"""Select-then-edit, the gate swap, and whole comparisons."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from filelock import FileLock

from jola.adapters.directory import load_edits, read_edits
from jola.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from jola.data.examples import Template
from jola.data.tasks import load_task
from jola.errors import InputError
from jola.evaluation.scoring import exact_match
from jola.jola_model import JoLAModel
from jola.selectors import SELECTORS, Cost, HeadSet, pass_
from jola.selectors.heads import fingerprint
from jola.studies import comparison as comparing
from jola.studies import editing
from jola.studies.comparison import compare
from jola.studies.editing import SwapMethod
from jola.studies.results import Cell, Comparison, summarise
from jola.studies.selector_grid import SELECTOR_NAMES, SWAP_NAMES, SelectorGrid
from jola.studies.statistics import holm
from jola.system.processes import workers
from jola.system.progress import Quiet
from jola.training import fit as training
from jola.training.run import run_training
from jola.training.trainer import JoLATrainer

CHOSEN = HeadSet(3, 4, [(0, 1), (2, 2), (2, 3)])


class Notes(Quiet):
    """Progress that keeps the notes."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture
def config(tmp_path: Path, tiny_folder: Path) -> RunConfig:
    """A tiny model and a tiny task, trained for a few steps."""
    folder = tmp_path / "films"
    folder.mkdir()
    answers = {"fine": "good", "warm": "good", "sad": "bad", "poor": "bad"}
    for part, start, count in (("train", 0, 8), ("validation", 8, 4), ("test", 12, 8)):
        rows = [(list(answers)[i % 4], i) for i in range(start, start + count)]
        lines = [
            json.dumps({"prompt": f"Is film {i}, a {word} one, good or bad?", "completion": answers[word]})
            for word, i in rows
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    return RunConfig(
        model=ModelConfig(model=str(tiny_folder), dtype="float32", device="cpu"),
        data=DataConfig(task=str(folder)),
        training=TrainingConfig(epochs=2, l0_weight=0.05, gate_learning_rate=1.0),
    )


@pytest.fixture
def model(config: RunConfig) -> JoLAModel:
    return JoLAModel.from_pretrained(**dataclasses.asdict(config.model))


def test_select_then_edit_trains_the_chosen_heads_alone(config: RunConfig, model: JoLAModel, tmp_path: Path) -> None:
    before = model.base.get_input_embeddings().weight.clone()
    task = load_task(config.data, 42)
    outcome = editing.select_then_edit(model, CHOSEN, task, config, tmp_path / "cell", Quiet())
    assert outcome.heads == CHOSEN
    assert outcome.open == {"offset": 3, "scale": 3}
    assert outcome.cost.steps == 4
    assert outcome.cost.forward == 16
    assert not (tmp_path / "cell" / "checkpoints").exists()
    (edits,) = load_edits(tmp_path / "cell" / "adapter", model)
    moved = (edits.norms()["offset"] > 0.005).numpy()
    assert HeadSet.from_array(moved) == CHOSEN
    with model.using([edits]):
        match = exact_match(model, task.test, Template(model.tokenizer))
    right = [answer == example.completion for answer, example in zip(match.answers, task.test, strict=True)]
    assert list(outcome.correct) == right
    assert torch.equal(model.base.get_input_embeddings().weight, before)


def test_jola_is_trained_as_by_a_run_of_its_own(config: RunConfig, model: JoLAModel, tmp_path: Path) -> None:
    outcome = editing.train_jola(model, load_task(config.data, 42), config, tmp_path / "cell", Quiet())
    run = run_training(config)
    one, other = (load_edits(folder, model)[0] for folder in (tmp_path / "cell" / "adapter", run.adapter_dir))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    result = run.result()
    assert result is not None
    assert np.mean(outcome.correct) == result["test"]["accuracy"]


def test_the_base_stays_usable_by_the_first_model(config: RunConfig, model: JoLAModel, tmp_path: Path) -> None:
    ids = torch.arange(3, 9)[None]
    before = model(ids).logits
    task = load_task(config.data, 42)
    editing.select_then_edit(model, CHOSEN, task, config, tmp_path / "cell", Quiet())
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize("method", SWAP_NAMES)
def test_gate_swap_ends_with_k_of_each_half(
    config: RunConfig, model: JoLAModel, tmp_path: Path, method: editing.SwapMethod
) -> None:
    outcome = editing.gate_swap(model, method, 4, load_task(config.data, 42), config, tmp_path / "cell", Quiet())
    assert outcome.open == {"offset": 4, "scale": 4}
    assert 4 <= len(outcome.heads) <= 8
    (edits,) = read_edits(tmp_path / "cell" / "adapter")
    for half, values in edits.gate_values().items():
        assert set(values.flatten().tolist()) == {0.0, 1.0}, half
        assert int(values.sum()) == 4


def test_soft_gates_move_in_training_and_are_decided_at_rest() -> None:
    gate = editing.SoftTopKGate(3, 4, 5)
    gate.reset(torch.Generator().manual_seed(0))
    noise = torch.Generator().manual_seed(1)
    gate.before_step(0, 10)
    drawn = gate.train()(noise)
    assert drawn.dtype == torch.float32
    assert float(drawn.sum()) == pytest.approx(5, abs=1e-4)
    assert float(drawn.max()) < 0.6, "hot gates are nearly alike"
    (gradient,) = torch.autograd.grad((drawn * torch.randn(3, 4)).sum(), gate.log_alpha)
    assert float(gradient.abs().max()) > 0
    gate.before_step(9, 10)
    cold = gate(noise)
    assert torch.allclose(cold, cold.round(), atol=1e-5)
    assert int(gate.eval()(noise).sum()) == 5


def test_a_comparison_keeps_every_result_and_goes_on(
    config: RunConfig, model: JoLAModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.training.epochs = 1
    grid = SelectorGrid(("jola", "dsp"), (), ("auto", "2"), (1, 2))
    trained: list[int] = []
    train = editing.select_then_edit

    def stop_after_two(*arguments: Any, **named: Any) -> Any:
        assert workers(tmp_path / "c") == [os.getpid()], "others see that it is at work"
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(1)
        return train(*arguments, **named)

    monkeypatch.setattr(comparing, "select_then_edit", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        compare(config, grid, tmp_path / "c", model=model)
    assert workers(tmp_path / "c") == []
    kept = {cell.name: cell for cell in Comparison.open(tmp_path / "c").cells()}
    assert set(kept) == {"base-seed0", "jola-seed1", "edit-jola-kauto-seed1", "edit-jola-k2-seed1"}
    assert len(Comparison(tmp_path / "c").settings()["planned"]) == 2 * (1 + 2 * 2)
    monkeypatch.setattr(comparing, "select_then_edit", train)
    comparison = compare(config, grid, tmp_path / "c", model=model)
    cells = {cell.name: cell for cell in comparison.cells()}
    assert len(cells) == 1 + 2 * (1 + 2 * 2)
    assert {name: cells[name] for name in kept} == kept
    for seed in (1, 2):
        jola = cells[f"jola-seed{seed}"].heads
        assert jola is not None
        assert cells[f"edit-jola-kauto-seed{seed}"].heads == jola, "JoLA's own choice is its open heads"
        assert set(comparison.head_sets(seed, "2")) == {"jola", "dsp"}
        assert all(len(heads) == 2 for heads in comparison.head_sets(seed, "2").values())
        assert comparison.head_sets(seed, "auto")["jola"] == jola
        assert set(comparison.all_scores(seed)) == {"jola", "dsp"}
    assert cells["edit-dsp-k2-seed1"].selection.steps == 2
    rows = {(row.protocol, row.method, row.k): row for row in comparison.rows()}
    assert len(rows) == 1 + 1 + 2 * 2
    assert all(row.items == 8 for row in rows.values())
    assert rows["edit", "dsp", "2"].seeds == 2
    assert rows["jola", "jola", ""].difference is None
    assert len(comparison.to_frame()) == len(rows)


def test_a_comparison_refuses_other_settings_and_other_folders(config: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    comparing._claim(Comparison(folder), comparing._settings(config), [], "test")
    other = dataclasses.replace(config, training=dataclasses.replace(config.training, epochs=3))
    with pytest.raises(InputError, match="made with epochs 2, not 3"):
        compare(other, SelectorGrid(("random",)), folder)
    with pytest.raises(InputError, match="contains other files"):
        compare(config, SelectorGrid(("random",)), tmp_path)
    with pytest.raises(InputError, match="contains no comparison"):
        Comparison.open(tmp_path)


def test_what_is_refused_changes_nothing(config: RunConfig, model: JoLAModel, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    other = dataclasses.replace(config, data=dataclasses.replace(config.data, task="setniment"))
    with pytest.raises(InputError, match="setniment"):
        compare(other, SelectorGrid(("random",)), folder, model=model)
    assert not folder.exists()
    config.training.epochs = 1
    compare(config, SelectorGrid(("random",), (), ("2",), (1,)), folder, model=model)
    before = Comparison(folder).settings()
    with pytest.raises(InputError, match="999"):
        compare(config, SelectorGrid(("random",), (), ("999",), (1,)), folder, model=model)
    limited = dataclasses.replace(config, edits=dataclasses.replace(config.edits, layers="0-1"))
    with pytest.raises(InputError, match="--layers and --heads must be all"):
        compare(limited, SelectorGrid(("random",)), folder, model=model)
    assert Comparison(folder).settings() == before


@pytest.mark.parametrize(("part", "whose"), [("test", "test examples"), ("train", "training examples")])
def test_results_of_other_examples_are_not_mixed(
    config: RunConfig, model: JoLAModel, tmp_path: Path, part: str, whose: str
) -> None:
    config.training.epochs = 1
    compare(config, SelectorGrid(("random",), (), ("2",), (1,)), tmp_path / "c", model=model)
    file = Path(config.data.task) / f"{part}.jsonl"
    file.write_text(file.read_text() + "\n" + json.dumps({"prompt": "Another, good or bad?", "completion": "bad"}))
    with pytest.raises(InputError, match=f"The {whose} .*choose another folder"):
        compare(config, SelectorGrid(("random",), (), ("2", "3"), (1,)), tmp_path / "c", model=model)


def test_every_cell_is_tested_with_the_beams_of_the_settings(
    config: RunConfig, model: JoLAModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.data.beams, config.training.epochs = 3, 1
    beams: list[int] = []

    def answer(*given: Any, **named: Any) -> Any:
        beams.append(named["beams"])
        return exact_match(*given, **named)

    monkeypatch.setattr(editing, "exact_match", answer)
    compare(config, SelectorGrid(("random",), ("dsp",), ("2",), (1,)), tmp_path / "c", model=model)
    assert beams == [3] * 4, "base, JoLA, select-then-edit and gate swap"


def test_jola_that_closes_every_head_is_a_result(config: RunConfig, model: JoLAModel, tmp_path: Path) -> None:
    closed = dataclasses.replace(config.edits, gate_start=-5.0)
    training = dataclasses.replace(config.training, epochs=1, gate_learning_rate=1e-6)
    config = dataclasses.replace(config, edits=closed, training=training)
    comparison = compare(config, SelectorGrid(("random",), (), ("auto",), (1,)), tmp_path / "c", model=model)
    jola, random = comparison.cell("jola-seed1"), comparison.cell("edit-random-kauto-seed1")
    assert jola is not None and jola.heads == HeadSet(3, 4, []) == Cell.from_dict(jola.to_dict()).heads
    assert random is not None and random.heads is not None and len(random.heads) == 1
    assert {row.method: row.heads for row in comparison.rows()}["jola"] == 0


def test_scales_are_edited_where_jola_closes_all_of_them(
    config: RunConfig, model: JoLAModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves have at least one head of the half that is trained."""
    config.edits.operation = "scale"
    config.training.l0_weight, config.training.gate_learning_rate = 100.0, 5.0
    comparison = compare(config, SelectorGrid(("random",), (), ("halves",), (1,)), tmp_path / "c", model=model)
    found = {cell.protocol: cell.open for cell in comparison.cells() if cell.protocol != "base"}
    assert found == {"jola": {"offset": 0, "scale": 0}, "edit": {"offset": 0, "scale": 1}}


def test_a_cell_with_a_damaged_result_is_run_again(config: RunConfig, model: JoLAModel, tmp_path: Path) -> None:
    config.training.epochs = 1
    grid, notes = SelectorGrid(("random",), (), ("2",), (1,)), Notes()
    before = compare(config, grid, tmp_path / "c", model=model).cells()
    files = sorted((tmp_path / "c").glob("cells/*/result.json"))
    for path in files:
        path.write_text(path.read_text()[:-9])
    again = compare(config, grid, tmp_path / "c", model=model, progress=notes).cells()
    assert [(cell.name, cell.correct, cell.heads) for cell in again] == [
        (cell.name, cell.correct, cell.heads) for cell in before
    ]
    assert len(files) == 3
    assert set(notes.said) >= {f"{path} is not valid JSON. The cell is run again." for path in files}


def test_two_processes_do_not_work_on_one_cell(config: RunConfig, model: JoLAModel, tmp_path: Path) -> None:
    config.training.epochs = 1
    notes, grid = [], SelectorGrid(("random",), (), ("2",), (1,))

    class Notes(Quiet):
        def note(self, sentence: str) -> None:
            notes.append(sentence)
            lock.release()

    (tmp_path / "c" / "cells").mkdir(parents=True)
    comparing._claim(
        Comparison(tmp_path / "d"), comparing._settings(config), [], fingerprint(load_task(config.data, 1).test)
    )
    (tmp_path / "d" / "comparison.json").rename(tmp_path / "c" / "comparison.json")
    lock = FileLock(tmp_path / "c" / "cells" / ".edit-random-k2-seed1.lock")
    lock.acquire()
    comparison = compare(config, grid, tmp_path / "c", model=model, progress=Notes())
    assert notes == ["Another process is running edit-random-k2-seed1; this one waits for it."]
    assert len(comparison.cells()) == 3


@pytest.mark.parametrize("method", SWAP_NAMES)
def test_only_the_gates_of_pass_keep_their_rate(
    config: RunConfig, model: JoLAModel, tmp_path: Path, method: SwapMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gates that PASS reopens late have to close again; other gates follow the schedule of all training runs."""
    trainers: list[JoLATrainer] = []
    make = training.make_trainer

    def keep(*given: Any, **named: Any) -> JoLATrainer:
        trainers.append(make(*given, **named))
        return trainers[-1]

    monkeypatch.setattr(training, "make_trainer", keep)
    expecting = dataclasses.replace(config, edits=dataclasses.replace(config.edits, gate_estimator="expectation"))
    editing.gate_swap(model, method, 4, load_task(config.data, 42), expecting, tmp_path / "cell", Quiet())
    scheduler = trainers[0].lr_scheduler
    assert scheduler is not None
    edits, gates = scheduler.get_last_lr()
    assert edits == pytest.approx(0, abs=1e-9)
    assert gates == pytest.approx(0.5 if method == "pass" else 0, abs=1e-9)
    (saved,) = read_edits(tmp_path / "cell" / "adapter")
    assert {value for gate in saved.gate_values().values() for value in gate.flatten().tolist()} == {0.0, 1.0}


@pytest.mark.parametrize("method", SWAP_NAMES)
def test_gates_and_edits_are_clipped_each_by_itself(
    config: RunConfig, model: JoLAModel, tmp_path: Path, method: SwapMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large gradient of the gates does not shrink the gradient of the edits."""
    norms: list[list[float]] = []
    clip = editing._ClipGroups.on_pre_optimizer_step

    def keep(self: Any, *given: Any, **named: Any) -> None:
        clip(self, *given, **named)
        groups = named["optimizer"].param_groups
        norms.append([float(torch.stack([p.grad.norm() for p in g["params"]]).norm()) for g in groups])

    monkeypatch.setattr(editing._ClipGroups, "on_pre_optimizer_step", keep)
    monkeypatch.setattr(pass_, "FIRST_WEIGHT", 1e6)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, max_grad_norm=0.01))
    editing.gate_swap(model, method, 4, load_task(config.data, 42), config, tmp_path / "cell", Quiet())
    edits, gates = np.array(norms).T
    assert edits == pytest.approx(np.full(len(norms), 0.01), rel=1e-3), "edits are clipped as if there were no gates"
    assert gates.max() <= 0.01 * (1 + 1e-3)
    assert method != "pass" or gates == pytest.approx(np.full(len(norms), 0.01), rel=1e-3)


def test_halves_are_as_many_as_jola_leaves_open(config: RunConfig, model: JoLAModel, tmp_path: Path) -> None:
    config.training.epochs = 1
    comparison = compare(
        config, SelectorGrid(("random", "jola"), ("dsp",), ("halves", "3"), (1,)), tmp_path / "c", model=model
    )
    jola, random = comparison.cell("jola-seed1"), comparison.cell("edit-random-khalves-seed1")
    assert jola is not None and random is not None and jola.open == random.open and sum(jola.open.values()) > 0
    scores = comparison.scores("random-seed1")
    (edits,) = read_edits(comparison.cell_folder(random.name) / "adapter")
    assert scores is not None
    for half, on in edits.on().items():
        assert HeadSet.from_array(on.numpy()) == scores.top(jola.open[half])
    own, (open_edits,) = (
        comparison.cell("edit-jola-khalves-seed1"),
        read_edits(comparison.cell_folder("jola-seed1") / "adapter"),
    )
    assert own is not None and own.open == jola.open
    (kept,) = read_edits(comparison.cell_folder(own.name) / "adapter")
    assert all(torch.equal(on, kept.on()[half]) for half, on in open_edits.on().items())
    # A gate swap has K offsets and K scales anyway.
    assert {cell.name for cell in comparison.cells() if cell.protocol == "swap"} == {"swap-dsp-k3-seed1"}
    row = next(row for row in comparison.rows() if row.k == "halves" and row.method == "random")
    assert (row.offsets, row.scales) == (jola.open["offset"], jola.open["scale"])


def test_halves_without_the_edits_of_jola_are_refused_before_anything_is_trained(
    config: RunConfig, model: JoLAModel, tmp_path: Path
) -> None:
    config.training.epochs = 1
    comparison = compare(config, SelectorGrid(("random",), (), ("3",), (1,)), tmp_path / "c", model=model)
    shutil.rmtree(comparison.cell_folder("jola-seed1") / "adapter")
    with pytest.raises(InputError, match="K halves needs the edits that JoLA trained with seed 1"):
        compare(config, SelectorGrid(("random",), (), ("3", "halves"), (2, 1)), tmp_path / "c", model=model)
    assert {cell.seed for cell in comparison.cells() if cell.protocol != "base"} == {1}


def test_the_two_halves_can_have_different_heads(config: RunConfig, model: JoLAModel, tmp_path: Path) -> None:
    halves = {"offset": HeadSet(3, 4, [(0, 1), (2, 3)]), "scale": HeadSet(3, 4, [(0, 1), (1, 0), (1, 1)])}
    outcome = editing.select_halves(model, halves, load_task(config.data, 42), config, tmp_path / "cell", Quiet())
    assert outcome.open == {"offset": 2, "scale": 3} and outcome.heads == halves["offset"] | halves["scale"]
    (edits,) = read_edits(tmp_path / "cell" / "adapter")
    for half, heads in halves.items():
        assert HeadSet.from_array(edits.on()[half].numpy()) == heads
        trained = (edits.get_parameter(half).norm(dim=-1) > 0.01).numpy()
        assert trained.any() and not (trained & ~heads.array()).any(), "only open halves are trained"


def test_settings_that_came_later_do_not_end_a_comparison(config: RunConfig, model: JoLAModel, tmp_path: Path) -> None:
    config.training.epochs = 1
    grid = SelectorGrid(("random",), (), ("2",), (1,))
    comparison = compare(config, grid, tmp_path / "c", model=model)
    there = comparison.settings()
    del there["settings"]["model"]["attn_implementation"], there["settings"]["data"]["data_seed"]
    comparison.write_settings({name: value for name, value in there.items() if name != "format"})
    assert compare(config, grid, tmp_path / "c", model=model).cells() == comparison.cells()
    del there["settings"]["training"]["keep"]
    comparison.write_settings({name: value for name, value in there.items() if name != "format"})
    with pytest.raises(InputError, match="made with keep None"):
        compare(config, grid, tmp_path / "c", model=model)


def test_the_names_are_those_of_the_selectors() -> None:
    assert tuple(SELECTORS) == SELECTOR_NAMES
    assert get_args(SwapMethod) == SWAP_NAMES


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (SelectorGrid(("nonsense",)), "'nonsense' is not a selector"),
        (SelectorGrid(("random",), ("smp",)), "'smp' is not a method"),
        (SelectorGrid(("random",), ks=("0",)), "K is '0'"),
        (SelectorGrid(("random",), ks=("many",)), "K is 'many'"),
        (SelectorGrid(()), "There is nothing to compare"),
        (SelectorGrid((), ("dsp",), ("halves",)), "K halves applies to selectors"),
        (SelectorGrid(("random",), seeds=(-1,)), "Seeds"),
    ],
)
def test_a_grid_that_cannot_be_is_one_sentence(
    grid: SelectorGrid, words: str, config: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        compare(config, grid, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def make_cell(protocol: Any, method: str, seed: int, right: np.ndarray, seconds: float = 0.0) -> Cell:
    correct = tuple(bool(r) for r in right)
    k = "auto" if protocol == "edit" else ""
    return Cell(protocol, method, k, seed, CHOSEN, correct, Cost(4, 8, 8, 10.0), Cost(seconds=seconds))


def test_rows_pair_with_jola_on_the_same_seeds() -> None:
    generator = np.random.default_rng(0)
    jola = {seed: generator.random(300) < 0.8 for seed in (1, 2)}
    worse = {seed: right & (generator.random(300) < 0.8) for seed, right in jola.items()}
    cells = [make_cell("jola", "jola", seed, right) for seed, right in jola.items()]
    cells += [make_cell("edit", "dsp", seed, right, 15.0) for seed, right in worse.items()]
    cells += [make_cell("edit", "smp", 1, jola[1], 5.0)]
    rows = {row.method: row for row in summarise(cells)}
    gains = [worse[s].mean() - jola[s].mean() for s in (1, 2)]
    dsp = rows["dsp"]
    assert dsp.by_seed == (worse[1].mean(), worse[2].mean()) and dsp.pairs == 2
    assert dsp.difference == pytest.approx(np.mean(gains))
    half = 12.706204736 * np.std(gains, ddof=1) / 2**0.5  # the 97.5 % quantile of t with 1 degree of freedom
    assert (dsp.difference_low, dsp.difference_high) == pytest.approx((np.mean(gains) - half, np.mean(gains) + half))
    # One seed is compared on its test examples, which say nothing about other training runs.
    smp = rows["smp"]
    assert (smp.difference, smp.pairs, smp.p_value, smp.p_holm) == (0, 1, None, None)
    assert smp.low is not None and smp.low < smp.accuracy
    assert dsp.p_holm == dsp.p_value and dsp.p_value is not None
    assert (dsp.cost_ratio, smp.cost_ratio) == (1.5, 0.5)
    assert rows["jola"].accuracy == pytest.approx(np.mean([jola[s].mean() for s in (1, 2)]))


def test_p_values_are_adjusted_for_all_rows() -> None:
    generator = np.random.default_rng(0)
    right = {seed: generator.random(300) < 0.8 for seed in (1, 2, 3)}
    cells = [make_cell("jola", "jola", seed, own) for seed, own in right.items()]
    for method, share in (("dsp", 0.5), ("smp", 0.9)):
        cells += [make_cell("edit", method, seed, own & (generator.random(300) < share)) for seed, own in right.items()]
    rows = [row for row in summarise(cells) if row.p_value is not None]
    assert [row.p_holm for row in rows] == pytest.approx(holm([row.p_value or 0 for row in rows]))
    assert rows[0].p_holm == pytest.approx(2 * (rows[0].p_value or 0))


def test_a_cell_survives_json_and_damage_is_one_sentence() -> None:
    cell = make_cell("edit", "dsp", 1, np.array([True, False]))
    assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell
    for change in ({"correct": "012"}, {"correct": ""}, {"heads": [1]}, {"format": 2}):
        with pytest.raises(InputError):
            Cell.from_dict(cell.to_dict() | change)


def test_right_answers_are_those_of_the_metric_of_the_task(
    config: RunConfig, model: JoLAModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = dataclasses.replace(load_task(config.data, 42), metrics=("first_label", "exact_match"))
    said = [f"It is {example.completion}." for example in task.test[:3]] + [""] * (len(task.test) - 3)
    answers = dataclasses.replace(exact_match(model, task.test, Template(model.tokenizer)), answers=said)
    monkeypatch.setattr(editing, "exact_match", lambda *given, **named: answers)
    right = editing.right_answers(model, task, Template(model.tokenizer), lambda done, total: None)
    assert right == tuple(index < 3 for index in range(len(task.test)))
    written = dataclasses.replace(task, name="texts", metrics=("bleu",))
    monkeypatch.setattr("jola.studies.comparison.load_task", lambda *given: written)
    with pytest.raises(InputError, match="metric of the task texts is BLEU; choose a task with right answers"):
        compare(config, SelectorGrid(("random",)), tmp_path / "c", model=model)
