"""`JoLATrainer`: what a step optimizes and logs, and what the recorder writes."""

import gc
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from jola.config import EditConfig
from jola.data.examples import IGNORED, Encoded
from jola.edits.names import HALVES
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.runs.history import GATE_FIELDS, GateHistory, GateWriter
from jola.training.callbacks import CrossEntropyPatience, GateRecorder
from jola.training.objective import expected_open
from jola.training.trainer import JoLATrainer, rows_correct, selection

Make = Callable[..., JoLAModel]
END = 2


def rows(count: int = 16, *, start: int = 0) -> list[Encoded]:
    """Return easy data: the answer, one token and the end, depends only on the first token."""
    pairs = [(i, 10 + i % 2) for i in range(start, start + count)]
    return [Encoded([20 + label, 30 + i % 7, 40 + i % 5, 50 + label, END], 3) for i, label in pairs]


@pytest.fixture
def train(tiny: Make, tmp_path: Path) -> Callable[..., JoLATrainer]:
    """A function that trains a tiny model and returns its trainer; `arguments` are for `TrainingArguments`."""

    def run(
        model: JoLAModel | None = None,
        *,
        steps: int = 4,
        edits: EditConfig | None = None,
        data: list[Encoded] | None = None,
        validation: list[Encoded] | None = None,
        resume: str | None = None,
        start: bool = True,
        own: dict[str, Any] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **arguments: Any,
    ) -> JoLATrainer:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "checkpoints"),
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "learning_rate": 0.01,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 7,
        }
        trainer = JoLATrainer(
            model or tiny("llama", edits, trained=False),
            TrainingArguments(**settings | arguments),
            rows() if data is None else data,
            validation,
            callbacks=callbacks,
            **(own or {}),
        )
        if start:
            trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def logged(trainer: JoLATrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def edit_vector(model: JoLAModel) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for e in model.gated_edits() for p in e.edit_parameters()])


def gate_vector(model: JoLAModel) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for e in model.gated_edits() for p in e.gate_parameters()])


