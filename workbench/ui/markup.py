"""Small pieces of HTML. Everything that comes from people, files or models goes through `escape`."""

import difflib
import html
import re
from collections.abc import Iterable
from typing import Literal

# Share of common words, twice the number in common ÷ all words, from which differences are worth marking.
_ALIKE = 0.4


def escape(text: object) -> str:
    """Text that means nothing to HTML, nor to the templates in which it is put."""
    escaped = html.escape(str(text), quote=True)
    for character in "{}$`":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped


def note(text: str, kind: Literal["error", "good", "plain", "busy"] = "plain") -> str:
    """One sentence; an error is announced by screen readers at once. Empty text gives nothing."""
    if not text:
        return ""
    role = "alert" if kind == "error" else "status"
    return f'<p class="jw-note jw-{kind}" role="{role}">{escape(text)}</p>'


def costs(short: str, rows: Iterable[tuple[str, str]]) -> str:
    """What something costs in one line, and its parts to unfold."""
    listed = "".join(f"<dt>{escape(what)}</dt><dd>{escape(words)}</dd>" for what, words in rows)
    return f'<details class="jw-cost"><summary>{escape(short)}</summary><dl>{listed}</dl></details>'


def section(title: str) -> str:
    """A heading inside a column."""
    return f'<h2 class="jw-section">{escape(title)}</h2>'


def answer(text: str | None, other: str | None = None, *, writing: bool = False) -> str:
    """A generated answer; words that ``other`` lacks are marked. None is an answer that was not generated yet."""
    if text is None:
        return '<p class="jw-answer jw-empty">–</p>'
    body = _marked(text, other) if other is not None else escape(text)
    if not text and not writing:
        body = '<span class="jw-empty">(an empty answer)</span>'
    cursor = '<span class="jw-cursor" aria-hidden="true"></span>' if writing else ""
    return f'<p class="jw-answer" aria-busy="{"true" if writing else "false"}">{body}{cursor}</p>'


def _marked(text: str, other: str) -> str:
    """Two answers that share little are left unmarked: a page full of marks shows nothing."""
    words, others = (re.findall(r"\s+|\S+", part) for part in (text, other))
    pieces = []
    matcher = difflib.SequenceMatcher(a=others, b=words, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return escape(text)
    for kind, _, _, start, end in matcher.get_opcodes():
        piece = escape("".join(words[start:end]))
        if piece.strip() and kind != "equal":
            piece = f"<mark>{piece}</mark>"
        pieces.append(piece)
    return "".join(pieces)
