r"""PASS: Pruning Attention Heads with Almost-sure Sparsity Targets (Ding, Jawahar and Lakshmanan, TMLR 2024).

Every head has a Hard-Concrete gate (`jola.edits.gates`) on its output, with parameter φ. Let q₀ = P(g = 0),
q₁ = P(g = 1) and q = 1 − q₀ − q₁, each clamped to [1e-6, 1 − 1e-6]. To keep K of N heads:

    R_pass = Σ q + |(N − K) − Σ q₀| + |K − Σ q₁|
    R_conc = Σ_layers (1 − Π_heads q₀)                        the concentrator of PASSCONC: closes whole layers
    loss   = cross-entropy + c·(R_pass + c_conc·R_conc)

c starts at 1e-5. It grows by a factor of 1000 over a third of the steps, not counting steps at which exactly N − K
gates have φ ≤ −5 and K have φ ≥ 5. After a quarter, half and three quarters of the steps, φ is clipped to [−5, 5], and
every gate at −5 is reopened (set to 5) with a probability equal to the confidence of its head: the mean over positions
of its largest attention weight, divided by the maximum over heads. At the same steps,

    c_conc = min over gates with φ > −5 of 2·max(ρ, 1) / Π_others-of-the-layer q₀,  at most 3000
    ρ      = σ(h + φ)σ(−h − φ) / (σ(h − φ)σ(φ − h)),   h = β·log(−γ/ζ)

and it is 0 while N − K gates are closed. After training, the heads with the K largest φ are chosen. φ starts
uniformly within ±√(6 / (heads per layer + 1)). The official runs prune a model that was fine-tuned on the task; `PASS`
prunes the model as it is, and `TunedPASS` one that has learned the task through edits.

Differences from the official code, with reasons:

* The official schedules are in steps (growth over 1000; clipping and reopening at 2000, 3000 and 4000 of several ten
  thousand). Here they are shares of the run, because runs have hundreds of steps. The learning rate of φ is constant: a
  decaying rate would be too small after the last reopening to close a gate again.
* The official confidence is a running sum over all steps since the last reopening, on scores before the softmax in one
  version and after it in the other. Here it is measured only when needed, after the softmax, on up to
  `CONFIDENCE_EXAMPLES` examples with the gates at their evaluation value, because fused attention returns no attention
  weights in training passes. The first position is left out, because it can only attend to itself.
* Heads are ranked by φ; the official code ranks by evaluation gates, which gives the same order with more ties.
* c, φ and c_conc are adjusted before a step, not between its backward pass and the optimizer step.
* The number of heads comes from the model; the official code hard-codes 144.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from jola.data.examples import Encoded, pad_token_of
from jola.edits import gates
from jola.edits.intervention import Intervention
from jola.model.edited import EditedModel
from jola.model.tracing import Wanted
from jola.selectors.heads import Cost
from jola.selectors.protocol import (
    BaseSelector,
    HeadFactors,
    OnTunedBase,
    Selection,
    fit,
    last_positions,
    right_padded,
)

CLIP = 5.0
MARGIN = 1e-6
FIRST_WEIGHT, GROWTH = 1e-5, 1000.0
GROWTH_SHARE = 1 / 3
"""Share of the steps over which the weight of the penalty grows by `GROWTH`."""
REOPENINGS = (0.25, 0.5, 0.75)
"""Points of the run at which gates are clipped and reopened."""
CONCENTRATOR_LIMIT = 3000.0
LEARNING_RATE = 0.5
CONFIDENCE_EXAMPLES = 64

_SHIFT = gates.TEMPERATURE * math.log(-gates.STRETCH_LOW / gates.STRETCH_HIGH)


def probabilities(log_alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q₀, q₁ and q (neither 0 nor 1) of each gate, clamped to [1e-6, 1 − 1e-6]."""
    closed, full = gates.probability_closed(log_alpha), gates.probability_full(log_alpha)
    between = 1 - closed - full
    low, high = MARGIN, 1 - MARGIN
    return closed.clamp(low, high), full.clamp(low, high), between.clamp(low, high)


def three_point_penalty(log_alpha: Tensor, k: int) -> Tensor:
    """R_pass, a scalar: minimal if `k` gates are certainly 1 and all others certainly 0."""
    closed, full, between = probabilities(log_alpha)
    return between.sum() + (log_alpha.numel() - k - closed.sum()).abs() + (k - full.sum()).abs()


def concentrator_penalty(log_alpha: Tensor) -> Tensor:
    """R_conc of (layers, heads), a scalar: the expected number of layers with an open gate."""
    return (1 - probabilities(log_alpha)[0].prod(-1)).sum()


def concentrator_weight(log_alpha: Tensor) -> float:
    """Return the smallest c_conc that outweighs R_pass for some gate that is not clipped at −5; at most 3000."""
    closed = probabilities(log_alpha)[0]
    slope_full = torch.sigmoid(_SHIFT + log_alpha) * torch.sigmoid(-_SHIFT - log_alpha)
    slope_closed = torch.sigmoid(_SHIFT - log_alpha) * torch.sigmoid(log_alpha - _SHIFT)
    others = closed.prod(-1, keepdim=True) / closed
    bound = 2 * (slope_full / slope_closed).clamp(min=1) / others
    bounds = bound[log_alpha > -CLIP].tolist()
    return min([*bounds, CONCENTRATOR_LIMIT])