class TestOptimiser:
    def test_several_gpus_in_one_process_are_one(self, tiny: Make, tmp_path: Path) -> None:
        arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=4)
        assert arguments.device.type == "cpu"
        arguments._n_gpu = 2
        trainer = JoLATrainer(tiny("llama"), args=arguments)
        assert (trainer.args.n_gpu, trainer.args.train_batch_size) == (1, 4)

    def test_edits_and_gates_are_two_groups_with_their_own_rates(self, train: Callable[..., JoLATrainer]) -> None:
        trainer = train(
            steps=10, own={"gate_learning_rate": 0.3}, lr_scheduler_type="cosine", warmup_steps=2, weight_decay=0.5
        )
        model = trainer.edited
        edits, gates = trainer.optimizer.param_groups
        assert {id(p) for p in edits["params"]} == {id(p) for e in model.gated_edits() for p in e.edit_parameters()}
        assert {id(p) for p in gates["params"]} == {id(p) for e in model.gated_edits() for p in e.gate_parameters()}
        assert (edits["initial_lr"], gates["initial_lr"]) == (0.01, 0.3)
        assert (edits["weight_decay"], gates["weight_decay"]) == (0.5, 0.0)
        # The logged rates are those of the next step: a warmup of two steps, then a cosine down to 0.
        expected = [0.5, *(0.5 * (1 + math.cos(math.pi * n / 8)) for n in range(9))]
        assert logged(trainer, "learning_rate") == pytest.approx([0.01 * x for x in expected], abs=1e-9)
        assert logged(trainer, "gate_learning_rate") == pytest.approx([0.3 * x for x in expected], abs=1e-9)

    def test_gates_learn_ten_times_as_fast_when_nothing_else_is_said(self, train: Callable[..., JoLATrainer]) -> None:
        trainer = train(steps=1)
        assert logged(trainer, "gate_learning_rate") == pytest.approx([0.1])

    @pytest.mark.parametrize(
        ("ratio", "moves"), [(0.0, [1, 1, 1, 1, 1]), (0.4, [1, 1, 1, 0, 0]), (0.75, [1, 0, 0, 0, 0]), (1.0, [0] * 5)]
    )
    def test_settled_gates_stay_and_edits_train_on(
        self, train: Callable[..., JoLATrainer], tiny: Make, ratio: float, moves: list[int]
    ) -> None:
        def run(ratio: float) -> tuple[JoLATrainer, list[Tensor], list[Tensor]]:
            model = tiny("llama", trained=False)
            edits, gates = [edit_vector(model)], [gate_vector(model)]

            class Steps(TrainerCallback):
                def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                    edits.append(edit_vector(model))
                    gates.append(gate_vector(model))

            # A momentum that goes on without a gradient, and gradients that a penalty of the gates would clip.
            own = {"settle_ratio": ratio, "gate_learning_rate": 0.3, "l0_weight": 10.0}
            return train(model, steps=5, own=own, callbacks=[Steps()], adam_beta1=0.99), edits, gates

        trainer, edits, gates = run(ratio)
        assert [not torch.equal(a, b) for a, b in itertools.pairwise(gates)] == moves
        assert all(not torch.equal(a, b) for a, b in itertools.pairwise(edits))
        # The rates that are logged are those of the next step.
        assert logged(trainer, "gate_learning_rate") == pytest.approx([0.3 * move for move in [*moves[1:], moves[-1]]])
        norms = [norm for norm, move in zip(logged(trainer, "grad_norm"), moves, strict=True) if not move]
        assert all(norm < 10 for norm in norms)  # not that of the penalty
        assert not any(gate.settled for e in trainer.edited.gated_edits() for gate in e.gates.values())
        for steadily, settling in zip(run(0.0)[1:], (edits, gates), strict=True):
            assert all(map(torch.equal, steadily[: sum(moves) + 1], settling))

    def test_settled_gates_are_without_noise(self, train: Callable[..., JoLATrainer], tiny: Make) -> None:
        def losses(ratio: float) -> list[float]:
            model = tiny("llama", EditConfig(gate_start=50.0), trained=False)  # each gate is always fully open
            return logged(train(model, steps=3, own={"settle_ratio": ratio, "l0_weight": 0.0}), "loss")

        assert losses(1.0) == losses(0.0)
        model = tiny("llama", EditConfig(gate_start=0.0), trained=False)
        for edits in model.gated_edits():
            edits.settle()
            model.train()
            edits.seed(1)
            first = edits.prepare()
            edits.seed(2)
            z = torch.randn(2, edits.units * edits.width)
            second = edits.prepare()
            assert all(torch.equal(first[layer](z), second[layer](z)) for layer in first)
            model.eval()
            evaluated = edits.prepare()
            assert all(torch.equal(first[layer](z), edit(z)) for layer, edit in evaluated.items())

    @pytest.mark.parametrize("gates", ["shared", "none"])
    def test_all_kinds_of_gates_train(self, train: Callable[..., JoLATrainer], gates: Any) -> None:
        trainer = train(steps=2, edits=EditConfig(gates=gates), own={"settle_ratio": 0.5})
        assert len(trainer.optimizer.param_groups) == (1 if gates == "none" else 2)
        assert np.isfinite(logged(trainer, "loss")).all()

    def test_weight_decay_pulls_the_edits_and_not_the_gates(
        self, train: Callable[..., JoLATrainer], tiny: Make
    ) -> None:
        fresh = tiny("llama", trained=False)
        before = edit_vector(fresh)
        plain, decayed = train(steps=1).edited, train(steps=1, weight_decay=20.0).edited
        # In the first step of AdamW, the update is the same, after the edits were reduced by rate · decay.
        difference = edit_vector(plain) - edit_vector(decayed)
        torch.testing.assert_close(difference, before * 0.01 * 20, rtol=1e-3, atol=1e-8)
        assert torch.equal(gate_vector(plain), gate_vector(decayed))

    def test_gradients_are_clipped_to_the_norm_over_edits_and_gates_together(
        self, train: Callable[..., JoLATrainer], tiny: Make
    ) -> None:
        def moved(norm: float) -> tuple[float, float]:
            model = tiny("llama")
            before = torch.cat([edit_vector(model), gate_vector(model)])
            trainer = train(
                model, steps=1, max_grad_norm=norm, optim="sgd", learning_rate=1.0, own={"gate_learning_rate": 1.0}
            )
            after = torch.cat([edit_vector(model), gate_vector(model)])
            return float((after - before).norm()), logged(trainer, "grad_norm")[0]

        free, norm = moved(0.0)
        assert free == pytest.approx(norm, rel=1e-4)
        assert norm > 0.05
        clipped, reported = moved(0.01)
        assert clipped == pytest.approx(0.01, rel=1e-3)
        assert reported == pytest.approx(norm, rel=1e-4)

    def test_nothing_but_the_edits_changes_or_is_kept_in_a_checkpoint(
        self, train: Callable[..., JoLATrainer], tiny: Make, tmp_path: Path
    ) -> None:
        model = tiny("llama", trained=False)
        before = {name: tensor.clone() for name, tensor in model.base.state_dict().items()}
        train(model, steps=2, save_strategy="steps", save_steps=2)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.base.state_dict().items())
        assert all(p.grad is None for p in model.base.parameters())
        kept = load_file(tmp_path / "checkpoints" / "checkpoint-2" / "model.safetensors")
        assert sum(t.numel() for t in kept.values()) == model.trainable_parameters()[0]


