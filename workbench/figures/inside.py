"""Attention pattern of a head, and logit lens."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from jola.system.formatting import counted
from workbench.figures.cells import axis_name, heat, write_cells
from workbench.figures.style import (
    CIVIDIS,
    KEYED,
    Figure,
    blank,
    colour_key,
    finish,
    heading,
    palette,
    panels,
    place,
    round_up,
    token,
    word_ticks,
)

if TYPE_CHECKING:
    from jola.insight import AttentionPattern, LogitLens
    from jola.insight.lens import LensToken

_WRITTEN = 36
"""Maximum number of tokens written along an axis."""
_LABEL = 14
"""Maximum characters of a token along an axis."""
_LENS_ROWS = 50
"""Maximum number of rows for which tokens are written into the cells."""
_LENS_COLUMNS = 12
"""Maximum number of columns for which tokens are written into the cells."""


def attention_pattern(found: "AttentionPattern", *, dark: bool = False) -> Figure:
    """Draw the attention pattern of a head: row tokens attend to column tokens; base, edited, and the change.

    The color scale is a square root, because a few tokens receive nearly all attention.
    """
    title = f"Attention of {place('heads', found.layer, found.unit)}"
    count = len(found.tokens)
    if not count:
        return blank(title, "There are no tokens to show.", dark=dark)
    base, edited = (_causal(values) for values in (found.base, found.edited))
    change = edited - base
    colours, figure = palette(dark), panels(1, 3, horizontal_spacing=0.03)
    words = [token(word, _LABEL) for word in found.tokens]
    pairs = _pairs([token(word) for word in found.tokens])
    limit = round_up(max(float(np.nanmax(np.abs(change))), 0.001))
    written = count <= _WRITTEN
    bottom = _below(words)
    for panel, (name, values) in enumerate((("Base", base), ("Edited", edited), ("Edited − base", change)), start=1):
        figures = "%{z:+.4f}" if panel == 3 else "%{z:.4f}"
        hover = f"%{{customdata[0]}} attends to %{{customdata[1]}}<br>{name.lower()}: {figures}"
        axis = "coloraxis2" if panel == 3 else "coloraxis"
        figure.add_trace(heat(values, hover, coloraxis=axis, customdata=pairs), row=1, col=panel)
        heading(figure, panel, name, dark=dark)
        x, y = figure.layout[axis_name("x", panel)], figure.layout[axis_name("y", panel)]
        x.update(range=[-0.5, count - 0.5], showgrid=False, title={"text": "looked at"}, automargin=False)
        y.update(range=[count - 0.5, -0.5], showgrid=False)
        if written:
            ticks = word_ticks(words, colours.text, mono=True, size=10 if count > 20 else 11)
            x.update(tickangle=-90, **ticks)
            y.update(**ticks)
        elif panel == 1:
            y.update(title={"text": "looking token"})
        y.update(showticklabels=panel == 1)
    colour_key(figure, "coloraxis", CIVIDIS, 0.0, 1.0, "attention", bottom=bottom, dark=dark, at="left", power=2)
    signed = colours.diverging
    colour_key(figure, "coloraxis2", signed, -limit, limit, "edited − base", bottom=bottom, dark=dark)
    moved = float(np.nanmean(np.nansum(np.abs(change), axis=1) / 2))
    note = f"1 text of {counted(count, 'token')}; on average {100 * moved:.2g} % of a token's attention moves"
    return finish(figure, title, note, dark=dark, height=360 + bottom, bottom=bottom)


def logit_lens(found: "LogitLens", position: int | None = None, *, dark: bool = False) -> Figure:
    """Draw the prediction after each layer: base, edited, and KL(edited ‖ base), with layers downwards.

    Without ``position``, the most likely next token at every position of the result. With ``position``, an index into
    them (−1 is the last one), the most likely tokens at this position. Bold tokens differ from those of the base.
    """
    title = "Logit lens: the next token after each layer"
    if not found.layers or not found.positions:
        return blank(title, "There are no positions to show.", dark=dark)
    ranked = position is not None
    sides = {}
    for side in ("base", "edited"):
        lens = getattr(found, side)
        sides[side] = [row[position] if ranked else [at[0] for at in row if at] for row in lens]
    columns = min(len(row) for rows in sides.values() for row in rows)
    if not columns:
        return blank(title, "No tokens were requested.", dark=dark)
    kl = np.asarray(found.kl, dtype=float)[:, [position] if ranked else slice(None)]
    figure = panels(1, 3, column_widths=[0.42, 0.42, 0.16], horizontal_spacing=0.02, shared_yaxes=True)
    layers = len(found.layers)
    below = KEYED if ranked else _below([token(word, _LABEL) for word in found.tokens])
    for panel, (side, rows) in enumerate(sides.items(), start=1):
        entries = [row[:columns] for row in rows]
        other = [row[:columns] for row in sides["base"]]
        where = [[position] * columns if ranked else list(range(columns))] * layers
        hover = [
            [_readings(found, side, layer, at) for at in places]
            for layer, places in zip(range(layers), where, strict=True)
        ]
        values = np.array([[entry.probability for entry in row] for row in entries])
        figure.add_trace(heat(values, "%{customdata}", customdata=np.array(hover, dtype=object)), row=1, col=panel)
        if layers <= _LENS_ROWS and columns <= _LENS_COLUMNS:
            write_cells(figure, values, _lens_words(entries, other, columns), 1, panel, dark=dark)
        heading(figure, panel, side.capitalize(), dark=dark)
        _lens_axes(figure, panel, found, None if ranked else columns, columns, dark=dark)
    heading(figure, 3, "KL", dark=dark)
    if ranked:
        figure.add_trace(
            go.Bar(
                x=kl[:, 0], y=np.arange(layers), orientation="h", showlegend=False, width=0.8,
                marker={"color": palette(dark).bar, "line": {"width": 0}},
                hovertemplate="KL(edited ‖ base): %{x:.4g} nats<extra></extra>",
            ), row=1, col=3,
        )  # fmt: skip
        figure.update_xaxes(title_text="nats", rangemode="tozero", nticks=3, row=1, col=3)
        figure.update_yaxes(range=[layers - 0.5, -0.5], showticklabels=False, showgrid=False, row=1, col=3)
    else:
        limit = round_up(float(np.nanmax(kl)) or 0.001)
        trace = heat(kl, "KL(edited ‖ base): %{z:.4g} nats", coloraxis="coloraxis2")
        figure.add_trace(trace, row=1, col=3)
        _lens_axes(figure, 3, found, kl.shape[1], columns, dark=dark)
        colour_key(figure, "coloraxis2", CIVIDIS, 0.0, limit, "KL, nats", bottom=below, dark=dark)
    colour_key(figure, "coloraxis", CIVIDIS, 0.0, 1.0, "probability", bottom=below, dark=dark, at="left")
    if ranked:
        note = f"1 prompt, after {token(found.tokens[position], 20)}, its token {found.positions[position] + 1}"
    else:
        note = f"1 prompt, {counted(len(found.positions), 'position')}"
    note += f"; {layers} rows, 0 is the embedding; bold: differs from the base; early layers are hints at most"
    height = int(np.clip(18 * layers, 120, 760)) + below + 90
    return finish(figure, title, note, dark=dark, height=height, bottom=below)


def _lens_words(
    rows: "Sequence[Sequence[LensToken]]", base: "Sequence[Sequence[LensToken]]", columns: int
) -> list[list[str]]:
    """Return the text in the cells: tokens, shortened to fit, bold if they differ from the base."""
    room = max(3, 40 // columns)
    return [
        [
            f"<b>{token(entry.token, room)}</b>" if entry.id != before.id else token(entry.token, room)
            for entry, before in zip(row, before_row, strict=True)
        ]
        for row, before_row in zip(rows, base, strict=True)
    ]


def _readings(found: "LogitLens", side: str, layer: int, at: int) -> str:
    """Return the most likely tokens of one cell, for its hover text."""
    lines = [f"after {counted(found.layers[layer], 'layer')}, {side}, at {token(found.tokens[at], 24)}"]
    lines += [f"{entry.probability:.3f} {token(entry.token, 40)}" for entry in getattr(found, side)[layer][at]]
    return "<br>".join(lines)


def _lens_axes(
    figure: Figure, panel: int, found: "LogitLens", positions: int | None, columns: int, *, dark: bool
) -> None:
    """Set axes with layers downwards, and tokens of the prompt or ranks to the right."""
    x, y = figure.layout[axis_name("x", panel)], figure.layout[axis_name("y", panel)]
    count = len(found.layers)
    x.update(range=[-0.5, (positions or columns) - 0.5], showgrid=False)
    if positions is None:
        x.update(title={"text": "rank"}, tickmode="array", tickvals=list(range(columns)))
        x.update(ticktext=[str(rank + 1) for rank in range(columns)])
    elif positions <= _WRITTEN and panel < 3:
        words = [token(word, _LABEL) for word in found.tokens]
        x.update(tickangle=-90, automargin=False, **word_ticks(words, palette(dark).text, mono=True, size=10))
    else:
        x.update(showticklabels=False, ticks="")
    y.update(range=[count - 0.5, -0.5], showgrid=False, title={"text": "layers run" if panel == 1 else ""})
    y.update(tickmode="array", tickvals=list(range(0, count, 5)), showticklabels=panel == 1)
    y.update(ticktext=[str(found.layers[at]) for at in range(0, count, 5)])


def _causal(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the pattern without the upper triangle, which is masked."""
    pattern = np.asarray(values, dtype=float)
    return np.where(np.tri(len(pattern), dtype=bool), pattern, np.nan)


def _below(words: list[str]) -> int:
    """Return the bottom margin in pixels for a map with these (escaped) vertical labels and its color keys."""
    if len(words) > _WRITTEN:
        return KEYED
    return KEYED + 7 * max(len(html.unescape(word)) for word in words)


def _pairs(words: list[str]) -> NDArray[np.object_]:
    """Return (T, T, 2): the attending and the attended token of each cell."""
    column = np.asarray(words, dtype=object)
    rows, cols = np.broadcast_arrays(column[:, None], column[None, :])
    return np.stack([rows, cols], axis=-1)
