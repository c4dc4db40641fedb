"""Every selector: on every shape of model, and on planted heads."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from jola.data.examples import Example
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.selectors import (
    DSP,
    PASS,
    SELECTORS,
    Ablation,
    BaseSelector,
    Budget,
    GradientImportance,
    HeadSet,
    LoFiT,
    OffsetSaliency,
    Random,
    TunedDSP,
    TunedPASS,
    protocol,
)
from jola.selectors.dsp import soft_top_k, temperature
from jola.selectors.protocol import HeadFactors, fit, gumbel, on_tuned_base
from tests.jola.selectors.examples import EXAMPLES, QUESTIONS, SHORT, WORDS, question, selection


@pytest.mark.parametrize("k", [8, 64, 192])
def test_gradients_of_relaxed_samples_are_numbers_at_every_temperature(k: int) -> None:
    """Without clipping, gradients grow like a power of 1/τ over many rounds: 1e46 and more for 192 of 270 heads."""
    generator = torch.Generator().manual_seed(0)
    for step in range(0, 100, 3):
        weights = torch.randn(30, 9, generator=generator) * (0.1 + 0.05 * step)
        weights.requires_grad_(True)
        noise = gumbel(weights.shape, generator)
        mask = soft_top_k(weights, k, temperature(step, 100), noise).float()
        (mask * torch.randn(mask.shape, generator=generator)).sum().backward()
        assert weights.grad is not None and bool(weights.grad.isfinite().all())
        assert float(weights.grad.norm()) <= 1 + 1e-6


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("name", sorted(set(SELECTORS) - {"jola"}))
def test_every_selector_works_on_every_shape(tiny: Callable[..., JoLAModel], name: str, architecture: str) -> None:
    model = tiny(architecture)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    told: list[tuple[int, int]] = []
    selector = SELECTORS[name](budget=SHORT)
    scores = selector(model, EXAMPLES, 3, 7, progress=lambda done, total: told.append((done, total)))
    assert scores.shape == (3, 4)
    assert scores.provenance.method == name
    assert np.isfinite(scores.values).all()
    assert scores == selector(model, EXAMPLES, 3, 7), "the same seed gives the same scores"
    assert name in ("offset", "gradient", "ablation") or scores != selector(model, EXAMPLES, 3, 8)
    assert len(scores.top(3)) == 3
    if name != "random":
        assert told[-1][0] == told[-1][1]
        assert scores.cost.forward > 0
        assert scores.cost.seconds > 0
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items()), "the edits changed"
    assert all(parameter.grad is None for parameter in model.base.parameters())


def test_selectors_refuse_what_they_cannot_use(tiny: Callable[..., JoLAModel]) -> None:
    for k in (0, 13):
        with pytest.raises(InputError, match="from 1 to 12"):
            Random()(tiny("llama"), EXAMPLES, k, 0)
    with pytest.raises(InputError, match="no examples"):
        Random()(tiny("llama"), [], 1, 0)


@pytest.mark.parametrize("name", [name for name in SELECTORS if name not in ("random", "jola")])
def test_a_model_whose_numbers_are_not_finite_is_one_sentence(tiny: Callable[..., JoLAModel], name: str) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.base.get_submodule("model.layers.0.mlp.down_proj").get_parameter("weight").mul_(torch.inf)
    with pytest.raises(InputError, match="not finite; use another --dtype, such as float32"):
        SELECTORS[name](budget=SHORT)(model, EXAMPLES, 3, 7)


def test_provenance_tells_model_data_and_k(tiny: Callable[..., JoLAModel]) -> None:
    one = Random()(tiny("llama"), EXAMPLES, 3, 0).provenance
    assert Random()(tiny("llama", trained=False), EXAMPLES, 4, 0).provenance == one
    assert Random()(tiny("qwen2"), EXAMPLES, 3, 0).provenance.model != one.model
    assert Random()(tiny("llama"), EXAMPLES[1:], 3, 0).provenance.data != one.data
    assert Random()(tiny("llama"), EXAMPLES[::-1], 3, 0).provenance.data != one.data
    short = DSP(budget=SHORT)
    assert (
        short(tiny("llama"), EXAMPLES, 3, 0).provenance.settings
        != short(tiny("llama"), EXAMPLES, 4, 0).provenance.settings
    )


PLANTED = HeadSet(3, 4, [(0, 2), (1, 1), (2, 3)])


@pytest.fixture(params=["llama", "gpt2"])
def planted(request: pytest.FixtureRequest, tiny: Callable[..., JoLAModel]) -> tuple[JoLAModel, list[Example]]:
    """A model in which only the heads `PLANTED` have an effect, and examples that need them."""
    model = tiny(request.param)
    return model, plant(model, PLANTED)


def plant(model: JoLAModel, heads: HeadSet) -> list[Example]:
    """Zero the output of all other heads; return examples whose answers each of `heads` makes more likely."""
    width = model.geometry.head_dim
    with torch.no_grad():
        for layer in range(3):
            path = {"llama": f"model.layers.{layer}.self_attn.o_proj", "gpt2": f"transformer.h.{layer}.attn.c_proj"}
            weight = model.base.get_submodule(path[model.geometry.architecture]).get_parameter("weight")
            columns = weight.T if model.geometry.architecture == "llama" else weight
            for head in range(4):
                if (layer, head) not in heads:
                    columns[head * width : (head + 1) * width] = 0
    answers = [*WORDS, *map(" ".join, itertools.permutations(WORDS, 2))]
    candidates = [question(text, answer) for text in QUESTIONS for answer in answers]
    found = selection(model, candidates)
    helped = torch.ones(len(candidates), dtype=torch.bool)
    for strength in (0.1, 0.4, 0.7, 1.0):
        factors = torch.full((len(candidates), 3, 4), strength, requires_grad=True)
        (slopes,) = torch.autograd.grad(found.loss(found.rows, HeadFactors(factors)) * len(candidates), factors)
        helped &= torch.stack([slopes[:, layer, head] < -0.1 for layer, head in heads]).all(0)
    good = [example for example, helps in zip(candidates, helped.tolist(), strict=True) if helps]
    assert good, "no answer becomes more likely with every planted head at all strengths; use other candidates"
    return (good * 8)[:8]


@pytest.mark.parametrize(
    "selector",
    [
        GradientImportance(),
        OffsetSaliency(),
        Ablation(),
        LoFiT(Budget(epochs=8), learning_rate=0.05),
        DSP(Budget(epochs=20)),
        DSP(Budget(epochs=20), form="straight_through"),
        PASS(Budget(epochs=40)),
    ],
    ids=lambda selector: f"{selector.name}-{getattr(selector, 'form', '')}",
)
def test_what_uses_the_loss_finds_the_planted_heads(
    planted: tuple[JoLAModel, list[Example]], selector: BaseSelector
) -> None:
    model, examples = planted
    assert selector(model, examples, 3, 1).top(3) == PLANTED


def test_a_tuned_base_has_learned_the_task_and_stays_fixed(tiny: Callable[..., JoLAModel]) -> None:
    found = selection(tiny("llama"), EXAMPLES, Budget(epochs=8, batch_size=2))
    told: list[tuple[int, int]] = []
    tuned, cost = on_tuned_base(replace(found, progress=lambda done, total: told.append((done, total))), 5e-2)
    ones = HeadFactors(torch.ones(3, 4))
    with torch.no_grad():
        assert float(tuned.loss(found.rows, ones)) < 0.9 * float(found.loss(found.rows, ones))
    assert cost.steps == 24 and told[-1] == (24, 48)
    (base,) = tuned.base
    before = {name: value.clone() for name, value in base.state_dict().items()}
    budget = Budget(epochs=4, batch_size=2)
    for plain, kind in ((DSP, TunedDSP), (PASS, TunedPASS)):
        scores = plain(budget)(tuned.model, EXAMPLES, 3, 0)
        others = kind(budget, base_learning_rate=0.1)(tuned.model, EXAMPLES, 3, 0)
        assert others.cost.steps == 2 * scores.cost.steps and not np.allclose(others.values, scores.values)
    factors = nn.Parameter(torch.ones(3, 4))
    fit(tuned, lambda: HeadFactors(factors), [factors], learning_rate=0.1)
    assert not torch.equal(factors.data, torch.ones(3, 4))
    assert all(torch.equal(before[name], value) for name, value in base.state_dict().items())


@pytest.mark.parametrize(("selector", "bound"), [(DSP, (6 / (3 + 4)) ** 0.5), (PASS, (6 / (4 + 1)) ** 0.5)])
def test_scores_start_within_the_bounds_of_the_official_code(
    tiny: Callable[..., JoLAModel], selector: type[DSP | PASS], bound: float
) -> None:
    starts = [selector(budget=SHORT, learning_rate=0.0)(tiny("llama"), EXAMPLES, 3, seed).values for seed in range(8)]
    largest = float(np.abs(starts).max())
    assert 0.9 * bound < largest <= bound


def test_the_concentrator_gathers_heads_in_fewer_layers(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("llama")
    examples = plant(model, PLANTED)

    def layers(concentrate: bool) -> list[int]:
        selector = PASS(Budget(epochs=20), concentrate=concentrate)
        return [len({layer for layer, _ in selector(model, examples, 3, seed).top(3)}) for seed in (1, 2, 3)]

    assert sum(layers(True)) < sum(layers(False))


def test_random_finds_the_planted_heads_as_often_as_chance_does(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("llama")
    found = [len(Random()(model, EXAMPLES[:1], 3, seed).top(3) & PLANTED) for seed in range(60)]
    assert np.mean(found) == pytest.approx(3 * 3 / 12, abs=0.25)


def test_threads_are_given_back_after_an_error(tiny: Callable[..., JoLAModel], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    class Threads:
        def update(self) -> None:
            given.append("update")

        def restore(self) -> None:
            given.append("restore")

    def broken(step: int, total: int) -> None:
        if step == 1:
            raise InputError("stopped")

    monkeypatch.setattr(protocol, "thread_control", lambda device: Threads())
    factors = nn.Parameter(torch.ones(3, 4))
    with pytest.raises(InputError, match="stopped"):
        fit(selection(tiny("llama")), lambda: HeadFactors(factors), [factors], learning_rate=0.1, before_step=broken)
    assert given == ["update", "restore"]
