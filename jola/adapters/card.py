"""The README of an adapter, and a picture with the map of its open edits."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import Tensor

from jola.data.catalogue import ASSETS
from jola.edits.intervention import Intervention
from jola.edits.names import HALVES, STATES
from jola.edits.sites import Site
from jola.methods import METHODS, Method

PICTURE_NAME = "heads.png"

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_LONGEST_NAME = 1000
METHOD = "Joint Localization and Activation Editing (Lai, Fraser and Titov, ICML 2025)"
_COLOURS = ("#cdd5de", "#0072b2", "#d55e00", "#1d2733")
"""Colors of `STATES`, which can be distinguished with any kind of color vision, and in grayscale."""


def portable_name(name: Any) -> str:
    """The name of a model or a task without local folders; a path is reduced to its last part."""
    text = name[:_LONGEST_NAME] if isinstance(name, str) else ""
    if text in ASSETS or _HUB_NAME.fullmatch(text.removeprefix("hf:")):
        return text
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def hub_id(name: str) -> str | None:
    """The name if it is a repository on the Hub; None for local folders and for models included with the project."""
    is_hub = "/" in name and _HUB_NAME.fullmatch(name) and not Path(name).exists()
    return name if is_hub else None


def adapter_card(
    edits: Sequence[Intervention],
    base_model: str,
    revision: str | None = None,
    facts: Mapping[str, Any] | None = None,
    results: Iterable[EvalResult] = (),
    *,
    method: Method = METHODS["jola"],
) -> str:
    """Return a model card in Markdown that describes the edits, their training and test, and how to use them.

    Args:
        facts: More lines, name → text: data, numbers of examples, accuracies with n and interval.
        results: The accuracies in machine-readable form.
    """
    base, results = portable_name(base_model), list(results)
    data = ModelCardData(
        base_model=hub_id(base_model),
        library_name="jola-workbench",
        pipeline_tag="text-generation",
        tags=list(method.tags),
        model_name=f"{method.title} edits for {base}" if results else None,
        eval_results=results or None,
    )
    numbers = sum(e.trainable_count() for e in edits)
    kept = sum(int(on.sum()) for e in edits for on in working(e).values())
    lines = [
        f"---\n{data.to_yaml()}\n---",
        f"# {method.title} edits for {base}",
        f"Learned edits of a frozen language model, by {method.full_name}: for each unit, `{method.formula}`.",
        "\n".join(
            [
                f"* Base model: {base}" + (f", revision {revision}" if revision else ""),
                f"* Trainable parameters: {numbers:,}; {method.open_words}: {kept}",
                *(_counts(e) for e in edits),
                *(f"* {_one_line(name)}: {_one_line(value)}" for name, value in (facts or {}).items()),
            ]
        ),
        "## Which edits are open",
        f"![Map of the edits, layers from bottom to top]({PICTURE_NAME})",
        "\n".join(_by_layer(edits)),
        "## Use",
        "```python\nfrom jola import JoLAModel\n\n"
        'model = JoLAModel.from_adapter("path/to/this/folder")  # or its name on the Hub\n```',
        "## Limits",
        "The edits fit only this revision of this base model. They were trained on few examples, and only the results "
        "above were measured: test them on your own data before you rely on them. The license of the base model, "
        "including its restrictions on use, also applies to the edited model.",
    ]
    return str(ModelCard("\n\n".join(lines) + "\n"))


def working(edits: Intervention) -> dict[str, Tensor]:
    """Whether each channel of each unit has an effect, (layers, units): it is on, and its values are not all 0."""
    norms = edits.norms()
    return {channel: on & (norms[channel] > 0) for channel, on in edits.on().items()}


def _states(edits: Intervention) -> Tensor:
    """Which halves of each unit are on, (layers, units), as an index into `STATES`; a single channel counts as both."""
    on = working(edits)
    if set(on) != set(HALVES):
        return len(_COLOURS[1:]) * torch.stack(list(on.values())).any(0).long()
    return on["offset"].long() + 2 * on["scale"].long()


def heads_picture(edits: Sequence[Intervention]) -> bytes:
    """A PNG with one cell for each unit, colored by its state (`STATES`), with layers from bottom to top."""
    from PIL import Image, ImageDraw, ImageFont

    columns = [(e, unit) for e in edits for unit in range(e.units)]
    layers = max(e.layers for e in edits)
    cell = max(4, min(18, 640 // max(len(columns), layers)))
    left, top, bottom = 46, 12, 66
    gap = 10  # between the sites
    width = left + cell * len(columns) + gap * len(edits) + 12
    picture = Image.new("RGB", (max(width, 330), top + cell * layers + bottom), "#ffffff")
    draw, font, ink = ImageDraw.Draw(picture), ImageFont.load_default(12), "#17202b"
    states = {id(e): _states(e).tolist() for e in edits}
    floor, x = top + cell * layers, left
    for position, (e, unit) in enumerate(columns):
        if position and unit == 0:
            x += gap
        for layer in range(e.layers):
            y = floor - (layer + 1) * cell
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), fill=_COLOURS[states[id(e)][layer][unit]])
        if e.site is Site.MLP or unit % max(1, -(-26 // cell)) == 0:
            name = "MLP" if e.site is Site.MLP else str(unit)
            draw.text((x + cell / 2, floor + 8), name, fill=ink, font=font, anchor="mm")
        x += cell
    for layer in range(0, layers, max(1, -(-16 // cell))):
        draw.text((left - 8, floor - layer * cell - cell / 2), str(layer), fill=ink, font=font, anchor="rm")
    draw.text((left, floor + 26), "up: layer, across: unit", fill=ink, font=font, anchor="lm")
    at = left
    for name, colour in zip(STATES, _COLOURS, strict=True):
        draw.rectangle((at, floor + 42, at + 11, floor + 53), fill=colour)
        draw.text((at + 16, floor + 48), name, fill=ink, font=font, anchor="lm")
        at += 24 + int(draw.textlength(name, font=font)) + 8
    file = io.BytesIO()
    picture.quantize().save(file, "PNG", optimize=True)
    return file.getvalue()


def _counts(edits: Intervention) -> str:
    if set(edits.channels) != set(HALVES):
        names = ", ".join(edits.unit_names)
        return f"* {edits.site}: {names}; " + ", ".join(f"{int(on.sum())} {c}s" for c, on in working(edits).items())
    counts = torch.bincount(_states(edits).flatten(), minlength=len(STATES)).tolist()
    return f"* {edits.site}: " + ", ".join(f"{n} {name}" for name, n in zip(STATES, counts, strict=True))


def _by_layer(edits: Sequence[Intervention]) -> list[str]:
    """Text alternative to the picture."""
    return [
        f"* {e.site}, {channel} gates open by layer: {' '.join(map(str, on.sum(-1).tolist()))}"
        for e in edits
        for channel, on in working(e).items()
    ]


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
