"""The results of a comparison for the Compare tab: figures, tables, and single sets of heads.

This module imports PyTorch, so the tab imports it only when there are results to show.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jola.errors import InputError
from jola.selectors.heads import HeadScores, HeadSet
from jola.studies.results import Cell, Comparison, SelectorRow, summarise
from jola.studies.selector_grid import AUTO
from jola.studies.statistics import accuracy_interval, overlap, rank_correlation
from jola.system.formatting import accuracy_text, counted, interval_text
from workbench.figures import selectors as draw
from workbench.figures.frames import to_csv
from workbench.figures.head_sets import MOST_METHODS, head_agreement, head_sets, head_table, heads_against
from workbench.figures.style import Figure
from workbench.service.comparison_plan import METHODS, SWAPS, title_of
from workbench.ui import markup
from workbench.ui.view_tools import tools_value

if TYPE_CHECKING:
    import pandas as pd

_LISTED = 300
"""Maximum number of rows of the table of heads on the page; the CSV file has all."""


@dataclass(frozen=True)
class Drawn:
    """One view: its figure, the data of its tools (CSV and code), and its text, if any."""

    figure: Figure
    tools: str
    text: str = ""


class Results:
    """The results of a comparison at one moment."""

    def __init__(self, folder: Path) -> None:
        self.comparison = Comparison.open(folder)
        self.cells: list[Cell] = self.comparison.cells()
        self.rows: list[SelectorRow] = summarise(self.cells)
        """One row for each method and K, over all seeds."""

    def seeds(self) -> list[int]:
        """Return the seeds with at least one set of heads."""
        return sorted({cell.seed for cell in self.cells if cell.heads is not None})

    def ks(self) -> list[str]:
        """Return every K with at least one result, words first; ['auto'] while JoLA has the only result."""
        found = {cell.k for cell in self.cells if cell.k}
        return sorted(found, key=lambda k: (k.isdigit(), int(k) if k.isdigit() else 0, k)) or [AUTO]

    def methods(self) -> list[str]:
        """Return the methods that have chosen heads, in the order of the form."""
        found = {cell.method for cell in self.cells if cell.protocol in ("jola", "edit") and cell.heads is not None}
        return [name for name in METHODS if name in found] + sorted(found - set(METHODS))

    def sets(self, seed: int, k: str, methods: Sequence[str]) -> dict[str, HeadSet]:
        """Return the heads that these methods chose with a seed and K."""
        found = self.comparison.head_sets(seed, k)
        return {method: found[method] for method in methods if method in found}

    def scores(self, seed: int, methods: Sequence[str]) -> dict[str, HeadScores]:
        """Return the scores that these methods gave to all heads with a seed."""
        found = self.comparison.all_scores(seed)
        return {method: found[method] for method in methods if method in found}

    def picks(self, seed: int, k: str) -> list[tuple[str, str]]:
        """Return (label, name of the cell) of every set with a seed and K: JoLA's, then selectors and gate swaps."""
        found = []
        for cell in self.cells:
            if cell.heads is None or cell.seed != seed or (cell.protocol != "jola" and cell.k != k):
                continue
            found.append((pick_words(cell), cell.name))
        return sorted(found, key=lambda pair: (not pair[1].startswith("jola-"), pair[0]))

    def picked(self, name: str) -> Cell:
        """Return the cell with this name. Raises `InputError` if it has no heads."""
        cell = next((cell for cell in self.cells if cell.name == name), None)
        if cell is None or cell.heads is None:
            raise InputError("Choose a set of heads first.")
        return cell


@lru_cache(maxsize=4)
def _results(folder: Path, mark: str) -> Results:
    return Results(folder)


def results_of(folder: Path, mark: str) -> Results:
    """Return the results in a folder, cached by `StoredComparison.mark`.

    Raises:
        InputError: A result is missing or damaged.
    """
    return _results(folder, mark)


def pick_words(cell: Cell) -> str:
    """Return the label of the heads of a cell in a list."""
    if cell.protocol == "jola":
        return "JoLA: heads with an open gate"
    if cell.protocol == "swap":
        return f"{SWAPS[cell.method].title if cell.method in SWAPS else cell.method} gates"
    return title_of(cell.method)


