"""What the Compare place shows of a comparison: its figures, its tables, and any of its sets of heads.

Imports PyTorch, as everything that reads scores does, so the place imports it when there is something to show.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from jola.errors import InputError
from jola.selectors.heads import HeadScores, HeadSet
from jola.studies.results import Cell, Comparison, Row, summarise
from jola.studies.selector_grid import AUTO
from jola.studies.statistics import accuracy_interval, overlap, rank_correlation
from jola.system.formatting import accuracy_text, interval_text
from workbench.figures import selectors as draw
from workbench.figures.frames import to_csv
from workbench.figures.head_sets import MOST_METHODS, head_sets, head_table
from workbench.figures.style import Figure
from workbench.service.comparison_plan import METHODS, SWAPS, counted
from workbench.ui import markup
from workbench.ui.view_tools import tools_value

if TYPE_CHECKING:
    import pandas as pd

_LISTED = 300
"""Rows of the table of heads on the page; the CSV file has all."""


@dataclass(frozen=True)
class Drawn:
    """One view: its figure, what takes it along, and its text where it has one."""

    figure: Figure
    tools: str
    text: str = ""


class Results:
    """The results of a comparison at one moment."""

    def __init__(self, folder: Path) -> None:
        self.comparison = Comparison.open(folder)
        self.cells: list[Cell] = self.comparison.cells()
        self._rows: list[Row] | None = None

    @property
    def rows(self) -> list[Row]:
        """One row a method and K, seeds together; made when it is asked for, for it resamples."""
        if self._rows is None:
            self._rows = summarise(self.cells)
        return self._rows

    def seeds(self) -> list[int]:
        """Seeds of which there is a set."""
        return sorted({cell.seed for cell in self.cells if cell.heads is not None})

    def ks(self) -> list[str]:
        """The K of which there is a set, 'auto' first; 'auto' alone while JoLA is all there is."""
        found = {cell.k for cell in self.cells if cell.k}
        return sorted(found, key=lambda k: (k != AUTO, int(k) if k.isdigit() else 0)) or [AUTO]

    def methods(self) -> list[str]:
        """Methods that chose heads, in the order of the form."""
        found = {cell.method for cell in self.cells if cell.protocol in ("jola", "edit") and cell.heads is not None}
        return [name for name in METHODS if name in found] + sorted(found - set(METHODS))

    def sets(self, seed: int, k: str, methods: Sequence[str]) -> dict[str, HeadSet]:
        """The sets of these methods with a seed and K."""
        found = self.comparison.head_sets(seed, k)
        return {method: found[method] for method in methods if method in found}

    def scores(self, seed: int, methods: Sequence[str]) -> dict[str, HeadScores]:
        """The scores of these methods with a seed."""
        found = self.comparison.all_scores(seed)
        return {method: found[method] for method in methods if method in found}

    def picks(self, seed: int, k: str) -> list[tuple[str, str]]:
        """(words, name of the cell) of every set with a seed and K: of selectors, of gate swaps, and JoLA's own."""
        found = []
        for cell in self.cells:
            if cell.heads is None or cell.seed != seed or (cell.protocol != "jola" and cell.k != k):
                continue
            found.append((pick_words(cell), cell.name))
        return sorted(found, key=lambda pair: (not pair[1].startswith("jola-"), pair[0]))

    def picked(self, name: str) -> Cell:
        """The cell of this name. `InputError` when it has no heads."""
        cell = next((cell for cell in self.cells if cell.name == name), None)
        if cell is None or cell.heads is None:
            raise InputError("Choose a set of heads first.")
        return cell


@lru_cache(maxsize=4)
def _results(folder: Path, mark: str) -> Results:
    return Results(folder)


def results_of(folder: Path, mark: str) -> Results:
    """The results in a folder; ``mark`` is `StoredComparison.mark`. `InputError` when they are missing or damaged."""
    return _results(folder, mark)


def pick_words(cell: Cell) -> str:
    """Whose heads these are, for a list."""
    if cell.protocol == "jola":
        return "JoLA: heads with an open gate"
    if cell.protocol == "swap":
        return f"{SWAPS[cell.method].title if cell.method in SWAPS else cell.method} gates"
    return METHODS[cell.method].title if cell.method in METHODS else cell.method


