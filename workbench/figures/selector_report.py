"""The report of a comparison of selectors: one HTML file that needs no network.

    python -m workbench.figures.selector_report FOLDER [--output report.html] [--dark]

FOLDER is the output folder of ``jola compare``, which may still be running.
"""

import argparse
import sys
from pathlib import Path

from jola.errors import InputError
from jola.studies.results import Comparison
from jola.system.files import replace_file
from workbench.figures import selectors as draw
from workbench.figures.head_sets import head_agreement, heads_against
from workbench.figures.style import Figure, palette, text


def figures(comparison: Comparison, *, dark: bool = False) -> dict[str, Figure]:
    """Return all figures of a comparison by name; figures of one seed or one K show the first."""
    cells = comparison.cells()
    seeds = sorted({cell.seed for cell in cells if cell.protocol != "base"})
    ks = list(dict.fromkeys(cell.k for cell in cells if cell.protocol == "edit"))
    rows = comparison.rows()
    found = {"accuracy": draw.accuracy_forest(rows, ks[0] if ks else "", dark=dark)}
    if len(ks) > 1:
        found["accuracy by K"] = draw.accuracy_by_k(rows, dark=dark)
    found["costs"] = draw.selection_costs(rows, dark=dark)
    for k in ks[:1]:
        sets = comparison.head_sets(seeds[0], k)
        found["agreement"] = head_agreement(sets, dark=dark)
        found["against JoLA"] = heads_against(sets, dark=dark)
        found["overlap"] = draw.overlap_matrix(sets, dark=dark)
        found["layers"] = draw.heads_by_layer(sets, dark=dark)
        found["ranks"] = draw.rank_correlations(comparison.all_scores(seeds[0]), dark=dark)
    return found


def report(comparison: Comparison, *, dark: bool = False) -> str:
    """Return the report as HTML, including the plotly script."""
    colours, task = palette(dark), comparison.settings().get("settings", {}).get("data", {}).get("task", "")
    drawn = figures(comparison, dark=dark)
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=index == 0, config={"displaylogo": False})
        for index, figure in enumerate(drawn.values())
    ]
    name = text(Path(str(task)).name, 80)
    style = f"body{{background:{colours.surface};color:{colours.text};font:14px system-ui;max-width:60rem;margin:auto}}"
    head = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Selectors on {name}</title><style>{style}</style>'
    )
    table = comparison.to_frame().to_html(index=False, float_format="{:.3f}".format, na_rep="", border=0)
    return f"{head}<h1>Selectors on {name}</h1>{''.join(parts)}<h2>Numbers</h2>{table}</html>"


def main(arguments: list[str] | None = None) -> None:
    """Entry point; the exit code is 2 if the folder does not contain a comparison."""
    parser = argparse.ArgumentParser(
        prog="python -m workbench.figures.selector_report",
        description="Write the report of a comparison of selectors as one HTML file.",
    )
    parser.add_argument("folder", type=Path, help="output folder of `jola compare`")
    parser.add_argument("--output", type=Path, help="HTML file; default: report.html in the folder")
    parser.add_argument("--dark", action="store_true", help="use the dark theme")
    given = parser.parse_args(arguments)
    try:
        output = given.output or given.folder / "report.html"
        replace_file(output, report(Comparison.open(given.folder), dark=given.dark).encode())
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    sys.stdout.write(f"{output}\n")


if __name__ == "__main__":
    main()
