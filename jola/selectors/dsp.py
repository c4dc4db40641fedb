r"""DSP: differentiable subset pruning of heads (Li, Cotterell and Sachan, TACL 2021).

Each of the N heads has one weight w. Every step draws a relaxed sample of K heads without replacement (Gumbel soft
top-K), which multiplies the outputs of the heads:

    r = w + Gumbel(0, 1)
    for j = 1 … K:   p_j = softmax(r / τ) over all heads;   r ← r + log(1 − p_j)
    mask = Σ_j p_j                                            sums to K; 0 or 1 everywhere as τ → 0

τ decreases from τ₀ to τ₁ by a constant factor per step over a share of the steps and then stays there. In the limit,
the mask selects the K largest r, a sample of K heads. The straight-through form has no noise: the forward pass selects
the K largest w, the backward pass is the identity. After training, the heads with the K largest w are chosen.

The base is frozen and only w is trained, on the loss of the answers, as in the pipelined variant of the official code.
That variant prunes a model that was fine-tuned on the task; `DSP` prunes the model as it is, `TunedDSP` one that has
learned the task through edits. w starts uniformly within ±√(6 / (layers + heads)). Differences from the official code,
with reasons:

* The temperature reaches its final value at 0.8 of the steps instead of after 8,333 or 25,000 steps, because runs here
  are shorter.
* The mask multiplies the output of a head instead of its attention weights, which is equivalent.
* log(1 − p) of the largest p is computed from the sum of the other probabilities. If p is within 1e-16 of 1,
  subtracting it from 1 leaves only rounding error, whose gradient, divided by τ, would be the largest of all and
  meaningless.
* The gradient of w is clipped to a norm of 1 on its own. Over K rounds it grows like a power of 1/τ (to 1e46 for 192 of
  270 heads). float32 cannot represent this, and joint clipping would reduce the gradient of the edits in a gate swap
  to nothing.
* The straight-through form selects the K largest w; the official code selects those above the (K+1)-th largest, which
  gives fewer heads if weights are equal.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jola.selectors.heads import Cost
from jola.selectors.protocol import BaseSelector, HeadFactors, OnTunedBase, Selection, fit, gumbel

HOTTEST, COLDEST = 1000.0, 1e-8
"""Initial and final τ."""
COOLING_SHARE = 0.8
"""Share of the steps over which τ decreases."""
LEARNING_RATE = 0.5

_TINY = torch.finfo(torch.float64).tiny


def soft_top_k(weights: Tensor, k: int, temperature: float, noise: Tensor | None = None) -> Tensor:
    """Return a relaxed sample of `k` heads, with the shape of `weights`, float64; it sums to `k`.

    While τ is above 1, the value of a head may exceed 1, as in the official code.

    Args:
        weights: w, of any shape; all entries compete.
        k: Number of heads to sample, at most the number of weights.
        temperature: τ > 0. As τ → 0, the result tends to 1 at the `k` largest of w + noise and to 0 elsewhere.
        noise: Noise with the shape of `weights`; None for no noise.
    """
    flat = weights.double().flatten().clone()
    if flat.requires_grad:
        flat.register_hook(_bounded)
    remaining = flat if noise is None else flat + noise.to(flat).flatten()
    mask = torch.zeros_like(flat)
    for _ in range(k):
        # float64 throughout: at τ = 1e-8 a difference of 1e-6 in w is 100 in the exponent.
        share = torch.softmax(remaining / temperature, 0)
        mask = mask + share
        # For the largest p, 1 − p is the sum of the others: the subtraction would leave only rounding error.
        largest = F.one_hot(share.argmax(), share.numel()).bool()
        rest = torch.where(largest, share.masked_fill(largest, 0).sum(), 1 - share)
        remaining = remaining + rest.clamp(min=_TINY).log()
    return mask.view_as(weights)


def _bounded(gradient: Tensor) -> Tensor:
    """Clip a gradient to a norm of at most 1; a gradient that is not finite becomes 0.

    Over K rounds, the gradient grows like a power of 1/τ beyond the range of float32. Clipped together with other
    gradients, it would reduce them to nothing.
    """
    largest = gradient.abs().max()
    if not bool(largest.isfinite()):
        return torch.zeros_like(gradient)
    gradient = gradient / largest.clamp(min=1)  # so that the squares are finite
    return gradient / torch.linalg.vector_norm(gradient).clamp(min=1)


def hard_top_k(weights: Tensor, k: int) -> Tensor:
    """Return 1 at the `k` largest `weights`, 0 elsewhere, with their shape and dtype; ties go to the first entry."""
    flat = weights.detach().flatten()
    mask = torch.zeros_like(flat)
    mask[flat.argsort(descending=True, stable=True)[:k]] = 1
    return mask.view_as(weights)


def straight_through_top_k(weights: Tensor, k: int) -> Tensor:
    """`hard_top_k` in the forward pass, the identity in the backward pass."""
    return hard_top_k(weights, k) + weights - weights.detach()


def temperature(step: int, total: int, share: float = COOLING_SHARE) -> float:
    """τ at a step: exp(ln τ₀ − (t/T)·(ln τ₀ − ln τ₁)) for t ≤ T = share · total, then τ₁."""
    progress = min(1.0, step / max(share * total, 1.0))
    return math.exp((1 - progress) * math.log(HOTTEST) + progress * math.log(COLDEST))


@dataclass(frozen=True)
class DSP(BaseSelector):
    """Differentiable subset pruning: trains one weight w per head on the loss and ranks the heads by it."""

    name: ClassVar[str] = "dsp"
    title: ClassVar[str] = "DSP"
    depends_on_k: ClassVar[bool] = True

    form: Literal["gumbel", "straight_through"] = "gumbel"
    learning_rate: float = LEARNING_RATE
    cooling_share: float = COOLING_SHARE

    def score(self, selection: Selection) -> tuple[Tensor, Cost]:
        """Train with as many passes as JoLA."""
        generator = torch.Generator().manual_seed(selection.seed + 1)
        weights = nn.Parameter(torch.empty(selection.shape, dtype=torch.float64))
        nn.init.xavier_uniform_(weights, generator=generator)
        heat = HOTTEST

        def cool(step: int, total: int) -> None:
            nonlocal heat
            heat = temperature(step, total, self.cooling_share)

        def mask() -> HeadFactors:
            if self.form == "straight_through":
                return HeadFactors(straight_through_top_k(weights, selection.k))
            return HeadFactors(soft_top_k(weights, selection.k, heat, gumbel(weights.shape, generator)))

        cost = fit(selection, mask, [weights], learning_rate=self.learning_rate, before_step=cool)
        return weights, cost


@dataclass(frozen=True)
class TunedDSP(OnTunedBase, DSP):
    """DSP on a base that has learned the task: ungated edits of all heads are trained first, then w."""

    name: ClassVar[str] = "dsp_tuned"
    title: ClassVar[str] = "DSP, tuned base"
