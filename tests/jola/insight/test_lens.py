"""Logit lens and attention patterns, compared with transformers and plain hooks."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from jola import insight
from jola.config import EditConfig
from jola.errors import InputError
from tests.jola.insight.by_hand import (
    IDS,
    Make,
    final_norm,
    lively_model,
    parts_of,
    watched,
)
from tests.jola.model.passes import every_architecture
from tests.jola.model.plain_hooks import hooked
from tests.tiny import LAYERS, make_model


class TestLogitLens:
    @every_architecture
    @torch.no_grad()
    def test_is_the_norm_and_the_head_on_each_layer(self, tokenizer: Any, architecture: str) -> None:
        model = lively_model(tokenizer, architecture)
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
        with pytest.raises(InputError, match="has 257 tokens, but an attention pattern is limited to 256"):
            insight.attention_pattern(model, [5] * 257, 0, 0)
