"""Promoted tokens and direct effects of edits, compared with the formulas."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from jola import insight
from jola.config import EditConfig
from jola.errors import InputError
from tests.conftest import spread_edits
from tests.jola.insight.by_hand import (
    ANSWER,
    IDS,
    Make,
    all_open,
    answer_tokens,
    final_norm,
    linear_norm,
    lively_model,
    output_weight,
    parts_of,
    post_norm,
    watched,
)
from tests.jola.model.passes import every_architecture, parameters_of
from tests.jola.model.plain_hooks import edits_of, evaluation_gate, hooked
from tests.tiny import LAYERS, make_model


class TestReadout:
    @every_architecture
    @pytest.mark.parametrize("site", ["heads", "mlp"])
    @torch.no_grad()
    def test_promoted_tokens(self, tokenizer: Any, architecture: str, site: str) -> None:
        model = lively_model(tokenizer, architecture)
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
            ({"layer": 0, "unit": 0, "site": "mlp"}, "No edits are in use at site 'mlp'"),
            ({"layer": 0, "unit": 0, "intervention": 4}, "No edits are in use at site 'heads'"),
        ],
    )
    def test_promoted_tokens_of_what_is_not_there(self, tiny: Make, arguments: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=says):
            insight.promoted_tokens(tiny("llama"), **arguments)

    def test_promoted_tokens_of_scales(self, tiny: Make) -> None:
        with pytest.raises(InputError, match="only scales"):
            insight.promoted_tokens(tiny("llama", EditConfig(operation="scale")), 0, 0)

    @every_architecture
    @torch.no_grad()
    def test_direct_effects(self, tokenizer: Any, architecture: str) -> None:
        model = lively_model(tokenizer, architecture)
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

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("architecture", ["gemma2", "olmo2", "phi", "gpt2", "qwen3"])
    @torch.no_grad()
    def test_half_precision_and_tied_embeddings(self, tokenizer: Any, architecture: str, dtype: torch.dtype) -> None:
        """Compare with the same weights in float32; output head and embedding are tied."""
        exact, coarse = (lively_model(tokenizer, architecture) for _ in range(2))
        for model in (exact, coarse):
            model.base.config.tie_word_embeddings = True
            model.base.get_output_embeddings().weight = model.base.get_input_embeddings().weight
            model.base.to(dtype)
        exact.base.float()
        right, found = (insight.direct_effects(m, IDS, ANSWER) for m in (exact, coarse))
        assert found.edits == right.edits
        error = np.sqrt(((found.effect - right.effect) ** 2).mean())
        assert error < 0.06 * np.sqrt((right.effect**2).mean())
        logits = exact(torch.tensor([IDS])).logits[0, -1]
        cap = getattr(exact.base.config, "final_logit_softcapping", None)
        logit = math.tanh(right.logit / cap) * cap if cap else right.logit
        assert logit == pytest.approx(float(logits[answer_tokens(exact)[0]]), abs=1e-3)
        for site in ("heads", "mlp"):
            ours, theirs = (dict(insight.promoted_tokens(m, 1, 0, 5, site).promoted) for m in (coarse, exact))
            assert max(ours.values()) == pytest.approx(max(theirs.values()), rel=0.02)

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
            with pytest.raises(InputError, match="normalize the residual stream itself"):
                call()