class TestObjective:
    def test_the_loss_of_easy_data_falls(self, train: Callable[..., JoLATrainer]) -> None:
        losses = logged(train(steps=40, learning_rate=0.1), "cross_entropy")
        assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 1.5

    @pytest.mark.parametrize("accumulation", [1, 2])
    def test_the_loss_that_is_logged_is_the_sum_of_its_parts(
        self, train: Callable[..., JoLATrainer], accumulation: int
    ) -> None:
        trainer = train(gradient_accumulation_steps=accumulation, own={"l0_weight": 0.1})
        sums = np.add(logged(trainer, "cross_entropy"), logged(trainer, "penalty"))
        assert logged(trainer, "loss") == pytest.approx(sums.tolist(), rel=1e-5)
        assert min(logged(trainer, "penalty")) > 0.1

    def test_the_penalty_is_the_weight_times_the_expected_number_of_open_gates(
        self, train: Callable[..., JoLATrainer], tiny: Make
    ) -> None:
        before = expected_open(tiny("llama", trained=False).gated_edits()).item()
        trainer = train(steps=2, own={"l0_weight": 0.25})
        # The penalty is from the gates before a step, the number of open gates from those after it.
        opened = [before, logged(trainer, "expected_open")[0]]
        assert logged(trainer, "penalty") == pytest.approx([0.25 * n for n in opened], rel=1e-5)

    def test_validation_sees_the_cross_entropy_alone(self, train: Callable[..., JoLATrainer], tiny: Make) -> None:
        def losses(weight: float, objective: str) -> tuple[float, float]:
            own = {"l0_weight": weight, "objective": objective}
            trainer = train(tiny("llama"), start=False, validation=rows(8), own=own)
            before = trainer.evaluate()["eval_loss"]
            assert trainer.evaluate()["eval_loss"] == before
            trainer.train()
            return before, logged(trainer, "loss")[0]

        (none, plain), (huge, weighty) = losses(0.0, "paper"), losses(1e4, "paper")
        assert huge == none == losses(1e4, "reference")[0]
        assert weighty > plain + 1e4

    def test_the_best_checkpoint_is_chosen_with_the_penalty(
        self, train: Callable[..., JoLATrainer], tiny: Make
    ) -> None:
        trainer = train(tiny("llama"), start=False, validation=rows(8), own={"l0_weight": 0.5})
        opened = expected_open(trainer.edited.gated_edits()).item()
        metrics = trainer.evaluate()
        assert metrics["eval_objective"] == pytest.approx(metrics["eval_loss"] + 0.5 * opened)
        metrics = trainer.evaluate(metric_key_prefix="test")
        assert metrics["test_objective"] == pytest.approx(metrics["test_loss"] + 0.5 * opened)

    def test_patience_looks_at_cross_entropy_while_the_penalty_falls(
        self, train: Callable[..., JoLATrainer], tiny: Make
    ) -> None:
        # Edits of 0: closing their gates lowers the objective and does not change the cross-entropy.
        model = tiny("llama", trained=False)
        with torch.no_grad():
            for parameter in model.edits.edit_parameters():
                parameter.zero_()
        trainer = train(
            model,
            steps=30,
            validation=rows(8),
            own={"l0_weight": 10.0, "gate_learning_rate": 0.1},
            learning_rate=1e-30,
            eval_strategy="steps",
            eval_steps=1,
            callbacks=[CrossEntropyPatience(3)],
        )
        assert trainer.state.global_step == 4
        assert len(set(logged(trainer, "eval_loss"))) == 1
        assert np.diff(logged(trainer, "penalty")).max() < -1

    def test_patience_starts_again_with_every_lower_cross_entropy(self) -> None:
        def stops(patience: int, losses: list[float]) -> int | None:
            callback, control = CrossEntropyPatience(patience), TrainerControl()
            for number, loss in enumerate(losses, 1):
                callback.on_evaluate(TrainingArguments("unused"), TrainerState(), control, {"eval_loss": loss})
                if control.should_training_stop:
                    return number
            return None

        assert stops(2, [3.0, 3.1, 2.9, 3.0, 2.95]) == 5
        assert stops(1, [3.0, 3.0]) == 2
        assert stops(2, [3.0, math.nan, math.nan]) == 3
        assert stops(3, [5.0, 4.0, 4.5, 4.5, 3.0, 3.5, 3.2]) is None

    def test_two_batches_of_four_are_one_batch_of_eight(self, train: Callable[..., JoLATrainer]) -> None:
        seen: list[list[list[int]]] = []

        class Watched(JoLATrainer):
            def training_step(self, model: Any, inputs: dict[str, Any], *args: Any) -> Tensor:
                step = self.state.global_step
                seen[step:] = [(seen[step] if len(seen) > step else []) + inputs["input_ids"].tolist()]
                return super().training_step(model, inputs, *args)

        def run(batch: int, accumulation: int) -> tuple[list[list[list[int]]], Tensor]:
            trainer = train(
                start=False,
                steps=6,
                edits=EditConfig(gates="none"),
                data=rows(20),
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulation,
            )
            trainer.__class__ = Watched
            seen.clear()
            trainer.train()
            return list(seen), edit_vector(trainer.edited)

        (data_one, edits_one), (data_two, edits_two) = run(8, 1), run(4, 2)
        assert data_one == data_two
        assert [len(step) for step in data_one] == [8, 8, 4, 8, 8, 4]
        torch.testing.assert_close(edits_one, edits_two, rtol=1e-3, atol=1e-5)

    def test_the_noise_of_a_batch_depends_on_the_seed_and_its_position_alone(
        self, train: Callable[..., JoLATrainer], tiny: Make
    ) -> None:
        drawn: list[tuple[int, tuple[float, ...]]] = []

        def run(**arguments: Any) -> list[tuple[int, tuple[float, ...]]]:
            model = tiny("llama", trained=False)
            trainer = train(model, start=False, steps=3, **arguments)
            prepare = model.edits.prepare

            def watched(*given: Any) -> Any:
                state = model.edits.noise.get_state()
                drawn.append((trainer.state.global_step, tuple(torch.rand(3, generator=model.edits.noise).tolist())))
                model.edits.noise.set_state(state)
                return prepare(*given)

            model.edits.prepare = watched  # a spy
            drawn.clear()
            trainer.train()
            return list(drawn)

        first = run()
        assert first == run()
        assert len(set(first)) == 3
        assert not set(first) & set(run(seed=8))
        assert len(set(run(gradient_accumulation_steps=2))) == 6


