"""Comparisons of selectors: accuracy, accuracy against K, overlap, rank correlation, heads per layer, cost.

A method has the same color and marker in all figures, see `method_mark`.
"""

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from jola.selectors import SELECTORS, HeadScores, HeadSet
from jola.studies.results import SelectorRow
from jola.studies.selector_grid import AUTO
from jola.studies.statistics import overlap, rank_correlation
from jola.system.formatting import counted
from workbench.figures.cells import heat, write_cells
from workbench.figures.style import (
    CIVIDIS,
    KEYED,
    MONO,
    Figure,
    blank,
    colour_key,
    finish,
    number,
    palette,
    panels,
    text,
    word_ticks,
)

_NUMBERED = 48
"""Maximum number of layers for which numbers are written into the cells."""
_FEW = "At least two choices of heads are needed."
_TITLES = {name: kind.title for name, kind in SELECTORS.items()} | {"base": "No edits"}
_MARKS = {
    "jola": (0, "star"), "dsp": (1, "diamond"), "pass": (2, "square"), "smp": (6, "circle"),
    "gradient": (3, "triangle-up"), "offset": (4, "triangle-down"), "lofit": (8, "cross"), "ablation": (9, "hexagon"),
    "random": (7, "x"), "dsp_tuned": (1, "diamond-wide"), "pass_tuned": (2, "square-x"),
}  # fmt: skip
"""Index of the color among the categories of a palette, and marker, of each method."""


def method_name(method: str) -> str:
    """Return the name of a selector in figures; markup, like the result of `text`."""
    return text(_TITLES.get(method, method), 40)


def method_mark(method: str, *, dark: bool = False) -> tuple[str, str]:
    """Return (color, marker symbol) of a method, the same in every figure. Other methods share one marker."""
    colours = palette(dark).categories
    index, symbol = _MARKS.get(method, (zlib.crc32(method.encode()) % len(colours), "pentagon"))
    return colours[index], symbol


def row_name(row: SelectorRow) -> str:
    """Return the name of the method of a row in figures; markup, like the result of `text`."""
    if row.protocol == "jola":
        return "JoLA"
    return method_name(row.method) + (" gates" if row.protocol == "swap" else "")


def row_mark(row: SelectorRow, *, dark: bool = False) -> tuple[str, str]:
    """Return (color, marker symbol) of the method of a row; gate swaps have open markers."""
    colour, symbol = method_mark(row.method, dark=dark)
    return colour, f"{symbol}-open" if row.protocol == "swap" else symbol


def overlap_matrix(sets: Mapping[str, HeadSet], *, dark: bool = False) -> Figure:
    """Draw the Jaccard index of each pair of sets, with its expected value for independent sets of these sizes."""
    title, methods = "Overlap of the chosen heads", list(sets)
    if len(methods) < 2:
        return blank(title, _FEW, dark=dark)

    def pair(a: str, b: str) -> tuple[float, str]:
        found = overlap(sets[a], sets[b])
        return found.jaccard, (
            f"{method_name(a)} ({len(sets[a])}) and {method_name(b)} ({len(sets[b])})<br>{found.common} heads in "
            f"common, by chance {number(found.expected_common)}<br>Jaccard {found.jaccard:.3f}, by chance "
            f"{found.expected_jaccard:.3f}<br>p = {number(found.p_value, 2)} (one-sided)"
        )

    pairs = itertools.combinations(methods, 2)
    chance = [overlap(sets[a], sets[b]).expected_jaccard for a, b in pairs]
    span = f"{min(chance):.2f}" if max(chance) - min(chance) < 0.005 else f"{min(chance):.2f} to {max(chance):.2f}"
    first = sets[methods[0]]
    note = f"Jaccard index; by chance {span} off the diagonal; {first.layers * first.heads} heads in the model"
    return _matrix(title, note, methods, pair, (0.0, 1.0), "0 no overlap, 1 the same heads", dark=dark)


def rank_correlations(scores: Mapping[str, HeadScores], *, dark: bool = False) -> Figure:
    """Draw Spearman's ρ of each pair of scores over all heads; the hover text gives Kendall's τ and p-values."""
    title, methods = "Rank correlation of the methods", list(scores)
    if len(methods) < 2:
        return blank(title, _FEW, dark=dark)

    def pair(a: str, b: str) -> tuple[float, str]:
        found = rank_correlation(scores[a], scores[b])
        return found.spearman, (
            f"{method_name(a)} and {method_name(b)}<br>Spearman {number(found.spearman)}, p = "
            f"{number(found.spearman_p, 2)}<br>Kendall {number(found.kendall)}, p = {number(found.kendall_p, 2)}"
        )

    n = next(iter(scores.values())).values.size
    note = f"Spearman's ρ; n = {n} heads"
    return _matrix(title, note, methods, pair, (-1.0, 1.0), "−1 opposite, 1 the same order", dark=dark)


