"""What the Playground shows for edits that were tested on test examples."""

import re
from typing import Any

import pytest

from jola.data.records import Example, Message
from jola.errors import InputError
from jola.runs.answers import TestAnswer
from workbench.playground.mask_test_panel import flips, opened_example, summary
from workbench.service.answering import MaskTest

TAG = "<img src=x onerror=alert(1)>"


def answer(number: int, expected: str, said: str, base: str) -> TestAnswer:
    return TestAnswer(str(number), Example((Message("user", f"{number} {TAG}"),), expected), said, base)


TESTED = MaskTest(
    "one",
    (
        answer(0, "good", "good", "bad"),
        answer(1, "bad", "good", "bad"),
        answer(2, "bad", "bad", "bad"),
        answer(3, "bad", TAG, TAG),
    ),
    ("bad", "bad", "bad", "good"),
    "exact_match",
)


def test_the_accuracy_of_all_three_has_n_and_interval() -> None:
    html = summary(TESTED, f"2 of 9 {TAG}")
    assert re.findall(r"<td>([\d.]+) %</td>", html) == ["50.0", "50.0", "50.0"]
    assert html.count("n = 4, 95 % interval") == 3 and "<img" not in html and "2 of 9" in html


def test_examples_that_flip_are_listed_with_all_three_answers() -> None:
    html = flips(TESTED)
    assert "Flips against all edits: 1 gained, 1 lost of 4" in html and "<img" not in html
    assert [number for number in range(4) if f'data-number="{number}"' in html] == [0, 1]
    assert html.index("et-lost") < html.index("et-gained")


def test_no_flip_is_said() -> None:
    same = MaskTest("one", TESTED.answers, tuple(answer.answer for answer in TESTED.answers), "exact_match")
    assert "No example flips: all 4" in flips(same)


@pytest.mark.parametrize("payload", [None, {}, {"number": 4}, {"number": "1"}, {"number": -1}])
def test_an_example_that_was_not_tested_is_a_sentence(payload: Any) -> None:
    with pytest.raises(InputError, match="test the edits again"):
        opened_example(TESTED, "one", payload)
    with pytest.raises(InputError, match="test the edits again"):
        opened_example(TESTED, "another", {"number": 1})
    assert opened_example(TESTED, "one", {"number": 1}).id == "1"