class TestSchedules:
    @pytest.mark.parametrize(
        ("schedule", "expected"),
        [
            ("constant", lambda n: 0.01),
            ("late", lambda n: 0.0 if n < 2 else 0.01),
            ("linear", lambda n: 0.02 * n / 5),
            ("cyclic", lambda n: 0.01 * (1 + math.sin(2 * math.pi * n / 20))),
            ("exponential", lambda n: 0.01 * math.exp(-0.01 * n)),
        ],
    )
    def test_the_metrics_hold_the_weight_of_each_step(
        self, train: Callable[..., JoLATrainer], schedule: str, expected: Callable[[int], float]
    ) -> None:
        trainer = train(steps=5, own={"l0_weight": 0.01, "l0_schedule": schedule})
        assert logged(trainer, "l0_weight") == pytest.approx([expected(n) for n in range(5)])

    def test_the_linear_schedule_knows_the_steps_of_whole_epochs(self, train: Callable[..., JoLATrainer]) -> None:
        # 20 examples in batches of 4, two batches per step: 3 steps per epoch, 6 in total.
        trainer = train(
            steps=-1,
            num_train_epochs=2,
            data=rows(20),
            gradient_accumulation_steps=2,
            own={"l0_weight": 0.01, "l0_schedule": "linear"},
        )
        assert logged(trainer, "l0_weight") == pytest.approx([0.02 * n / 6 for n in range(6)])

    @pytest.mark.parametrize("accumulation", [1, 2])
    def test_the_performance_rule_follows_the_training_loss(
        self, train: Callable[..., JoLATrainer], accumulation: int
    ) -> None:
        trainer = train(
            steps=8,
            gradient_accumulation_steps=accumulation,
            per_device_train_batch_size=2,
            own={"l0_weight": 0.01, "l0_schedule": "performance"},
        )
        weights, losses = logged(trainer, "l0_weight"), logged(trainer, "loss")
        if accumulation == 1:
            fell = [True, *(later < earlier for earlier, later in itertools.pairwise(losses))]
            expected = 0.01 + 0.001 * np.cumsum([1 if f else -1 for f in fell])
            assert weights == pytest.approx([0.01, *expected.tolist()[:-1]])
            assert len(set(fell)) == 2
        else:
            # Each step has two batches, so λ changes by 0 or by two tenths of its start.
            moves = np.diff(weights) / 0.001
            assert set(np.round(moves).tolist()) <= {-2.0, 0.0, 2.0}
        assert any(moved != 0 for moved in np.diff(weights))

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("expon", [0.1 * math.exp(-0.01 * n) for n in range(4)]),
            ("linear", [0.2 * n / 4 for n in range(4)]),
            ("cyclic", [0.1, *(0.5 + 0.5 * math.sin(2 * math.pi * n / 20) for n in range(1, 4))]),
        ],
    )
    def test_the_names_of_the_reference_package(
        self, train: Callable[..., JoLATrainer], tiny: Make, name: str, expected: list[float]
    ) -> None:
        opened = expected_open(tiny("llama", trained=False).gated_edits())
        assert 10 < opened < 24
        trainer = train(own={"gate_scheduler": name})
        assert logged(trainer, "l0_weight") == pytest.approx(expected)
        # The weights of the two halves add up to 1, and the sum is divided by layers · heads².
        assert all(0 <= penalty < 0.5 for penalty in logged(trainer, "penalty"))
        assert logged(trainer, "gate_learning_rate") == logged(trainer, "learning_rate")

    @pytest.mark.parametrize("none", ["", False])
    def test_no_schedule_leaves_the_weight_to_the_script(self, train: Callable[..., JoLATrainer], none: Any) -> None:
        trainer = train(start=False, own={"gate_scheduler": none})
        trainer.gated_lambda = 0.5
        assert trainer.gated_lambda == 0.5
        trainer.train()
        assert logged(trainer, "l0_weight") == [0.5] * 4
        assert logged(trainer, "penalty")[0] < 1

    def test_an_unknown_schedule_is_refused(self, train: Callable[..., JoLATrainer]) -> None:
        with pytest.raises(InputError, match="gate_scheduler is 'exponential'; choose one of linear, cyclic, perform"):
            train(own={"gate_scheduler": "exponential"})


