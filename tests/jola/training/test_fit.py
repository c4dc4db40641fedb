"""`fit`: its counts, another penalty, a call before each step, and a constant rate of the gates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from jola.config import RunConfig, TrainingConfig
from jola.data.examples import Encoded, EncodedSet
from jola.edits.gated import GatedEdits
from jola.jola_model import JoLAModel
from jola.training.fit import fit

ROWS = EncodedSet([Encoded([5, 9, 17 + n, 33], 3) for n in range(10)], list(range(10)), 0)


def config(**training: Any) -> RunConfig:
    return RunConfig(training=TrainingConfig(epochs=2, batch_size=4, keep="last", patience=0, **training))


class Watch(TrainerCallback):
    """Records the learning rates of the groups at each step, and stops the training at step `end`."""

    def __init__(self, end: int = 0) -> None:
        self.end, self.rates = end, []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append([group["lr"] for group in kwargs["optimizer"].param_groups])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.end


def test_steps_and_examples_are_counted(tiny: Callable[..., JoLAModel], tmp_path: Path) -> None:
    whole = fit(config(), tiny(trained=False), ROWS, None, tmp_path / "a" / "c")
    assert (whole.steps, whole.kept_step, whole.examples) == (6, 6, 20)
    ended = fit(config(), tiny(trained=False), ROWS, None, tmp_path / "b" / "c", [Watch(end=4)])
    assert (ended.steps, ended.kept_step, ended.examples) == (4, 4, 14)
    assert ended.seconds > 0 and ended.processor_seconds > 0


def test_another_penalty_and_a_call_before_every_step(tiny: Callable[..., JoLAModel], tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def opening(edits: list[GatedEdits], weight: float) -> Tensor:
        return -1e3 * torch.stack([log_alpha.sum() for e in edits for log_alpha in e.log_alphas().values()]).sum()

    model = tiny(trained=False)
    before = [gate.log_alpha.detach().clone() for gate in model.edits.gates.values()]
    fit(config(), model, ROWS, None, tmp_path / "c", penalty=opening, before_step=lambda *at: calls.append(at))
    assert calls == [(step, 6) for step in range(6)]
    assert all(bool((gate.log_alpha > old).all()) for gate, old in zip(model.edits.gates.values(), before, strict=True))
    assert not model.training


@pytest.mark.parametrize("constant", [True, False])
def test_the_rate_of_the_gates(tiny: Callable[..., JoLAModel], tmp_path: Path, constant: bool) -> None:
    watch = Watch()
    settings = config(gate_learning_rate=0.5)
    fit(settings, tiny(trained=False), ROWS, None, tmp_path / "c", [watch], constant_gate_rate=constant)
    edits, gates = zip(*watch.rates, strict=True)
    assert len(set(edits)) == 6
    assert (set(gates) == {0.5}) is constant
