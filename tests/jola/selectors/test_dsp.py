"""DSP, compared with an independent implementation of its parts."""

import numpy as np
import pytest
import torch

from jola.selectors.dsp import COLDEST, HOTTEST, hard_top_k, soft_top_k, straight_through_top_k, temperature
from jola.selectors.protocol import gumbel


@pytest.mark.parametrize("heat", [1000.0, 1.0, 0.03, 1e-8])
@pytest.mark.parametrize("k", [1, 4, 12])
def test_soft_top_k_sums_to_k(k: int, heat: float) -> None:
    generator = torch.Generator().manual_seed(k)
    weights = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    mask = soft_top_k(weights, k, heat, gumbel((3, 4), generator))
    assert mask.dtype == torch.float64
    assert float(mask.sum()) == pytest.approx(k)
    assert float(mask.min()) >= 0


@pytest.mark.parametrize("k", [1, 5, 11])
def test_soft_top_k_becomes_hard_as_it_cools(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        weights, noise = torch.randn(3, 4, generator=generator), gumbel((3, 4), generator)
        assert torch.allclose(soft_top_k(weights, k, COLDEST, noise), hard_top_k(weights.double() + noise, k))


def test_soft_top_k_at_temperature_one_is_sampling_without_replacement() -> None:
    weights = torch.tensor([2.0, 1.0, 0.0, -1.0])
    share = torch.softmax(weights.double(), 0)
    # Second draw, by hand: the first head with its probability, then another one among the rest.
    second = [
        sum(float(share[i] * share[j] / (1 - share[i])) for i in range(4) if i != j) for j in range(4)
    ]  # mean over first draws
    generator, total = torch.Generator().manual_seed(1), torch.zeros(4, dtype=torch.float64)
    for _ in range(4000):
        total += hard_top_k(weights + gumbel((4,), generator), 2)
    assert (total / 4000).numpy() == pytest.approx(share.numpy() + np.array(second), abs=0.03)


def test_straight_through_is_hard_forward_and_identity_backward() -> None:
    weights = torch.tensor([[0.1, 3.0], [2.0, -1.0]], requires_grad=True)
    factor = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    mask = straight_through_top_k(weights, 2)
    (mask * factor).sum().backward()
    assert torch.equal(mask.detach(), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert weights.grad is not None
    assert torch.equal(weights.grad, factor)
    assert int(straight_through_top_k(torch.zeros(6), 2).sum()) == 2


def test_temperature_falls_by_a_constant_factor_and_stays() -> None:
    heats = [temperature(step, 100) for step in range(100)]
    assert heats[0] == pytest.approx(HOTTEST)
    assert heats[80:] == pytest.approx([COLDEST] * 20)
    factors = np.array(heats[1:81]) / np.array(heats[:80])
    assert factors == pytest.approx(np.full(80, (COLDEST / HOTTEST) ** (1 / 80)))
