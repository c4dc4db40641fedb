"""Studies: scores against the number of training examples, and against what a method costs, with the Pareto front."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from jola.methods import METHODS
from jola.studies.pareto import pareto_front
from jola.studies.rows import Row
from jola.studies.tables import size_text
from jola.system.formatting import counted, duration_text
from workbench.figures.style import DASHES, SYMBOLS, Figure, Palette, blank, finish, palette, panels, text

_ALL_APART = 2.0
"""On the axis of examples, "all" is at this multiple of the largest number."""
_NAMED = 24
"""Maximum number of points of a Pareto figure that are drawn with names."""


@dataclass(frozen=True)
class CostAxis:
    """A cost of a method that is a field of `Row`."""

    field: str
    title: str
    unit: str
    factor: float = 1.0
    """Factor from the value in the row to the unit."""


COSTS: dict[str, CostAxis] = {
    axis.field: axis
    for axis in (
        CostAxis("trainable", "Trained parameters", "trained parameters"),
        CostAxis("peak_memory", "Peak memory", "peak memory of the process, MB", 1e-6),
        CostAxis("seconds", "Time", "seconds of loading, training and testing"),
        CostAxis("adapter_bytes", "Size of the adapter", "size of the adapter, kB", 1e-3),
        CostAxis("text_kl", "Side effect", "KL(base ‖ edited) on plain text, nats per token"),
    )
}
"""Costs by field of `Row`."""


def arm_name(arm: str, best_of: int = 1) -> str:
    """Return the name of an arm in figures, ``LoRA, learning rate 0.001``; markup, like the result of `text`."""
    method, *changes = arm.split(":")
    title = METHODS[method].title if method in METHODS else method
    words = [title, *(change.replace("_", " ").replace("=", " ", 1) for change in changes)]
    if best_of > 1:
        words.append(f"best of {best_of}")
    return text(", ".join(words), 60)


def data_size_curves(rows: Sequence[Row], *, dark: bool = False) -> Figure:
    """Draw the score of each arm against the number of training examples, with 95 % intervals.

    Args:
        rows: Rows of one task, model and metric, from `Grid.rows`. Arms that train nothing are dashed lines. If
            validation chooses an arm of a method for each size, the method is one line.
    """
    title = "Score by number of training examples"
    known = [row for row in rows if row.value is not None]
    if not known:
        return blank(title, "No cell of this task is done yet.", dark=dark)
    colours, figure = palette(dark), panels()
    sizes = sorted({row.train_size for row in rows}, key=lambda size: size or math.inf)
    largest = max(sizes)
    curves: dict[str, list[Row]] = {_curve(row): [] for row in rows}
    for row in sorted(known, key=lambda row: row.train_size or math.inf):
        curves[_curve(row)].append(row)
    marks, drawn = _marks(rows, colours), Counter[str]()
    for curve, own in curves.items():
        if not own:
            continue
        method = own[0].method
        colour, symbol = marks[method]
        dash, drawn[method] = DASHES[drawn[method] % len(DASHES)], drawn[method] + 1
        name = arm_name(curve, max(row.best_of for row in own))
        trains = METHODS[method].trains if method in METHODS else True
        figure.add_trace(
            go.Scatter(
                x=[row.train_size or largest * _ALL_APART or 1 for row in own],
                y=[row.value for row in own],
                mode="lines+markers" if trains or len(own) == 1 else "lines",
                name=name,
                line={"color": colour, "width": 1.5, "dash": dash if trains else "dash"},
                marker={"symbol": symbol, "size": 8},
                error_y=_error_bars(own, colour) if trains else None,
                customdata=[
                    [
                        _size_words(row.train_size),
                        _interval_words(row),
                        _seed_words(row),
                        arm_name(row.arm, row.best_of),
                    ]
                    for row in own
                ],
                hovertemplate="%{customdata[0]}<br>%{y:.4f}%{customdata[1]}<br>%{customdata[2]}"
                "<extra>%{customdata[3]}</extra>",
            )
        )
    ticks = [size or largest * _ALL_APART or 1 for size in sizes]
    figure.update_xaxes(
        type="log", title="training examples", tickvals=ticks, ticktext=[size_text(size) for size in sizes],
    )  # fmt: skip
    figure.update_yaxes(title=text((known[0].metric or "score").replace("_", " "), 40))
    return _with_legend(figure, title, _note(known), dark=dark)


def _marks(rows: Sequence[Row], colours: Palette) -> dict[str, tuple[str, str]]:
    """Return color and symbol of each method of the rows, which are the same in every figure."""
    known = [*METHODS]
    found = {}
    for method in dict.fromkeys(row.method for row in rows):
        index = known.index(method) if method in known else len(known)
        found[method] = colours.categories[index % len(colours.categories)], SYMBOLS[index % len(SYMBOLS)]
    return found


def _curve(row: Row) -> str:
    """Return the name of a row's curve: the arm, or the method if validation chooses an arm for each size."""
    return row.method if row.best_of > 1 else row.arm


