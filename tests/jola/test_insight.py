"""`jola.insight` against transformers with plain hooks, for every architecture."""

import copy
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from transformers import PreTrainedModel

from jola import insight
from jola.config import EditConfig
from jola.errors import InputError
from jola.examples import Example, Message, Template
from jola.insight import EditRef, effects, predictions
from jola.interventions import EditMask, GatedEdits
from jola.model import JoLAModel
from tests.conftest import spread_edits
from tests.jola.passes import close_all_gates, every_architecture, parameters_of, random_masks
from tests.jola.plain_hooks import PATHS, Edits, edits_of, evaluation_gate, hooked
from tests.tiny import LAYERS, VOCABULARY, make_model

Make = Callable[..., JoLAModel]

IDS = [7, 41, 120, 9, 77, 203, 5, 150, 61, 18, 99]
ANSWER = "positive"
FINAL_NORM = {
    "phi": "model.final_layernorm",
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "opt": "model.decoder.final_layer_norm",
}
ONE_PLUS = ("gemma", "gemma2", "gemma3_text")
"""Norms whose gain is 1 + weight."""


@pytest.fixture
def lively(tokenizer: Any) -> Callable[..., JoLAModel]:
    """Tiny models whose norms and biases are not those of a fresh model, so that leaving one out shows."""

    def make(architecture: str, edits: EditConfig | None = None) -> JoLAModel:
        base = make_model(architecture)
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for parameter in base.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        model = JoLAModel(base, tokenizer, edits or EditConfig(sites="both"), name=f"lively-{architecture}")
        spread_edits(model)
        return model.eval()

    return make


