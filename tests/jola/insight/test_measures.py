"""Logit difference and KL of edits, compared with one pass of a plain model per edit."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jola import insight
from jola.data.examples import Example, Message, Template
from jola.errors import InputError
from jola.insight.measures import LogitDifference, LogProbability
from tests.jola.insight.by_hand import ANSWER, IDS, Make, answer_tokens, parts_of
from tests.jola.model.plain_hooks import Edits, hooked
from tests.tiny import make_model

WRONG = "negative"


@torch.no_grad()
def last_logits(plain: Any, ids: list[int], sites: dict[str, Edits] | None = None) -> Tensor:
    with hooked(plain, sites or {}):
        return plain(torch.tensor([ids])).logits[0, -1].double()


def shared_start(right: list[int], wrong: list[int]) -> int:
    return next(place for place, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_logit_difference_equals_one_pass_for_each_edit(tiny: Make, architecture: str) -> None:
    model, plain = tiny(architecture), make_model(architecture)
    found = insight.edit_effects(model, IDS, ANSWER, measure="logit_difference", wrong=WRONG)
    right, wrong = answer_tokens(model), answer_tokens(model, WRONG)
    place = shared_start(right, wrong)

    def difference(sites: dict[str, Edits] | None = None) -> float:
        logits = last_logits(plain, [*IDS, *right[:place]], sites)
        return float(logits[right[place]] - logits[wrong[place]])

    edited = difference(parts_of(model))
    assert (found.measure, found.wrong, found.n) == ("logit_difference", WRONG, 1)
    assert found.base == pytest.approx(difference(), abs=1e-4)
    assert found.edited == pytest.approx(edited, abs=1e-4)
    expected = [edited - difference(parts_of(model, edit)) for edit in found.edits]
    np.testing.assert_allclose(found.effect, expected, atol=1e-4)
    assert np.abs(found.effect).max() > 0.01
    assert set(found.to_frame().measure) == {"logit_difference"}


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_divergence_equals_one_pass_for_each_edit(tiny: Make, architecture: str) -> None:
    model, plain = tiny(architecture), make_model(architecture)
    found = insight.edit_effects(model, IDS, measure="kl")
    edited = last_logits(plain, IDS, parts_of(model)).log_softmax(-1)

    def divergence(sites: dict[str, Edits] | None = None) -> float:
        return float((edited.exp() * (edited - last_logits(plain, IDS, sites).log_softmax(-1))).sum())

    assert found.edited == pytest.approx(0, abs=1e-6)
    assert found.base == pytest.approx(divergence(), abs=1e-4)
    expected = [divergence(parts_of(model, edit)) for edit in found.edits]
    np.testing.assert_allclose(found.effect, expected, atol=1e-5)
    assert found.effect.max() > 1e-4 and (found.effect >= 0).all()


def test_the_order_of_right_and_wrong_is_the_sign(tiny: Make) -> None:
    model = tiny("llama")
    one = insight.edit_effects(model, IDS, ANSWER, measure="logit_difference", wrong=WRONG)
    other = insight.edit_effects(model, IDS, WRONG, measure="logit_difference", wrong=ANSWER)
    np.testing.assert_allclose(one.effect, -other.effect, atol=1e-5)


def test_of_several_wrong_answers_the_likeliest_is_taken(tiny: Make) -> None:
    model = tiny("llama")
    labels = [ANSWER, WRONG, "person", "place"]
    scores = insight.answer_scores(model, IDS, labels[1:])
    likeliest = scores.answers[int(scores.edited.argmax())]
    found = insight.edit_effects(model, IDS, ANSWER, measure="logit_difference", wrong=labels)
    alone = insight.edit_effects(model, IDS, ANSWER, measure="logit_difference", wrong=likeliest)
    assert found.wrong == likeliest
    np.testing.assert_allclose(found.effect, alone.effect, atol=1e-6)


@pytest.mark.parametrize("measure", ["logit_difference", "kl"])
def test_the_mean_over_examples(tiny: Make, measure: Any) -> None:
    model = tiny("llama")
    examples = [Example((Message("user", text),), answer) for text, answer in [("A film.", ANSWER), ("Dull!", WRONG)]]
    found = insight.mean_edit_effects(model, examples, measure=measure, wrong=[ANSWER, WRONG])
    each = [insight.edit_effects(model, one, measure=measure, wrong=[ANSWER, WRONG]).effect for one in examples]
    np.testing.assert_allclose(found.effect, np.mean(each, 0), atol=1e-6)
    assert found.n == 2 and found.measure == measure and np.isfinite(found.low).all()


def test_a_certain_answer_has_a_logit_difference_that_moves(tiny: Make) -> None:
    """Near p = 1, ln p hides a difference that the logits still show."""
    model = tiny("llama")
    right, wrong = answer_tokens(model)[:1], answer_tokens(model, WRONG)[:1]
    certain = torch.zeros(2, model.base.config.get_text_config().vocab_size)
    certain[0, right[0]], certain[1, right[0]] = 30.0, 25.0
    ln_p = LogProbability(model, IDS, right).values(certain)
    difference = LogitDifference(model, IDS, right, wrong).values(certain)
    assert abs(float(ln_p[0] - ln_p[1])) < 1e-6
    assert difference.tolist() == [30.0, 25.0]


def test_answers_are_compared_where_they_part(tiny: Make) -> None:
    model = tiny("llama")
    template = Template(model.tokenizer)
    found = insight.edit_effects(model, IDS, "no", measure="logit_difference", wrong="no idea", template=template)
    assert np.abs(found.effect).max() > 0


@pytest.mark.parametrize("wrong", [(), "", ANSWER, [ANSWER, f" {ANSWER} "]])
def test_the_logit_difference_needs_another_answer(tiny: Make, wrong: Any) -> None:
    with pytest.raises(InputError, match="needs a wrong answer"):
        insight.edit_effects(tiny("llama"), IDS, ANSWER, measure="logit_difference", wrong=wrong)


def test_an_unknown_measure_is_refused(tiny: Make) -> None:
    measure: Any = "accuracy"
    with pytest.raises(InputError, match="no measure 'accuracy'; choose one of log_probability"):
        insight.edit_effects(tiny("llama"), IDS, ANSWER, measure=measure)
