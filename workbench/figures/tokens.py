"""Effects of edits on tokens: next tokens, scores along a text, answers, and tokens promoted by an offset."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from jola.system.formatting import counted
from workbench.figures.style import (
    Figure,
    blank,
    finish,
    heading,
    number,
    palette,
    panels,
    place,
    round_up,
    text,
    token,
    word_ticks,
)

if TYPE_CHECKING:
    from jola.insight import AnswerScores, NextTokens, PromotedTokens, TokenScores

_LABEL = 24
"""Maximum characters of a token or answer next to its bar; the hover text has the full text."""
_WORDS_ALONG = 70
"""Maximum number of tokens of a text written along the axis."""


def _rows_height(count: int) -> int:
    return 26 * max(count, 2)


def _dumbbells(
    labels: Sequence[str], whole: Sequence[str], base: ArrayLike, edited: ArrayLike, *, mono: bool, dark: bool
) -> Figure:
    """Draw one row per label: ring for the base, diamond for the edited model, and change in percentage points."""
    colours, figure = palette(dark), panels()
    before, after = (100 * np.asarray(values, dtype=float) for values in (base, edited))
    rows = np.arange(len(labels))
    gap = np.full(len(rows), np.nan)
    figure.add_trace(
        go.Scatter(
            x=np.stack([before, after, gap], 1).ravel(), y=np.repeat(rows, 3), mode="lines", hoverinfo="skip",
            line={"color": colours.edge, "width": 2}, showlegend=False,
        )
    )  # fmt: skip
    # Only tokens are inserted into the template, as data; they are escaped like all text.
    for name, values, marker in (
        ("base", before, {"symbol": "circle-open", "size": 9, "color": colours.quiet, "line": {"width": 2}}),
        ("edited", after, {"symbol": "diamond", "size": 9, "color": colours.accent}),
    ):
        figure.add_trace(
            go.Scatter(
                x=values, y=rows, mode="markers", name=name, marker=marker,
                customdata=np.stack([np.asarray(whole, dtype=object), before, after, after - before], 1),
                hovertemplate="%{customdata[0]}<br>base %{customdata[1]:.2f} %<br>edited %{customdata[2]:.2f} %"
                "<br>change %{customdata[3]:+.2f} points<extra></extra>",
            )
        )  # fmt: skip
    for row, change in zip(rows, after - before, strict=True):
        ink = colours.text if change > 0 else colours.quiet
        figure.add_annotation(
            text=f"{change:+.1f}".replace("-", "−"), x=1, xref="paper", xanchor="left", xshift=8, y=row, yref="y",
            yanchor="middle", showarrow=False, font={"size": 11, "color": ink},
        )  # fmt: skip
    figure.add_annotation(
        text="points", x=1, xref="paper", xanchor="left", xshift=8, y=1, yref="paper", yanchor="bottom", yshift=4,
        showarrow=False, font={"size": 11, "color": colours.quiet},
    )  # fmt: skip
    top = float(np.nanmax(np.concatenate([before, after, [1e-9]])))
    figure.update_xaxes(range=[-0.02 * top, 1.04 * top], ticksuffix=" %")
    figure.update_yaxes(range=[len(rows) - 0.5, -0.5], **word_ticks(labels, colours.text, mono=mono))
    figure.update_layout(showlegend=True)
    return figure


def next_tokens(found: "NextTokens", *, dark: bool = False) -> Figure:
    """Draw the probabilities of the most likely next tokens, base and edited, with the change in percentage points."""
    title = "Next token, base and edited"
    if not found.tokens:
        return blank(title, "No next tokens were requested.", dark=dark)
    tokens = [change.token for change in found.tokens]
    base, edited = ([getattr(change, side) for change in found.tokens] for side in ("base", "edited"))
    labels = [token(word, _LABEL) for word in tokens]
    figure = _dumbbells(labels, [token(word) for word in tokens], base, edited, mono=True, dark=dark)
    figure.update_xaxes(title_text="probability")
    note = (
        f"1 prompt; {counted(len(tokens), 'token')} with {100 * sum(base):.1f} % of the base's probability and "
        f"{100 * sum(edited):.1f} % of the edited model's; KL(edited ‖ base) {number(found.kl)} nats"
    )
    return finish(figure, title, note, dark=dark, height=_rows_height(len(tokens)) + 130, right=62)


def answer_shares(found: "AnswerScores", *, dark: bool = False) -> Figure:
    """Draw the shares of the given answers in their total probability, base and edited."""
    title = "Share of each answer, base and edited"
    if not len(found.answers):
        return blank(title, "No answers were given.", dark=dark)
    base, edited = found.shares()
    labels = [text(answer, _LABEL) or "∅" for answer in found.answers]
    figure = _dumbbells(labels, [text(answer) for answer in found.answers], base, edited, mono=False, dark=dark)
    figure.update_xaxes(title_text="share of the probability of these answers", range=[-2, 104])
    best = [text(found.answers[int(np.argmax(values))], _LABEL) for values in (base, edited)]
    note = f"1 prompt, {counted(len(labels), 'answer')}; most likely: {best[0]} (base), {best[1]} (edited)"
    return finish(figure, title, note, dark=dark, height=_rows_height(len(labels)) + 130, right=62)


def token_scores(found: "TokenScores", *, dark: bool = False) -> Figure:
    """Draw the log-probability of each token of a text, base and edited, and KL(edited ‖ base) at each token."""
    title = "Each token of the text, base and edited"
    count = len(found.tokens)
    base, edited, kl = (np.asarray(values, dtype=float) for values in (found.base, found.edited, found.kl))
    if not count:
        return blank(title, "The text is empty.", dark=dark)
    scored = ~(np.isnan(base) | np.isnan(edited))
    if not scored.any():
        return blank(title, "The text has only one token, and the first token is not scored.", dark=dark)
    colours, at = palette(dark), np.arange(count)
    figure = panels(2, 1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.1)
    words = np.asarray([token(word) for word in found.tokens], dtype=object)
    few = count <= _WORDS_ALONG
    for name, values, line, symbol, colour in (
        ("base", base, {"dash": "dot", "width": 1.25}, "circle-open", colours.quiet),
        ("edited", edited, {"width": 1.5}, "diamond", colours.accent),
    ):
        figure.add_trace(
            go.Scatter(
                x=at, y=values, name=name, mode="lines+markers" if few else "lines", line={"color": colour, **line},
                marker={"symbol": symbol, "size": 7, "color": colour}, customdata=words,
                hovertemplate=f"%{{customdata}}<br>{name}: %{{y:.3f}} nats<extra></extra>",
            ), row=1, col=1,
        )  # fmt: skip
    figure.add_trace(
        go.Bar(
            x=at, y=kl, marker={"color": colours.bar, "line": {"width": 0}}, showlegend=False, customdata=words,
            hovertemplate="%{customdata}<br>KL: %{y:.4g} nats<extra></extra>",
        ), row=2, col=1,
    )  # fmt: skip
    heading(figure, 1, "Log-probability", dark=dark)
    heading(figure, 2, "KL(edited ‖ base)", dark=dark)
    figure.update_yaxes(title_text="nats")
    figure.update_yaxes(rangemode="tozero", nticks=4, row=2, col=1)
    figure.update_xaxes(range=[-0.6, count - 0.4])
    if few:
        ticks = word_ticks([token(word, 12) for word in found.tokens], colours.text, mono=True, size=11)
        figure.update_xaxes(tickangle=-60, row=2, col=1, **ticks)
        figure.update_xaxes(showgrid=False)
    else:
        figure.update_xaxes(title_text="token", row=2, col=1)
    note = (
        f"{counted(int(scored.sum()), 'scored token')}; mean log-probability {number(base[scored].mean())} base, "
        f"{number(edited[scored].mean())} edited; mean KL {number(float(np.nanmean(kl)))} nats"
    )
    return finish(figure, title, note, dark=dark, height=400 + (40 if few else 0))


def promoted_tokens(
    found: "PromotedTokens", layer: int, unit: int, *, site: str = "heads", dark: bool = False
) -> Figure:
    """Draw the tokens whose logits one offset raises and lowers most, projected through the unembedding."""
    title = f"Tokens moved by the offset of {place(site, layer, unit)}"
    sides = (("Promoted", list(found.promoted)), ("Suppressed", list(found.suppressed)))
    if not any(entries for _, entries in sides):
        return blank(title, "This unit has no offset, so it moves no token.", dark=dark)
    colours, figure = palette(dark), panels(1, 2, horizontal_spacing=0.16)
    limit = round_up(max(abs(float(entry[1])) for _, entries in sides for entry in entries))
    for column, (words, entries) in enumerate(sides, start=1):
        values, rows = [float(entry[1]) for entry in entries], np.arange(len(entries))
        colour = colours.positive if column == 1 else colours.negative
        figure.add_trace(
            go.Bar(
                x=values, y=rows, orientation="h", width=0.62, marker={"color": colour, "line": {"width": 0}},
                customdata=[token(entry[0]) for entry in entries], showlegend=False,
                hovertemplate="%{customdata}: %{x:+.3f}<extra></extra>",
                text=[f"{value:+.2f}".replace("-", "−") for value in values], textposition="outside", cliponaxis=False,
                textfont={"size": 10, "color": colours.quiet},
            ), row=1, col=column,
        )  # fmt: skip
        heading(figure, column, words, dark=dark)
        ticks = word_ticks([token(entry[0], 16) for entry in entries], colours.text, mono=True)
        side = "left" if column == 1 else "right"
        below = max(len(rows), 1) - 0.5
        figure.update_yaxes(range=[below, -0.5], showgrid=False, side=side, row=1, col=column, **ticks)
        across = [0, 1.22 * limit] if column == 1 else [-1.22 * limit, 0]
        figure.update_xaxes(range=across, title_text="logit", row=1, col=column)
    longest = max(len(entries) for _, entries in sides)
    note = (
        f"{counted(sum(len(entries) for _, entries in sides), 'token')} of the vocabulary; "
        "only the ratios of these logits are meaningful"
    )
    return finish(figure, title, note, dark=dark, height=_rows_height(longest) + 126)
