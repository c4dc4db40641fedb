"""The common style of all figures: colors of ``style.css``, fonts, titles, panels, and escaped text.

Figures are displayed by two versions of plotly.js, that of notebooks and the older one bundled with gradio, so only
attributes that both support are used.
"""

import json
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import plotly.graph_objects as go
import plotly.io
from plotly.colors import sequential
from plotly.subplots import make_subplots

from jola.edits.names import STATES
from jola.system.formatting import visible

SANS = "IBM Plex Sans, system-ui, sans-serif"
MONO = "IBM Plex Mono, ui-monospace, monospace"

CONFIG: dict[str, Any] = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    "toImageButtonOptions": {"format": "png", "scale": 2, "filename": "jola-figure"},
}
"""Settings of plotly's toolbar: image at twice the size, zoom, pan and reset; no logo."""

CIVIDIS: list[str] = list(sequential.Cividis)
"""Color scale of gates and probabilities: dark is 0, bright is 1."""


@dataclass(frozen=True)
class Palette:
    """The colors of one theme, with the names of ``style.css``; see `LIGHT` and `DARK`."""

    surface: str
    panel: str
    text: str
    quiet: str
    line: str
    edge: str
    accent: str
    bar: str
    train: str
    validation: str
    state_none: str
    state_offset: str
    state_scale: str
    state_both: str
    diverging: tuple[str, ...]
    """From negative through zero, which is close to the background, to positive."""
    categories: tuple[str, ...]
    """Colors of runs, distinguishable with color blindness (after Okabe and Ito) and readable on this background."""

    @property
    def states(self) -> tuple[str, str, str, str]:
        """The colors of `jola.runs.history.STATES`."""
        return self.state_none, self.state_offset, self.state_scale, self.state_both

    def half(self, half: str) -> str:
        """Return the color of one half of the edits."""
        return self.state_offset if half == "offset" else self.state_scale

    @property
    def negative(self) -> str:
        """The color of bars below zero."""
        return self.diverging[1]

    @property
    def positive(self) -> str:
        """The color of bars above zero."""
        return self.diverging[-2]


LIGHT = Palette(
    surface="#ffffff", panel="#f6f8fa", text="#17202b", quiet="#536070", line="#d8dee6", edge="#7f8b9a",
    accent="#1a5fb4", bar="#5f7fa6", train="#0067b0", validation="#b84a00",
    state_none="#cdd5de", state_offset="#0072b2", state_scale="#d55e00", state_both="#1d2733",
    diverging=("#08427a", "#3d84c0", "#a6c8e4", "#eceef1", "#f3c08d", "#d9781f", "#7f3b00"),
    categories=("#0072b2", "#d55e00", "#007f5f", "#a8407f", "#7a6a00", "#3f97c9", "#5b4b9a", "#536070", "#8a4a2b",
        "#c2152f"),
)  # fmt: skip
DARK = Palette(
    surface="#0f1318", panel="#141a21", text="#e4e9ef", quiet="#9ba7b5", line="#29313b", edge="#6b7686",
    accent="#6ea8fe", bar="#6d8fb8", train="#56a8ec", validation="#f0954a",
    state_none="#38424e", state_offset="#3f97dd", state_scale="#e67e22", state_both="#f1f4f8",
    diverging=("#a9d4ff", "#4d9be0", "#24527d", "#222a33", "#7a4716", "#e08a35", "#ffd0a0"),
    categories=("#56a8ec", "#f0954a", "#3fc79a", "#e08cc0", "#d9c64a", "#9bd6f5", "#a99be8", "#9ba7b5", "#c98f6b",
        "#ff6b76"),
)  # fmt: skip

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "hexagon")
HALF_DASH = {"offset": "solid", "scale": "dash"}
HALF_SYMBOL = {"offset": "circle", "scale": "diamond"}
STATE_WORDS = dict(zip(STATES, ("no edit", "offset only", "scale only", "both"), strict=True))
"""Names of the states of a unit in figures."""


def palette(dark: bool) -> Palette:
    """Return the colors of the dark or the light theme."""
    return DARK if dark else LIGHT


class Figure(go.Figure):
    """A plotly figure that includes `CONFIG` wherever it is shown: in a notebook, or as JSON in a page."""

    def to_json(self, *args: Any, **kwargs: Any) -> str:
        """Like plotly's `to_json`, with ``config`` next to ``data`` and ``layout``, where gradio's Plot reads it."""
        written = super().to_json(*args, **kwargs)
        assert isinstance(written, str)
        return f'{written.rstrip().removesuffix("}")},"config":{json.dumps(CONFIG)}}}'

    def show(self, *args: Any, **kwargs: Any) -> Any:
        """Like plotly's `show`, with `CONFIG` unless another ``config`` is given."""
        return super().show(*args, **{"config": CONFIG, **kwargs})

    def _ipython_display_(self) -> None:
        if plotly.io.renderers.render_on_display and plotly.io.renderers.default:
            self.show()
        else:
            super()._ipython_display_()


