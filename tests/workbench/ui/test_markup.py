"""Text of people, files and models stays text."""

import html
import re

import pytest

from workbench.ui import markup

HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)} {{constructor}} `x` \"'&"


def readable(fragment: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", fragment))


@pytest.mark.parametrize(
    "fragment",
    [
        markup.note(HOSTILE, "error"),
        markup.section(HOSTILE),
        markup.answer(HOSTILE),
        markup.answer(HOSTILE, "other words"),
    ],
)
def test_nothing_hostile_survives(fragment: str) -> None:
    assert "<img" not in fragment
    assert "${" not in fragment and "{{" not in fragment and "`" not in fragment


def test_escaped_text_reads_as_it_was() -> None:
    assert html.unescape(markup.escape(HOSTILE)) == HOSTILE


def test_an_error_is_announced_and_nothing_is_nothing() -> None:
    assert 'role="alert"' in markup.note("No.", "error")
    assert 'role="status"' in markup.note("Yes.")
    assert markup.note("") == ""


def test_the_words_that_differ_are_marked() -> None:
    marked = markup.answer("the film is good", "the film is bad")
    assert "<mark>good</mark>" in marked
    assert readable(marked) == "the film is good"
    assert "<mark>" not in markup.answer("same", "same")


def test_an_empty_answer_says_so_and_one_not_asked_for_does_not() -> None:
    assert "(an empty answer)" in markup.answer("")
    assert "empty answer" not in markup.answer(None)
    assert "empty answer" not in markup.answer("", writing=True)
