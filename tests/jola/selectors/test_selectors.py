"""Every selector: on every shape of model, on planted heads, and its core against an independent calculation."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jola.adapters.directory import read_edits
from jola.config import EditConfig
from jola.data.examples import Example, Message, Template, encode_examples
from jola.edits import gates
from jola.edits.gated import GatedEdits
from jola.edits.sites import Site
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.selectors import (
    DSP,
    PASS,
    SELECTORS,
    SMP,
    Ablation,
    BaseSelector,
    Budget,
    GradientImportance,
    HeadSet,
    JoLAGates,
    LoFiT,
    OffsetSaliency,
    Random,
    TunedDSP,
    TunedPASS,
    protocol,
)
from jola.selectors.dsp import COLDEST, HOTTEST, hard_top_k, soft_top_k, straight_through_top_k, temperature
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
from jola.selectors.protocol import HeadFactors, Selection, fit, gumbel, on_tuned_base
from jola.selectors.smp import MapScorer, consistency_loss, draw_heads, similarities, to_size
from tests.conftest import spread_edits

WORDS = ("positive", "negative", "person", "location", "number", "description")
QUESTIONS = ("A fine, warm film", "small things", "the question asks for", "is the answer one word?", "funny or not")
SHORT = Budget(epochs=1, batch_size=2)


def question(text: str, answer: str) -> Example:
    return Example((Message("user", text),), answer)


EXAMPLES = [question(text, word) for text, word in zip(QUESTIONS, WORDS, strict=False)]


def selection(model: JoLAModel, examples: list[Example] = EXAMPLES, budget: Budget = SHORT) -> Selection:
    rows = encode_examples(examples, Template(model.tokenizer), 0).rows
    return Selection(model, rows, 3, 0, budget, None)


@pytest.fixture
def adapter(tiny: Callable[..., JoLAModel], tmp_path: Path) -> Path:
    model = tiny("llama")
    with torch.no_grad():
        for gate in model.edits.gate_parameters():
            gate -= 3
    return model.save_pretrained(tmp_path / "adapter")


@pytest.mark.parametrize("k", [8, 64, 192])
def test_gradients_of_relaxed_samples_are_numbers_at_every_temperature(k: int) -> None:
    """Over many rounds they grow like a power of 1/τ: 1e46 and more for 192 of 270 heads."""
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


# Planted heads

PLANTED = HeadSet(3, 4, [(0, 2), (1, 1), (2, 3)])


@pytest.fixture(params=["llama", "gpt2"])
def planted(request: pytest.FixtureRequest, tiny: Callable[..., JoLAModel]) -> tuple[JoLAModel, list[Example]]:
    """A model with `PLANTED`, and examples that need them."""
    model = tiny(request.param)
    return model, plant(model, PLANTED)


def plant(model: JoLAModel, heads: HeadSet) -> list[Example]:
    """Cut all other heads off the residual stream; examples whose answers each of these makes likelier."""
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
    assert good, "no answer is likelier with every planted head at any strength; take other candidates"
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


# Controls


def central_difference(loss: Callable[[float], Tensor], step: float = 1e-2) -> float:
    with torch.no_grad():
        return float(loss(step) - loss(-step)) / (2 * step)


def test_gradient_importance_against_finite_differences(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("llama")
    scores = GradientImportance(SHORT)(model, EXAMPLES, 1, 0)
    found = selection(model)
    for place in ((0, 0), (1, 3), (2, 2)):
        slopes = []
        for row in found.rows:

            def loss(change: float, place: tuple[int, int] = place, row: Any = row) -> Tensor:
                factors = torch.ones(3, 4)
                factors[place] += change
                return found.loss([row], HeadFactors(factors))

            slopes.append(abs(central_difference(loss)))
        assert scores.values[place] == pytest.approx(np.mean(slopes), rel=0.02, abs=1e-4)


def test_offset_saliency_against_finite_differences(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("llama", EditConfig(gates="none", operation="offset"))
    scores = OffsetSaliency(SHORT)(model, EXAMPLES, 1, 0)
    found = selection(model)
    edits = GatedEdits(Site.HEADS, 3, 4, model.geometry.head_dim, gates="none", operation="offset")
    place, slopes = (1, 2), []
    for number in range(model.geometry.head_dim):

        def loss(change: float, number: int = number) -> Tensor:
            edits.get_parameter("offset").data.zero_()[*place, number] = change
            return torch.stack([found.loss([row], edits) for row in found.rows]).mean()

        slopes.append(central_difference(loss))
    assert scores.values[place] == pytest.approx(np.linalg.norm(slopes), rel=0.02)


def test_ablation_against_whole_passes(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("gpt2")
    scores = Ablation(SHORT, examples=len(EXAMPLES))(model, EXAMPLES, 1, 0)
    found = selection(model)
    with torch.no_grad():
        for place in ((0, 1), (1, 0), (2, 3)):
            factors = torch.ones(3, 4)
            factors[place] = 0
            rises = [
                found.loss([row], HeadFactors(factors)) - found.loss([row], HeadFactors(torch.ones(3, 4)))
                for row in found.rows
            ]
            assert scores.values[place] == pytest.approx(float(torch.stack(rises).mean()), abs=1e-4)


def test_ablation_takes_what_the_budget_affords(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("llama")
    found = selection(model, EXAMPLES * 20)
    seen: list[int] = []
    model.base.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel()))
    with torch.no_grad():
        for rows in found.batches():
            found.loss(rows, HeadFactors(torch.ones(found.shape)))
    computed = sum(seen[-len(list(found.batches())) :])  # the first pass of a model is preceded by those of a check
    own = sum(len(row.input_ids) for row in found.rows)
    assert found.tokens() == computed < own
    few, many = Ablation(Budget(epochs=1)), Ablation(Budget(epochs=6))
    # Three forward passes a step, and (12 heads · half a pass + 1) for an example.
    assert few.affordable(found) == math.floor(100 * computed / own * 3 / 7) > 1
    assert many.affordable(found) == 100


def test_jola_gates_rank_the_edited_heads_first(tiny: Callable[..., JoLAModel], adapter: Path) -> None:
    model, trained = tiny("llama"), read_edits(adapter)[0]
    opened = HeadSet.from_array((trained.states() > 0).numpy())
    assert 0 < len(opened) < 12
    scores = JoLAGates(adapter=str(adapter))(model, EXAMPLES, len(opened), 0)
    assert scores.top(len(opened)) == opened
    expected = torch.stack([gates.expectation(g.detach()) for g in trained.gate_parameters()]).amax(0)
    assert scores.values == pytest.approx(expected.numpy(), abs=1e-6)


def test_an_adapter_without_gates_prefers_no_head(tiny: Callable[..., JoLAModel], tmp_path: Path) -> None:
    folder = tiny("llama", EditConfig(gates="none")).save_pretrained(tmp_path / "ungated")
    with pytest.raises(InputError, match="no gates"):
        JoLAGates(adapter=str(folder))(tiny("llama"), EXAMPLES, 1, 0)


def test_factors_of_heads_are_factors_of_attention_outputs(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("qwen2")
    spread_edits(model)
    factors = torch.rand(2, 3, 4)
    ids = torch.randint(3, 300, (2, 6))
    with torch.no_grad(), model.using([HeadFactors(factors)]):
        got = model(ids).logits
    for row in range(2):
        # The same numbers as the scales of edits: 1 + m.
        edits = GatedEdits(Site.HEADS, 3, 4, model.geometry.head_dim, gates="none", operation="scale").eval()
        edits.get_parameter("scale").data.copy_((factors[row] - 1)[..., None].expand(3, 4, model.geometry.head_dim))
        with torch.no_grad(), model.using([edits]):
            assert torch.allclose(got[row], model(ids[row : row + 1]).logits[0], atol=1e-4)


# DSP


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


# PASS


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
    # Both of its pieces push one gate open when too many are closed and too few are full.
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


# SMP


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
