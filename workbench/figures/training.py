"""Figures of a training run: losses, states, learning rates, one head, and several runs on the same axes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from jola.edits.names import HALVES
from jola.runs.history import GateHistory
from jola.system.formatting import counted
from workbench.figures import frames
from workbench.figures.frames import Metrics
from workbench.figures.style import (
    DASHES,
    HALF_DASH,
    HALF_SYMBOL,
    STATE_WORDS,
    SYMBOLS,
    Figure,
    blank,
    finish,
    half_key,
    half_pattern,
    heading,
    number,
    palette,
    panels,
    place,
    say,
    text,
    unit_name,
)

_FEW = 40
"""Maximum number of points drawn with markers."""

QUANTITIES = {
    "validation_cross_entropy": ("Validation cross-entropy", "nats"),
    "validation_accuracy": ("Validation accuracy", "share of the examples"),
    "cross_entropy": ("Training cross-entropy", "nats"),
    "loss": ("Training objective", "nats"),
    "penalty": ("L0 penalty", "nats"),
    "expected_open": ("Expected number of open gates", "gates"),
    "learning_rate": ("Learning rate of the edits", "learning rate"),
    "gate_learning_rate": ("Learning rate of the gates", "learning rate"),
    "l0_weight": ("λ, weight of an open gate", "λ"),
    "grad_norm": ("Norm of the gradient", "L2 norm"),
}
"""Metrics that can be compared: title and unit."""


def _line(x: Any, y: Any, name: str, colour: str, **kwargs: Any) -> go.Scatter:
    """Return a line, with markers if there are few points, so that a single point is visible."""
    few = len(x) <= _FEW
    line = {"color": colour, "width": 1.75, **kwargs.pop("line", {})}
    marker = {"color": colour, "size": 6, **kwargs.pop("marker", {})}
    return go.Scatter(
        x=x, y=y, name=name, mode=kwargs.pop("mode", "lines+markers" if few else "lines"), line=line, marker=marker,
        hovertemplate=kwargs.pop("hovertemplate", f"step %{{x:,}}<br>{name}: %{{y:.4g}}<extra></extra>"), **kwargs,
    )  # fmt: skip


def _traces(figure: Figure) -> tuple[Any, ...]:
    return tuple(figure.data)


def _step_axes(figure: Figure, rows: int = 1) -> None:
    """Set a step axis that starts at 0 and has no fractional ticks."""
    last = max((int(max(trace["x"])) for trace in _traces(figure) if len(trace["x"])), default=0)
    figure.update_xaxes(range=[-0.004 * last, 1.004 * last] if last > 8 else [-0.4, last + 0.4], tickformat=",d")
    if last <= 8:
        figure.update_xaxes(dtick=1)
    figure.update_xaxes(title_text="step", row=rows, col=1)


def losses(metrics: Metrics, *, n_validation: int | None = None, dark: bool = False) -> Figure:
    """Draw training cross-entropy (every step and its moving average), validation cross-entropy, and penalty.

    ``metrics`` is the result of `Run.metrics`, ``n_validation`` the number of validation examples.
    """
    title = "Losses"
    colours, frame = palette(dark), frames.losses(metrics)
    train = frame.dropna(subset="cross_entropy")
    valid, penalty = (frame.dropna(subset=name) for name in ("validation_cross_entropy", "penalty"))
    if not len(train) and not len(valid):
        return blank(title, "No training step has been recorded yet.", dark=dark)
    figure = panels(2, 1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.13)
    window = 2 * frames.SMOOTHING + 1
    if len(train) > window:
        figure.add_trace(
            go.Scatter(
                x=train["step"], y=train["cross_entropy"], mode="lines", opacity=0.4, showlegend=False,
                line={"color": colours.train, "width": 1},
                hovertemplate="step %{x:,}<br>training: %{y:.4g}<extra></extra>", name="training, each step",
            ), row=1, col=1,
        )  # fmt: skip
        mean = _line(train["step"], train["cross_entropy_mean"], f"training, mean of {window} steps", colours.train)
        figure.add_trace(mean, row=1, col=1)
    elif len(train):
        figure.add_trace(_line(train["step"], train["cross_entropy"], "training", colours.train), row=1, col=1)
    if len(valid):
        style: dict[str, Any] = {"line": {"dash": "dot", "width": 1.5}, "marker": {"symbol": "diamond", "size": 8}}
        line = _line(valid["step"], valid["validation_cross_entropy"], "validation", colours.validation, **style)
        figure.add_trace(line, row=1, col=1)
    if len(penalty):
        figure.add_trace(_line(penalty["step"], penalty["penalty"], "penalty", colours.quiet, showlegend=False), 2, 1)
    else:
        say(figure, "No penalty was recorded.", dark=dark, panel=2)
    heading(figure, 1, "Cross-entropy", dark=dark)
    heading(figure, 2, "L0 penalty", dark=dark)
    figure.update_yaxes(title_text="nats", rangemode="tozero")
    figure.update_yaxes(nticks=4, row=2, col=1)
    _step_axes(figure, 2)
    parts = [counted(len(train), "training step"), counted(len(valid), "validation")]
    if n_validation:
        parts[-1] += f" of {counted(n_validation, 'example')}"
    if len(valid):
        best = valid.loc[valid["validation_cross_entropy"].idxmin()]
        parts.append(f"lowest {number(best['validation_cross_entropy'])} nats at step {int(best['step']):,}")
    return finish(figure, title, " · ".join(parts), dark=dark, height=400)


def state_counts(history: GateHistory, *, dark: bool = False) -> Figure:
    """Draw the number of units with no edit, an offset, a scale, or both, stacked over the steps."""
    unit = "heads" if history.site == "heads" else f"{unit_name(history.site)}s"
    title = f"States of the {unit}"
    frame = frames.state_counts(history)
    if not len(frame):
        return blank(title, "No gates have been recorded yet.", dark=dark)
    colours, figure = palette(dark), panels()
    total = int(frame[list(STATE_WORDS)].iloc[0].sum())
    for state, colour in zip(STATE_WORDS, colours.states, strict=True):
        words, counts = f"{STATE_WORDS[state]} {frame[state].iloc[-1]:,}", frame[state]
        hover = f"step %{{x:,}}<br>{STATE_WORDS[state]}: %{{y:,}} of {total:,}<extra></extra>"
        pattern = half_pattern(state, dark=dark) if state == "scale" else None
        if len(frame) == 1:
            marker = {"color": colour, "pattern": pattern, "line": {"width": 0}}
            bar = go.Bar(x=frame["step"], y=counts, name=words, marker=marker, hovertemplate=hover, width=0.3)
            figure.add_trace(bar)
        else:
            figure.add_trace(
                go.Scatter(
                    x=frame["step"], y=counts, stackgroup="states", name=words, mode="lines", fillcolor=colour,
                    line={"width": 0.5, "color": colours.surface}, fillpattern=pattern,
                    hovertemplate=hover,
                )
            )  # fmt: skip
    figure.update_yaxes(title_text=unit, range=[0, total])
    figure.update_layout(legend_traceorder="normal", barmode="stack")
    _step_axes(figure)
    note = f"{total:,} {unit}, {counted(len(frame), 'record')}; legend: step {frame['step'].iloc[-1]:,}"
    return finish(figure, title, note, dark=dark, height=320)


def rates(metrics: Metrics, *, dark: bool = False) -> Figure:
    """Draw the learning rates of edits and gates, and λ, each on its own axis."""
    title = "Learning rates and λ"
    frame, colours = frames.rates(metrics), palette(dark)
    rows = {
        "learning_rate": ("Learning rate of offsets and scales", colours.train, "solid"),
        "gate_learning_rate": ("Learning rate of the gates", colours.validation, "solid"),
        "l0_weight": ("λ, weight of an open gate", colours.text, "solid"),
    }
    if not len(frame):
        return blank(title, "No training step has been recorded yet.", dark=dark)
    figure = panels(3, 1, shared_xaxes=True, vertical_spacing=0.12)
    for row, (name, (words, colour, dash)) in enumerate(rows.items(), start=1):
        found = frame.dropna(subset=name)
        last = f"last {number(found[name].iloc[-1])}" if len(found) else ""
        heading(figure, row, words, last, dark=dark)
        if not len(found):
            say(figure, "Not recorded.", dark=dark, panel=row)
            continue
        line = _line(found["step"], found[name], words, colour, showlegend=False, line={"dash": dash})
        figure.add_trace(line, row=row, col=1)
    figure.update_yaxes(rangemode="tozero", nticks=4)
    _step_axes(figure, 3)
    return finish(figure, title, counted(len(frame), "step"), dark=dark, height=400)


def compare_curves(
    runs: Mapping[str, Metrics], quantity: str = "validation_cross_entropy", *, dark: bool = False
) -> Figure:
    """Draw one metric of several runs, by display name, on the same axes.

    Training losses are drawn as moving averages. Runs differ in color, dash and marker.
    """
    title, unit = QUANTITIES.get(quantity, (text(quantity), ""))
    if not runs:
        return blank(title, "No run is selected.", dark=dark)
    colours, figure, missing = palette(dark), panels(), []
    noisy = quantity in ("cross_entropy", "loss", "grad_norm")
    for index, (name, metrics) in enumerate(runs.items()):
        steps, values = frames.series(metrics, quantity)
        if not len(steps):
            missing.append(text(name, 40))
            continue
        if noisy and len(values) > 2 * frames.SMOOTHING + 1:
            values = frames.smooth(values)
        # Colors, dashes and markers have different periods, so that every run has a unique combination.
        figure.add_trace(
            _line(
                steps, values, text(name, 60), colours.categories[index % len(colours.categories)],
                line={"dash": DASHES[index % len(DASHES)]}, marker={"symbol": SYMBOLS[index % 7]},
                hovertemplate=f"{text(name)}<br>step %{{x:,}}: %{{y:.4g}}<extra></extra>",
            )
        )  # fmt: skip
    if not figure.data:
        return blank(title, "None of the selected runs recorded this.", dark=dark)
    figure.update_yaxes(title_text=unit, rangemode="tozero")
    _step_axes(figure)
    note = counted(len(_traces(figure)), "run")
    if noisy:
        note += f", means over {2 * frames.SMOOTHING + 1} steps"
    if missing:
        note += f"; not recorded by {', '.join(missing)}"
    # One line per name below the plot, because names may be long.
    key = {"orientation": "v", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
    figure.update_layout(showlegend=True, legend=key)
    below = 52 + 19 * len(_traces(figure))
    return finish(figure, title, note, dark=dark, height=260 + below, headed=False, bottom=below)


def head_history(history: GateHistory, layer: int, unit: int, *, dark: bool = False) -> Figure:
    """Draw one unit over the steps: gates in evaluation, P(open) in training, and norms of offset and scale."""
    title = f"History of {place(history.site, layer, unit)}"
    frame = frames.head_history(history, layer, unit)
    if not len(frame):
        return blank(title, "No gates have been recorded yet.", dark=dark)
    colours = palette(dark)
    figure = panels(3, 1, shared_xaxes=True, vertical_spacing=0.1)
    rows = {"gate": "Gate at evaluation", "open": "P(open) in training", "norm": "Norm of the vector"}
    known = [half for half in HALVES if (np.nan_to_num(history.fields[f"{half}_open"]) > 0).any()]
    for row, (quantity, words) in enumerate(rows.items(), start=1):
        asides = []
        for half in known:
            values = frame[f"{half}_{quantity}"]
            style: dict[str, Any] = {"line": {"dash": HALF_DASH[half]}, "marker": {"symbol": HALF_SYMBOL[half]}}
            line = _line(frame["step"], values, half, colours.half(half), showlegend=False, **style)
            figure.add_trace(line, row=row, col=1)
            asides.append(f"{half_key(half, dark=dark)} {number(values.iloc[-1])}")
        heading(figure, row, words, " · ".join(asides), dark=dark)
        if not known:
            say(figure, "This run trained neither half.", dark=dark, panel=row)
        if quantity == "norm":
            figure.update_yaxes(rangemode="tozero", nticks=4, row=row, col=1)
        else:
            figure.update_yaxes(range=[-0.04, 1.04], tickvals=[0, 0.5, 1], row=row, col=1)
    _step_axes(figure, 3)
    note = f"{counted(len(frame), 'record')}, steps {frame['step'].iloc[0]:,} to {frame['step'].iloc[-1]:,}"
    missing = [half for half in HALVES if half not in known]
    if known and missing:
        note += f"; the {missing[0]} half was not trained"
    return finish(figure, title, note, dark=dark, height=420)