def answer_tokens(model: JoLAModel, answer: str = ANSWER) -> list[int]:
    return list(model.tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"])


def parts_of(model: JoLAModel, off: EditRef | None = None, masks: Any = None) -> dict[str, Edits]:
    """The edits for plain hooks, one half of one of them switched off."""
    parts = {}
    for edits in model.gated_edits():
        factors = {half: torch.ones(edits.layers, edits.units) for half in ("offset", "scale")}
        for half in factors:
            if masks is not None:
                factors[half] = factors[half] * getattr(masks[edits.site], half)
            if off is not None and (off.site, off.half) == (edits.site, half):
                factors[half][off.layer, off.unit] = 0
        parts[edits.site] = edits_of(
            parameters_of(edits), None, offset_factor=factors["offset"], scale_factor=factors["scale"]
        )
    return parts


@torch.no_grad()
def score(plain: PreTrainedModel, ids: list[int], answer: list[int], sites: dict[str, Edits] | None = None) -> float:
    """ln p(answer) by hand."""
    with hooked(plain, sites or {}):
        logits = plain(torch.tensor([ids + answer])).logits[0].double()
    return sum(float(logits[len(ids) - 1 + i].log_softmax(-1)[token]) for i, token in enumerate(answer))


def all_open(model: JoLAModel) -> set[EditRef]:
    return {
        EditRef(str(edits.site), layer, unit, half, position)
        for position, edits in enumerate(model.gated_edits())
        for half in edits.halves
        for layer in range(edits.layers)
        for unit in range(edits.units)
        if evaluation_gate(edits.get_parameter(f"gates.{half}.log_alpha")[layer, unit]).item() > 0
    }


@contextmanager
def watched(plain: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """Inputs and outputs of the sites and of the final norm in the last pass."""
    layers, heads, mlp = PATHS[plain.config.model_type]
    seen: dict[str, Any] = {}
    handles = []

    def keep(name: str, module: nn.Module) -> None:
        # Hooks run in the order in which they were made: these see what edits have not changed yet.
        before = lambda m, args: seen.__setitem__(f"{name}.input", args[0])  # noqa: E731
        after = lambda m, args, out: seen.__setitem__(  # noqa: E731
            f"{name}.output", out[0] if isinstance(out, tuple) else out
        )
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    blocks: Any = plain.get_submodule(layers)
    for layer, block in enumerate(blocks):
        keep(f"block.{layer}", block)
        keep(f"heads.{layer}", block.get_submodule(heads))
        keep(f"mlp.{layer}", block.get_submodule(mlp))
    keep("norm", final_norm(plain))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def final_norm(plain: PreTrainedModel) -> nn.Module:
    return plain.get_submodule(FINAL_NORM.get(plain.config.model_type, "model.norm"))


def linear_norm(architecture: str, norm: nn.Module, at: Tensor | None, c: Tensor) -> Tensor:
    """A norm with its scale held, written again from the formulas."""
    weight = norm.get_parameter("weight")
    if isinstance(norm, nn.LayerNorm):
        scale = 1.0 if at is None else torch.sqrt(((at - at.mean()) ** 2).mean() + norm.eps)
        return weight * (c - c.mean()) / scale
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    scale = 1.0 if at is None else torch.sqrt((at**2).mean() + eps)
    return (1 + weight if architecture in ONE_PLUS else weight) * c / scale


def output_weight(plain: PreTrainedModel, layer: int) -> Tensor:
    """W_O as (in, out)."""
    layers, heads, _ = PATHS[plain.config.model_type]
    weight = plain.get_submodule(f"{layers}.{layer}.{heads}").get_parameter("weight")
    return weight if plain.config.model_type == "gpt2" else weight.T


def post_norm(plain: PreTrainedModel, layer: int, site: str) -> nn.Module | None:
    if plain.config.model_type not in ("gemma2", "gemma3_text", "olmo2"):
        return None
    name = "post_attention_layernorm" if site == "heads" else "post_feedforward_layernorm"
    return plain.get_submodule(f"model.layers.{layer}.{name}")


class TestEditEffects:
    @every_architecture
    def test_equal_one_pass_for_each_edit(self, tiny: Make, architecture: str) -> None:
        model, plain = tiny(architecture, EditConfig(sites="both")), make_model(architecture)
        found = insight.edit_effects(model, IDS, ANSWER)
        answer = answer_tokens(model)
        edited = score(plain, IDS, answer, parts_of(model))
        assert set(found.edits) == all_open(model) and len(set(found.edits)) == len(found.edits)
        assert found.base == pytest.approx(score(plain, IDS, answer), abs=1e-4)
        assert found.edited == pytest.approx(edited, abs=1e-4)
        expected = [edited - score(plain, IDS, answer, parts_of(model, e)) for e in found.edits]
        np.testing.assert_allclose(found.effect, expected, atol=1e-4)
        assert np.abs(found.effect).max() > 0.05
        assert found.n == 1 and np.isnan(found.low).all() and np.isnan(found.high).all() and found.rounding == 0

    @pytest.mark.parametrize("tokens", [1, 40, 70, 10_000])
    def test_however_the_rows_are_batched(self, tiny: Make, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
        model = tiny("qwen3", EditConfig(sites="both"))
        expected = insight.edit_effects(model, IDS, ANSWER)
        monkeypatch.setitem(effects.CHUNK_TOKENS, "cpu", tokens)
        found = insight.edit_effects(model, IDS, ANSWER)
        assert found.edits == expected.edits
        np.testing.assert_allclose(found.effect, expected.effect, atol=1e-5)
        rows = max(1, tokens // (len(IDS) + len(answer_tokens(model)) - 1))
        assert found.passes == 2 + math.ceil(len(found.edits) / rows)

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    @pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2", "gpt_neox", "opt"])
    def test_in_either_attention(self, tiny: Make, architecture: str, attention: str) -> None:
        model, plain = tiny(architecture), make_model(architecture)
        model.base.set_attn_implementation(attention)
        found, answer = insight.edit_effects(model, IDS, ANSWER), answer_tokens(model)
        edited = score(plain, IDS, answer, parts_of(model))
        expected = [edited - score(plain, IDS, answer, parts_of(model, e)) for e in found.edits]
        np.testing.assert_allclose(found.effect, expected, atol=1e-4)

    def test_under_a_mask_and_with_a_strength(self, tiny: Make) -> None:
        model, plain = tiny("llama", EditConfig(sites="both")), make_model("llama")
        masks = random_masks(model)
        found, answer = insight.edit_effects(model, IDS, ANSWER, mask=masks), answer_tokens(model)
        on = {e for e in all_open(model) if getattr(masks[e.site], e.half)[e.layer, e.unit] > 0}
        assert set(found.edits) == on and len(on) < len(all_open(model))
        edited = score(plain, IDS, answer, parts_of(model, None, masks))
        expected = [edited - score(plain, IDS, answer, parts_of(model, e, masks)) for e in found.edits]
        np.testing.assert_allclose(found.effect, expected, atol=1e-4)
        doubled = {site: EditMask(2 * m.offset, 2 * m.scale) for site, m in masks.items()}
        strong = insight.edit_effects(model, IDS, ANSWER, mask=masks, strength=2.0)
        np.testing.assert_allclose(
            strong.effect, insight.edit_effects(model, IDS, ANSWER, mask=doubled).effect, atol=1e-5
        )
        assert np.abs(strong.effect - found.effect).max() > 0.05
        assert insight.edit_effects(model, IDS, ANSWER, strength=0.0).edits == ()

    @torch.no_grad()
    def test_of_a_stack_of_adapters(self, tiny: Make) -> None:
        model, other = tiny("llama"), tiny("llama")
        spread_edits(other, 9)
        stack = [model.edits, other.edits]
        with model.using(stack):
            found = insight.edit_effects(model, IDS, ANSWER)
            assert {e.intervention for e in found.edits} == {0, 1}
            ids = torch.tensor([IDS + answer_tokens(model)])
            labels = ids.masked_fill(torch.arange(ids.shape[1]) < len(IDS), -100)
            for edit, effect in zip(found.edits, found.effect, strict=True):
                masks = [EditMask.all(e) for e in stack]
                getattr(masks[edit.intervention], edit.half)[edit.layer, edit.unit] = 0
                loss = model(ids, labels=labels, reduction="answer", mask=masks).loss
                assert effect == pytest.approx(found.edited + float(loss), abs=1e-4)

    def test_with_nothing_on(self, tiny: Make) -> None:
        model = tiny("llama")
        close_all_gates(model)
        found = insight.edit_effects(model, IDS, ANSWER)
        assert found.edits == () and found.effect.shape == (0,) and found.base == pytest.approx(found.edited, abs=1e-5)
        assert list(found.to_frame().columns)[:4] == ["site", "layer", "unit", "half"]

    def test_of_some_edits(self, tiny: Make) -> None:
        model = tiny("llama")
        everything = insight.edit_effects(model, IDS, ANSWER)
        chosen = everything.edits[1::3]
        found = insight.edit_effects(model, IDS, ANSWER, only={*chosen, EditRef("mlp", 0, 0, "offset")})
        assert found.edits == chosen
        np.testing.assert_allclose(found.effect, everything.effect[1::3], atol=1e-5)

    def test_progress_and_stop(self, tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        model, seen = tiny("llama"), []
        monkeypatch.setitem(effects.CHUNK_TOKENS, "cpu", 1)
        count = len(insight.open_edits(model))
        insight.edit_effects(model, IDS, ANSWER, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(done, count) for done in range(1, count + 1)]
        asked = iter([False] * 5 + [True] * 99)
        seen.clear()
        with pytest.raises(insight.Stopped):
            insight.edit_effects(model, IDS, ANSWER, progress=lambda *now: seen.append(now), stop=lambda: next(asked))
        assert len(seen) == 3
        stop = threading.Event()
        stop.set()
        with pytest.raises(insight.Stopped):
            insight.edit_effects(model, IDS, ANSWER, stop=stop)
        assert insight.edit_effects(model, IDS, ANSWER).n == 1

    def test_a_model_in_training_has_no_noise_and_stays_in_training(self, tiny: Make) -> None:
        model = tiny("llama")
        expected = insight.edit_effects(model, IDS, ANSWER)
        model.train()
        found = insight.edit_effects(model, IDS, ANSWER)
        assert np.array_equal(found.effect, expected.effect)
        assert model.edits.training and all(p.requires_grad for p in model.edits.parameters())

    def test_rounding_is_told_where_the_number_format_is_coarse(self, tiny: Make, tokenizer: Any) -> None:
        exact = tiny("llama")
        coarse = JoLAModel(make_model("llama").to(torch.bfloat16), tokenizer)
        coarse.load_state_dict(exact.state_dict())
        found, right = (insight.edit_effects(m, IDS, ANSWER) for m in (coarse, exact))
        error = float(np.sqrt(((found.effect - right.effect) ** 2).mean()))
        assert found.rounding > 0 and error / 8 < found.rounding < 8 * error

    def test_the_answer_and_the_prompt_of_an_example(self, tiny: Make) -> None:
        model = tiny("llama")
        example = Example((Message("user", "Is it fine?"),), ANSWER)
        ids = Template(model.tokenizer).encode_prompt(example)
        found = insight.edit_effects(model, example)
        np.testing.assert_allclose(found.effect, insight.edit_effects(model, ids, ANSWER).effect, atol=1e-6)
        again = insight.edit_effects(model, "Is it fine?", ANSWER)
        np.testing.assert_allclose(found.effect, again.effect, atol=1e-6)
        with pytest.raises(InputError, match="The answer is empty"):
            insight.edit_effects(model, ids)
        with pytest.raises(InputError, match="The prompt is empty"):
            insight.edit_effects(model, "  ", ANSWER)
        with pytest.raises(InputError, match=f"There is no token {VOCABULARY}"):
            insight.edit_effects(model, [1, VOCABULARY], ANSWER)
        with pytest.raises(ValueError, match="The mask has 2 rows, but there is one prompt"):
            insight.edit_effects(model, ids, ANSWER, mask=EditMask(torch.ones(2, LAYERS, 4), torch.ones(2, LAYERS, 4)))


class TestMeanEditEffects:
    def test_mean_and_interval(self, tiny: Make) -> None:
        model = tiny("llama")
        examples = [
            Example((Message("user", text),), answer)
            for text, answer in [("A fine film.", "positive"), ("A dull one!", "negative"), ("The question?", "person")]
        ]
        done: list[tuple[int, int]] = []
        found = insight.mean_edit_effects(model, examples, progress=lambda *now: done.append(now))
        single = [insight.edit_effects(model, example) for example in examples]
        each = np.stack([one.effect for one in single])
        np.testing.assert_allclose(found.effect, each.mean(0), atol=1e-6)
        margin = stats.t(df=2).interval(0.95)[1] * stats.sem(each, axis=0)
        np.testing.assert_allclose(found.high, each.mean(0) + margin, atol=1e-5)
        np.testing.assert_allclose(found.low, each.mean(0) - margin, atol=1e-5)
        assert found.n == 3 and found.edits == single[0].edits
        assert found.base == pytest.approx(np.mean([one.base for one in single]))
        assert found.edited == pytest.approx(np.mean([one.edited for one in single]))
        assert done[-1] == (3 * len(found.edits), 3 * len(found.edits))
        assert found.passes == sum(one.passes for one in single)
        frame = found.to_frame()
        assert len(frame) == len(found.edits) and set(frame.n) == {3}
        assert frame.effect_nats.tolist() == found.effect.tolist()

    def test_one_example_has_no_interval_and_none_is_refused(self, tiny: Make) -> None:
        model = tiny("llama")
        found = insight.mean_edit_effects(model, [Example((Message("user", "A film."),), "positive")])
        assert found.n == 1 and np.isnan(found.low).all()
        with pytest.raises(InputError, match="There are no examples"):
            insight.mean_edit_effects(model, [])


class TestPredictions:
    @every_architecture
    @torch.no_grad()
    def test_next_tokens(self, tiny: Make, architecture: str) -> None:
        model, plain = tiny(architecture), make_model(architecture)
        base = plain(torch.tensor([IDS])).logits[0, -1].softmax(-1)
        with hooked(plain, parts_of(model)):
            edited = plain(torch.tensor([IDS])).logits[0, -1].softmax(-1)
        found = insight.next_tokens(model, IDS, 7)
        order = torch.maximum(base, edited).argsort(descending=True)[:7].tolist()
        assert [t.id for t in found.tokens] == order
        for token in found.tokens:
            assert token.base == pytest.approx(float(base[token.id]), abs=1e-5)
            assert token.edited == pytest.approx(float(edited[token.id]), abs=1e-5)
        divergence = nn.functional.kl_div(base.log(), edited.log(), log_target=True, reduction="sum")
        assert found.kl == pytest.approx(float(divergence), abs=1e-4) and found.kl > 0.01
        assert found.to_frame().change.tolist() == [t.edited - t.base for t in found.tokens]

    def test_next_tokens_without_edits_change_nothing(self, tiny: Make) -> None:
        found = insight.next_tokens(tiny("llama"), IDS, strength=0.0)
        assert found.kl == 0 and all(t.base == t.edited for t in found.tokens)

    @pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
    @torch.no_grad()
    def test_token_scores(self, tiny: Make, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
        model, plain = tiny(architecture), make_model(architecture)
        monkeypatch.setattr(predictions, "_ROWS", 4)  # several parts
        found = insight.token_scores(model, IDS)
        base = plain(torch.tensor([IDS])).logits[0].log_softmax(-1)
        with hooked(plain, parts_of(model)):
            edited = plain(torch.tensor([IDS])).logits[0].log_softmax(-1)
        assert found.ids == tuple(IDS) and len(found.tokens) == len(IDS)
        for scores, right in ((found.base, base), (found.edited, edited)):
            assert math.isnan(scores[0])
            expected = [float(right[t - 1, IDS[t]]) for t in range(1, len(IDS))]
            np.testing.assert_allclose(scores[1:], expected, atol=1e-4)
        kl = [
            float(nn.functional.kl_div(base[t], edited[t], log_target=True, reduction="sum"))
            for t in range(len(IDS) - 1)
        ]
        np.testing.assert_allclose(found.kl[1:], kl, atol=1e-4)
        assert len(found.to_frame()) == len(IDS)

    def test_a_text_is_cut_into_its_tokens(self, tiny: Make) -> None:
        model, text = tiny("llama"), "A fine, wärm film 🙂!"
        found = insight.token_scores(model, text)
        assert list(found.ids) == model.tokenizer(text)["input_ids"]
        plain = [t for t in found.tokens if t.isascii()]
        assert "".join(plain) == "A fine, wrm film !"
        with pytest.raises(InputError, match="one token has nothing to foretell"):
            insight.token_scores(model, IDS[:1])

    @every_architecture
    def test_answer_scores(self, tiny: Make, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
        model, plain = tiny(architecture), make_model(architecture)
        monkeypatch.setattr(predictions, "_ROWS", 2)
        answers = ["positive", "negative", "a description of it"]
        found = insight.answer_scores(model, IDS, answers)
        base = [score(plain, IDS, answer_tokens(model, a)) for a in answers]
        edited = [score(plain, IDS, answer_tokens(model, a), parts_of(model)) for a in answers]
        np.testing.assert_allclose(found.base, base, atol=1e-4)
        np.testing.assert_allclose(found.edited, edited, atol=1e-4)
        shares = found.shares()
        np.testing.assert_allclose(shares[1], np.exp(edited) / np.exp(edited).sum(), atol=1e-4)
        assert shares[0].sum() == pytest.approx(1) and found.to_frame().edited_share.tolist() == shares[1].tolist()

    def test_answers_that_cannot_be_scored(self, tiny: Make) -> None:
        model = tiny("llama")
        for answers, says in (([], "An answer is empty"), (["a", " "], "An answer is empty"), (["a", "a"], "twice")):
            with pytest.raises(InputError, match=says):
                insight.answer_scores(model, IDS, answers)


class TestReadout:
    @every_architecture
    @pytest.mark.parametrize("site", ["heads", "mlp"])
    @torch.no_grad()
    def test_promoted_tokens(self, lively: Make, architecture: str, site: str) -> None:
        model = lively(architecture)
        plain, layer, unit = model.base, 1, 2 if site == "heads" else 0
        edits = {e.site: e for e in model.gated_edits()}[site]
        a = edits.get_parameter("offset")[layer, unit]
        d = edits.width
        written = a @ output_weight(plain, layer)[unit * d : (unit + 1) * d] if site == "heads" else a
        if (norm := post_norm(plain, layer, site)) is not None:
            written = linear_norm(architecture, norm, None, written)
        read = linear_norm(architecture, final_norm(plain), None, written)
        logits = plain.get_output_embeddings().weight @ read
        found = insight.promoted_tokens(model, layer, unit, 5, site)
        texts = [insight.readout.token_text(model.tokenizer, i) for i in logits.argsort(descending=True)[:5].tolist()]
        assert [token for token, _ in found.promoted] == texts
        np.testing.assert_allclose([v for _, v in found.promoted], sorted(logits.tolist())[::-1][:5], rtol=1e-4)
        np.testing.assert_allclose([v for _, v in found.suppressed], sorted(logits.tolist())[:5], rtol=1e-4)
        assert len(found.to_frame()) == 10

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"layer": LAYERS, "unit": 0}, "no unit 0 in layer 3; layers go from 0 to 2 and units from 0 to 3"),
            ({"layer": 0, "unit": -1}, "no unit -1 in layer 0"),
            ({"layer": 0, "unit": 0, "site": "mlp"}, "no edits at 'mlp' in use here"),
            ({"layer": 0, "unit": 0, "intervention": 4}, "no edits at 'heads' in use here"),
        ],
    )
    def test_promoted_tokens_of_what_is_not_there(self, tiny: Make, arguments: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=says):
            insight.promoted_tokens(tiny("llama"), **arguments)

    def test_promoted_tokens_of_scales(self, tiny: Make) -> None:
        with pytest.raises(InputError, match="scales alone"):
            insight.promoted_tokens(tiny("llama", EditConfig(operation="scale")), 0, 0)

    @every_architecture
    @torch.no_grad()
    def test_direct_effects(self, lively: Make, architecture: str) -> None:
        model = lively(architecture)
        plain = copy.deepcopy(model.base)
        token = answer_tokens(model)[0]
        with watched(plain) as seen, hooked(plain, parts_of(model)):
            logits = plain(torch.tensor([IDS])).logits[0, -1]
        x, row = seen["norm.input"][0, -1], plain.get_output_embeddings().weight[token]
        found = insight.direct_effects(model, IDS, ANSWER)
        assert set(found.edits) == all_open(model)
        by_site = {e.site: e for e in model.gated_edits()}
        for edit, effect in zip(found.edits, found.effect, strict=True):
            edits, layer, unit, d = by_site[edit.site], edit.layer, edit.unit, by_site[edit.site].width
            gate = evaluation_gate(edits.get_parameter(f"gates.{edit.half}.log_alpha")[layer, unit])
            vector = gate * edits.get_parameter(edit.half)[layer, unit]
            place = slice(unit * d, (unit + 1) * d)
            z = seen[f"heads.{layer}.input" if edit.site == "heads" else f"mlp.{layer}.output"]
            z = z.reshape(-1, z.shape[-1])[-1]
            c = vector if edit.half == "offset" else vector * z[place]
            if edit.site == "heads":
                c = c @ output_weight(plain, layer)[place]
                whole = seen[f"heads.{layer}.output"][0, -1]
            else:
                whole = parts_of(model)["mlp"](layer, z[None, None])[0, 0]
            if (norm := post_norm(plain, layer, edit.site)) is not None:
                c = linear_norm(architecture, norm, whole, c)
            expected = float(linear_norm(architecture, final_norm(plain), x, c) @ row)
            assert effect == pytest.approx(expected, abs=1e-4), edit
        assert np.abs(found.effect).max() > 0.05
        cap = getattr(plain.config, "final_logit_softcapping", None)
        logit = math.tanh(found.logit / cap) * cap if cap else found.logit
        assert logit == pytest.approx(float(logits[token]), abs=1e-3)
        assert found.token == insight.readout.token_text(model.tokenizer, token)

    @torch.no_grad()
    def test_direct_effects_of_a_stack_are_what_would_be_missing(self, tiny: Make) -> None:
        model, other = tiny("llama"), tiny("llama")
        spread_edits(other, 9)
        first, second = model.edits, other.edits
        with model.using([first, second]):
            found = insight.direct_effects(model, IDS, ANSWER)
        plain = make_model("llama")
        parts = [edits_of(parameters_of(edits)) for edits in (first, second)]
        with watched(plain) as seen, hooked(plain, {"heads": lambda layer, z: parts[1](layer, parts[0](layer, z))}):
            plain(torch.tensor([IDS]))
        x, row = seen["norm.input"][0, -1], plain.get_output_embeddings().weight[answer_tokens(model)[0]]
        assert {e.intervention for e in found.edits} == {0, 1}
        for edit, effect in zip(found.edits, found.effect, strict=True):
            z = seen[f"heads.{edit.layer}.input"][:, -1:]
            off = {f"{edit.half}_factor": torch.ones(LAYERS, 4)}
            off[f"{edit.half}_factor"][edit.layer, edit.unit] = 0
            changed = list(parts)
            changed[edit.intervention] = edits_of(parameters_of((first, second)[edit.intervention]), None, **off)
            whole, without = (two[1](edit.layer, two[0](edit.layer, z))[0, 0] for two in (parts, changed))
            c = (whole - without) @ output_weight(plain, edit.layer)
            assert effect == pytest.approx(float(linear_norm("llama", final_norm(plain), x, c) @ row), abs=1e-4)

    def test_a_model_that_normalises_its_stream_is_refused(self, tiny: Make) -> None:
        model = tiny("opt")
        model.base.config = copy.deepcopy(model.base.config)
        model.base.config.do_layer_norm_before = False
        for call in (lambda: insight.promoted_tokens(model, 0, 0), lambda: insight.direct_effects(model, IDS, ANSWER)):
            with pytest.raises(InputError, match="normalise the residual stream itself"):
                call()


class TestLogitLens:
    @every_architecture
    @torch.no_grad()
    def test_is_the_norm_and_the_head_on_each_layer(self, lively: Make, architecture: str) -> None:
        model = lively(architecture)
        plain = copy.deepcopy(model.base)
        found = insight.logit_lens(model, IDS, 4, last=3)
        sides = {}
        for side, parts in (("base", {}), ("edited", parts_of(model))):
            with watched(plain) as seen, hooked(plain, parts):
                logits = plain(torch.tensor([IDS])).logits[0, -3:]
            streams = [seen["block.0.input"], *(seen[f"block.{i}.input"] for i in range(1, LAYERS)), seen["norm.input"]]
            made = [plain.get_output_embeddings()(final_norm(plain)(s))[0, -3:] for s in streams]
            if cap := getattr(plain.config, "final_logit_softcapping", None):
                made = [torch.tanh(m / cap) * cap for m in made]
            torch.testing.assert_close(made[-1], logits, rtol=0, atol=1e-4)
            sides[side] = torch.stack(made).softmax(-1)
        assert found.layers == (0, 1, 2, 3) and found.positions == (8, 9, 10)
        assert found.tokens == tuple(insight.prompts.token_texts(model.tokenizer, IDS)[-3:])
        for side, probabilities in sides.items():
            for layer, of_layer in enumerate(getattr(found, side)):
                for position, entries in enumerate(of_layer):
                    top = probabilities[layer, position].topk(4)
                    np.testing.assert_allclose([e.probability for e in entries], top.values, atol=1e-4)
                    for entry in entries:
                        right = float(probabilities[layer, position, entry.id])
                        assert entry.probability == pytest.approx(right, abs=1e-4)
        kl = (sides["edited"] * (sides["edited"].log() - sides["base"].log())).sum(-1)
        np.testing.assert_allclose(found.kl, kl, atol=1e-3)
        assert found.kl[0].max() < 1e-6 and found.kl[-1].max() > 0.01
        assert len(found.to_frame()) == 2 * 4 * 3 * 4

    def test_in_parts_and_at_all_positions(self, tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        model = tiny("llama")
        expected = insight.logit_lens(model, IDS, last=None)
        assert len(expected.positions) == len(IDS)
        monkeypatch.setattr(insight.lens, "_LENS_NUMBERS", 1)
        found = insight.logit_lens(model, IDS, last=None)
        np.testing.assert_allclose(found.kl, expected.kl, atol=1e-5)
        assert [[e[0].id for e in row] for row in found.edited] == [[e[0].id for e in row] for row in expected.edited]


class TestAttentionPattern:
    @every_architecture
    @torch.no_grad()
    def test_is_what_transformers_gives(self, tiny: Make, architecture: str) -> None:
        model, plain = tiny(architecture, EditConfig(sites="both")), make_model(architecture)
        plain.set_attn_implementation("eager")
        before = model.base.config._attn_implementation
        found = insight.attention_pattern(model, IDS, 2, 1)
        assert model.base.config._attn_implementation == before
        base = plain(torch.tensor([IDS]), output_attentions=True).attentions[2][0, 1]
        with hooked(plain, parts_of(model)):
            edited = plain(torch.tensor([IDS]), output_attentions=True).attentions[2][0, 1]
        np.testing.assert_allclose(found.base, base, atol=1e-5)
        np.testing.assert_allclose(found.edited, edited, atol=1e-5)
        np.testing.assert_allclose(found.edited.sum(-1), 1, atol=1e-5)
        assert np.abs(found.edited - found.base).max() > 1e-3
        assert len(found.tokens) == len(IDS) and len(found.to_frame()) == len(IDS) * (len(IDS) + 1) // 2

    def test_passes_afterwards_are_as_before(self, tiny: Make) -> None:
        model = tiny("llama")
        ids = torch.tensor([IDS])
        expected = model(ids).logits
        insight.attention_pattern(model, IDS, 0, 0)
        assert torch.equal(model(ids).logits, expected)

    def test_what_has_no_pattern(self, tiny: Make) -> None:
        model = tiny("llama")
        for layer, unit in ((LAYERS, 0), (0, 4), (-1, 0)):
            with pytest.raises(InputError, match=f"no head {unit} in layer {layer}; .* 0 to 2 and heads from 0 to 3"):
                insight.attention_pattern(model, IDS, layer, unit)
        with pytest.raises(InputError, match="has 257 tokens, and an attention pattern is shown for 256 at most"):
            insight.attention_pattern(model, [5] * 257, 0, 0)


@pytest.mark.default_model
class TestOnTheDefaultModel:
    @torch.no_grad()
    def test_everything_answers_and_the_effects_are_right(self, default_assets: Path) -> None:
        model = JoLAModel.from_pretrained("default", dtype="float32")
        spread_edits(model)
        for edits in model.gated_edits():
            for parameter in edits.edit_parameters():
                parameter.mul_(0.1)
        prompt, answer = "Is this positive or negative? A warm and funny film.", "positive"
        some = insight.open_edits(model)[::40]
        found = insight.edit_effects(model, prompt, answer, only=some)
        example = Template(model.tokenizer).encode(Example((Message("user", prompt),), answer))
        ids = torch.tensor([example.input_ids])
        labels = ids.masked_fill(torch.arange(ids.shape[1]) < example.completion_start, -100)
        for edit, effect in zip(found.edits, found.effect, strict=True):
            mask = EditMask.all(model.edits)
            getattr(mask, edit.half)[edit.layer, edit.unit] = 0
            loss = model(ids, labels=labels, reduction="answer", mask=mask).loss
            assert effect == pytest.approx(found.edited + float(loss), abs=1e-4)
        assert found.edits == some and len(some) > 5

        table = insight.next_tokens(model, prompt)
        assert len(table.tokens) == 10 and all(t.token for t in table.tokens)
        scores = insight.answer_scores(model, prompt, ["positive", "negative"])
        assert scores.edited[0] == pytest.approx(found.edited, abs=1e-3)
        pattern = insight.attention_pattern(model, prompt, 15, 4)
        np.testing.assert_allclose(pattern.edited.sum(-1), 1, atol=1e-4)
        lens = insight.logit_lens(model, prompt, 3, last=1)
        assert [e.id for e in lens.edited[-1][0]] == [t.id for t in sorted(table.tokens, key=lambda t: -t.edited)[:3]]
        assert len(insight.promoted_tokens(model, 3, 2).promoted) == 10
        direct = insight.direct_effects(model, prompt, answer)
        assert np.isfinite(direct.effect).all() and isinstance(model.edits, GatedEdits)