def heads_by_layer(sets: Mapping[str, HeadSet], *, dark: bool = False) -> Figure:
    """Draw the number of heads chosen per layer: methods down, layers across."""
    title = "Chosen heads per layer"
    if not sets:
        return blank(title, "No heads have been chosen yet.", dark=dark)
    figure, first = panels(), next(iter(sets.values()))
    values = np.stack([heads.array().sum(1) for heads in sets.values()]).astype(float)
    names = [method_name(method) for method in sets]
    hover = [[f"{name}, layer {layer}" for layer in range(first.layers)] for name in names]
    figure.add_trace(heat(values, "%{customdata}: %{z} heads", customdata=hover))
    if first.layers <= _NUMBERED:
        write_cells(
            figure, values / first.heads, [[f"{value:.0f}" for value in row] for row in values], 1, 1, dark=dark
        )
    labels = [f"{name}  {len(heads)}" for name, heads in zip(names, sets.values(), strict=True)]
    figure.update_yaxes(
        showgrid=False, range=[len(names) - 0.5, -0.5], **word_ticks(labels, palette(dark).text, size=11)
    )
    figure.update_xaxes(title="layer", showgrid=False, range=[-0.5, first.layers - 0.5])
    words = f"heads chosen of {first.heads}"
    colour_key(figure, "coloraxis", CIVIDIS, 0.0, float(first.heads), words, bottom=KEYED, dark=dark)
    note = f"{counted(first.layers, 'layer')} of {counted(first.heads, 'head')}; next to the names: total"
    height = 24 * len(names) + KEYED + 70
    return finish(figure, title, note, dark=dark, height=height, headed=False, left=150, bottom=KEYED)


def accuracy_forest(rows: Sequence[SelectorRow], k: str, *, dark: bool = False) -> Figure:
    """Draw the accuracy of every method with one K, best first: mean, 95 % interval and, as small dots, each seed.

    The dashed line is JoLA's mean. The model without edits is named in the subtitle: drawn to scale, it would leave
    little room for the others.
    """
    title = "Accuracy of the edits"
    shown = sorted(
        (row for row in rows if row.protocol == "jola" or (row.protocol in ("edit", "swap") and row.k == k)),
        key=lambda row: (-row.accuracy, row.protocol, row.method),
    )
    if not shown:
        return blank(title, "Nothing has been trained yet.", dark=dark)
    colours, figure = palette(dark), panels()
    for place, row in enumerate(shown):
        colour, symbol = row_mark(row, dark=dark)
        if row.seeds > 1:
            figure.add_trace(
                go.Scatter(
                    x=row.by_seed, y=[place + 0.24] * row.seeds, mode="markers", hoverinfo="skip", showlegend=False,
                    marker={"symbol": "line-ns-open", "size": 6, "color": colours.edge, "line": {"width": 1}},
                )
            )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[row.accuracy], y=[place], mode="markers", showlegend=False, name=row_name(row),
                marker={"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2 if "open" in symbol else 0}},
                error_x=_bars([row], colour), hovertemplate=f"{_hover(row)}<extra></extra>",
            )
        )  # fmt: skip
        figure.add_annotation(
            text=f"{row.accuracy:.3f}  n = {row.items:,} × {row.seeds}", x=1, xref="paper", xanchor="left", xshift=8,
            y=place, yanchor="middle", showarrow=False, font={"size": 11, "family": MONO, "color": colours.quiet},
        )  # fmt: skip
    _reference_line(figure, shown, dark=dark, vertical=True)
    labels = [row_name(row) for row in shown]
    figure.update_yaxes(range=[len(shown) - 0.4, -0.6], showgrid=False, **word_ticks(labels, colours.text))
    figure.update_xaxes(title="accuracy on the test examples", rangemode="normal")
    heads = "" if k == AUTO else f"K = {text(k, 20)}; "
    note = f"{heads}{_sample(shown)}; ticks: single seeds; dashed: JoLA{_without_edits(rows)}"
    finish(figure, title, note, dark=dark, height=118 + 30 * len(shown), headed=False, left=130, right=138, bottom=48)
    return figure


