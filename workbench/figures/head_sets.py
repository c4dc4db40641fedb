"""Several sets of heads on one map, and as a table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from jola.selectors import HeadSet
from workbench.figures.cells import LABELLED, heat, map_axes, map_height
from workbench.figures.selectors import method_name
from workbench.figures.style import MONO, Figure, blank, counted, finish, palette, panels, scale

if TYPE_CHECKING:
    import pandas as pd

MOST_METHODS = 8
"""The number of colors; more strips in a cell could not be distinguished."""
_COUNT_ROOM = 0.22
"""Share of the width of a cell, at its right, reserved for the count."""
_TALL = 60
"""Maximum number of layers drawn with gaps between their rows."""


def head_sets(sets: Mapping[str, HeadSet], *, dark: bool = False) -> Figure:
    """The heads chosen by each method: layers down, heads across; each cell has one strip per method that chose it.

    A method has the same position in all cells, so that its strips are identified by position as well as by color. The
    number in a cell, and its gray level, give the number of methods that chose the head. The hover text lists them.

    Args:
        sets: Chosen heads by method, all for one model; only the first `MOST_METHODS` are drawn.
    """
    title = "Heads chosen by each method"
    sets = dict(list(sets.items())[:MOST_METHODS])
    if not sets:
        return blank(title, "No heads have been chosen yet.", dark=dark)
    colours, figure, methods = palette(dark), panels(), list(sets)
    chosen = np.stack([heads.array() for heads in sets.values()])
    _, layers, units = chosen.shape
    counts = chosen.sum(0)
    labelled = counts.size <= LABELLED
    names = [method_name(method) for method in methods]
    hover = [[_who(chosen[:, layer, head], names) for head in range(units)] for layer in range(layers)]
    # Background: the number of methods that agree, in grays that keep strips and numbers readable.
    figure.add_trace(heat(counts, "layer %{y}, head %{x}<br>%{customdata}", customdata=hover))
    greys = (colours.panel, colours.line if labelled else colours.edge)
    figure.update_layout(coloraxis={"colorscale": scale(greys), "cmin": 0, "cmax": len(methods), "showscale": False})
    x, y, values = _strips(chosen, room=_COUNT_ROOM if labelled else 0.0)
    figure.add_trace(
        go.Heatmap(
            x=x, y=y, z=values, zmin=-1.5, zmax=len(methods) - 0.5, showscale=False, hoverinfo="skip",
            colorscale=_steps(("rgba(0,0,0,0)", *colours.categories[: len(methods)])),
        )
    )  # fmt: skip
    for index, (name, heads) in enumerate(zip(names, sets.values(), strict=True)):
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="markers", name=f"{name}  {len(heads):,}", hoverinfo="skip",
                marker={"symbol": "square", "size": 11, "color": colours.categories[index]},
            )
        )  # fmt: skip
    if labelled:
        down, across = np.nonzero(counts)
        figure.add_trace(
            go.Scatter(
                x=across + 0.5 - _COUNT_ROOM / 2 - 0.02, y=down, mode="text", hoverinfo="skip", showlegend=False,
                text=[str(counts[at]) for at in zip(down, across, strict=True)],
                textfont={"family": MONO, "size": 10, "color": colours.text},
            )
        )  # fmt: skip
    map_axes(figure, 1, (layers, units), "heads")
    figure.update_xaxes(zeroline=False)
    several, any_ = int((counts > 1).sum()), int((counts > 0).sum())
    note = (
        f"n = {layers * units:,} heads; {any_:,} chosen, {several:,} of them by more than one of "
        f"{counted(len(methods), 'method')}; strips from left to right in the order of the legend"
    )
    # The legend is above the map, with three names per line on a narrow page.
    above = 78 + 20 * -(-len(methods) // 3)
    finish(figure, title, note, dark=dark, height=map_height(layers, 20, 760) + above + 44, headed=False)
    figure.update_layout(
        margin={"t": above},
        showlegend=True,
        legend={"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "itemclick": False, "itemdoubleclick": False},
    )
    return figure


def head_table(sets: Mapping[str, HeadSet]) -> "pd.DataFrame":
    """One row per head chosen by at least one method: location, number of methods, and their names.

    Heads chosen by most methods come first.
    """
    import pandas as pd

    chosen = [(method, set(heads.pairs)) for method, heads in sets.items()]
    pairs = sorted({pair for _, heads in chosen for pair in heads})
    rows = [(layer, head, *((layer, head) in heads for _, heads in chosen)) for layer, head in pairs]
    frame = pd.DataFrame(rows, columns=["layer", "head", *sets])
    frame.insert(2, "methods", frame[list(sets)].sum(axis=1).astype(int) if rows else 0)
    return frame.sort_values(["methods", "layer", "head"], ascending=[False, True, True], ignore_index=True)


def _who(chosen: NDArray[np.bool_], names: list[str]) -> str:
    by = [name for name, flag in zip(names, chosen, strict=True) if flag]
    return f"{len(by)} of {len(names)}: {'<br>'.join(by)}" if by else "chosen by none"


def _strips(
    chosen: NDArray[np.bool_], room: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int8]]:
    """Cell edges across and down, and the index of the method in each strip, −1 if it did not choose the head.

    Every head has one column per method and one more at its right, for the count or as a gap. Narrow rows separate the
    layers, unless there are many.
    """
    methods, layers, units = chosen.shape
    gap = 0.04
    inside = gap + (1 - room - 2 * gap) / methods * np.arange(methods + 1)
    x = np.concatenate([*(unit - 0.5 + inside for unit in range(units)), [units - 0.5]])
    values = np.full((layers, units, methods + 1), -1, dtype=np.int8)
    numbered = np.where(chosen, np.arange(methods)[:, None, None], -1)
    values[:, :, :methods] = numbered.transpose(1, 2, 0)
    flat = values.reshape(layers, units * (methods + 1))
    if layers > _TALL:
        return x, np.arange(layers + 1) - 0.5, flat
    rows = np.full((2 * layers - 1, flat.shape[1]), -1, dtype=np.int8)
    rows[::2] = flat
    y = np.concatenate([[layer - 0.38, layer + 0.38] for layer in range(layers)])
    return x, y, rows


def _steps(colours: tuple[str, ...]) -> list[list[object]]:
    """A color scale of equal steps."""
    count = len(colours)
    return [[at / count, colour] for index, colour in enumerate(colours) for at in (index, index + 1)]
