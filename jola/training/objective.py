r"""The training objective: cross-entropy plus an expected-L0 penalty on the gates.

The published loss (paper, equations 4 and 5) has one weight λ for all gates:

    loss = cross-entropy + λ · Σ (P(g_a ≠ 0) + P(g_m ≠ 0))

The reference code weights the two kinds of gates by λ and 1 − λ and divides by layers · heads²; this is the objective
"reference". Its λ follows the same schedules with the same values, except that here λ changes only in training steps,
and validation measures only cross-entropy.
"""

import math
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from jola.edits.gated import GatedEdits
from jola.edits.gates import NOISE_MARGIN, probability_open
from jola.errors import InputError

REFERENCE_UNIT = 0.1
"""λ at the start of the reference code's schedules."""

LATE_START = 0.25
"""Share of the steps after which the schedule 'late' begins to penalize open gates."""

CYCLE_STEPS = 20
DECAY_RATE = 0.01


class L0Schedule(TrainerCallback, ExportableState):
    """Schedule of λ over the training steps.

    With the published objective, `unit` is the weight λ of the settings: the weight of the constant schedule, and of
    the late one after the first quarter of the steps, in which it is 0; the start of the exponential decay
    ``unit·e^(−0.01·n)``; the mean of the linear rise ``2·unit·n/total`` and of the cycle ``unit·(1 + sin(2πn/20))``;
    and the start of the performance rule. This rule adds a tenth of the unit if the training loss has fallen, else
    subtracts it, and stays within [0, 10·unit]. With ``reference=True``, the units are those of the reference code,
    `unit` is used only for the constant schedule, and the late schedule is the constant one: λ and 1 − λ weight the two
    kinds of gates, so that λ = 0 would not start the penalty late.
    """

    def __init__(self, kind: str, unit: float, total_steps: int, *, reference: bool = False) -> None:
        self.kind = "constant" if reference and kind == "late" else kind
        self.reference = reference
        self.total_steps = max(total_steps, 1)
        self.first: float | None = None
        if reference and self.kind != "constant":
            unit = REFERENCE_UNIT
            if self.kind == "cyclic":
                # The cycle oscillates between 0 and 1, but the first step has the initial value of all schedules.
                unit, self.first = 0.5, REFERENCE_UNIT
        self.unit = unit
        self.performance = unit
        self.last_loss = 50.0
        """Loss with which the first one is compared, as in the reference code; any actual loss is lower."""

    def value(self, step: int) -> float:
        """λ in the training step with this number, counted from 0."""
        if step == 0 and self.first is not None:
            return self.first
        match self.kind:
            case "constant":
                return self.unit
            case "late":
                return self.unit if step >= LATE_START * self.total_steps else 0.0
            case "linear":
                return 2 * self.unit * step / self.total_steps
            case "cyclic":
                return self.unit * (1 + math.sin(2 * math.pi * step / CYCLE_STEPS))
            case "exponential":
                return self.unit * math.exp(-DECAY_RATE * step)
            case "performance":
                return self.performance
        raise ValueError(f"There is no λ schedule {self.kind!r}.")

    def observe(self, loss: float) -> None:
        """Update the performance rule with the loss of a finished training step."""
        change = self.unit / 10 if loss < self.last_loss else -self.unit / 10
        self.performance = min(max(self.performance + change, 0.0), 10 * self.unit)
        self.last_loss = loss

    def state(self) -> dict[str, Any]:
        """State in checkpoints, from which the schedule and the performance rule are restored."""
        return {
            "args": {
                "kind": self.kind,
                "unit": self.unit,
                "total_steps": self.total_steps,
                "reference": self.reference,
            },
            "attributes": {"performance": self.performance, "last_loss": self.last_loss},
        }


class Penalty(Protocol):
    """A function whose differentiable value training adds to the cross-entropy."""

    def __call__(self, edits: list[GatedEdits], weight: float, /) -> Tensor:
        """Compute the penalty, a scalar.

        Args:
            edits: All gated edits of the model, in the order of their sites.
            weight: λ of this step.
        """
        ...


def paper_penalty(edits: list[GatedEdits], weight: float) -> Tensor:
    """λ · Σ P(g ≠ 0) over every distinct gate of every site (equation 5)."""
    return weight * expected_open(edits)


def expected_open(edits: list[GatedEdits]) -> Tensor:
    """Σ P(g ≠ 0): the expected number of open gates."""
    terms = [probability_open(log_alpha).sum() for e in edits for log_alpha in e.log_alphas().values()]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def reference_penalty(edits: list[GatedEdits], weight: float) -> Tensor:
    """The penalty of the reference code.

    P(g ≠ 0) is averaged over the heads of each layer, summed over layers, and divided again by layers · heads. The
    weight is λ for the offset gates and 1 − λ for the scale gates; the penalty is 0 if λ is 0. `InputError` for gates
    that both halves share.
    """
    total = torch.zeros(())
    if any("shared" in e.log_alphas() for e in edits):
        raise InputError(
            "The reference objective weights the two kinds of gates differently, but these edits have shared gates."
        )
    if weight == 0:
        return total
    for e in edits:
        for half, factor in (("offset", weight), ("scale", 1 - weight)):
            log_alpha = e.log_alphas().get(half)
            if log_alpha is not None:
                open_gates = probability_open(log_alpha).clamp(NOISE_MARGIN, 1 - NOISE_MARGIN).sum()
                total = total.to(open_gates) + factor * open_gates / e.units / (e.layers * e.units)
    return total


PENALTIES: dict[str, Penalty] = {"paper": paper_penalty, "reference": reference_penalty}
