"""Layer × head maps: gates at one step, P(closed) at chosen steps, two runs side by side, open edits per layer."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from jola.edits.names import HALVES
from jola.errors import InputError
from jola.runs.history import GateHistory
from jola.system.formatting import counted
from workbench.figures import frames
from workbench.figures.cells import LABELLED, empty_panel, heat, map_axes, map_height, margin, signs, untrained
from workbench.figures.frames import Gates, Values
from workbench.figures.style import (
    CIVIDIS,
    HALF_DASH,
    HALF_SYMBOL,
    KEYED,
    STATE_WORDS,
    Figure,
    blank,
    colour_key,
    finish,
    heading,
    palette,
    panels,
    round_up,
    text,
    unit_name,
)

Colour = Literal["gate", "open", "norm", "state"]

COLOURS: dict[str, str] = {"gate": "Expected gate", "open": "P(open)", "norm": "Edit norm", "state": "State"}
"""The quantities that the color of a cell can show."""

_KEYS = {"gate": "0 closed, 1 fully open", "open": "P(open)", "norm": "L2 norm"}
_NOTHING = "No gates have been recorded yet."
_SIGNS = ("", "+", "×", "+×")
"""Marks of the states, readable without color: an offset is added, a scale multiplies."""


def _site(gates: Gates, site: str) -> str:
    return gates.site if isinstance(gates, GateHistory) else site


def gate_map(
    gates: Gates,
    step: int | None = None,
    *,
    colour: Colour = "gate",
    top: float | None = None,
    site: str = "heads",
    dark: bool = False,
) -> Figure:
    """Draw the map of both halves at one step, one cell per unit, with the open gates per layer in the margin.

    ``gates`` is a history, shown at ``step`` (None: the last record), or arrays (see `frames.Gates`), for which
    ``step`` and ``site`` can be given. ``colour`` selects the quantity: the gate at evaluation or P(open) in training,
    both always from 0 to 1, the norm of the vector, or the state. Norms range up to ``top``, by default the maximum of
    the history.
    """
    if colour not in COLOURS:
        raise InputError(f"colour is {colour!r}; choose one of {', '.join(COLOURS)}.")
    site = _site(gates, site)
    at, fields = frames.fields_at(gates, step)
    title = f"{COLOURS[colour]} of each {unit_name(site)}" + ("" if at is None else f" at step {at:,}")
    if not fields:
        return blank(title, _NOTHING, dark=dark)
    if colour == "state":
        return _state_map(fields, title, site, dark=dark)
    shape = next(iter(fields.values())).shape
    figure = panels(1, 4, column_widths=[0.42, 0.08, 0.42, 0.08], horizontal_spacing=0.015, shared_yaxes=True)
    for index, half in enumerate(HALVES):
        panel, words = 1 + 2 * index, f"{half.capitalize()}s" if colour == "norm" else f"{half.capitalize()} gates"
        values = frames.field(fields, half, colour) if frames.trained(fields, half) else None
        gate = frames.field(fields, half, "gate") if f"{half}_gate" in fields or colour == "gate" else None
        if values is not None and gate is not None:
            values = np.where(frames.edited(gate), values, np.nan)
        if values is None:
            untrained(figure, panel, shape, dark=dark)
        else:
            hover = f"layer %{{y}}, {unit_name(site)} %{{x}}<br>{half} {COLOURS[colour].lower()}: %{{z:.3f}}"
            figure.add_trace(heat(values, hover), row=1, col=panel)
        shown = gate if values is not None else None
        aside = "" if shown is None else f"{(shown > 0).sum():,} of {frames.edited(shown).sum():,} open"
        heading(figure, panel, words, aside, dark=dark)
        map_axes(figure, panel, shape, site, first=index == 0)
        margin(figure, panel + 1, shown, shape, dark=dark)
    limit = _norm_limit(gates, fields, top) if colour == "norm" else 1.0
    colour_key(figure, "coloraxis", CIVIDIS, 0.0, limit, _KEYS[colour], bottom=KEYED, dark=dark)
    note = f"{counted(shape[0], 'layer')} × {counted(shape[1], unit_name(site))}; bars: open gates per layer"
    return finish(figure, title, note, dark=dark, height=map_height(shape[0]) + KEYED + 76, bottom=KEYED)


def _norm_limit(gates: Gates, fields: Mapping[str, Values], top: float | None) -> float:
    if top is not None:
        return float(top)
    source = gates.fields if isinstance(gates, GateHistory) else fields
    found = [source.get(f"{half}_norm", source.get(half)) for half in HALVES]
    return round_up(max((float(np.nan_to_num(values).max()) for values in found if values is not None), default=0.0))


def _state_map(fields: Mapping[str, Values], title: str, site: str, *, dark: bool) -> Figure:
    state, colours = frames.states(fields), palette(dark)
    if state is None:
        return blank(title, "States need the gates of at least one half.", dark=dark)
    figure = panels(1, 2, column_widths=[0.9, 0.1], horizontal_spacing=0.015, shared_yaxes=True)
    unit, labelled = unit_name(site), state.size <= LABELLED
    blocks = [[(index + end) / 4, colour] for index, colour in enumerate(colours.states) for end in (0, 1)]
    figure.add_trace(
        heat(
            np.where(state < 0, np.nan, state), f"layer %{{y}}, {unit} %{{x}}: %{{customdata}}", coloraxis=None,
            zmin=-0.5, zmax=3.5, colorscale=blocks, showscale=False,
            customdata=np.asarray([*STATE_WORDS.values(), ""])[state],
        ), row=1, col=1,
    )  # fmt: skip
    for index, (word, colour) in enumerate(zip(STATE_WORDS.values(), colours.states, strict=True)):
        layer, head = np.nonzero(state == index)
        if labelled and _SIGNS[index] and len(layer):
            marks = go.Scatter(
                x=head, y=layer, mode="text", text=[_SIGNS[index]] * len(layer), hoverinfo="skip", showlegend=False,
                textfont={"size": 11, "color": colours.surface},
            )  # fmt: skip
            figure.add_trace(marks, row=1, col=1)
        sign = f" {_SIGNS[index]}" if labelled else ""
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="markers", name=f"{word}{sign}  {len(layer):,}",
                marker={"symbol": "square", "size": 11, "color": colour, "line": {"width": 1, "color": colours.edge}},
            ), row=1, col=1,
        )  # fmt: skip
    map_axes(figure, 1, state.shape, site)
    margin(figure, 2, np.where(state < 0, np.nan, state), state.shape, dark=dark)
    figure.update_layout(showlegend=True)
    note = f"{counted(len(state), 'layer')} × {counted(state.shape[1], unit)}; bars: edited units per layer"
    missing = [half for half in HALVES if not frames.trained(fields, half)]
    note += f"; the {missing[0]} half was not trained" if len(missing) == 1 else ""
    return finish(figure, title, note, dark=dark, height=map_height(len(state)) + 120)


def closed_map(history: GateHistory, steps: Sequence[int] | None = None, *, dark: bool = False) -> Figure:
    """Draw figure 7 of the paper for a run: P(closed) of every gate at chosen steps, offsets above, scales below.

    P(closed) is the probability that a gate is exactly 0 in training; its mean is given above each map. By default,
    five steps from the first to the last record are shown. Dark is closed, as in the paper and in the gate map.
    """
    title = "P(closed) of the gates at chosen steps"
    chosen = frames.spread_steps(history) if steps is None else list(steps)
    if not len(history) or not chosen:
        return blank(title, _NOTHING, dark=dark)
    records = [frames.fields_at(history, step) for step in chosen]
    shape = records[0][1]["offset_gate"].shape
    side = map_height(shape[0], 10, 480)
    figure = panels(2, len(chosen), horizontal_spacing=0.02, vertical_spacing=52 / (2 * side + 52))
    for row, half in enumerate(HALVES):
        for column, (at, fields) in enumerate(records):
            panel, aside = row * len(chosen) + column + 1, ""
            if frames.trained(fields, half):
                values = 1 - fields[f"{half}_open"]
                hover = f"step {at:,}, layer %{{y}}, {unit_name(history.site)} %{{x}}"
                trace = heat(values, f"{hover}<br>P({half} gate closed): %{{z:.3f}}")
                figure.add_trace(trace, row=row + 1, col=column + 1)
                aside = f"{np.nanmean(values):.2f}"
            else:
                untrained(figure, panel, shape, dark=dark)
            heading(figure, panel, f"step {at:,}", aside, dark=dark)
            down = f"{half} gates: layer"
            map_axes(figure, panel, shape, history.site, first=not column, last=row == 1, down=down)
    colour_key(figure, "coloraxis", CIVIDIS[::-1], 0.0, 1.0, "P(closed)", bottom=KEYED, dark=dark)
    at, closed = records[-1][0], history.closed(records[-1][0])
    shares = [f"{100 * closed[half]:.0f} % of {half} gates" for half in HALVES if frames.trained(records[-1][1], half)]
    last = [values for half in HALVES if (values := frames.field(records[-1][1], half, "gate")) is not None]
    note = (
        f"{counted(int(frames.edited(*last).sum()), 'gate')} in each half; the mean is next to each step; "
        f"exactly 0 in evaluation at step {at:,}: {', '.join(shares) or 'none was trained'}"
    )
    return finish(figure, title, note, dark=dark, height=2 * side + 52 + 74 + KEYED, bottom=KEYED, left=60)


def compare_gates(
    first: Gates,
    second: Gates,
    names: tuple[str, str] = ("first run", "second run"),
    *,
    quantity: Literal["gate", "open"] = "gate",
    site: str = "heads",
    dark: bool = False,
) -> Figure:
    """Draw the gates of two runs side by side, and their difference (second − first); offsets above, scales below.

    Histories are shown at their last record. Runs of different shapes are shown without the difference.
    """
    title = f"{COLOURS[quantity]} of two runs"
    site = _site(first, site)
    found = [frames.fields_at(gates)[1] for gates in (first, second)]
    if not all(found):
        missing = [text(name, 40) for name, fields in zip(names, found, strict=True) if not fields]
        return blank(title, f"No gates have been recorded by {' and '.join(missing)}.", dark=dark)
    shapes = [next(iter(fields.values())).shape for fields in found]
    alike, side = shapes[0] == shapes[1], map_height(max(shapes)[0], 12, 480)
    figure = panels(2, 3, horizontal_spacing=0.05 if alike else 0.1, vertical_spacing=56 / (2 * side + 56))
    flips, total, order = 0, 0, ("first run", "second run")
    for row, half in enumerate(HALVES):
        values = [frames.field(fields, half, quantity) if frames.trained(fields, half) else None for fields in found]
        for column, (array, shape, name, which) in enumerate(zip(values, shapes, names, order, strict=True)):
            panel = 3 * row + column + 1
            if array is None:
                untrained(figure, panel, shape, dark=dark)
            else:
                hover = f"{text(name, 40)}<br>layer %{{y}}, {unit_name(site)} %{{x}}: %{{z:.3f}}"
                figure.add_trace(heat(array, hover), row=row + 1, col=column + 1)
            aside = f"{(array > 0).sum():,} open" if array is not None and quantity == "gate" else ""
            heading(figure, panel, which, aside, dark=dark)
            first_column, down = not column or not alike, f"{half} gates: layer"
            map_axes(figure, panel, shape, site, first=first_column, last=row == 1, down=down)
        panel = 3 * row + 3
        heading(figure, panel, "difference", dark=dark)
        if not alike or values[0] is None or values[1] is None:
            sizes = " and ".join(f"{shape[0]} × {shape[1]}" for shape in shapes)
            why = "Not trained by both runs." if alike else f"Maps of {sizes} have no difference."
            empty_panel(figure, panel, why, dark=dark)
            continue
        change = values[1] - values[0]
        flips += int(((values[0] > 0) != (values[1] > 0)).sum())
        total += int(frames.edited(values[0], values[1]).sum())
        hover = f"layer %{{y}}, {unit_name(site)} %{{x}}<br>second − first: %{{z:+.3f}}"
        figure.add_trace(heat(change, hover, coloraxis="coloraxis2"), row=row + 1, col=3)
        signs(figure, change, 1.0, 0.5, row + 1, 3, dark=dark)
        map_axes(figure, panel, change.shape, site, first=False, last=row == 1)
    words = COLOURS[quantity].lower() if quantity == "gate" else COLOURS[quantity]
    colour_key(figure, "coloraxis", CIVIDIS, 0.0, 1.0, words, bottom=KEYED, dark=dark, at="left")
    note = f"first: {text(names[0], 60)} · second: {text(names[1], 60)}"
    if total:
        signed = palette(dark).diverging
        colour_key(figure, "coloraxis2", signed, -1.0, 1.0, "second − first", bottom=KEYED, dark=dark)
        note += f" · {flips:,} of {total:,} gates are open in only one run" if quantity == "gate" else ""
    return finish(figure, title, note, dark=dark, height=2 * side + 56 + 76 + KEYED, bottom=KEYED)


def open_by_layer(gates: Gates, step: int | None = None, *, dark: bool = False) -> Figure:
    """Draw the number of open edits per layer, offsets and scales, at one step."""
    at, _ = frames.fields_at(gates, step)
    title = "Open edits per layer" + ("" if at is None else f" at step {at:,}")
    frame = frames.open_by_layer(gates, step)
    if not len(frame):
        return blank(title, _NOTHING, dark=dark)
    colours, figure = palette(dark), panels()
    layer_units = frame["units"].to_numpy()
    units, parts = int(layer_units.max()), []
    for half in HALVES:
        counts = frame[half].to_numpy(dtype=float)
        if np.isnan(counts).all():
            parts.append(f"the {half} half was not trained")
            continue
        parts.append(f"{int(counts.sum()):,} of {layer_units.sum():,} {half} gates open")
        figure.add_trace(
            go.Scatter(
                x=frame["layer"], y=counts, name=half, mode="lines+markers",
                line={"color": colours.half(half), "width": 1.25, "shape": "hvh", "dash": HALF_DASH[half]},
                marker={"symbol": HALF_SYMBOL[half], "size": 7, "color": colours.half(half)},
                customdata=layer_units,
                hovertemplate=f"layer %{{x}}: %{{y}} of %{{customdata}} {half} gates open<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title_text="layer", range=[-0.6, len(frame) - 0.4])
    figure.update_yaxes(title_text="open gates", range=[-0.04 * units, 1.06 * units], tickformat=",d", nticks=6)
    if len(frame) <= 12:
        figure.update_xaxes(dtick=1)
    if units <= 6:
        figure.update_yaxes(dtick=1)
    figure.update_layout(showlegend=True)
    return finish(figure, title, " · ".join(parts), dark=dark, height=300)
