"""Maps of several sets of heads, in three readings, and their table.

`head_sets` shows which methods chose each head, `head_agreement` how many did, and `heads_against` each method against
JoLA.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from jola.selectors import HeadSet
from jola.system.formatting import counted
from workbench.figures.cells import LABELLED, heat, map_axes, map_height, write_cells
from workbench.figures.selectors import method_mark, method_name
from workbench.figures.style import (
    CIVIDIS,
    KEYED,
    MONO,
    Figure,
    blank,
    colour_key,
    finish,
    heading,
    palette,
    panels,
    scale,
)

if TYPE_CHECKING:
    import pandas as pd

MOST_METHODS = 8
"""Maximum number of strips in a cell; more could not be distinguished."""
_NOTHING_CHOSEN = "No heads have been chosen yet."
_ACROSS, _BETWEEN = 4, 72
"""Maximum number of maps in a row, and pixels between two rows."""
_COUNT_ROOM = 0.22
"""Share of the width of a cell, at its right, reserved for the count."""
_TALL = 60
"""Maximum number of layers drawn with gaps between their rows."""


def head_sets(sets: Mapping[str, HeadSet], *, dark: bool = False) -> Figure:
    """Draw the heads chosen by each method: layers down, heads across; each cell has a strip per method that chose it.

    A method has the same position in all cells, so that its strips are identified by position as well as by color. The
    number in a cell, and its gray level, give the number of methods that chose the head. The hover text lists them.
    Readable for a few methods and small K.

    Args:
        sets: Chosen heads by method, all for one model; only the first `MOST_METHODS` are drawn.
    """
    title = "Heads chosen by each method"
    sets = dict(list(sets.items())[:MOST_METHODS])
    if not sets:
        return blank(title, _NOTHING_CHOSEN, dark=dark)
    colours, figure, methods = palette(dark), panels(), list(sets)
    chosen = np.stack([heads.array() for heads in sets.values()])
    _, layers, units = chosen.shape
    counts = chosen.sum(0)
    labelled = counts.size <= LABELLED
    names = [method_name(method) for method in methods]
    inks = [method_mark(method, dark=dark)[0] for method in methods]
    hover = [[_who(chosen[:, layer, head], names) for head in range(units)] for layer in range(layers)]
    # Background: the number of methods that agree, in grays that keep strips and numbers readable.
    figure.add_trace(heat(counts, "layer %{y}, head %{x}<br>%{customdata}", customdata=hover))
    greys = (colours.panel, colours.line if labelled else colours.edge)
    figure.update_layout(coloraxis={"colorscale": scale(greys), "cmin": 0, "cmax": len(methods), "showscale": False})
    x, y, values = _strips(chosen, room=_COUNT_ROOM if labelled else 0.0)
    figure.add_trace(
        go.Heatmap(
            x=x, y=y, z=values, zmin=-1.5, zmax=len(methods) - 0.5, showscale=False, hoverinfo="skip",
            colorscale=_steps(("rgba(0,0,0,0)", *inks)),
        )
    )  # fmt: skip
    for name, heads, ink in zip(names, sets.values(), inks, strict=True):
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="markers", name=f"{name}  {len(heads):,}", hoverinfo="skip",
                marker={"symbol": "square", "size": 11, "color": ink},
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


def head_agreement(sets: Mapping[str, HeadSet], *, dark: bool = False) -> Figure:
    """Draw the number of methods that chose each head, on one sequential scale: layers down, heads across."""
    title = "How many methods agree"
    if not sets:
        return blank(title, _NOTHING_CHOSEN, dark=dark)
    chosen, figure = np.stack([heads.array() for heads in sets.values()]), panels()
    methods, layers, units = chosen.shape
    names, counts = [method_name(method) for method in sets], chosen.sum(0)
    hover = [[_who(chosen[:, layer, head], names) for head in range(units)] for layer in range(layers)]
    figure.add_trace(heat(counts, "layer %{y}, head %{x}<br>%{customdata}", customdata=hover))
    if counts.size <= LABELLED:
        write_cells(figure, counts / methods, [[str(count) for count in row] for row in counts], 1, 1, dark=dark)
    map_axes(figure, 1, (layers, units), "heads")
    words = f"methods of {methods} that chose the head"
    colour_key(figure, "coloraxis", CIVIDIS, 0.0, float(methods), words, bottom=KEYED, dark=dark)
    everyone, none = int((counts == methods).sum()), int((counts == 0).sum())
    note = (
        f"n = {layers * units:,} heads; {everyone:,} chosen by all {counted(methods, 'method')}, {none:,} by none; "
        f"mean {sum(map(len, sets.values())) / counts.size:.1f} methods per head"
    )
    height = map_height(layers, 20, 760) + 70 + KEYED
    return finish(figure, title, note, dark=dark, height=height, headed=False, bottom=KEYED)


def heads_against(sets: Mapping[str, HeadSet], reference: str = "jola", *, dark: bool = False) -> Figure:
    """Draw one map for each method: heads that both the method and the reference chose, or only one of them.

    Args:
        sets: Chosen heads by method, all for one model.
        reference: The method that the others are compared with.
    """
    title = f"Each method against {method_name(reference)}"
    others = [method for method in sets if method != reference]
    if reference not in sets or not others:
        return blank(title, f"The heads of {method_name(reference)} and of another method are needed.", dark=dark)
    colours, theirs = palette(dark), sets[reference].array()
    layers, units = theirs.shape
    across = min(len(others), _ACROSS)
    down = -(-len(others) // across)
    each = map_height(layers, 9, 420)
    figure = panels(
        rows=down,
        cols=across,
        horizontal_spacing=0.11 / across,
        vertical_spacing=_BETWEEN / (down * (each + _BETWEEN) - _BETWEEN),
    )
    reference_ink = method_mark(reference, dark=dark)[0]
    for index, method in enumerate(others):
        mine, ink = sets[method].array(), method_mark(method, dark=dark)[0]
        states = mine + 2 * theirs.astype(int)
        counts = [int((states == state).sum()) for state in (3, 2, 1)]
        words = np.array(["neither", f"only {method_name(method)}", f"only {method_name(reference)}", "both"])
        trace = heat(
            states, "layer %{y}, head %{x}<br>%{customdata}", customdata=words[states], coloraxis=None, zmin=0, zmax=3,
            showscale=False, colorscale=_steps((colours.panel, ink, reference_ink, colours.state_both)),
        )  # fmt: skip
        row, column = divmod(index, across)
        figure.add_trace(trace, row=row + 1, col=column + 1)
        map_axes(figure, index + 1, (layers, units), "heads", first=column == 0, last=index + across >= len(others))
        found = f'<span style="color:{colours.quiet}">{" · ".join(f"{count:,}" for count in counts)}</span>'
        heading(figure, index + 1, f"{method_name(method)}</b><br>{found}<b>", dark=dark)
        figure.layout["annotations"][-1]["align"] = "left"
    for index in range(len(others), down * across):
        figure.layout[f"xaxis{index + 1}"].visible = figure.layout[f"yaxis{index + 1}"].visible = False
    for name, ink in (
        ("both", colours.state_both),
        (f"only {method_name(reference)}", reference_ink),
        ("only the other method, in its color", colours.edge),
    ):
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="markers", name=name, hoverinfo="skip",
                marker={"symbol": "square", "size": 11, "color": ink},
            )
        )  # fmt: skip
    note = (
        f"n = {layers * units:,} heads, {len(sets[reference]):,} of them chosen by {method_name(reference)}; above "
        f"each map: both · only {method_name(reference)} · only the other"
    )
    above = 128
    height = down * (each + _BETWEEN) - _BETWEEN
    finish(figure, title, note, dark=dark, height=height + above + 44, headed=False)
    figure.update_layout(
        margin={"t": above},
        showlegend=True,
        legend={
            # Above the headings of the first row.
            "x": 0, "xanchor": "left", "y": 1 + 38 / height, "yanchor": "bottom", "yref": "paper", "itemclick": False,
            "itemdoubleclick": False,
        },
    )  # fmt: skip
    return figure


def head_table(sets: Mapping[str, HeadSet]) -> "pd.DataFrame":
    """Return one row per head chosen by at least one method: location, number of methods, and their names.

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
    """Return cell edges across and down, and the index of the method in each strip, −1 if it did not choose the head.

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
    """Return a color scale of equal steps."""
    count = len(colours)
    return [[at / count, colour] for index, colour in enumerate(colours) for at in (index, index + 1)]