# Views

FIGURES: dict[str, Callable[..., Figure]] = {
    "sets": head_sets,
    "agreement": head_agreement,
    "against": heads_against,
}
"""Figures of the map of heads, by the names of `workbench.compare.panel.READINGS`."""


def heads_view(results: Results, seed: int, k: str, methods: Sequence[str], reading: str, *, dark: bool) -> Drawn:
    """Draw the map of the heads that the methods chose, in one reading, and the same data as a table."""
    sets = results.sets(seed, k, methods)
    table = head_table(sets)
    figure = FIGURES[reading]
    code = _recipe(
        results,
        f"from workbench.figures.head_sets import {figure.__name__}",
        f"sets = comparison.head_sets({seed}, {k!r})",
        f"{figure.__name__}({{method: sets[method] for method in {list(sets)!r}}}).show()",
    )
    words = _head_table(table, sets)
    if reading == "sets" and len(sets) > MOST_METHODS:
        words = markup.note(f"The map shows the first {MOST_METHODS} methods; deselect some to see others.") + words
    return Drawn(figure(sets, dark=dark), tools_value(f"heads-{reading}", to_csv(table), code), words)


def overlap_view(results: Results, seed: int, k: str, methods: Sequence[str], *, dark: bool) -> Drawn:
    """Draw the heads that each pair of methods has in common."""
    import pandas as pd

    sets = results.sets(seed, k, methods)
    pairs = [(a, b, overlap(sets[a], sets[b])) for a, b in combinations(sets, 2)]
    frame = pd.DataFrame(
        [
            (a, b, len(sets[a]), len(sets[b]), o.common, o.expected_common, o.jaccard, o.expected_jaccard, o.p_value)
            for a, b, o in pairs
        ],
        columns=["a", "b", "heads_a", "heads_b", "common", "by_chance", "jaccard", "jaccard_by_chance", "p_value"],
    )
    return _drawn(
        results, "overlap", draw.overlap_matrix, sets, frame, f"sets = comparison.head_sets({seed}, {k!r})", dark=dark
    )


def ranks_view(results: Results, seed: int, methods: Sequence[str], *, dark: bool) -> Drawn:
    """Draw the rank correlation of each pair of methods over all heads."""
    import pandas as pd

    scores = results.scores(seed, methods)
    pairs = [(a, b, rank_correlation(scores[a], scores[b])) for a, b in combinations(scores, 2)]
    frame = pd.DataFrame(
        [(a, b, r.spearman, r.spearman_p, r.kendall, r.kendall_p, r.n) for a, b, r in pairs],
        columns=["a", "b", "spearman", "spearman_p", "kendall", "kendall_p", "n"],
    )
    return _drawn(
        results, "ranks", draw.rank_correlations, scores, frame, f"sets = comparison.all_scores({seed})", dark=dark
    )


def layers_view(results: Results, seed: int, k: str, methods: Sequence[str], *, dark: bool) -> Drawn:
    """Draw the number of heads that each method chose in each layer."""
    import pandas as pd

    sets = results.sets(seed, k, methods)
    frame = pd.DataFrame({method: heads.array().sum(1) for method, heads in sets.items()}).rename_axis("layer")
    loading = f"sets = comparison.head_sets({seed}, {k!r})"
    return _drawn(results, "layers", draw.heads_by_layer, sets, frame.reset_index(), loading, dark=dark)


def forest_view(results: Results, k: str, methods: Sequence[str], *, dark: bool) -> Drawn:
    """Draw the accuracy of each method with one K, over all seeds, with the table of all rows."""
    rows = _rows_of(results, methods)
    code = _recipe(results, _DRAWING, *_row_lines(methods), f"draw.accuracy_forest(rows, {k!r}).show()")
    figure = draw.accuracy_forest(rows, k, dark=dark)
    return Drawn(figure, tools_value("accuracy", to_csv(_frame(rows)), code), rows_table(rows))