# The views


def heads_view(results: Results, seed: int, k: str, methods: Sequence[str], *, dark: bool) -> Drawn:
    """The sets on one map; its text alternative is a table."""
    sets = results.sets(seed, k, methods)
    table = head_table(sets)
    code = _recipe(
        results, "from workbench.figures.head_sets import head_sets",
        f"sets = comparison.head_sets({seed}, {k!r})",
        f"head_sets({{method: sets[method] for method in {list(sets)!r}}}).show()",
    )  # fmt: skip
    text = _head_table(table, sets)
    if len(sets) > MOST_METHODS:
        text = markup.note(f"The map shows the first {MOST_METHODS} methods; untick some to see others.") + text
    return Drawn(head_sets(sets, dark=dark), tools_value("head-sets", to_csv(table), code), text)


def overlap_view(results: Results, seed: int, k: str, methods: Sequence[str], *, dark: bool) -> Drawn:
    """How many heads each pair of sets has in common."""
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
    code = _recipe(
        results, "from workbench.figures import selectors as draw",
        f"sets = comparison.head_sets({seed}, {k!r})",
        f"draw.overlap_matrix({{method: sets[method] for method in {list(sets)!r}}}).show()",
    )  # fmt: skip
    return Drawn(draw.overlap_matrix(sets, dark=dark), tools_value("overlap", to_csv(frame), code))


def ranks_view(results: Results, seed: int, methods: Sequence[str], *, dark: bool) -> Drawn:
    """How alike each pair of methods ranks all heads."""
    import pandas as pd

    scores = results.scores(seed, methods)
    pairs = [(a, b, rank_correlation(scores[a], scores[b])) for a, b in combinations(scores, 2)]
    frame = pd.DataFrame(
        [(a, b, r.spearman, r.spearman_p, r.kendall, r.kendall_p, r.n) for a, b, r in pairs],
        columns=["a", "b", "spearman", "spearman_p", "kendall", "kendall_p", "n"],
    )
    code = _recipe(
        results, "from workbench.figures import selectors as draw",
        f"scores = comparison.all_scores({seed})",
        f"draw.rank_correlations({{method: scores[method] for method in {list(scores)!r}}}).show()",
    )  # fmt: skip
    return Drawn(draw.rank_correlations(scores, dark=dark), tools_value("ranks", to_csv(frame), code))


def layers_view(results: Results, seed: int, k: str, methods: Sequence[str], *, dark: bool) -> Drawn:
    """How many heads each method chooses in each layer."""
    import pandas as pd

    sets = results.sets(seed, k, methods)
    frame = pd.DataFrame({method: heads.array().sum(1) for method, heads in sets.items()}).rename_axis("layer")
    code = _recipe(
        results, "from workbench.figures import selectors as draw",
        f"sets = comparison.head_sets({seed}, {k!r})",
        f"draw.heads_by_layer({{method: sets[method] for method in {list(sets)!r}}}).show()",
    )  # fmt: skip
    return Drawn(draw.heads_by_layer(sets, dark=dark), tools_value("layers", to_csv(frame.reset_index()), code))


def accuracy_view(results: Results, methods: Sequence[str], *, dark: bool) -> Drawn:
    """Accuracy against K over all seeds, and the table of rows; gate swaps are no choice of heads and stay in."""
    rows = _rows_of(results, methods)
    code = _recipe(
        results, "from workbench.figures import selectors as draw",
        f"methods = {list(methods)!r}",
        'rows = [row for row in comparison.rows() if row.protocol != "edit" or row.method in methods]',
        "draw.accuracy_by_k(rows).show()",
    )  # fmt: skip
    tools = tools_value("accuracy", to_csv(_frame(rows)), code)
    return Drawn(draw.accuracy_by_k(rows, dark=dark), tools, rows_table(rows))


