"""Small pieces of HTML. All text from people, files or models goes through `escape`."""

import difflib
import html
import re
from collections.abc import Iterable
from typing import Literal

# Minimum share of common words (2 × number in common ÷ all words) for which differences are marked.
_ALIKE = 0.4


def escape(text: object) -> str:
    """Escape text for HTML, and for the templates into which it is inserted."""
    escaped = html.escape(str(text), quote=True)
    for character in "{}$`":
        escaped = escaped.replace(character, f"&#{ord(character)};")
    return escaped


def note(text: str, kind: Literal["error", "good", "plain", "busy"] = "plain") -> str:
    """Return one sentence as HTML, empty for empty text; screen readers announce errors at once."""
    if not text:
        return ""
    role = "alert" if kind == "error" else "status"
    return f'<p class="jw-note jw-{kind}" role="{role}">{escape(text)}</p>'


def costs(short: str, rows: Iterable[tuple[str, str]]) -> str:
    """Return a cost in one line, with its parts in a collapsed list."""
    listed = "".join(f"<dt>{escape(what)}</dt><dd>{escape(words)}</dd>" for what, words in rows)
    return f'<details class="jw-cost"><summary>{escape(short)}</summary><dl>{listed}</dl></details>'


def section(title: str) -> str:
    """Return a heading inside a column."""
    return f'<h2 class="jw-section">{escape(title)}</h2>'


def answer(text: str | None, other: str | None = None, *, writing: bool = False) -> str:
    """Return a generated answer, with words that ``other`` lacks marked; a dash if it was not generated yet."""
    if text is None:
        return '<p class="jw-answer jw-empty">–</p>'
    body = _marked(text, other) if other is not None else escape(text)
    if not text and not writing:
        body = '<span class="jw-empty">(an empty answer)</span>'
    cursor = '<span class="jw-cursor" aria-hidden="true"></span>' if writing else ""
    return f'<p class="jw-answer" aria-busy="{"true" if writing else "false"}">{body}{cursor}</p>'


def _marked(text: str, other: str) -> str:
    """Mark words that ``other`` lacks, unless the two share so little that almost all words would be marked."""
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
