"""Pages of results: tables as Markdown, and the generated part of a page."""

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Format a table as Markdown; the first row is the header."""
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *others])


def with_body(page: str, body: str, begin: str, end: str) -> str:
    """Return the page with `body` between its marks; raise SystemExit if they are missing."""
    before, mark, rest = page.partition(begin)
    _, mark_of_end, after = rest.partition(end)
    if not mark or not mark_of_end:
        raise SystemExit(f"The page lacks the marks {begin} and {end}.")
    return f"{before}{begin}\n\n{body}\n\n{end}{after}"
