"""PASS, compared with an independent implementation of its parts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from jola.edits import gates
from jola.jola_model import JoLAModel
from jola.selectors.pass_ import (
    CLIP,
    CONCENTRATOR_LIMIT,
    PassSchedule,
    attention_confidence,
    concentrator_penalty,
    concentrator_weight,
    probabilities,
    three_point_penalty,
)
from jola.selectors.protocol import HeadFactors
from tests.jola.selectors.examples import selection


@pytest.mark.parametrize("phi", [-3.0, -0.5, 0.0, 1.0, 4.0])
def test_probabilities_of_gates_against_simulation(phi: float) -> None:
    drawn = gates.sample(torch.full((40_000,), phi), generator=torch.Generator().manual_seed(0))
    closed, full, between = (float(p) for p in probabilities(torch.tensor(phi)))
    assert closed == pytest.approx(float((drawn == 0).float().mean()), abs=0.01)
    assert full == pytest.approx(float((drawn == 1).float().mean()), abs=0.01)
    assert between == pytest.approx(float(((drawn > 0) & (drawn < 1)).float().mean()), abs=0.01)


def test_three_point_penalty_is_least_with_k_gates_fully_open() -> None:
    def at(opened: int, phi: float) -> float:
        log_alpha = torch.full((12,), -phi)
        log_alpha[:opened] = phi
        return float(three_point_penalty(log_alpha.view(3, 4), 3))

    assert at(3, 12.0) < 0.01
    assert at(2, 12.0) == pytest.approx(2, abs=0.01)  # one closed too many, one full too few
    assert at(5, 12.0) == pytest.approx(4, abs=0.01)
    assert at(3, 1.0) > at(3, 3.0) > at(3, 12.0)


def test_concentrator_counts_layers() -> None:
    log_alpha = torch.full((3, 4), -20.0)
    log_alpha[0, :2], log_alpha[1, 3] = 20, 20
    assert float(concentrator_penalty(log_alpha)) == pytest.approx(2, abs=1e-3)


def test_concentrator_weight_outweighs_the_three_point_penalty() -> None:
    log_alpha = torch.full((1, 4), -4.0, requires_grad=True)
    weight = concentrator_weight(log_alpha.detach())
    assert 0 < weight < CONCENTRATOR_LIMIT
    (pull,) = torch.autograd.grad(concentrator_penalty(log_alpha), log_alpha)
    # Both of its terms push gates open when too many are closed and too few are full.
    (push,) = torch.autograd.grad(three_point_penalty(log_alpha, 4), log_alpha)
    assert bool((push < 0).all())
    assert bool((weight * pull + push > 0).all())
    assert concentrator_weight(torch.full((1, 4), 5.0)) == CONCENTRATOR_LIMIT
    assert concentrator_weight(torch.full((1, 4), -6.0)) == CONCENTRATOR_LIMIT


def make_schedule(log_alpha: Tensor, confidence: Tensor) -> PassSchedule:
    return PassSchedule(
        nn.Parameter(log_alpha),
        2,
        concentrate=True,
        confidence=lambda: confidence,
        generator=torch.Generator().manual_seed(0),
    )


def test_weight_of_the_penalty_grows_thousandfold_in_a_third_until_the_target_is_met() -> None:
    schedule = make_schedule(torch.zeros(2, 3), torch.zeros(2, 3))
    weights = []
    for step in range(90):
        schedule.before_step(step, 90)
        weights.append(schedule.weight)
    assert weights[0] == pytest.approx(1e-5)
    assert weights[31] / weights[1] == pytest.approx(1000)
    schedule.log_alpha.data = torch.tensor([[5.0, 6.0, -5.0], [-5.0, -7.0, -5.0]])
    schedule.before_step(89, 90)
    assert schedule.weight == weights[-1]


def test_gates_are_clipped_and_confident_ones_reopened() -> None:
    schedule = make_schedule(
        torch.tensor([[-9.0, -9.0, -1.0], [8.0, -5.0, 0.5]]), torch.tensor([[0.8, 0, 0], [0, 0, 0]])
    )
    schedule.before_step(24, 100)
    assert float(schedule.log_alpha.min()) == -9
    schedule.before_step(25, 100)
    assert schedule.log_alpha.tolist() == [[CLIP, -CLIP, -1], [CLIP, -CLIP, 0.5]]
    assert schedule.concentrator > 0, "fewer are closed than should be"
    schedule.log_alpha.data = torch.tensor([[5.0, 6.0, -5.0], [-5.0, -7.0, -5.0]])
    schedule.before_step(26, 100)
    assert schedule.concentrator == 0


def test_confidence_is_the_mean_largest_attention_weight_without_padding(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("qwen2")
    rows = selection(model).rows
    together = attention_confidence(model, rows, [], 5)
    model.base.set_attn_implementation("eager")
    total, positions = torch.zeros(3, 4), 0
    for row in rows:
        weights = model.base(torch.tensor([row.input_ids]), output_attentions=True).attentions
        total += torch.stack([w[0].amax(-1)[:, 1:].sum(-1) for w in weights])
        positions += len(row.input_ids) - 1
    assert torch.allclose(together, (total / positions).detach(), atol=1e-5)
    shut = attention_confidence(model, rows, [HeadFactors(torch.zeros(3, 4))], 5)
    assert not torch.allclose(shut[1:], together[1:], atol=1e-3), "the gates of the moment count"
