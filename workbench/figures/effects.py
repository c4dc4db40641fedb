"""Effects of edits on an answer: effect of switching off, and direct effect on the logit, ranked or as a map."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from jola.edits.names import HALVES
from jola.system.formatting import counted
from workbench.figures.cells import heat, map_axes, map_height, signs, untrained
from workbench.figures.style import (
    KEYED,
    Figure,
    blank,
    colour_key,
    finish,
    half_pattern,
    heading,
    number,
    palette,
    panels,
    place,
    round_up,
    text,
    token,
    unit_name,
    word_ticks,
)

if TYPE_CHECKING:
    from jola.insight import DirectEffects, EditEffects, EditRef

_MEASURED = {
    "log_probability": ("on the answer", "log p(answer), all edits on − this one off"),
    "logit_difference": ("on right − wrong answer", "logit(right) − logit(wrong), all edits on − this one off"),
    "kl": ("on the next token", "KL(all edits on ‖ this one off)"),
}
"""For each measure: the object of the effect, and its formula."""

_NO_EDITS = "No edit is open, so there is nothing to switch off."


Names = Mapping[str, Sequence[str]]
"""Names of the units of a layer, by site, for sites whose units are not numbered."""


def _label(edit: "EditRef", several: bool, names: Names) -> str:
    """Return the location of an edit and, with several adapters in use, its adapter, counted from 1."""
    known = names.get(str(edit.site), ()) if edit.site != "heads" else ()
    named = f"layer {edit.layer}, {text(known[edit.unit])}" if edit.unit < len(known) else ""
    words = f"{named or place(str(edit.site), edit.layer, edit.unit)} · {text(edit.half)}"
    return f"{words} · adapter {edit.intervention + 1}" if several else words


def _ranked(
    edits: "Sequence[EditRef]",
    effect: NDArray[np.float64],
    spans: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    count: int,
    names: Names,
    *,
    dark: bool,
) -> Figure:
    """Draw bars from zero, largest first, in the color and pattern of their half."""
    colours, figure = palette(dark), panels()
    several = len({edit.intervention for edit in edits}) > 1
    order = np.argsort(-np.abs(np.nan_to_num(effect)), kind="stable")[:count]
    for half in dict.fromkeys((*HALVES, *(edit.half for edit in edits))):
        rows = [row for row, index in enumerate(order) if edits[index].half == half]
        if not rows:
            continue
        chosen = order[rows]
        hover, custom = "%{customdata[0]}<br>%{x:+.4f}", [[_label(edits[index], several, names)] for index in chosen]
        errors: dict[str, Any] | None = None
        if spans is not None:
            low, high = spans[0][chosen], spans[1][chosen]
            hover += "<br>95 % interval %{customdata[1]:+.4f} to %{customdata[2]:+.4f}"
            custom = [[*entry, a, b] for entry, a, b in zip(custom, low, high, strict=True)]
            errors = {
                "type": "data", "symmetric": False, "array": high - effect[chosen], "arrayminus": effect[chosen] - low,
                "color": colours.text, "thickness": 1, "width": 3,
            }  # fmt: skip
        pattern = half_pattern(half, dark=dark)
        figure.add_trace(
            go.Bar(
                x=effect[chosen], y=rows, orientation="h", name=half, width=0.66, error_x=errors, customdata=custom,
                marker={"color": colours.half(half), "line": {"width": 0}, "pattern": pattern},
                hovertemplate=f"{hover} nats<extra></extra>" if spans is not None else f"{hover}<extra></extra>",
            )
        )  # fmt: skip
    labels = [_label(edits[index], several, names) for index in order]
    figure.update_yaxes(
        range=[max(len(order), 1) - 0.5, -0.5], showgrid=False, **word_ticks(labels, colours.text, size=11)
    )
    figure.update_xaxes(zeroline=True, zerolinecolor=colours.edge, zerolinewidth=1)
    figure.update_layout(showlegend=True, barmode="overlay")
    return figure


def _spans(found: "EditEffects") -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    low, high = (np.asarray(values, dtype=float) for values in (found.low, found.high))
    return None if np.isnan(low).all() or np.isnan(high).all() else (low, high)


def _amount(found: "EditEffects") -> str:
    return "1 prompt" if found.n == 1 else f"mean over {counted(found.n, 'example')}"


def _noise(found: "EditEffects") -> str:
    """Return a note on the rounding error for a single prompt in half precision; empty otherwise."""
    if found.n != 1 or not found.rounding > 0:
        return ""
    return f"; within ±{number(2 * found.rounding, 2)} nats (gray), effects may be rounding errors"


def _ends(found: "EditEffects") -> str:
    """Return the measure without edits and with all edits."""
    if found.measure == "kl":
        return f"KL(all edits on ‖ base): {number(found.base)}"
    name = "log p(answer)" if found.measure == "log_probability" else "logit difference"
    return f"{name}: {number(found.base)} base, {number(found.edited)} edited"


def edit_effects(found: "EditEffects", *, count: int = 30, names: Names | None = None, dark: bool = False) -> Figure:
    """Draw the edits with the largest effects, by the measure of ``found``, with 95 % intervals for means.

    ``names`` are those of the units of a layer by site, where units have names.
    """
    on_what, formula = _MEASURED[found.measure]
    title = f"Effect of each edit {on_what}"
    effect = np.asarray(found.effect, dtype=float)
    if not len(effect):
        return blank(title, _NO_EDITS, dark=dark)
    spans = _spans(found)
    figure = _ranked(found.edits, effect, spans, count, names or {}, dark=dark)
    figure.update_xaxes(title_text=f"{formula}, nats")
    shown = min(count, len(effect))
    which = f"the {shown} largest of {len(effect):,} open edits" if shown < len(effect) else counted(shown, "open edit")
    note = f"{_amount(found)}; {which}"
    note += ", with 95 % intervals" if spans is not None else _noise(found)
    if found.n == 1 and found.rounding > 0:
        figure.add_vrect(
            x0=-2 * found.rounding,
            x1=2 * found.rounding,
            line_width=0,
            fillcolor=palette(dark).edge,
            opacity=0.22,
            layer="below",
        )
    note += f"; {_ends(found)}"
    return finish(figure, title, note, dark=dark, height=20 * max(shown, 3) + 120)


def effect_map(
    found: "EditEffects",
    shape: tuple[int, int] | None = None,
    *,
    site: str = "heads",
    intervention: int = 0,
    dark: bool = False,
) -> Figure:
    """Draw the effects by layer and unit, offsets and scales side by side; closed edits are blank.

    ``shape`` is (layers, units) of the model; without it, the map ends at the last open edit. ``intervention`` selects
    the adapter if several are in use.
    """
    on_what, formula = _MEASURED[found.measure]
    title = f"Effect of the edits of each {unit_name(site)} {on_what}"
    effect = np.asarray(found.effect, dtype=float)
    here = [
        index for index, edit in enumerate(found.edits) if (str(edit.site), edit.intervention) == (site, intervention)
    ]
    if not here:
        return blank(title, _NO_EDITS, dark=dark)
    if shape is None:
        shape = (max(found.edits[i].layer for i in here) + 1, max(found.edits[i].unit for i in here) + 1)
    limit = round_up(float(np.nanmax(np.abs(effect[here]))))
    figure = panels(1, 2, horizontal_spacing=0.04, shared_yaxes=True)
    for column, half in enumerate(HALVES, start=1):
        values = np.full(shape, np.nan)
        for index in here:
            edit = found.edits[index]
            if edit.half == half:
                values[edit.layer, edit.unit] = effect[index]
        known = int((~np.isnan(values)).sum())
        heading(figure, column, f"{half.capitalize()}s", f"{known:,} open", dark=dark)
        # The frame shows the extent of the map even where it is blank.
        untrained(figure, column, shape, words="" if known else "none open", dark=dark)
        hover = f"layer %{{y}}, {unit_name(site)} %{{x}}<br>{half}: %{{z:+.4f}} nats"
        figure.add_trace(heat(values, hover), row=1, col=column)
        signs(figure, values, limit, 0.4, 1, column, dark=dark)
        map_axes(figure, column, shape, site, first=column == 1)
    words = "KL, nats" if found.measure == "kl" else "on − off, nats"
    colour_key(figure, "coloraxis", palette(dark).diverging, -limit, limit, words, bottom=KEYED, dark=dark)
    note = f"{formula}; {_amount(found)}; blank: closed"
    note += _noise(found).replace(" (gray)", "")
    return finish(figure, title, note, dark=dark, height=map_height(shape[0]) + KEYED + 76, bottom=KEYED)


def direct_effects(found: "DirectEffects", *, count: int = 30, dark: bool = False) -> Figure:
    """Draw the direct effect of each edit on the logit of the answer, bypassing all later layers."""
    title = f"Direct effect of each edit on the logit of {token(found.token, 24)}"
    effect = np.asarray(found.effect, dtype=float)
    if not len(effect):
        return blank(title, "No edit is open, so none has an effect.", dark=dark)
    figure = _ranked(found.edits, effect, None, count, {}, dark=dark)
    figure.update_xaxes(title_text="logit")
    shown = min(count, len(effect))
    which = f"the {shown} largest of {len(effect):,} open edits" if shown < len(effect) else counted(shown, "open edit")
    note = f"1 prompt; {which}; together {number(float(np.nansum(effect)))} of its {number(found.logit)}"
    return finish(figure, title, note, dark=dark, height=20 * max(shown, 3) + 120)