class TestGateRecorder:
    def recorded(self, folder: Path, model: JoLAModel, every: int, run: Callable[[GateRecorder], Any]) -> GateHistory:
        with GateWriter(folder, "heads", model.edits.layers, model.edits.units) as writer:
            run(GateRecorder({"heads": writer}, every))
        return GateHistory.read(folder)

    @pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3, 4]), (3, [0, 3, 4]), (9, [0, 4])])
    def test_the_start_every_so_many_steps_and_the_end(
        self, train: Callable[..., JoLATrainer], tiny: Make, tmp_path: Path, every: int, steps: list[int]
    ) -> None:
        model = tiny("llama", trained=False)
        history = self.recorded(tmp_path, model, every, lambda recorder: train(model, callbacks=[recorder]))
        assert history.steps.tolist() == steps

    def test_the_numbers_are_those_of_the_edits(
        self, train: Callable[..., JoLATrainer], tiny: Make, tmp_path: Path
    ) -> None:
        model = tiny("llama")
        before = {name: values.clone() for name, values in model.edits.gate_values().items()}
        history = self.recorded(tmp_path, model, 2, lambda recorder: train(model, callbacks=[recorder]))
        found = {
            f"{half}_{kind}": values[half].numpy()
            for kind, values in (
                ("gate", model.edits.gate_values()),
                ("open", model.edits.open_probability()),
                ("norm", model.edits.norms()),
            )
            for half in HALVES
        }
        assert set(found) == set(GATE_FIELDS)
        for name, values in found.items():
            np.testing.assert_array_equal(history.fields[name][-1], values)
        np.testing.assert_array_equal(history.fields["scale_gate"][0], before["scale"].numpy())
        assert not np.array_equal(history.fields["scale_open"][0], history.fields["scale_open"][-1])

    def test_the_record_of_the_last_step_holds_its_gates_and_not_those_of_the_best(
        self, train: Callable[..., JoLATrainer], tiny: Make, tmp_path: Path
    ) -> None:
        # An answer that training makes less and less likely: the first validation is the best one.
        contrary = [Encoded([*r.input_ids[:3], 200], 3) for r in rows(8)]
        settings = {
            "steps": 20,
            "learning_rate": 0.05,
            "validation": contrary,
            "eval_strategy": "steps",
            "eval_steps": 5,
            "save_strategy": "steps",
            "save_steps": 5,
            "load_best_model_at_end": True,
            "metric_for_best_model": "loss",
            "greater_is_better": False,
        }
        histories = {}
        for every, patience in ((1, 9), (8, 9), (8, 2)):
            model = tiny("llama", trained=False)
            stop = EarlyStoppingCallback(patience)
            histories[every, patience] = self.recorded(
                tmp_path / f"{every}-{patience}",
                model,
                every,
                lambda recorder, model=model, stop=stop: train(model, callbacks=[recorder, stop], **settings),
            )
            assert stop.early_stopping_patience_counter == min(patience, 3)
        each, some, stopped = (histories[key] for key in ((1, 9), (8, 9), (8, 2)))
        assert some.steps.tolist() == [0, 8, 16, 20]
        assert stopped.steps.tolist() == [0, 8, 15]
        for history in (some, stopped):
            for index, step in enumerate(history.steps):
                for name in GATE_FIELDS:
                    np.testing.assert_array_equal(history.fields[name][index], each.fields[name][step])
        assert not np.array_equal(each.fields["scale_open"][5], each.fields["scale_open"][20])

    def test_nothing_of_the_graph_is_held(self, train: Callable[..., JoLATrainer], tiny: Make, tmp_path: Path) -> None:
        def tensors() -> int:
            gc.collect()
            return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

        model = tiny("llama")
        with GateWriter(tmp_path, "heads", model.edits.layers, model.edits.units) as writer:
            recorder = GateRecorder({"heads": writer})
            trainer = train(model, steps=2, callbacks=[recorder])
            before = tensors()
            for step in range(3, 20):
                trainer.state.global_step = step
                recorder.record(model, trainer.state)
            assert tensors() == before
            assert writer.last_step == 19

    def test_records_are_copies_of_their_moment(
        self, train: Callable[..., JoLATrainer], tiny: Make, tmp_path: Path
    ) -> None:
        model = tiny("llama", EditConfig(sites="both"), trained=False)
        writers = {e.site: GateWriter(tmp_path, e.site, e.layers, e.units) for e in model.gated_edits()}
        train(model, callbacks=[GateRecorder(writers)])
        for site in ("heads", "mlp"):
            norms = GateHistory.read(tmp_path, site).fields["offset_norm"]
            assert len({values.tobytes() for values in norms}) == 5


