r"""Hard-Concrete gates (Louizos, Welling and Kingma, 2018; paper, section 3.2).

A gate is a random number in [0, 1] that is exactly 0 and exactly 1 with positive probability. Its distribution has
one learned parameter, φ = ``log_alpha``; temperature β = 0.33 and the stretch (γ, ζ) = (−0.1, 1.1) are fixed:

    u ~ U(0, 1)
    s = σ((log u − log(1 − u) + φ) / β)
    g = clip(s·(ζ − γ) + γ, 0, 1)

All functions are elementwise over a tensor of φ of any shape, differentiable in φ, and finite for |φ| ≤ 50 and beyond,
because probabilities are sigmoids of shifted φ, not ratios of exponentials.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

TEMPERATURE = 0.33
STRETCH_LOW = -0.1
STRETCH_HIGH = 1.1
NOISE_MARGIN = 1e-6

# P(g = 0) and P(g = 1) are sigmoids of φ shifted by β·log(−γ/ζ) and β·log((1 − γ)/(ζ − 1)).
_CLOSED_SHIFT = TEMPERATURE * math.log(-STRETCH_LOW / STRETCH_HIGH)
_FULL_SHIFT = TEMPERATURE * math.log((1 - STRETCH_LOW) / (STRETCH_HIGH - 1))

# P(g > x) = σ(φ − β·logit((x − γ)/(ζ − γ))) at the Gauss–Legendre nodes x of [0, 1]. With 64 nodes, the error of the
# expectation is at most 1e-6 for any φ.
_nodes, _weights = np.polynomial.legendre.leggauss(64)
_WEIGHTS = torch.tensor(_weights / 2)
_THRESHOLDS = TEMPERATURE * torch.logit((torch.tensor((_nodes + 1) / 2) - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW))


def _stretch(concrete: Tensor) -> Tensor:
    return (concrete * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW).clamp(0, 1)


def sample(log_alpha: Tensor, uniform: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Draw one gate for each φ.

    `uniform` is the noise in [0, 1), of the same shape; without it, the noise is drawn from `generator`. The noise is
    scaled to [1e-6, 1 − 1e-6], as in published code, so that its logit is finite.
    """
    if uniform is None:
        uniform = torch.rand(log_alpha.shape, generator=generator, dtype=torch.float32)
    noise = (uniform * (1 - 2 * NOISE_MARGIN) + NOISE_MARGIN).to(log_alpha.device)
    return _stretch(torch.sigmoid((torch.log(noise) - torch.log(1 - noise) + log_alpha) / TEMPERATURE))


def at_test_time(log_alpha: Tensor) -> Tensor:
    """The test-time estimator clip(σ(φ)(ζ − γ) + γ, 0, 1), without noise and temperature.

    It is exactly 0 for φ ≤ −log 11 and exactly 1 for φ ≥ log 11. Published code uses it; it is not the mean.
    """
    return _stretch(torch.sigmoid(log_alpha))


def expectation(log_alpha: Tensor) -> Tensor:
    """The exact mean E[g] = ∫₀¹ P(g > x) dx, by quadrature."""
    # In the data type of φ, because not every device supports float64.
    survival = torch.sigmoid(log_alpha.unsqueeze(-1) - _THRESHOLDS.to(log_alpha))
    return (survival * _WEIGHTS.to(log_alpha)).sum(-1).clamp(max=1)


def probability_open(log_alpha: Tensor) -> Tensor:
    """P(g ≠ 0) = σ(φ − β·log(−γ/ζ)): the term of the expected-L0 penalty (paper, equation 5)."""
    return torch.sigmoid(log_alpha - _CLOSED_SHIFT)


def probability_closed(log_alpha: Tensor) -> Tensor:
    """P(g = 0), computed as a separate sigmoid, which is precise even when the gate is open."""
    return torch.sigmoid(_CLOSED_SHIFT - log_alpha)


def probability_full(log_alpha: Tensor) -> Tensor:
    """P(g = 1)."""
    return torch.sigmoid(log_alpha - _FULL_SHIFT)


ESTIMATORS = {"test_time": at_test_time, "expectation": expectation}


class HardConcrete(nn.Module):
    """One gate for each unit of each layer, with its parameter ``log_alpha`` (layers, units), float32.

    In training mode, a call draws the gates; in evaluation mode, or once they are `settled`, it returns the chosen
    estimate.
    """

    settled = False
    """Whether the gates no longer train: they are not drawn, and the gradient of φ is 0."""

    def __init__(self, layers: int, units: int, estimator: str = "test_time", threshold: float = 0.0) -> None:
        super().__init__()
        self.estimator = estimator
        self.threshold = threshold
        self.log_alpha = nn.Parameter(torch.zeros(layers, units))

    def reset(self, generator: torch.Generator | None = None, center: float = 0.0) -> None:
        """Draw φ uniformly within ±√(6/(units + 1)) of `center`; 0 in published code, where P(open) is near 0.69."""
        bound = math.sqrt(6 / (self.log_alpha.shape[1] + 1))
        with torch.no_grad():
            uniform = torch.rand(self.log_alpha.shape, generator=generator)
            self.log_alpha.copy_(center + (uniform * 2 - 1) * bound)

    def forward(self, generator: torch.Generator | None = None) -> Tensor:
        """Gates (layers, units) of one forward pass, shared by the batch and all positions."""
        if not self.training:
            return self.value()
        if self.settled:
            # A gradient of 0 instead of none, because DistributedDataParallel waits for one.
            return self.value().detach() + 0 * self.log_alpha
        return sample(self.log_alpha, generator=generator)

    def value(self) -> Tensor:
        """The evaluation value of every gate, in [0, 1]; exactly 0 below the threshold (ε in the paper)."""
        value = ESTIMATORS[self.estimator](self.log_alpha)
        return torch.where(value < self.threshold, torch.zeros_like(value), value)
