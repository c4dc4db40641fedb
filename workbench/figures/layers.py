"""Changes of the residual stream by layer, for several methods."""

import html
from collections.abc import Mapping, Sequence

import numpy as np

from jola.system.formatting import counted
from workbench.figures.cells import heat
from workbench.figures.style import (
    CIVIDIS,
    KEYED,
    Figure,
    blank,
    colour_key,
    finish,
    palette,
    panels,
    round_up,
    text,
    word_ticks,
)

_LABEL = 28
"""Maximum characters of a name along the axis."""


def layer_changes(changes: Mapping[str, Sequence[float]], *, prompts: int = 0, dark: bool = False) -> Figure:
    """Draw how much methods change the residual stream after each layer: methods down, layers across.

    Args:
        changes: ‖edited − base‖ / ‖base‖ after each layer by the name of a method: the ``change`` of
            `jola.insight.layer_changes`, or the ``layer_changes`` of `jola.studies.methods.compared`.
        prompts: Number of prompts that the means are over, for the subtitle.

    Raises:
        ValueError: The methods have different numbers of layers.
    """
    title = "Change of the residual stream after each layer"
    if not changes or not all(map(len, changes.values())):
        return blank(title, "There are no changes of layers to show.", dark=dark)
    if len({len(values) for values in changes.values()}) > 1:
        raise ValueError("The methods are of models with different numbers of layers.")
    values = np.array(list(changes.values()), dtype=float)
    methods, layers = values.shape
    names = [text(name, _LABEL) for name in changes]
    figure = panels()
    labels = np.repeat(np.array(names, dtype=object)[:, None], layers, axis=1)
    hover = "%{customdata}, after layer %{x}<br>change %{z:.4f} of the norm"
    figure.add_trace(heat(values, hover, customdata=labels))
    figure.update_xaxes(range=[-0.5, layers - 0.5], title={"text": "layer"}, showgrid=False)
    figure.update_xaxes(tickmode="linear", tick0=0, dtick=1 if layers <= 12 else 5 if layers <= 60 else 10)
    figure.update_yaxes(range=[methods - 0.5, -0.5], showgrid=False, **word_ticks(names, palette(dark).text))
    limit = round_up(max(float(np.nanmax(values)), 0.001))
    colour_key(figure, "coloraxis", CIVIDIS, 0.0, limit, "‖edited − base‖ / ‖base‖", bottom=KEYED, dark=dark, power=2)
    note = f"mean over {counted(prompts, 'prompt')}" if prompts else "mean over prompts"
    note += "; includes the change of earlier layers; square-root color scale"
    left = 30 + 7 * max(len(html.unescape(name)) for name in names)
    height = 26 * methods + KEYED + 70
    return finish(figure, title, note, dark=dark, height=height, headed=False, left=left, bottom=KEYED)
