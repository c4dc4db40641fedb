r"""DSP: differentiable subset pruning of heads (Li, Cotterell and Sachan, TACL 2021).

One weight w for each of the N heads. A step draws a relaxed sample of K heads without replacement (the Gumbel soft
top-K), which multiplies the heads' outputs:

    r = w + Gumbel(0, 1)
    for j = 1 … K:   p_j = softmax(r / τ) over all heads;   r ← r + log(1 − p_j)
    mask = Σ_j p_j                                            sums to K; 0 or 1 everywhere as τ → 0

τ falls from τ₀ to τ₁ by a constant factor a step up to a share of the steps, and stays there. In the limit the mask is
the K largest of r, a sample of K heads. The straight-through form has no noise: forward the K largest of w, backward
the identity. In the end the K largest w are the heads.

The base is frozen (the "pipelined" variant). Differences from the official code, with reasons:

* w is trained alone, on the loss of the answers; the official runs train the classifier (and, jointly, the model) too,
  and there is none here.
* The temperature reaches its end at 0.8 of the steps, not at a fixed 8,333 or 25,000: runs here are shorter.
* The mask multiplies what a head gives instead of its attention weights, which is the same number.
* log(1 − p) of the largest p is taken of the sum of the others. Subtracting from 1 leaves nothing but rounding once p
  is within 1e-16 of 1, and its gradient, divided by τ, would then be the largest of all and meaningless.
* The gradient of w is limited to a norm of 1 by itself. Over K rounds it grows like a power of 1/τ (to 1e46 for 192 of
  270 heads), which float32 cannot hold and which would leave the edits of a gate swap nothing when both are clipped.
* The straight-through form takes the K largest w where the official code takes those above the (K+1)-th largest: with
  equal weights that one would choose fewer.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jola.selectors.heads import Cost
from jola.selectors.protocol import BaseSelector, HeadFactors, Selection, fit, gumbel

HOTTEST, COLDEST = 1000.0, 1e-8
"""τ at the start and at the end."""
COOLING_SHARE = 0.8
"""Share of the steps in which τ falls."""
LEARNING_RATE = 0.5

_TINY = torch.finfo(torch.float64).tiny


def soft_top_k(weights: Tensor, k: int, temperature: float, noise: Tensor | None = None) -> Tensor:
    """The relaxed sample of `k` heads, of the shape of `weights`, float64; it sums to `k`.

    While τ is above 1 one head may have more than 1, as in the official code.

    Args:
        weights: w, of any shape; all of its numbers compete.
        k: How many, up to the number of weights.
        temperature: τ > 0. As it goes to 0 the result goes to 1 at the `k` largest of w + noise and 0 elsewhere.
        noise: Of the shape of `weights`; None is none.
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
        # 1 − p of the largest is the sum of the others: subtracted from 1 it would be rounding, and so its gradient.
        largest = F.one_hot(share.argmax(), share.numel()).bool()
        rest = torch.where(largest, share.masked_fill(largest, 0).sum(), 1 - share)
        remaining = remaining + rest.clamp(min=_TINY).log()
    return mask.view_as(weights)


def _bounded(gradient: Tensor) -> Tensor:
    """The gradient with a norm of 1 at most, or nothing where it is not finite.

    Over K rounds it grows like a power of 1/τ, beyond what float32 holds, and clipped together with others it would
    leave them nothing.
    """
    largest = gradient.abs().max()
    if not bool(largest.isfinite()):
        return torch.zeros_like(gradient)
    gradient = gradient / largest.clamp(min=1)  # whose squares are numbers
    return gradient / torch.linalg.vector_norm(gradient).clamp(min=1)


def hard_top_k(weights: Tensor, k: int) -> Tensor:
    """1 at the `k` largest of `weights`, 0 elsewhere, in their shape and type; of equal ones the first counts."""
    flat = weights.detach().flatten()
    mask = torch.zeros_like(flat)
    mask[flat.argsort(descending=True, stable=True)[:k]] = 1
    return mask.view_as(weights)


def straight_through_top_k(weights: Tensor, k: int) -> Tensor:
    """`hard_top_k` in the forward pass, with the gradient of the identity."""
    return hard_top_k(weights, k) + weights - weights.detach()


def temperature(step: int, total: int, share: float = COOLING_SHARE) -> float:
    """τ at a step: exp(ln τ₀ − (t/T)·(ln τ₀ − ln τ₁)) for t ≤ T = share · total, then τ₁."""
    progress = min(1.0, step / max(share * total, 1.0))
    return math.exp((1 - progress) * math.log(HOTTEST) + progress * math.log(COLDEST))


@dataclass(frozen=True)
class DSP(BaseSelector):
    """Differentiable subset pruning: trains w on the loss and ranks heads by it."""

    name: ClassVar[str] = "dsp"
    title: ClassVar[str] = "DSP"
    depends_on_k: ClassVar[bool] = True

    form: Literal["gumbel", "straight_through"] = "gumbel"
    learning_rate: float = LEARNING_RATE
    cooling_share: float = COOLING_SHARE

    def score(self, selection: Selection) -> tuple[Tensor, Cost]:
        """As many passes as JoLA's training."""
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
