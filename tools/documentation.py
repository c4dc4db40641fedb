"""Write the generated parts of the documentation.

    python -m tools.documentation              # docs/settings.md, from the dataclasses of settings
    python -m tools.documentation --figures    # also the figures of docs/method.md, from the sample run

The Chromium of the browser tests draws the figures.
"""

import argparse
import dataclasses
import json
import tempfile
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jola.config import RunConfig, flag
from jola.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "docs" / "settings.md"
IMAGES = ROOT / "docs" / "images"
TITLES = {"model": "Model", "data": "Data", "training": "Training"}
PHIS = (-2.4, 0.0, 2.0)


def settings_page() -> str:
    """Return the reference of all settings as Markdown."""
    return "\n".join(_settings_lines()) + "\n"


def _settings_lines() -> Iterator[str]:
    yield from (
        "# Settings",
        "",
        "Every setting of a training run and its default. The same names, with underscores, are used in the",
        "dataclasses of the Python API, in the `config.json` of a run and in the Train form of the app, which shows",
        "the settings in bold first. `--method` chooses the method, `jola` by default; each method has its own",
        "settings. [Defaults](defaults.md) explains how the values were chosen. `jola train` also takes `--recipe` and",
        "`--restarts`, described there, `--resume` ([Runs](runs.md#stopping-and-resuming)) and `--json`.",
        "",
        "`python -m tools.documentation` generates this page from `jola/settings.py` and `jola/methods/`.",
    )
    parts = [(title, type(getattr(RunConfig(), group)), "") for group, title in TITLES.items()]
    methods = [(method.title, method.settings, f" Used with `--method {method.name}`.") for method in METHODS.values()]
    for title, part, note in [*parts, *methods]:
        hints = typing.get_type_hints(part)
        yield from ("", f"## {title}", "", f"{part.__doc__} In Python: `{part.__name__}`.{note}", "")
        if not dataclasses.fields(part):
            continue
        yield from ("| flag | values | default | what it is |", "|---|---|---|---|")
        for field in dataclasses.fields(part):
            name = f"`{flag(field.name)}`"
            unit = f" Unit: {field.metadata['unit']}." if field.metadata["unit"] else ""
            yield (
                f"| {name if field.metadata['advanced'] else f'**{name}**'} | {_values(hints[field.name])} | "
                f"{_default(field.default)} | {field.metadata['help']}{unit} |"
            )


def _values(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(hint))
    names = {int: "whole number", float: "number", str: "text", bool: "a switch"}
    given = [part for part in typing.get_args(hint) or (hint,) if part is not type(None)]
    return " or ".join(names[part] for part in given)


def _default(value: Any) -> str:
    if value is None or value is False or value == "":
        return "–"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def write_figures() -> None:
    """Write the figures of the page about the method, from the sample run."""
    from jola import RunStore, import_archive
    from tools.pictures import drawing
    from workbench import figures

    with tempfile.TemporaryDirectory() as folder, drawing() as draw:
        run = import_archive(ROOT / "workbench" / "service" / "sample" / "sample.zip", RunStore(folder))
        history, kept = run.gates(), run.result()["kept_step"]
        drawn = {
            "method-gates": _gate_figure(),
            "method-map": figures.gate_map(history, kept),
            "method-states": figures.state_counts(history),
            "method-closed": figures.closed_map(history),
        }
        for name, figure in drawn.items():
            (IMAGES / f"{name}.png").write_bytes(draw(json.loads(figure.to_json())))


def _gate_figure() -> Any:
    """Draw the distribution of a gate in training for three φ, with its value after training."""
    import numpy as np
    import plotly.graph_objects as go
    import torch

    from jola.edits import gates
    from workbench.figures.style import finish, heading, palette, panels

    colours, figure = palette(False), panels(1, len(PHIS), horizontal_spacing=0.05, shared_yaxes=True)
    generator, edges = torch.Generator().manual_seed(0), np.linspace(0, 1, 21)
    for panel, phi in enumerate(PHIS, start=1):
        drawn = gates.sample(torch.full((100_000,), phi), generator=generator).numpy()
        value = float(gates.at_test_time(torch.tensor(phi)))
        between = np.histogram(drawn[(drawn > 0) & (drawn < 1)], edges)[0]
        shares = np.concatenate([[np.mean(drawn == 0)], between / len(drawn), [np.mean(drawn == 1)]])
        places = np.concatenate([[-0.025], (edges[1:] + edges[:-1]) / 2, [1.025]])
        bars = go.Bar(x=places, y=shares, width=0.042, marker={"color": colours.bar}, showlegend=False)
        figure.add_trace(bars, row=1, col=panel)
        figure.add_vline(x=value, line={"color": colours.accent, "width": 2, "dash": "dash"}, row=1, col=panel)
        heading(figure, panel, f"φ = {phi:g}", f"after training {value:.2f}", dark=False)
    figure.update_xaxes(range=[-0.08, 1.08], tickvals=[0, 0.5, 1], title_text="gate")
    figure.update_yaxes(title_text="share of draws", row=1, col=1)
    note = "outermost bars: exactly 0 and 1; dashed: value after training; n = 100,000 draws each"
    return finish(figure, "A gate in training", note, dark=False, height=280)


def main() -> None:
    """Write the settings page and, with ``--figures``, the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", action="store_true", help="also draw the figures, which needs Chromium")
    options = parser.parse_args()
    SETTINGS.write_text(settings_page(), encoding="utf-8")
    if options.figures:
        write_figures()


if __name__ == "__main__":
    main()
