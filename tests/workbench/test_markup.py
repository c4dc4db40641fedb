"""What people, files and models say stays text."""

import html
import re

import pytest

from workbench import markup
from workbench.session import TokenChange

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
        markup.token_table([TokenChange(HOSTILE, 0.1, 0.2)]),
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


def test_the_token_table_shows_both_probabilities_and_the_change() -> None:
    table = markup.token_table([TokenChange(" positive", 0.1, 0.875), TokenChange("\n", 0.5, 0.25)])
    rows = [readable(row) for row in re.findall(r"<tr>.*?</tr>", table)]
    assert rows[1] == "␣positive10.0 %87.5 %+77.5"
    assert rows[2] == "⏎50.0 %25.0 %-25.0"
    assert markup.token_table([]) == ""