def accuracy_by_k(rows: Sequence[SelectorRow], *, dark: bool = False) -> Figure:
    """Draw the accuracy of each method against K, with 95 % intervals; K is evenly spaced, ordered by edited heads.

    The dashed line is JoLA, which has no K.
    """
    title = "Accuracy against K"
    points = [row for row in rows if row.protocol in ("edit", "swap") and row.heads is not None]
    if not points:
        return blank(title, "Nothing has been trained yet.", dark=dark)
    colours, figure = palette(dark), panels()
    sizes: dict[str, list[float]] = {}
    for row in points:
        # A gate swap edits up to 2K heads.
        sizes.setdefault(row.k, []).extend([row.heads or 0.0] if row.protocol == "edit" else [])
    ks = sorted(sizes, key=lambda k: (max(sizes[k], default=float("inf")), k))
    groups: dict[tuple[str, str], list[SelectorRow]] = {}
    for row in points:
        groups.setdefault((row.protocol, row.method), []).append(row)
    for index, own in enumerate(groups.values()):
        own = sorted(own, key=lambda row: ks.index(row.k))
        colour, symbol = row_mark(own[0], dark=dark)
        aside = 0.5 * (index - (len(groups) - 1) / 2) / max(len(groups), 6)
        figure.add_trace(
            go.Scatter(
                x=[ks.index(row.k) + aside for row in own], y=[row.accuracy for row in own],
                mode="lines+markers", name=row_name(own[0]),
                line={"color": colour, "width": 1, "dash": "dot" if own[0].protocol == "swap" else "solid"},
                marker={"symbol": symbol, "size": 9, "color": colour}, error_y=_bars(own, colour),
                customdata=[_hover(row) for row in own], hovertemplate="%{customdata}<extra></extra>",
            )
        )  # fmt: skip
    _reference_line(figure, rows, dark=dark, vertical=False)
    labels = [f"{text(k, 20)} ({number(max(sizes[k]))})" if not k.isdigit() and sizes[k] else text(k, 20) for k in ks]
    figure.update_xaxes(
        title="K (heads)", showgrid=False, range=[-0.5, len(ks) - 0.5], **word_ticks(labels, colours.quiet, size=11)
    )
    figure.update_yaxes(title="accuracy")
    note = f"{_sample(points)}; dashed: JoLA{_without_edits(rows)}"
    return _with_legend(figure, title, note, len(groups), dark=dark, height=380)


def _bars(rows: Sequence[SelectorRow], colour: str) -> dict[str, object]:
    """Return error bars, with length 0 for rows without an interval."""
    return {
        "type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": colour,
        "array": [row.high - row.accuracy if row.high is not None else 0 for row in rows],
        "arrayminus": [row.accuracy - row.low if row.low is not None else 0 for row in rows],
    }  # fmt: skip


def _interval(row: SelectorRow) -> str:
    """Return ``0.742 [0.648, 0.836]``; without bounds if there is no interval."""
    bounds = f" [{row.low:.3f}, {row.high:.3f}]" if row.low is not None and row.high is not None else ""
    return f"{row.accuracy:.3f}{bounds}"


def _hover(row: SelectorRow) -> str:
    lines = [f"<b>{row_name(row)}</b>" + (f", K = {text(row.k, 20)}" if row.k else "")]
    lines.append(f"accuracy {_interval(row)}, n = {row.items:,} × {counted(row.seeds, 'seed')}")
    if row.heads is not None:
        halves = "" if row.offsets is None else f": {number(row.offsets)} offsets, {number(row.scales or 0.0)} scales"
        lines.append(f"{number(row.heads)} heads{halves}")
    if row.difference is not None:
        low, high = row.difference_low, row.difference_high
        bounds = f" [{low:+.3f}, {high:+.3f}]" if low is not None and high is not None else ""
        p = f", p = {number(row.p_holm, 2)} (Holm)" if row.p_holm is not None else ""
        lines.append(f"minus JoLA {row.difference:+.3f}{bounds}{p}")
    return "<br>".join(lines).replace("-0.", "−0.")


def _sample(rows: Sequence[SelectorRow]) -> str:
    """Describe the sample of these rows, and what their intervals are over."""
    items = " or ".join(f"{n:,}" for n in sorted({row.items for row in rows}))
    seeds = sorted({row.seeds for row in rows})
    counts = " or ".join(map(str, seeds)) + (" seed" if seeds == [1] else " seeds")
    several = ["seeds (Student's t)"] if seeds[-1] > 1 else []
    one = ["test examples" + (" for one seed" if several else "")] if seeds[0] == 1 else []
    return f"n = {items} test examples × {counts}; bars: 95 % intervals over {' or '.join([*several, *one])}"


