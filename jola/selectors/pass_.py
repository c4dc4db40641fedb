r"""PASS: probabilistic subset selection of heads (Ding, Jawahar and Lakshmanan, TMLR 2024), and PASSCONC.

Every head has a Hard-Concrete gate (`jola.edits.gates`) on its output, with parameter φ. From its three probabilities
q₀ = P(g = 0), q₁ = P(g = 1) and q = 1 − q₀ − q₁, each kept within [1e-6, 1 − 1e-6], with N heads of which K stay:

    R_pass = Σ q + |(N − K) − Σ q₀| + |K − Σ q₁|
    R_conc = Σ_layers (1 − Π_heads q₀)                        the concentrator of PASSCONC: closes whole layers
    loss   = cross-entropy + c·(R_pass + c_conc·R_conc)

c starts at 1e-5 and grows thousandfold over a third of the steps, on every step on which not exactly N − K gates have
φ ≤ −5 and K have φ ≥ 5. A quarter, half and three quarters through the steps φ is clipped to [−5, 5], and every gate at
−5 is reopened (set to 5) with a probability that is its head's confidence: the mean, over positions, of its largest
attention weight, divided by the largest of all heads. At the same moments

    c_conc = min over gates with φ > −5 of 2·max(ρ, 1) / Π_others-of-the-layer q₀,  at most 3000
    ρ      = σ(h + φ)σ(−h − φ) / (σ(h − φ)σ(φ − h)),   h = β·log(−γ/ζ)

and it is 0 as long as N − K gates are closed. In the end the K largest φ are the heads.

Differences from the official code, with reasons:

* Its schedules are in steps (growth 1000; clip and reopen at 2000, 3000, 4000 of several ten thousand): here they are
  shares of the run, as runs have hundreds of steps. The rate of φ then stays constant: one that falls would be too
  small after the last reopening to close a gate again.
* Confidence there is a running sum over all steps since the last reopening, on scores before the softmax in one of its
  versions and after it in the other. Here it is measured when it is needed, after the softmax, on up to
  `CONFIDENCE_EXAMPLES` examples with the gates at their evaluation value: no training pass has to give attention
  weights, which fused attention cannot. The first position is left out, which has itself alone to attend to.
* The heads are ranked by φ where the official code ranks evaluation gates: the order is the same, with fewer ties.
* The adjustment of c, φ and c_conc comes before a step instead of between its backward pass and the optimiser.
* The number of heads is the model's, where the official code has 144 written into it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from jola.data.examples import Encoded
from jola.edits import gates
from jola.edits.intervention import Intervention
from jola.model.edited import EditedModel
from jola.model.tracing import Wanted
from jola.selectors.heads import Cost
from jola.selectors.protocol import BaseSelector, HeadFactors, Selection, fit, last_positions, right_padded

CLIP = 5.0
MARGIN = 1e-6
FIRST_WEIGHT, GROWTH = 1e-5, 1000.0
GROWTH_SHARE = 1 / 3
"""Share of the steps over which the weight of the penalty grows by `GROWTH`."""
REOPENINGS = (0.25, 0.5, 0.75)
"""Where in the run gates are clipped and reopened."""
CONCENTRATOR_LIMIT = 3000.0
LEARNING_RATE = 0.5
CONFIDENCE_EXAMPLES = 64

_SHIFT = gates.TEMPERATURE * math.log(-gates.STRETCH_LOW / gates.STRETCH_HIGH)


def probabilities(log_alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q₀, q₁ and q (neither 0 nor 1) of each gate, each within [1e-6, 1 − 1e-6]."""
    closed, full = gates.probability_closed(log_alpha), gates.probability_full(log_alpha)
    between = 1 - closed - full
    low, high = MARGIN, 1 - MARGIN
    return closed.clamp(low, high), full.clamp(low, high), between.clamp(low, high)


def three_point_penalty(log_alpha: Tensor, k: int) -> Tensor:
    """R_pass, a scalar: it asks for `k` gates that are surely 1 and for all others to be surely 0."""
    closed, full, between = probabilities(log_alpha)
    return between.sum() + (log_alpha.numel() - k - closed.sum()).abs() + (k - full.sum()).abs()


def concentrator_penalty(log_alpha: Tensor) -> Tensor:
    """R_conc of (layers, heads), a scalar: the expected number of layers with an open gate."""
    return (1 - probabilities(log_alpha)[0].prod(-1)).sum()


def concentrator_weight(log_alpha: Tensor) -> float:
    """The smallest c_conc that outweighs R_pass for some gate that is not clipped shut; at most 3000."""
    closed = probabilities(log_alpha)[0]
    slope_full = torch.sigmoid(_SHIFT + log_alpha) * torch.sigmoid(-_SHIFT - log_alpha)
    slope_closed = torch.sigmoid(_SHIFT - log_alpha) * torch.sigmoid(log_alpha - _SHIFT)
    others = closed.prod(-1, keepdim=True) / closed
    bound = 2 * (slope_full / slope_closed).clamp(min=1) / others
    bounds = bound[log_alpha > -CLIP].tolist()
    return min([*bounds, CONCENTRATOR_LIMIT])


class PassSchedule:
    """The penalty of one set of gates over a run, and what happens to the gates themselves.

    Args:
        log_alpha: φ, (layers, heads); reopening changes it in place.
        k: How many gates are to stay.
        concentrate: Whether the concentrator takes part.
        confidence: Gives (layers, heads) in [0, ∞) when gates are reopened.
        generator: Source of the reopening.
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
        """Move the weights, and clip and reopen when it is time; steps count from 0."""
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
    """Mean over examples and positions of the largest attention weight of each head, (layers, heads).

    Args:
        rows: Examples; their answers are attended to as well.
        interventions: What edits the model meanwhile.
    """
    layers = range(model.geometry.num_layers)
    total, positions = torch.zeros(model.geometry.num_layers, model.geometry.num_heads), 0
    pad = model.tokenizer.pad_token_id
    assert isinstance(pad, int), "JoLAModel gives its tokenizer a padding token"
    with model.traced.plain_attention(), model.using(interventions):
        for start in range(0, len(rows), batch_size):
            ids, mask = right_padded([row.input_ids for row in rows[start : start + batch_size]], pad)
            inputs, counted = model.inputs(ids, mask), mask[:, 1:].float()
            # The head has to run somewhere.
            last = last_positions(mask).to(model.device)
            plan = model.plan(None, 1.0, len(ids))
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
    """Probabilistic subset selection: trains Hard-Concrete gates towards K open ones and ranks heads by φ."""

    name: ClassVar[str] = "pass"
    title: ClassVar[str] = "PASS"
    depends_on_k: ClassVar[bool] = True

    concentrate: bool = False
    """With the concentrator (PASSCONC), which makes models fast by closing whole layers; edits gain nothing by that."""
    learning_rate: float = LEARNING_RATE

    def score(self, selection: Selection) -> tuple[Tensor, Cost]:
        """As many passes as JoLA's training, and those that measure confidence."""
        generator = torch.Generator().manual_seed(selection.seed + 1)
        log_alpha = nn.Parameter(torch.empty(selection.shape))
        nn.init.xavier_uniform_(log_alpha, generator=generator)
        rows, extra = selection.rows[:CONFIDENCE_EXAMPLES], 0

        def confidence() -> Tensor:
            nonlocal extra
            extra += len(rows)
            now = HeadFactors(gates.at_test_time(log_alpha))
            return attention_confidence(selection.model, rows, [now], selection.budget.batch_size)

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