def accuracy_view(results: Results, methods: Sequence[str], *, dark: bool) -> Drawn:
    """Draw the accuracy against K, over all seeds."""
    rows = _rows_of(results, methods)
    code = _recipe(results, _DRAWING, *_row_lines(methods), "draw.accuracy_by_k(rows).show()")
    return Drawn(draw.accuracy_by_k(rows, dark=dark), tools_value("accuracy-by-k", to_csv(_frame(rows)), code))


def costs_view(results: Results, methods: Sequence[str], *, dark: bool) -> Drawn:
    """Draw the time of each selection as a share of the time of JoLA's training."""
    rows = _rows_of(results, methods)
    columns = ["protocol", "method", "k", "seeds", "selection_seconds", "training_seconds", "cost_ratio"]
    code = _recipe(results, _DRAWING, *_row_lines(methods), "draw.selection_costs(rows).show()")
    tools = tools_value("costs", to_csv(_frame(rows).loc[:, columns]), code)
    return Drawn(draw.selection_costs(rows, dark=dark), tools)


_DRAWING = "from workbench.figures import selectors as draw"


def _drawn(
    results: Results,
    name: str,
    figure: Callable[..., Figure],
    by_method: Mapping[str, Any],
    frame: "pd.DataFrame",
    loading: str,
    *,
    dark: bool,
) -> Drawn:
    """Draw a figure of sets or scores by method; ``loading`` is the code that reads them as ``sets``."""
    drawing = f"draw.{figure.__name__}({{method: sets[method] for method in {list(by_method)!r}}}).show()"
    code = _recipe(results, _DRAWING, loading, drawing)
    return Drawn(figure(by_method, dark=dark), tools_value(name, to_csv(frame), code))


def _rows_of(results: Results, methods: Sequence[str]) -> list[SelectorRow]:
    """Return the rows of these methods, and of gate swaps, which do not choose heads in advance."""
    return [row for row in results.rows if row.protocol != "edit" or row.method in methods]


def _row_lines(methods: Sequence[str]) -> tuple[str, str]:
    """Return Python code equivalent to `_rows_of`."""
    rows = 'rows = [row for row in comparison.rows() if row.protocol != "edit" or row.method in methods]'
    return f"methods = {list(methods)!r}", rows


def _frame(rows: Sequence[SelectorRow]) -> "pd.DataFrame":
    import pandas as pd

    frame = pd.DataFrame([asdict(row) for row in rows], columns=[field.name for field in fields(SelectorRow)])
    return frame.assign(by_seed=[" ".join(f"{value:.6g}" for value in row.by_seed) for row in rows])


def _recipe(results: Results, importing: str, *lines: str) -> str:
    """Return Python code that reads the comparison and draws a view again."""
    opened = f"comparison = Comparison.open({str(results.comparison.folder)!r})"
    return "\n".join(["from jola.studies.results import Comparison", importing, "", opened, *lines, ""])


# Tables


def _head_table(table: "pd.DataFrame", sets: Mapping[str, HeadSet]) -> str:
    names = [title_of(method) for method in sets]
    heads = "".join(f'<th scope="col">{markup.escape(name)}</th>' for name in names)
    rows = []
    for values in table.head(_LISTED).itertuples(index=False):
        layer, head, count, *flags = values
        cells = "".join(f"<td>{'chosen' if flag else ''}</td>" for flag in flags)
        rows.append(f'<tr><th scope="row">{layer}:{head}</th><td>{count}</td>{cells}</tr>')
    more = ""
    if len(table) > _LISTED:
        more = f'<p class="jw-foot">The first {_LISTED} of {len(table):,} heads; the CSV file has all.</p>'
    return (
        f'<details class="cv-alternative"><summary>The same as a table: {counted(len(table), "head")}</summary>'
        '<div class="cv-scroll" tabindex="0" role="region" aria-label="Heads and the methods that chose them">'
        '<table class="cv-table"><thead><tr><th scope="col">Layer:head</th><th scope="col">Methods</th>'
        f"{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{more}</details>"
    )


_PROTOCOLS = {"base": "no edits", "jola": "joint training", "edit": "select-then-edit", "swap": "gate swap"}


