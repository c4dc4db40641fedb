"""Parts of layer × unit maps: cells, axes, signs, and the margin."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from workbench.figures.style import CIVIDIS, MONO, Figure, palette, say, unit_name

_GAPS = 1500
"""Maximum number of cells drawn with lines between them."""
LABELLED = 400
"""Maximum number of cells drawn with signs."""


def map_height(layers: int, per_layer: int = 16, most: int = 720) -> int:
    """Return the height in pixels of a map with one row per layer, limited for very few and very many layers."""
    return int(np.clip(per_layer * layers, 110, most))


def heat(values: NDArray[Any], hover: str, **kwargs: Any) -> go.Heatmap:
    """Return a heatmap of cells (layers, units), by default on ``coloraxis``; ``hover`` is plotly's hover template."""
    gap = 1 if values.size <= _GAPS else 0
    return go.Heatmap(
        z=values, xgap=gap, ygap=gap, hoverongaps=False, hovertemplate=f"{hover}<extra></extra>",
        **({"coloraxis": "coloraxis"} | kwargs),
    )  # fmt: skip


def axis_name(letter: str, panel: int) -> str:
    """Return the name in the layout of the axis of a panel; panels are counted from 1, row by row."""
    return f"{letter}axis{panel if panel > 1 else ''}"


def map_axes(
    figure: Figure,
    panel: int,
    shape: tuple[int, ...],
    site: str,
    *,
    first: bool = True,
    down: str = "layer",
    last: bool = True,
) -> None:
    """Set axes with layers downwards and units to the right, with as many tick labels as fit.

    The ``first`` panel of a row labels the layers, the ``last`` panel of a column the units.
    """
    layers, units = shape
    x, y = figure.layout[axis_name("x", panel)], figure.layout[axis_name("y", panel)]
    x.update(range=[-0.5, units - 0.5], title={"text": unit_name(site) if last else ""}, showgrid=False)
    y.update(range=[layers - 0.5, -0.5], title={"text": down if first else ""}, showgrid=False, showticklabels=first)
    for axis, count in ((x, units), (y, layers)):
        if count <= 40:
            axis.update(tickmode="linear", tick0=0, dtick=1 if count <= 12 else 2 if count <= 24 else 5)
        else:
            axis.update(tickmode="linear", tick0=0, dtick=10)


def untrained(figure: Figure, panel: int, shape: tuple[int, ...], *, words: str = "not trained", dark: bool) -> None:
    """Draw the frame of an empty map with a message."""
    x, y = (letter if panel == 1 else f"{letter}{panel}" for letter in "xy")
    figure.add_trace(go.Heatmap(z=np.full(shape, np.nan), xaxis=x, yaxis=y, showscale=False, hoverinfo="skip"))
    figure.add_shape(
        type="rect", xref=f"{x} domain", yref=f"{y} domain", x0=0, x1=1, y0=0, y1=1,
        line={"width": 1, "color": palette(dark).line},
    )  # fmt: skip
    if words:
        say(figure, words, dark=dark, panel=panel)


def empty_panel(figure: Figure, panel: int, sentence: str, *, dark: bool) -> None:
    """Clear a panel and write a message into it."""
    for letter in "xy":
        figure.layout[axis_name(letter, panel)].update(
            range=[0, 1], showgrid=False, showticklabels=False, ticks="", title={"text": ""}
        )
    x, y = (letter if panel == 1 else f"{letter}{panel}" for letter in "xy")
    # plotly does not draw axes without data.
    figure.add_trace(go.Scatter(x=[None], y=[None], xaxis=x, yaxis=y, showlegend=False))
    say(figure, sentence, dark=dark, panel=panel)


INKS = ("#ffffff", "#000000")
"""The colors of text and signs on colored cells: on any color, one of both has a contrast of at least 4.5."""


