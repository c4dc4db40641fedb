"""Parts of layer × unit maps: cells, axes, signs, and the margin."""

from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from workbench.figures.style import MONO, Figure, palette, say, unit_name

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


def signs(figure: Figure, values: NDArray[Any], least: float, row: int, col: int, *, dark: bool) -> None:
    """Write plus or minus signs into cells at least ``least`` from zero, so that signs are readable without color."""
    if values.size > LABELLED:
        return
    layer, unit = np.nonzero(np.abs(np.nan_to_num(values)) >= least)
    if not len(layer):
        return
    marks = ["+" if values[at] > 0 else "−" for at in zip(layer, unit, strict=True)]
    figure.add_trace(
        go.Scatter(
            x=unit, y=layer, mode="text", text=marks, hoverinfo="skip", showlegend=False,
            textfont={"size": 11, "color": "#0f1318" if dark else "#ffffff"},
        ), row=row, col=col,
    )  # fmt: skip


def write_cells(figure: Figure, values: NDArray[Any], words: list[list[str]], row: int, col: int) -> None:
    """Write escaped text into cells colored from 0 to 1 in cividis, in the color with the better contrast."""
    for ink, chosen in (("#ffffff", values < 0.5), ("#0f1318", values >= 0.5)):
        down, across = np.nonzero(chosen)
        if len(down):
            figure.add_trace(
                go.Scatter(
                    x=across, y=down, mode="text", text=[words[y][x] for y, x in zip(down, across, strict=True)],
                    textfont={"family": MONO, "size": 10, "color": ink}, hoverinfo="skip", showlegend=False,
                ), row=row, col=col,
            )  # fmt: skip


def margin(figure: Figure, panel: int, opened: NDArray[Any] | None, shape: tuple[int, ...], *, dark: bool) -> None:
    """Draw the margin of a map: bars with the number of open units per layer, from flags (layers, units)."""
    colours, (layers, units) = palette(dark), shape
    figure.layout[axis_name("x", panel)].update(visible=False, range=[0, 1.9 * units], fixedrange=True)
    figure.layout[axis_name("y", panel)].update(visible=False, range=[layers - 0.5, -0.5])
    if opened is None:
        return
    counts = opened.sum(axis=1)
    figure.add_trace(
        go.Bar(
            x=counts, y=np.arange(layers), orientation="h", marker={"color": colours.bar, "line": {"width": 0}},
            text=counts if layers <= 48 else None, textposition="outside", cliponaxis=False, constraintext="none",
            textfont={"size": 10, "color": colours.quiet}, width=0.86, showlegend=False,
            hovertemplate=f"layer %{{y}}: %{{x}} of {units} open<extra></extra>",
        ), row=1, col=panel,
    )  # fmt: skip