class PassSchedule:
    """The penalty on one set of gates over a run, with clipping and reopening of the gates.

    Args:
        log_alpha: φ, (layers, heads); reopening changes it in place.
        k: Number of gates to keep.
        concentrate: Whether to use the concentrator.
        confidence: Returns (layers, heads) in [0, ∞); called when gates are reopened.
        generator: Random generator for reopening.
    """

    def __init__(
        self,
        log_alpha: nn.Parameter,
        k: int,
        *,
        concentrate: bool,
        confidence: Callable[[], Tensor],
        generator: torch.Generator,
    ) -> None:
        self.log_alpha, self.k, self.concentrate = log_alpha, k, concentrate
        self.confidence, self.generator = confidence, generator
        self.weight, self.concentrator = FIRST_WEIGHT, 0.0
        self._grown = 0

    def penalty(self) -> Tensor:
        """c·(R_pass + c_conc·R_conc)."""
        total = three_point_penalty(self.log_alpha, self.k)
        if self.concentrator:
            total = total + self.concentrator * concentrator_penalty(self.log_alpha)
        return self.weight * total

    @torch.no_grad()
    def before_step(self, step: int, total: int) -> None:
        """Update the weights, and clip and reopen the gates if due; steps count from 0."""
        if step == 0:
            return
        wanted = self.log_alpha.numel() - self.k
        closed, full = int((self.log_alpha <= -CLIP).sum()), int((self.log_alpha >= CLIP).sum())
        if closed != wanted or full != self.k:
            self.weight = FIRST_WEIGHT * GROWTH ** (self._grown / max(GROWTH_SHARE * total, 1))
            self._grown += 1
        reopening = step in {round(share * total) for share in REOPENINGS}
        if reopening:
            self._clip_and_reopen()
            closed = int((self.log_alpha <= -CLIP).sum())
        if closed >= wanted or not self.concentrate:
            self.concentrator = 0.0
        elif reopening:
            self.concentrator = concentrator_weight(self.log_alpha)

    def _clip_and_reopen(self) -> None:
        confidence = self.confidence().to(self.log_alpha)
        chance = confidence / confidence.max().clamp(min=torch.finfo(confidence.dtype).tiny)
        self.log_alpha.clamp_(-CLIP, CLIP)
        drawn = torch.rand(chance.shape, generator=self.generator).to(chance)
        self.log_alpha[(self.log_alpha <= -CLIP) & (drawn < chance)] = CLIP


@torch.no_grad()
def attention_confidence(
    model: EditedModel, rows: Sequence[Encoded], interventions: Sequence[Intervention], batch_size: int
) -> Tensor:
    """Return the mean over examples and positions of the largest attention weight of each head, (layers, heads).

    Args:
        rows: Examples, including their answers.
        interventions: The interventions in use during the measurement.
    """
    layers = range(model.geometry.num_layers)
    total, positions = torch.zeros(model.geometry.num_layers, model.geometry.num_heads), 0
    pad = pad_token_of(model.tokenizer)
    with model.traced.plain_attention(), model.using(interventions):
        for start in range(0, len(rows), batch_size):
            ids, mask = right_padded([row.input_ids for row in rows[start : start + batch_size]], pad)
            inputs, counted = model.inputs(ids, mask), mask[:, 1:].float()
            # The language-model head must run at one position at least.
            last = last_positions(mask).to(model.device)
            starts = torch.tensor([row.completion_start for row in rows[start : start + batch_size]])
            plan = model.plan(None, 1.0, len(ids), model.prompt_tokens(inputs, starts))
            record = model.traced.record(
                inputs, plan, Wanted(attention=layers), rows=last, uniform=all(i.uniform for i in interventions)
            )
            for layer in layers:
                largest = record.attention[layer].float().amax(-1)[:, :, 1:].cpu()
                total[layer] += (largest * counted[:, None]).sum((0, 2))
            positions += int(counted.sum())
    return total / max(positions, 1)


@dataclass(frozen=True)
class PASS(BaseSelector):
    """Trains Hard-Concrete gates until K stay open (almost-sure sparsity targets), and ranks heads by φ."""

    name: ClassVar[str] = "pass"
    title: ClassVar[str] = "PASS"
    depends_on_k: ClassVar[bool] = True

    concentrate: bool = False
    """Use the concentrator (PASSCONC), which closes whole layers; useful only for pruned models."""
    learning_rate: float = LEARNING_RATE

    def score(self, selection: Selection) -> tuple[Tensor, Cost]:
        """Train with as many passes as JoLA, plus the passes that measure confidence."""
        generator = torch.Generator().manual_seed(selection.seed + 1)
        start = gates.HardConcrete(*selection.shape)
        start.reset(generator)
        log_alpha = start.log_alpha
        rows, extra = selection.rows[:CONFIDENCE_EXAMPLES], 0

        def confidence() -> Tensor:
            nonlocal extra
            extra += len(rows)
            now = HeadFactors(gates.at_test_time(log_alpha))
            return attention_confidence(selection.model, rows, [*selection.base, now], selection.budget.batch_size)

        schedule = PassSchedule(
            log_alpha, selection.k, concentrate=self.concentrate, confidence=confidence, generator=generator
        )
        cost = fit(
            selection,
            lambda: HeadFactors(gates.sample(log_alpha, generator=generator)),
            [log_alpha],
            learning_rate=self.learning_rate,
            decay=False,
            penalty=schedule.penalty,
            before_step=schedule.before_step,
        )
        return log_alpha, cost + Cost(forward=extra)


@dataclass(frozen=True)
class TunedPASS(OnTunedBase, PASS):
    """PASS on a base that has learned the task: ungated edits of all heads are trained first, then the gates."""

    name: ClassVar[str] = "pass_tuned"
    title: ClassVar[str] = "PASS, tuned base"
