"""Comparisons of selectors: overlap, rank correlation, heads per layer, accuracy against K, cost."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from jola.selectors import SELECTORS, HeadScores, HeadSet
from jola.studies.results import Row
from jola.studies.selector_grid import AUTO
from jola.studies.statistics import overlap, rank_correlation
from workbench.figures.cells import heat, write_cells
from workbench.figures.style import (
    CIVIDIS,
    KEYED,
    SYMBOLS,
    Figure,
    blank,
    colour_key,
    counted,
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


def method_name(method: str) -> str:
    """The name of a selector in figures; markup, like the result of `text`."""
    return text(_TITLES.get(method, method), 40)


def overlap_matrix(sets: Mapping[str, HeadSet], *, dark: bool = False) -> Figure:
    """Jaccard index of each pair of sets, with the value expected for independent random sets of these sizes."""
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
    """Spearman's ρ of each pair of scores over all heads; the hover text gives Kendall's τ and p-values."""
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
    """The number of heads chosen per layer: methods down, layers across."""
    title = "Chosen heads per layer"
    if not sets:
        return blank(title, "No heads have been chosen yet.", dark=dark)
    figure, first = panels(), next(iter(sets.values()))
    values = np.stack([heads.array().sum(1) for heads in sets.values()]).astype(float)
    names = [method_name(method) for method in sets]
    hover = [[f"{name}, layer {layer}" for layer in range(first.layers)] for name in names]
    figure.add_trace(heat(values, "%{customdata}: %{z} heads", customdata=hover))
    if first.layers <= _NUMBERED:
        write_cells(figure, values / first.heads, [[f"{value:.0f}" for value in row] for row in values], 1, 1)
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


def accuracy_by_k(rows: Sequence[Row], *, dark: bool = False) -> Figure:
    """Test accuracy of each method against the number of edited heads, with 95 % intervals.

    JoLA and the base model, which have no K, are horizontal lines.
    """
    title = "Accuracy against the number of edited heads"
    points = [row for row in rows if row.protocol in ("edit", "swap") and row.heads is not None]
    if not points:
        return blank(title, "Nothing has been trained yet.", dark=dark)
    colours, figure = palette(dark), panels()
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in points:
        groups.setdefault((row.protocol, row.method), []).append(row)
    for index, ((protocol, method), own) in enumerate(groups.items()):
        # A sweep may contain the number that 'auto' resolves to.
        own = sorted(own, key=lambda row: (row.heads or 0, row.k == AUTO))
        colour = colours.categories[index % len(colours.categories)]
        name = method_name(method) + (" gates" if protocol == "swap" else "")
        figure.add_trace(
            go.Scatter(
                x=[row.heads for row in own], y=[row.accuracy for row in own], mode="lines+markers", name=name,
                line={"color": colour, "width": 1.5, "dash": "dot" if protocol == "swap" else "solid"},
                marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 8},
                error_y={
                    "type": "data", "symmetric": False, "array": [row.high - row.accuracy for row in own],
                    "arrayminus": [row.accuracy - row.low for row in own], "thickness": 1, "width": 3, "color": colour,
                },
                customdata=[[row.low, row.high, row.items, row.seeds] for row in own],
                hovertemplate="%{x} heads: %{y:.3f}<br>95 % interval %{customdata[0]:.3f} to %{customdata[1]:.3f}<br>"
                f"n = %{{customdata[2]}} × %{{customdata[3]}} seeds<extra>{name}</extra>",
            )
        )  # fmt: skip
    for row in rows:
        if row.protocol in ("jola", "base"):
            words = "JoLA" if row.protocol == "jola" else "no edits"
            figure.add_hline(
                y=row.accuracy, line={"color": colours.text, "width": 1, "dash": "dash"},
                annotation_position="top left",
                annotation={"text": f"{words} {row.accuracy:.3f}", "font": {"size": 11, "color": colours.quiet}},
            )  # fmt: skip
    figure.update_xaxes(title="edited heads")
    figure.update_yaxes(title="accuracy")
    items, seeds = {row.items for row in points}, {row.seeds for row in points}
    seeded = " or ".join(map(str, sorted(seeds))) + (" seed" if seeds == {1} else " seeds")
    note = f"n = {' or '.join(map(str, sorted(items)))} test examples, {seeded}"
    return _with_legend(figure, title, f"{note}; bars: 95 % intervals", len(groups), dark=dark, height=380)


def selection_costs(rows: Sequence[Row], *, dark: bool = False) -> Figure:
    """Time of each selection divided by the time of JoLA's training with the same seed."""
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
    """A matrix over pairs of methods; `pair` returns the value and the hover text."""
    colours, figure, side = palette(dark), panels(), len(methods)
    pairs = [[pair(a, b) for b in methods] for a in methods]
    values = np.array([[value for value, _ in row] for row in pairs], dtype=np.float64)
    hover = [[words for _, words in row] for row in pairs]
    words = [[f"{value:.2f}".replace("-", "−").replace("nan", "–") for value in row] for row in values]
    figure.add_trace(heat(values, "%{customdata}", customdata=hover))
    low, high = span
    ramp, filled = CIVIDIS, np.nan_to_num(values)
    if low < 0:
        # Signed values fade into the background at 0; far from 0, text has the color of the background.
        ramp, filled = list(colours.diverging), np.abs(filled) if dark else 1 - np.abs(filled)
    write_cells(figure, filled, words, 1, 1)
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