def inks(shares: NDArray[Any], ramp: Sequence[str]) -> NDArray[np.int64]:
    """Return the index into `INKS` with the better contrast on each cell, colored at its share (0 to 1) of the ramp."""
    stops = np.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in ramp])
    at = np.linspace(0, 1, len(stops))
    cells = np.stack([np.interp(np.clip(shares, 0, 1), at, stops[:, channel]) for channel in range(3)], -1)
    light, dark = (luminance(np.array([int(ink[at : at + 2], 16) / 255 for at in (1, 3, 5)])) for ink in INKS)
    found = luminance(cells)
    return np.where((light + 0.05) / (found + 0.05) >= (found + 0.05) / (dark + 0.05), 0, 1)


def luminance(rgb: NDArray[Any]) -> NDArray[Any]:
    """Return the relative luminance (WCAG 2.2) of colors (…, 3) with channels from 0 to 1."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def signs(figure: Figure, values: NDArray[Any], limit: float, share: float, row: int, col: int, *, dark: bool) -> None:
    """Write plus or minus signs into cells of the diverging ramp, so that they are readable without color.

    The ramp ranges from −``limit`` to ``limit``; cells whose distance from zero is a ``share`` of the limit or more
    have signs.
    """
    if values.size > LABELLED or limit <= 0:
        return
    shares = np.nan_to_num(values) / limit
    chosen = inks((1 + shares) / 2, palette(dark).diverging)
    for index, ink in enumerate(INKS):
        layer, unit = np.nonzero((np.abs(shares) >= share) & (chosen == index))
        if not len(layer):
            continue
        marks = ["+" if values[at] > 0 else "−" for at in zip(layer, unit, strict=True)]
        figure.add_trace(
            go.Scatter(
                x=unit, y=layer, mode="text", text=marks, hoverinfo="skip", showlegend=False,
                textfont={"size": 11, "color": ink},
            ), row=row, col=col,
        )  # fmt: skip


def write_cells(
    figure: Figure,
    shares: NDArray[Any],
    words: list[list[str]],
    row: int,
    col: int,
    *,
    ramp: Sequence[str] = CIVIDIS,
    dark: bool,
) -> None:
    """Write escaped text into cells in the color with the better contrast.

    Cells are colored at their share (0 to 1) of the ramp, and blank where it is NaN.
    """
    chosen = np.where(np.isnan(shares), 0 if dark else 1, inks(np.nan_to_num(shares), ramp))
    for index, ink in enumerate(INKS):
        down, across = np.nonzero(chosen == index)
        if len(down):
            figure.add_trace(
                go.Scatter(
                    x=across, y=down, mode="text", text=[words[y][x] for y, x in zip(down, across, strict=True)],
                    textfont={"family": MONO, "size": 10, "color": ink}, hoverinfo="skip", showlegend=False,
                ), row=row, col=col,
            )  # fmt: skip


def margin(figure: Figure, panel: int, gates: NDArray[Any] | None, shape: tuple[int, ...], *, dark: bool) -> None:
    """Draw the margin of a map: bars with the number of open units per layer, from values (layers, units).

    A unit is open if its value is above 0, and not edited if it is NaN.
    """
    colours, (layers, units) = palette(dark), shape
    figure.layout[axis_name("x", panel)].update(visible=False, range=[0, 1.9 * units], fixedrange=True)
    figure.layout[axis_name("y", panel)].update(visible=False, range=[layers - 0.5, -0.5])
    if gates is None:
        return
    counts = (gates > 0).sum(axis=1)
    figure.add_trace(
        go.Bar(
            x=counts, y=np.arange(layers), orientation="h", marker={"color": colours.bar, "line": {"width": 0}},
            text=counts if layers <= 48 else None, textposition="outside", cliponaxis=False, constraintext="none",
            textfont={"size": 10, "color": colours.quiet}, width=0.86, showlegend=False,
            customdata=(~np.isnan(gates)).sum(axis=1),
            hovertemplate="layer %{y}: %{x} of %{customdata} open<extra></extra>",
        ), row=1, col=panel,
    )  # fmt: skip
