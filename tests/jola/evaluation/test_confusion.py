"""Confusion matrices and changes from stored answers."""

import numpy as np
import pytest

from jola.data.records import Example, Message
from jola.errors import InputError
from jola.evaluation.confusion import change_of, changes, confusion, example_values, labels_of
from jola.runs.answers import TestAnswer

LABELS = ("bad", "good")


def kept(expected: str, answer: str, base: str | None = None, options: tuple[str, ...] = LABELS) -> TestAnswer:
    return TestAnswer("id", Example((Message("user", "Good or bad?"),), expected, (), options), answer, base)


ANSWERS = [
    kept("good", "good", "bad"),
    kept("good", " bad ", "good"),
    kept("bad", "Bad", "bad"),
    kept("bad", "bad", "bad"),
    kept("bad", "", None),
]


def test_expected_by_answered_with_other_answers_in_the_last_column() -> None:
    found = confusion(ANSWERS)
    assert found is not None and (found.labels, found.n) == (LABELS, 5)
    np.testing.assert_array_equal(found.counts, [[1, 0, 2], [1, 1, 0]])
    frame = found.to_frame()
    assert list(frame.columns) == ["bad", "good", "other"] and frame.loc["bad", "other"] == 2
    assert (frame.index.name, frame.columns.name) == ("expected", "answered")


def test_a_label_may_be_called_other() -> None:
    labels = ("good", "other")
    found = confusion([kept("other", "other", options=labels), kept("other", "?", options=labels)])
    assert found is not None and found.columns == ("good", "other", "no label")
    assert found.to_frame().loc["other"].to_dict() == {"good": 0, "other": 1, "no label": 1}


def test_the_base_model_is_counted_where_it_was_asked() -> None:
    found = confusion(ANSWERS, base=True)
    assert found is not None and found.n == 4
    np.testing.assert_array_equal(found.counts, [[2, 0, 0], [1, 1, 0]])


def test_tasks_without_shared_labels_have_no_matrix() -> None:
    assert confusion([]) is None and labels_of([]) == ()
    assert confusion([kept("good", "good", options=())]) is None
    assert confusion([kept("good", "good"), kept("a", "a", options=("a", "b"))]) is None
    assert confusion([kept("fine", "good")]) is None


def test_gained_and_lost() -> None:
    assert changes(ANSWERS) == {"gained": [ANSWERS[0]], "lost": [ANSWERS[1], ANSWERS[2]]}
    assert [change_of(*pair) for pair in ((None, 1.0), (1.0, None), (0.5, 0.5))] == [None] * 3
    assert [change_of(*pair) for pair in ((0.0, 0.5), (0.5, 0.0))] == ["gained", "lost"]


def test_values_of_each_example() -> None:
    assert example_values(ANSWERS) == [1, 0, 0, 1, 0]
    assert example_values(ANSWERS, base=True) == [0, 1, 1, 1, None]
    assert example_values(ANSWERS, "first_label") == [1, 0, 1, 1, 0]
    assert example_values([kept("bad", "bad")], base=True) == [None]


def test_a_reference_is_as_right_as_the_completion() -> None:
    thus = TestAnswer("id", Example((Message("user", "?"),), "so", ("thus",)), " thus\n", "hence")
    assert (example_values([thus]), example_values([thus], base=True)) == ([1], [0])


@pytest.mark.parametrize("metric", ["rouge_l", "bleu"])
def test_generated_texts_have_a_score_each(metric: str) -> None:
    pytest.importorskip("rouge_score" if metric == "rouge_l" else "sacrebleu")
    text = "a film about small things in a small town"
    same, none = (TestAnswer("id", Example((Message("user", "?"),), text), said) for said in (text, "never"))
    first, second = example_values([same, none], metric)
    assert first == pytest.approx(1) and second is not None and second < 0.1


def test_a_short_answer_that_is_right_has_the_highest_bleu() -> None:
    pytest.importorskip("sacrebleu")
    right = TestAnswer("id", Example((Message("user", "?"),), "two words"), "two words")
    assert example_values([right], "bleu") == [pytest.approx(1)]


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(InputError, match="no metric 'unknown'"):
        example_values(ANSWERS, "unknown")
