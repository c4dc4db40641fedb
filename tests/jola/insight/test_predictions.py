"""Next tokens, texts and answers, compared with transformers and plain hooks."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from jola import insight
from jola.config import EditConfig
from jola.errors import InputError
from jola.insight import predictions
from tests.jola.insight.by_hand import (
    IDS,
    Make,
    answer_tokens,
    parts_of,
    score,
)
from tests.jola.model.passes import every_architecture
from tests.jola.model.plain_hooks import hooked
from tests.tiny import make_model


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

    @every_architecture
    @torch.no_grad()
    def test_token_scores(self, tiny: Make, monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
        model, plain = tiny(architecture, EditConfig(sites="both")), make_model(architecture)
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
        with pytest.raises(InputError, match="only one token"):
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
