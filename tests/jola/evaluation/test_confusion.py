"""Confusion matrices and changes from kept answers."""

import numpy as np

from jola.data.records import Example, Message
from jola.evaluation.confusion import change_of, changes, confusion, is_right, labels_of
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
    assert change_of(ANSWERS[0], None, "good") is None and change_of(ANSWERS[0], "good", "good") is None


def test_a_reference_is_as_right_as_the_completion() -> None:
    answer = TestAnswer("id", Example((Message("user", "?"),), "so", ("thus",)), "thus")
    assert is_right(answer, " thus\n") and not is_right(answer, "hence") and not is_right(answer, None)
