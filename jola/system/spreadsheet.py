"""CSV for spreadsheets.

A text that a spreadsheet would evaluate as a formula is prefixed with an apostrophe, so that it stays a text (OWASP,
"CSV injection"). Numbers stay numbers; values that are not trained or were not measured are empty cells.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

# The last four are full-width forms.
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def inert(value: Any) -> Any:
    """Return the value, with an apostrophe in front of a text that a spreadsheet would evaluate as a formula."""
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value


def cell(value: Any) -> Any:
    """Return a value for a spreadsheet: inert text, and an empty text for None and numbers that are not finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return inert(value)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as the text of a CSV file."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([cell(value) for value in row] for row in rows)
    return buffer.getvalue()
