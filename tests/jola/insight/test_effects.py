"""Effects of edits, compared with one pass of a plain model per edit."""

import math
import threading
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from jola import insight
from jola.config import EditConfig
from jola.data.examples import Example, Message, Template
from jola.edits.intervention import EditMask
from jola.errors import InputError
from jola.insight import EditRef, effects
from jola.jola_model import JoLAModel
from jola.methods.lora import LoRAConfig
from tests.conftest import spread_edits
from tests.jola.insight.by_hand import ANSWER, IDS, Make, all_open, answer_tokens, parts_of, score
from tests.jola.model.passes import close_all_gates, every_architecture, random_masks
from tests.tiny import LAYERS, VOCABULARY, make_model


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

    @pytest.mark.parametrize("architecture", ["gemma2", "gemma3_text"])
    def test_of_a_prompt_longer_than_the_window(self, tiny: Make, architecture: str) -> None:
        model, plain = tiny(architecture, EditConfig(sites="both")), make_model(architecture)
        ids = torch.randint(3, VOCABULARY, (40,), generator=torch.Generator().manual_seed(2)).tolist()
        assert plain.config.sliding_window < len(ids)
        found, answer = insight.edit_effects(model, ids, ANSWER), answer_tokens(model)
        edited = score(plain, ids, answer, parts_of(model))
        expected = [edited - score(plain, ids, answer, parts_of(model, e)) for e in found.edits]
        np.testing.assert_allclose(found.effect, expected, atol=1e-4)

    @pytest.mark.parametrize("site", ["heads", "mlp"])
    @pytest.mark.parametrize(("gates", "operation"), [("shared", "both"), ("none", "both"), ("two", "scale")])
    @torch.no_grad()
    def test_of_every_kind_of_edit(self, tiny: Make, site: Any, gates: Any, operation: Any) -> None:
        model = tiny("qwen3", EditConfig(sites=site, gates=gates, operation=operation))
        plain, answer, (edits,) = make_model("qwen3"), answer_tokens(model), model.gated_edits()
        halves = ("offset", "scale") if operation == "both" else (operation,)
        found = insight.edit_effects(model, IDS, ANSWER)
        assert {e.half for e in found.edits} == set(halves)
        edited = score(plain, IDS, answer, parts_of(model))
        expected = [edited - score(plain, IDS, answer, parts_of(model, e)) for e in found.edits]
        np.testing.assert_allclose(found.effect, expected, atol=1e-4)
        gate = {half: edits.gate_values()[half] for half in halves}
        assert len(found.edits) == sum(int((values > 0).sum()) for values in gate.values())

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

    def test_rounding_is_told_for_changed_weights_too(self, tokenizer: Any) -> None:
        exact, coarse = (
            JoLAModel(make_model("llama").to(dtype), tokenizer, LoRAConfig(rank=2, target_modules="v_proj"))
            for dtype in (torch.float32, torch.bfloat16)
        )
        generator = torch.Generator().manual_seed(0)
        values = {name: torch.randn(p.shape, generator=generator) * 0.1 for name, p in exact.named_parameters()}
        for model in (exact, coarse):
            for own, value in zip(model.parameters(), values.values(), strict=True):
                own.data.copy_(value)
            model.eval()
        found, right = (insight.edit_effects(m, IDS, ANSWER) for m in (coarse, exact))
        error = float(np.sqrt(((found.effect - right.effect) ** 2).mean()))
        assert len(right.edits) == 3 and right.rounding == 0
        assert found.rounding > 0 and error / 8 < found.rounding < 8 * error
        assert (right.passes, found.passes) == (5, 6)

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
        with pytest.raises(InputError, match=f"Token id {VOCABULARY} is not in the vocabulary"):
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
        plain, rows = make_model("llama"), [Template(model.tokenizer).encode(example) for example in examples]
        split = [(row.input_ids[: row.completion_start], row.input_ids[row.completion_start :]) for row in rows]
        base = [score(plain, *two) for two in split]
        edited = np.array([score(plain, *two, parts_of(model)) for two in split])
        each = np.stack([[score(plain, *two, parts_of(model, edit)) for edit in found.edits] for two in split])
        each = edited[:, None] - each
        np.testing.assert_allclose(found.effect, each.mean(0), atol=1e-4)
        margin = stats.t(df=2).interval(0.95)[1] * stats.sem(each, axis=0)
        np.testing.assert_allclose(found.high, each.mean(0) + margin, atol=5e-4)
        np.testing.assert_allclose(found.low, each.mean(0) - margin, atol=5e-4)
        assert found.n == 3 and set(found.edits) == all_open(model)
        assert found.base == pytest.approx(np.mean(base), abs=1e-4)
        assert found.edited == pytest.approx(np.mean(edited), abs=1e-4)
        assert done[-1] == (3 * len(found.edits), 3 * len(found.edits))
        assert found.passes == sum(insight.edit_effects(model, example).passes for example in examples)
        frame = found.to_frame()
        assert len(frame) == len(found.edits) and set(frame.n) == {3}
        assert frame.effect_nats.tolist() == found.effect.tolist()

    def test_one_example_has_no_interval_and_none_is_refused(self, tiny: Make) -> None:
        model = tiny("llama")
        found = insight.mean_edit_effects(model, [Example((Message("user", "A film."),), "positive")])
        assert found.n == 1 and np.isnan(found.low).all()
        with pytest.raises(InputError, match="There are no examples"):
            insight.mean_edit_effects(model, [])