def pareto(rows: Sequence[Row], cost: str = "trainable", *, dark: bool = False) -> Figure:
    """Draw the score of each arm against a cost; filled points and the line are the Pareto front.

    An arm is on the front unless another one costs no more and scores no less. The front is computed from means; the
    paired test in the table tells whether two arms differ.

    Args:
        rows: Rows of one task, model, metric and number of training examples, from `Grid.rows`.
        cost: One of `COSTS`.
    """
    axis = COSTS[cost]
    title = f"Score against {axis.title[0].lower()}{axis.title[1:]}"
    known = [row for row in rows if row.value is not None and _cost(row, cost) is not None]
    if not known:
        return blank(title, "No cell of this task is done yet, or none has measured this cost.", dark=dark)
    colours, figure = palette(dark), panels()
    values = [axis.factor * (_cost(row, cost) or 0.0) for row in known]
    front = pareto_front([(value, row.value or 0.0) for value, row in zip(values, known, strict=True)])
    at, axis_settings = _positions(values)
    steps = sorted((x, row.value) for x, row, best in zip(at, known, front, strict=True) if best)
    if len(steps) > 1:
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in steps], y=[y for _, y in steps], mode="lines", name="Pareto front", hoverinfo="skip",
                line={"color": colours.edge, "width": 1.5, "dash": "dot", "shape": "hv"},
            )
        )  # fmt: skip
    for method, (colour, symbol) in _marks(rows, colours).items():
        own = [index for index, row in enumerate(known) if row.method == method]
        if not own:
            continue
        title_of_method = arm_name(method)
        figure.add_trace(
            go.Scatter(
                x=[at[i] for i in own],
                y=[known[i].value for i in own],
                mode="markers+text" if len(known) <= _NAMED else "markers",
                name=title_of_method,
                text=[_beside(known[i]) for i in own],
                textposition="top center",
                textfont={"size": 11, "color": colours.quiet},
                marker={
                    "symbol": [symbol if front[i] else f"{symbol}-open" for i in own],
                    "size": 10,
                    "color": colour,
                    "line": {"width": 1.5, "color": colour},
                },
                error_y=_error_bars([known[i] for i in own], colour),
                customdata=[
                    [
                        arm_name(known[i].arm, known[i].best_of),
                        _cost_words(cost, values[i]),
                        _interval_words(known[i]),
                        _seed_words(known[i]),
                        "on the Pareto front" if front[i] else "not on the Pareto front",
                    ]
                    for i in own
                ],
                hovertemplate="%{customdata[0]}<br>%{y:.4f}%{customdata[2]}<br>%{customdata[1]}<br>%{customdata[3]}"
                "<br>%{customdata[4]}<extra></extra>",
            )
        )
    figure.update_xaxes(title=axis.unit, **axis_settings)
    figure.update_yaxes(title=text((known[0].metric or "score").replace("_", " "), 40))
    return _with_legend(figure, title, f"{_note(known)}; filled: on the Pareto front of the means", dark=dark)


def _cost(row: Row, name: str) -> float | None:
    if name == "text_kl" and not METHODS[row.method].trains:
        return 0.0  # this is the base model
    return getattr(row, name)


