"""`jola.insight` on the default model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from jola import insight
from jola.data.examples import Example, Message, Template
from jola.edits.gated import GatedEdits
from jola.edits.intervention import EditMask
from jola.jola_model import JoLAModel
from tests.conftest import spread_edits


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
