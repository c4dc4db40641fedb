"""A table of test examples with answers side by side. Clicks on rows, and on cells of a matrix, are events."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from jola.evaluation.confusion import Confusion
from workbench.ui import markup

_HERE = Path(__file__).parent

STYLE = (_HERE / "example_table.css").read_text(encoding="utf-8")
_SCRIPT = (_HERE / "example_table.js").read_text(encoding="utf-8")

PAGE = 50
"""Rows on a page."""
_PROMPT_LENGTH, _ANSWER_LENGTH = 280, 160
_LONG_START = 24
"""Minimum length of a common beginning of all prompts of a page that is left out."""


@dataclass(frozen=True)
class Row:
    """One example: its number in the test data, the last turn of its prompt, and its answers."""

    number: int
    prompt: str
    expected: str
    answers: tuple[tuple[str | None, float | None], ...]
    """Text and value of each answer; None if unknown."""
    is_share: bool = True
    """Whether values are 1 (right) or 0 (wrong) instead of scores."""
    change: str = ""
    """Effect of the edits: "gained", "lost" or empty."""


def example_table(elem_id: str) -> gr.HTML:
    """Create the component. Its value is HTML from `table` and `matrix`.

    Its events are ``open``, with the ``number`` of an example, and ``cell``, with ``row`` and ``column`` of a matrix.
    """
    return gr.HTML("", js_on_load=_SCRIPT, apply_default_css=False, elem_id=elem_id, elem_classes="jw-examples")


def table(rows: Sequence[Row], columns: Sequence[str], first: int, total: int, caption: str) -> str:
    """Return a page of examples as HTML.

    Args:
        rows: The rows of the page.
        columns: Headings of the answers.
        first: Number of the first row among all that match, from 1.
        total: Number of examples that match.
        caption: Description of the rows, as in "wrong first".
    """
    if not total:
        return markup.note("No examples match.")
    heads = "".join(f'<th scope="col">{markup.escape(name)}</th>' for name in ("Example", "Expected", *columns))
    shared = len(_shared_start([row.prompt for row in rows]))
    body = "".join(_row(row, shared) for row in rows)
    span = f"{first:,}–{first + len(rows) - 1:,} of {total:,} examples"
    return (
        f'<table class="et-table"><caption>{markup.escape(caption)}<span>{span}</span></caption>'
        f'<thead><tr><th scope="col">No.</th>{heads}</tr></thead><tbody>{body}</tbody></table>'
    )


def _shared_start(prompts: Sequence[str]) -> str:
    """Return the words with which all prompts begin, such as the instruction of the task; empty if they are short."""
    if len(prompts) < 2:
        return ""
    first, last = min(prompts), max(prompts)  # what these two share, all prompts share
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    shared = first[:same].rstrip()
    shared = shared[: len(shared) - len(shared.split()[-1])] if shared else ""
    return shared if len(shared) >= _LONG_START else ""


def _row(row: Row, shared: int) -> str:
    answers = "".join(_answer(text, value, row.is_share) for text, value in row.answers)
    if row.change:
        words = row.change if row.is_share else {"gained": "raised", "lost": "lowered"}[row.change]
        answers = answers.removesuffix("</td>") + f' <span class="et-change et-{row.change}">{words}</span></td>'
    prompt = markup.escape(("… " if shared else "") + shortened(row.prompt[shared:], _PROMPT_LENGTH))
    button = f'<button type="button" title="Open in the Playground">{prompt}</button>'
    return (
        f'<tr data-number="{row.number}"><td>{row.number + 1:,}</td><td class="et-prompt">{button}</td>'
        f"<td>{_short(row.expected)}</td>{answers}</tr>"
    )


def _answer(text: str | None, value: float | None, is_share: bool) -> str:
    if text is None or value is None:
        return '<td class="et-none">–</td>'
    body = _short(text) if text.strip() else '<i class="et-none">(empty)</i>'
    if not is_share:
        return f'<td><span class="et-score">{100 * value:.1f}</span><span>{body}</span></td>'
    mark, words = ("✓", "right") if value else ("✗", "wrong")
    sign = f'<span class="et-mark" aria-hidden="true">{mark}</span><span class="jw-hidden">{words}: </span>'
    return f'<td class="et-{words}">{sign}<span>{body}</span></td>'


def _short(text: str) -> str:
    return markup.escape(shortened(text, _ANSWER_LENGTH))


def shortened(text: str, length: int) -> str:
    """Return the text on one line, truncated to ``length`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def matrix(found: Confusion, title: str, chosen: tuple[int, int] | None = None, *, clicks: bool = True) -> str:
    """Return a confusion matrix, expected × answered, as HTML; ``chosen`` is the cell whose examples are shown."""
    heads = "".join(f'<th scope="col">{_short(name)}</th>' for name in found.columns)
    most = max(1, int(found.counts.max()))
    rows = "".join(
        f'<tr><th scope="row">{_short(label)}</th>{_cells(found, row, most, chosen, clicks)}</tr>'
        for row, label in enumerate(found.labels)
    )
    return (
        f'<table class="et-matrix"><caption>{markup.escape(title)}<span>n = {found.n:,}</span></caption><thead>'
        f'<tr><th scope="col">expected ╲ answered</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _cells(found: Confusion, row: int, most: int, chosen: tuple[int, int] | None, clicks: bool) -> str:
    cells = []
    for column, count in enumerate(found.counts[row].tolist()):
        kind = "et-diagonal" if column == row else "et-off"
        depth = f"--depth:{count / most:.3f}"
        if not clicks or not count:
            cells.append(f'<td class="{kind}" style="{depth}">{count:,}</td>')
            continue
        label = f"{count:,} examples: expected {found.labels[row]}, answered {found.columns[column]}"
        cells.append(
            f'<td class="{kind}" style="{depth}"><button type="button" data-row="{row}" data-column="{column}" '
            f'aria-pressed="{str((row, column) == chosen).lower()}" aria-label="{markup.escape(label)}">{count:,}'
            "</button></td>"
        )
    return "".join(cells)
