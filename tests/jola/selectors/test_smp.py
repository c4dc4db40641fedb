"""SMP, compared with an independent implementation of its parts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from jola.jola_model import JoLAModel
from jola.selectors import SMP
from jola.selectors.smp import MapScorer, consistency_loss, draw_heads, similarities, to_size
from tests.jola.selectors.examples import EXAMPLES, SHORT


def test_the_network_has_the_official_size() -> None:
    scorer = MapScorer()
    assert sum(m.weight.numel() for m in scorer.layers if isinstance(m, nn.Conv2d)) == 178_304
    scores = scorer(torch.rand(3, 128, 128))
    assert scores.shape == (3, 2)
    assert bool(((scores > 0) & (scores < 2)).all())


def test_maps_are_padded_or_averaged_and_know_no_padding() -> None:
    attention = torch.rand(2, 3, 200, 200)
    maps = to_size(attention, [40, 200])
    assert torch.equal(maps[0, :, :40, :40], attention[0, :, :40, :40])
    assert float(maps[0, :, 40:].abs().sum()) == float(maps[0, :, :, 40:].abs().sum()) == 0
    assert float(maps[1].mean()) == pytest.approx(float(attention[1].mean()), abs=0.01)
    other = attention.clone()
    other[0, :, 40:] = 5
    assert torch.equal(to_size(other, [40, 200]), maps)


def test_half_of_the_heads_are_drawn_and_better_scores_more_often() -> None:
    scores = torch.tensor([2.0, 1.0, 0.0, 0.0, -1.0, -2.0], requires_grad=True)
    generator, total = torch.Generator().manual_seed(0), torch.zeros(6)
    for _ in range(300):
        mask = draw_heads(scores, generator)
        assert set(mask.tolist()) <= {0.0, 1.0}
        assert int(mask.sum()) == 3
        total += mask.detach()
    assert total[0] > total[1] > total[2] > total[4] > total[5]
    draw_heads(scores, generator)[0].backward()
    assert scores.grad is not None
    assert float(scores.grad.abs().sum()) > 0


def test_similarities_and_loss_against_plain_arithmetic() -> None:
    x, kept = torch.randn(5, 7), torch.tensor([1.0, 0, 1, 1, 0, 1, 0])
    masked = (x * kept).numpy()
    centred = (masked - masked.mean(0))[:4]
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in centred] for a in centred])
    got = similarities(x, kept)
    assert got.numpy() == pytest.approx((10 * cosines).reshape(8, 2), abs=1e-4)
    assert float(consistency_loss(got, got)) == pytest.approx(0, abs=1e-6)
    p, q = torch.tensor([[0.0, np.log(3)]]), torch.zeros(1, 2)
    assert float(consistency_loss(p, q)) == pytest.approx((0.25 * np.log(0.5) + 0.75 * np.log(1.5)) / 2)


@pytest.mark.parametrize("representation", ["last", "mean"])
def test_smp_sees_prompts_alone(tiny: Callable[..., JoLAModel], representation: Any) -> None:
    selector = SMP(SHORT, representation=representation)
    answered = [replace(example, completion="another answer") for example in EXAMPLES]
    model = tiny("llama")
    assert np.array_equal(selector(model, EXAMPLES, 3, 0).values, selector(model, answered, 3, 0).values)