# Text

# plotly interprets some HTML tags, text between dollar signs, and %{…} in hover texts as markup.
_ENTITIES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;"), ("%{", "&#37;{"))


def text(value: object, limit: int = 0) -> str:
    """Escape text so that plotly shows it literally; beyond ``limit`` characters, the middle is cut out.

    In titles, labels and hover texts, plotly drops unknown tags and decodes entities.
    """
    words = str(value)
    if limit and len(words) > limit:
        head = (limit - 1) * 2 // 3
        words = f"{words[:head]}…{words[len(words) - (limit - 1 - head) :]}"
    for character, entity in _ENTITIES:
        words = words.replace(character, entity)
    return " ".join(words.split())


def token(value: object, limit: int = 0) -> str:
    """Return a token as `text`, with spaces and control characters made visible; long tokens are truncated."""
    seen = visible(str(value)) or "∅"
    return text(f"{seen[: limit - 1]}…" if limit and len(seen) > limit else seen)


def word_ticks(labels: Sequence[str], colour: str, *, mono: bool = False, size: int = 12) -> dict[str, Any]:
    """Return the settings of an axis with a label at each of 0, 1, 2, …, and a small gap between labels and panel."""
    font = {"size": size, "color": colour} | ({"family": MONO} if mono else {})
    return {
        "tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": list(labels), "tickfont": font,
        "ticks": "outside", "ticklen": 5, "tickcolor": "rgba(0,0,0,0)",
    }  # fmt: skip


def number(value: float, digits: int = 3) -> str:
    """Format a number; a dash if it is missing."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}g}".replace("-", "−")


def unit_name(site: str) -> str:
    """Return the name of one unit of a site; markup, like the result of `text`."""
    return {"heads": "head", "mlp": "MLP", "weights": "module"}.get(site) or text(site, 40)


def place(site: str, layer: int, unit: int, half: str = "") -> str:
    """Return ``layer 3, head 2, offset``; sites with one unit per layer have no unit number."""
    numbered = f" {unit}" if site in ("heads", "weights") else ""
    words = f"layer {layer}, {unit_name(site)}{numbered}"
    return f"{words}, {text(half)}" if half else words


# Frame

_NOTE = 92
"""Maximum characters per line of the subtitle."""


def _template(colours: Palette) -> go.layout.Template:
    axis = {
        "showgrid": True, "gridcolor": colours.line, "gridwidth": 1, "zeroline": False, "showline": False,
        "ticks": "outside", "ticklen": 3, "tickcolor": colours.line, "automargin": True,
        "tickfont": {"size": 11, "color": colours.quiet},
        "title": {"font": {"size": 12, "color": colours.quiet}, "standoff": 8},
    }  # fmt: skip
    layout = {
        "font": {"family": SANS, "size": 12, "color": colours.text},
        "paper_bgcolor": colours.surface, "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": list(colours.categories), "xaxis": axis, "yaxis": axis,
        "hoverlabel": {
            "bgcolor": colours.text, "bordercolor": colours.text, "align": "left",
            "font": {"family": SANS, "size": 12, "color": colours.surface},
        },
        "legend": {
            "orientation": "h", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)",
            "font": {"size": 12, "color": colours.quiet}, "itemsizing": "trace", "tracegroupgap": 0,
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": colours.edge, "activecolor": colours.accent},
        "annotationdefaults": {"font": {"size": 12, "color": colours.quiet}, "showarrow": False},
    }  # fmt: skip
    return go.layout.Template(layout=layout)


def panels(rows: int = 1, cols: int = 1, **kwargs: Any) -> Figure:
    """Create an empty figure with panels, laid out by `plotly.subplots.make_subplots`."""
    figure = make_subplots(rows=rows, cols=cols, figure=Figure(), **kwargs)
    assert isinstance(figure, Figure)
    return figure


def finish(
    figure: Figure,
    title: str,
    note: str = "",
    *,
    dark: bool,
    height: int = 320,
    headed: bool = True,
    left: int = 48,
    right: int = 12,
    bottom: int = 44,
) -> Figure:
    """Set the title, the subtitle (with n), the frame and the colors of a figure.

    ``title`` and ``note`` are markup: escape anything from users, files or models with `text`. ``headed`` reserves
    space for headings or a legend above the panels.
    """
    colours = palette(dark)
    # plotly places the first of several lines 11 pixels higher than a single line.
    lines = textwrap.wrap(note, _NOTE, break_long_words=False, break_on_hyphens=False)
    below = "".join(f'<br><span style="font-size:12px;color:{colours.quiet}">{line}</span>' for line in lines)
    figure.update_layout(
        template=_template(colours),
        height=height,
        margin={"l": left, "r": right, "t": 34 + 17 * len(lines) + (22 if headed else 4), "b": bottom},
        title={
            "text": f"<b>{title}</b>{below}",
            "font": {"size": 14, "color": colours.text},
            "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 8},
            "y": 1 - (9 + (11 if lines else 0)) / height, "yref": "container", "yanchor": "top",
        },
        hovermode="closest",
    )  # fmt: skip
    return figure


def blank(title: str, sentence: str, *, dark: bool, height: int = 200) -> Figure:
    """Create a figure without data, with a sentence that says why."""
    figure = Figure()
    figure.update_layout(xaxis={"visible": False}, yaxis={"visible": False})
    say(figure, sentence, dark=dark)
    return finish(figure, title, dark=dark, height=height, headed=False, left=12, bottom=12)


def say(figure: Figure, sentence: str, *, dark: bool, panel: int = 0) -> None:
    """Write a sentence in the center of a panel, counted from 1; 0 is the whole figure."""
    across, up = ("paper", "paper") if not panel else (f"{_axis('x', panel)} domain", f"{_axis('y', panel)} domain")
    figure.add_annotation(
        text="<br>".join(textwrap.wrap(sentence, 80 if not panel else 24)),
        x=0.5, y=0.5, xref=across, yref=up, xanchor="center", yanchor="middle",
        showarrow=False, font={"size": 12, "color": palette(dark).quiet},
    )  # fmt: skip


def heading(figure: Figure, panel: int, words: str, aside: str = "", *, dark: bool) -> None:
    """Write a bold heading above the left end of a panel, and a muted note above its right end."""
    colours = palette(dark)
    entries = ((f"<b>{words}</b>" if words else "", 0, "left", colours.text), (aside, 1, "right", colours.quiet))
    for entry, x, anchor, colour in entries:
        if entry:
            figure.add_annotation(
                text=entry, x=x, y=1, xref=f"{_axis('x', panel)} domain", yref=f"{_axis('y', panel)} domain",
                xanchor=anchor, yanchor="bottom", yshift=2, showarrow=False, font={"size": 12, "color": colour},
            )  # fmt: skip


def _axis(letter: str, panel: int) -> str:
    return letter if panel == 1 else f"{letter}{panel}"


def scale(colours: Sequence[str], power: float = 1.0) -> list[list[Any]]:
    """Return a plotly color scale of equally spaced colors; a ``power`` above 1 spreads out small values."""
    return [[(index / (len(colours) - 1)) ** power, colour] for index, colour in enumerate(colours)]


def half_key(half: str, *, dark: bool) -> str:
    """Return the name of a half, preceded by its mark."""
    return f'<span style="color:{palette(dark).half(half)}">{"●" if half == "offset" else "◆"}</span> {half}'


def half_pattern(half: str, *, dark: bool) -> dict[str, Any]:
    """Return the fill pattern of one half: scales are striped, so that halves differ not only in color."""
    colours = palette(dark)
    return {
        "shape": "/" if half == "scale" else "", "bgcolor": colours.half(half), "fgcolor": colours.surface,
        "fgopacity": 0.5, "size": 6, "solidity": 0.2,
    }  # fmt: skip


KEYED = 94
"""Bottom margin in pixels for a map with a color key: axis, labels, color bar."""


def colour_key(
    figure: Figure,
    name: str,
    colours: Sequence[str],
    low: float,
    high: float,
    words: str,
    *,
    bottom: int,
    dark: bool,
    at: Literal["left", "right"] = "right",
    power: float = 1.0,
) -> None:
    """Set the colors and the range of the color axis ``name``, and draw a labeled color bar below the panels.

    ``bottom`` is the bottom margin of the figure, in pixels; ``power`` as in `scale`.
    """
    quiet = {"size": 11, "color": palette(dark).quiet}
    middle = (low + high) / 2
    bar = {
        "orientation": "h", "x": 1.0 if at == "right" else 0.0, "xanchor": at, "y": 0, "yref": "container",
        "yanchor": "bottom", "len": 200, "lenmode": "pixels", "thickness": 8, "outlinewidth": 0, "ypad": 4, "xpad": 8,
        "tickfont": quiet, "ticklen": 2, "tickvals": [low, middle, high],
        "ticktext": [number(value) for value in (low, middle, high)],
    }  # fmt: skip
    figure.layout[name] = {"colorscale": scale(colours, power), "cmin": low, "cmax": high, "colorbar": bar}
    figure.add_annotation(
        text=words, x=bar["x"], xref="paper", xanchor=at, xshift=-8 if at == "right" else 8,
        y=0, yref="paper", yanchor="middle", yshift=-(bottom - 40), showarrow=False, font=quiet,
    )  # fmt: skip


def round_up(value: float) -> float:
    """Return a round number that is at least ``value``; 1 if ``value`` is not positive and finite."""
    if not (value > 0 and math.isfinite(value)):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        factor * power for factor in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if factor * power >= value * (1 - 1e-9)
    )