def rows_table(rows: Sequence[SelectorRow]) -> str:
    """Return an HTML table with one row for each method and K: accuracy, difference to JoLA, adjusted p, cost."""
    if not rows:
        return markup.note("No training has ended yet.")
    columns = (
        ("Method", ""), ("Protocol", ""), ("K", "as requested"),
        ("Heads", "edited heads (open offsets + open scales), mean over seeds"),
        ("Accuracy", "share of correct answers, mean over seeds, with its 95 % interval"),
        ("n", "test examples × seeds"), ("Minus JoLA", "mean over shared seeds, with its 95 % interval"),
        ("p", "two-sided t-test, paired by seed, adjusted for all rows (Holm)"),
        ("Time", "time of the selection ÷ time of JoLA's training"),
    )  # fmt: skip
    head = "".join(f'<th scope="col"{_title(words)}>{name}</th>' for name, words in columns)
    body = "".join(f"<tr>{_row_cells(row)}</tr>" for row in rows)
    return (
        '<div class="cv-scroll" tabindex="0" role="region" aria-label="Results of every method and K">'
        f'<table class="cv-table cv-rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        '<p class="jw-foot">In brackets: 95 % intervals over seeds (Student\'s t); with one seed, over test examples, '
        "and without p. n: test examples × seeds. Heads: edited heads, then open offsets + open scales. Minus JoLA: "
        "difference of the accuracies, paired by seed. p: two-sided paired t-test, adjusted for all rows (Holm). "
        "Time: of the selection ÷ of JoLA's training.</p>"
    )


def _title(words: str) -> str:
    return f' title="{markup.escape(words)}"' if words else ""


def _row_cells(row: SelectorRow) -> str:
    def interval(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
        if value is None:
            return "–"
        figure, _, bounds = interval_text(value, low, high, sign=sign).replace("-", "−").partition(" ")
        return f"{figure} <small>{bounds}</small>" if bounds else figure

    heads = "–" if row.heads is None else f"{row.heads:,.4g}"
    if row.offsets is not None and row.scales is not None:
        heads += f" <small>({row.offsets:,.4g} + {row.scales:,.4g})</small>"
    name = {"base": "No edits", "jola": "JoLA"}.get(row.protocol)
    name = name or title_of(row.method)
    cells = (
        markup.escape(_PROTOCOLS.get(row.protocol, row.protocol)),
        markup.escape(row.k) or "–",
        heads,
        interval(row.accuracy, row.low, row.high),
        f"{row.items:,} × {row.seeds}",
        interval(row.difference, row.difference_low, row.difference_high, "+"),
        "–" if row.p_holm is None else f"{row.p_holm:.2g}",
        "–" if row.cost_ratio is None else f"{row.cost_ratio:.2f}",
    )
    return f'<th scope="row">{markup.escape(name)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells)


# One set


def set_words(cell: Cell) -> str:
    """Describe the set of a cell as HTML, with its heads in the format of ``--heads``."""
    heads = cell.heads
    assert heads is not None
    total = heads.layers * heads.heads
    accuracy = dict(zip(("accuracy", "low", "high"), accuracy_interval(cell.correct), strict=True))
    return (
        f'<p class="jw-about" role="status">{counted(len(heads), "head")} of {total:,}, in '
        f"{counted(int(heads.array().any(1).sum()), 'layer')} of {heads.layers}. Test accuracy of its edits "
        f"{accuracy_text({**accuracy, 'n': len(cell.correct)})}.</p>"
        f'<pre class="cv-heads" tabindex="0" aria-label="The heads as layer:head">'
        f"{markup.escape(heads.to_text() if len(heads) else 'none')}</pre>"
    )


def set_tools(results: Results, cell: Cell) -> str:
    """Return the value of the tools: the set as JSON, and the code that reads it."""
    assert cell.heads is not None
    code = "\n".join(
        [
            "from jola.studies.results import Comparison", "",
            f"comparison = Comparison.open({str(results.comparison.folder)!r})",
            f"heads = comparison.cell({cell.name!r}).heads",
            "print(heads.to_text())  # as --heads takes it", "",
        ]
    )  # fmt: skip
    return tools_value(f"heads-{cell.name}", code=code, taken=json.dumps(cell.heads.to_dict()))
