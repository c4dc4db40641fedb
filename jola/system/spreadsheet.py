"""CSV for spreadsheets.

A text that a spreadsheet would take for a formula gets an apostrophe in front, which makes it a text again (OWASP, "CSV
injection"). Numbers stay numbers; what is not trained, or was not measured, is an empty cell.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

# The last four are full-width forms.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def inert(value: Any) -> Any:
    """The value; a text that a spreadsheet would evaluate as a formula is prefixed with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value


def cell(value: Any) -> Any:
    """A value for a spreadsheet: inert text, and an empty text for None and numbers that are not finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return inert(value)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as the text of a CSV file."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    return buffer.getvalue()