class TestResume:
    def test_the_performance_rule_goes_on_where_it_was(self, train: Callable[..., JoLATrainer], tmp_path: Path) -> None:
        def run(folder: str, steps: int, resume: str | None = None) -> JoLATrainer:
            return train(
                start=True,
                steps=6,
                resume=resume,
                output_dir=str(tmp_path / folder),
                save_strategy="steps",
                save_steps=3,
                restore_callback_states_from_checkpoint=True,
                own={"l0_weight": 0.01, "l0_schedule": "performance"},
            )

        whole = run("whole", 6)
        resumed = run("resumed", 6, str(tmp_path / "whole" / "checkpoint-3"))
        assert logged(resumed, "l0_weight") == logged(whole, "l0_weight")
        assert resumed.schedule.performance == whole.schedule.performance
        assert torch.equal(edit_vector(resumed.edited), edit_vector(whole.edited))
        assert torch.equal(gate_vector(resumed.edited), gate_vector(whole.edited))


class TestSelection:
    def test_a_row_is_correct_if_each_answer_token_is_the_most_likely_one(self) -> None:
        labels = torch.tensor(
            [[IGNORED, IGNORED, 1, 2], [IGNORED, 0, IGNORED, IGNORED], [IGNORED, IGNORED, IGNORED, 2]]
        )
        likely = torch.tensor([1, 2, 1, 2])
        assert rows_correct(torch.eye(3)[likely], labels).tolist() == [1.0, 0.0, 1.0]
        assert rows_correct(torch.eye(3)[torch.tensor([1, 0, 0, 2])], labels).tolist() == [0.0, 1.0, 1.0]

    def test_the_order_of_epochs(self) -> None:
        # From the worst to the best: (accuracy, cross-entropy, share of the training).
        epochs = [
            (0.0, 3.0, 1.0),
            (0.0, 2.0, 0.5),
            (0.01, 9.0, 0.1),
            (0.5, 1.0, 0.25),
            (0.5, 4.0, 1.0),
            (0.51, 5.0, 0.1),
        ]
        values = [selection(accuracy, loss, 100, progress) for accuracy, loss, progress in epochs]
        assert values == sorted(set(values))