def costs_view(results: Results, methods: Sequence[str], *, dark: bool) -> Drawn:
    """Time of each selection as a share of JoLA's training."""
    rows = _rows_of(results, methods)
    columns = ["protocol", "method", "k", "seeds", "selection_seconds", "training_seconds", "cost_ratio"]
    frame = _frame(rows).loc[:, columns]
    code = _recipe(
        results, "from workbench.figures import selectors as draw",
        f"methods = {list(methods)!r}",
        'rows = [row for row in comparison.rows() if row.protocol != "edit" or row.method in methods]',
        "draw.selection_costs(rows).show()",
    )  # fmt: skip
    return Drawn(draw.selection_costs(rows, dark=dark), tools_value("costs", to_csv(frame), code))


def _rows_of(results: Results, methods: Sequence[str]) -> list[Row]:
    return [row for row in results.rows if row.protocol != "edit" or row.method in methods]


def _frame(rows: Sequence[Row]) -> "pd.DataFrame":
    from dataclasses import asdict, fields

    import pandas as pd

    return pd.DataFrame([asdict(row) for row in rows], columns=[field.name for field in fields(Row)])


def _recipe(results: Results, drawing: str, *lines: str) -> str:
    """Python that reads the comparison and draws the view again."""
    opened = f"comparison = Comparison.open({str(results.comparison.folder)!r})"
    return "\n".join(["from jola.studies.results import Comparison", drawing, "", opened, *lines, ""])


# Tables


def _head_table(table: "pd.DataFrame", sets: Mapping[str, HeadSet]) -> str:
    names = [METHODS[method].title if method in METHODS else method for method in sets]
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


def rows_table(rows: Sequence[Row]) -> str:
    """One row a method and K: accuracy, difference to JoLA, adjusted p, cost; each with its n or interval."""
    if not rows:
        return markup.note("No training has ended yet.")
    columns = (
        ("Method", ""), ("Protocol", ""), ("K", "as asked for"), ("Heads", "edited, mean over seeds"),
        ("Accuracy", "share of right answers, with its 95 % interval"), ("n", "test examples × seeds"),
        ("Minus JoLA", "paired by test example and seed, with its 95 % interval"),
        ("p", "against no difference, two-sided, adjusted for all rows (Holm)"),
        ("Time", "seconds of the selection ÷ seconds of JoLA's training"),
    )  # fmt: skip
    head = "".join(f'<th scope="col"{_title(words)}>{name}</th>' for name, words in columns)
    body = "".join(f"<tr>{_row_cells(row)}</tr>" for row in rows)
    return (
        '<div class="cv-scroll" tabindex="0" role="region" aria-label="Results of every method and K">'
        f'<table class="cv-table cv-rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        '<p class="jw-foot">In brackets 95 % intervals; n: test examples × seeds. Minus JoLA: difference of '
        "accuracies, paired by example and seed. p: two-sided, adjusted for all rows (Holm). Time: of the selection "
        "÷ JoLA's training.</p>"
    )


def _title(words: str) -> str:
    return f' title="{markup.escape(words)}"' if words else ""


def _row_cells(row: Row) -> str:
    def interval(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
        if value is None or low is None or high is None:
            return "–"
        figure, _, bounds = interval_text(value, low, high, sign=sign).replace("-", "−").partition(" ")
        return f"{figure} <small>{bounds}</small>"

    name = {"base": "No edits", "jola": "JoLA"}.get(row.protocol)
    name = name or (METHODS[row.method].title if row.method in METHODS else row.method)
    cells = (
        markup.escape(_PROTOCOLS.get(row.protocol, row.protocol)),
        markup.escape(row.k) or "–",
        "–" if row.heads is None else f"{row.heads:,.4g}",
        interval(row.accuracy, row.low, row.high),
        f"{row.items:,} × {row.seeds}",
        interval(row.difference, row.difference_low, row.difference_high, "+"),
        "–" if row.p_holm is None else f"{row.p_holm:.2g}",
        "–" if row.cost_ratio is None else f"{row.cost_ratio:.2f}",
    )
    return f'<th scope="row">{markup.escape(name)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells)


# One set


def set_words(cell: Cell) -> str:
    """A set in words and as the text that ``--heads`` takes."""
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
    """The set as JSON, to copy and to save, and the code that reads it."""
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