def _positions(values: Sequence[float]) -> tuple[list[float], dict[str, Any]]:
    """Return the positions of costs on their axis, and the settings of the axis.

    The axis is logarithmic if costs differ by more than a factor of 5 or some are 0, which are then at its left end.
    """
    positive = sorted(value for value in values if value > 0)
    if not positive or (positive[-1] <= 5 * positive[0] and len(positive) == len(values)):
        return list(values), {"rangemode": "tozero"}
    low, high = math.log10(positive[0]), math.log10(positive[-1])
    mantissas = (1, 2, 5) if high - low < 2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [mantissa * 10.0**power for power in powers for mantissa in mantissas]
    ticks = [tick for tick in ticks if positive[0] / 2 <= tick <= 2 * positive[-1]]
    labels = [_tick_text(tick) for tick in ticks]
    if len(positive) < len(values):
        low -= 0.75
        ticks, labels = [10**low, *ticks], ["0", *labels]
    pad = 0.08 * (high - low) or 0.3
    positions = [value if value > 0 else 10**low for value in values]
    return positions, {"type": "log", "tickvals": ticks, "ticktext": labels, "range": [low - pad, high + pad]}


def _tick_text(value: float) -> str:
    return f"{value / 1e6:,g} M" if value >= 1e6 else f"{value:,g}"


def _cost_words(cost: str, value: float) -> str:
    if cost == "seconds":
        return duration_text(value)
    if cost == "trainable":
        return counted(int(value), "trained parameter")
    if cost == "text_kl":
        return f"{value:.4f} nats per token"
    return f"{value:,.0f} {'MB of memory' if cost == 'peak_memory' else 'kB'}"


def _beside(row: Row) -> str:
    """Return the text next to a point: the settings in which its arm differs. Color and symbol show the method."""
    changes = row.arm.split(":")[1:]
    return text(", ".join(change.partition("=")[2] or change for change in changes), 30)


def _error_bars(rows: Sequence[Row], colour: str) -> dict[str, Any]:
    def above(row: Row) -> float:
        return row.high - row.value if row.high is not None and row.value is not None else 0.0

    def below(row: Row) -> float:
        return row.value - row.low if row.low is not None and row.value is not None else 0.0

    return {
        "type": "data", "symmetric": False, "array": [above(row) for row in rows],
        "arrayminus": [below(row) for row in rows], "thickness": 1, "width": 3, "color": colour,
    }  # fmt: skip


def _interval_words(row: Row) -> str:
    if row.low is None or row.high is None:
        return ""
    over = "seeds" if row.interval == "seeds" else "test examples"
    return f"<br>95 % interval over {over} {row.low:.4f} to {row.high:.4f}"


def _seed_words(row: Row) -> str:
    planned = f" of {row.planned}" if row.planned != row.seeds else ""
    tested = f", {counted(row.items, 'test example')}" if row.items else ""
    return f"{row.seeds}{planned} seed{'' if row.seeds == 1 and not planned else 's'}{tested}"


def _size_words(size: int) -> str:
    return counted(size, "training example") if size else "all training examples"


def _note(rows: Sequence[Row]) -> str:
    items = sorted({row.items for row in rows if row.items})
    seeds = sorted({row.seeds for row in rows})
    tested = " or ".join(f"{n:,}" for n in items)
    over = {row.interval for row in rows if row.interval}
    named = {"seeds": "seeds", "examples": "test examples"}
    bars = (
        f"; bars: 95 % intervals over {' or '.join(named[one] for one in sorted(over, reverse=True))}" if over else ""
    )
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"n = {tested} test examples, {count} seed{'' if seeds == [1] else 's'}{bars}"


def _with_legend(figure: Figure, title: str, note: str, *, dark: bool) -> Figure:
    """Place the legend below the panel, where many names fit."""
    rows = -(-sum(trace.name is not None for trace in figure.data) // 3)
    finish(figure, title, note, dark=dark, height=350 + 20 * rows, headed=False, left=56, bottom=56 + 20 * rows)
    figure.update_layout(showlegend=True, legend={"x": 0, "xanchor": "left", "y": -0.2, "yanchor": "top"})
    return figure