def _without_edits(rows: Sequence[SelectorRow]) -> str:
    base = next((row for row in rows if row.protocol == "base"), None)
    return f"; without edits {base.accuracy:.3f} (n = {base.items:,})" if base is not None else ""


def _reference_line(figure: Figure, rows: Sequence[SelectorRow], *, dark: bool, vertical: bool) -> None:
    """Draw JoLA's mean as a dashed line."""
    jola = next((row for row in rows if row.protocol == "jola"), None)
    if jola is None:
        return
    line = {"color": method_mark("jola", dark=dark)[0], "width": 1, "dash": "dash"}
    if vertical:
        figure.add_vline(x=jola.accuracy, line=line, layer="below")
    else:
        words = {"text": f"JoLA {jola.accuracy:.3f}", "font": {"size": 11, "color": palette(dark).quiet}}
        figure.add_hline(y=jola.accuracy, line=line, annotation_position="top left", annotation=words, layer="below")


def selection_costs(rows: Sequence[SelectorRow], *, dark: bool = False) -> Figure:
    """Draw the time of each selection divided by the time of JoLA's training with the same seed."""
    title = "Cost of each selection"
    found: dict[str, float] = {}
    for row in rows:
        if row.cost_ratio is not None:
            found[row.method] = max(found.get(row.method, 0.0), row.cost_ratio)
    if not found:
        return blank(title, "Nothing has been selected yet.", dark=dark)
    colours, figure, methods = palette(dark), panels(), sorted(found, key=lambda method: found[method])
    values = [found[method] for method in methods]
    figure.add_trace(
        go.Bar(
            x=values, y=list(range(len(methods))), orientation="h", marker={"color": colours.bar}, width=0.66,
            text=[f"{value:.2f}" for value in values], textposition="outside", cliponaxis=False,
            hovertemplate="%{x:.3f} of JoLA's training<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(x=1, line={"color": colours.edge, "width": 1, "dash": "dash"})
    labels = [method_name(method) for method in methods]
    figure.update_yaxes(showgrid=False, **word_ticks(labels, colours.text))
    figure.update_xaxes(title="seconds of the selection ÷ seconds of JoLA's training", rangemode="tozero")
    note = "dashed: time of JoLA's training; for several K, the slowest"
    return finish(figure, title, note, dark=dark, height=130 + 26 * len(methods), headed=False, left=140, right=48)


def _matrix(
    title: str,
    note: str,
    methods: Sequence[str],
    pair: Callable[[str, str], tuple[float, str]],
    span: tuple[float, float],
    key: str,
    *,
    dark: bool,
) -> Figure:
    """Draw a matrix over pairs of methods; `pair` returns the value and the hover text."""
    colours, figure, side = palette(dark), panels(), len(methods)
    pairs = [[pair(a, b) for b in methods] for a in methods]
    values = np.array([[value for value, _ in row] for row in pairs], dtype=np.float64)
    hover = [[words for _, words in row] for row in pairs]
    words = [[f"{value:.2f}".replace("-", "−").replace("nan", "–") for value in row] for row in values]
    figure.add_trace(heat(values, "%{customdata}", customdata=hover))
    low, high = span
    ramp = CIVIDIS if low >= 0 else list(colours.diverging)
    write_cells(figure, (values - low) / (high - low), words, 1, 1, ramp=ramp, dark=dark)
    labels = [method_name(method) for method in methods]
    figure.update_xaxes(showgrid=False, range=[-0.5, side - 0.5], **word_ticks(labels, colours.text, size=11))
    figure.update_yaxes(showgrid=False, range=[side - 0.5, -0.5], **word_ticks(labels, colours.text, size=11))
    figure.update_xaxes(tickangle=-35, side="top")
    colour_key(figure, "coloraxis", ramp, low, high, key, bottom=KEYED, dark=dark)
    finish(figure, title, note, dark=dark, height=34 * side + 250, left=140, right=60, bottom=KEYED)
    figure.update_layout(margin={"t": 150})
    return figure


def _with_legend(figure: Figure, title: str, note: str, entries: int, *, dark: bool, height: int = 320) -> Figure:
    """Place the legend below the panel, where many names fit."""
    rows = -(-entries // 4)
    finish(figure, title, note, dark=dark, height=height + 24 * rows, headed=False, bottom=64 + 24 * rows)
    figure.update_layout(showlegend=True, legend={"x": 0, "xanchor": "left", "y": -0.2, "yanchor": "top"})
    return figure
