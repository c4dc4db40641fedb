"""Write a `Table` as Markdown, CSV, LaTeX or HTML."""

import html
import re
from collections.abc import Callable

from jola.studies.tables import Table
from jola.system.spreadsheet import csv_text

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$",
}  # fmt: skip
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>jola grid</title><style>
body {{ font-family: system-ui, sans-serif; margin: 2rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.25rem 0.75rem; text-align: left; border-bottom: 1px solid #ccc; }}
</style></head><body>
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table>
{notes}
</body></html>
"""


def markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown, with the notes below."""
    lines = [_row(table.columns), _row(["---"] * len(table.columns)), *map(_row, table.rows)]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def _row(texts: "tuple[str, ...] | list[str]") -> str:
    return "| " + " | ".join(re.sub(r"([\\|`*<_])", r"\\\1", text).replace("\n", " ") for text in texts) + " |"


def csv(table: Table) -> str:
    """Return comma-separated values, with an apostrophe before texts that a spreadsheet would evaluate as formulas."""
    return csv_text([table.columns, *table.rows])


def latex(table: Table) -> str:
    """Return a ``tabular`` with the rules of booktabs; notes are comments."""
    rows = [" & ".join(map(_latex_text, row)) + r" \\" for row in (table.columns, *table.rows)]
    lines = [*(f"% {note}" for note in table.notes), rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}", r"\toprule"]
    return "\n".join([*lines, rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def html_page(table: Table) -> str:
    """Return a self-contained page, which loads nothing."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in table.columns)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(t)}</td>" for t in row) + "</tr>" for row in table.rows)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    return _PAGE.format(head=head, body=body, notes=notes)


FORMATS: dict[str, Callable[[Table], str]] = {"csv": csv, "markdown": markdown, "latex": latex, "html": html_page}
"""Formats by the names of the flags of ``jola grid show``."""
