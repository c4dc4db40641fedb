"""Store the results of methods on several tasks from a grid, and show the tables of docs/results/methods.md.

    python -m benchmarks.method_results store GRID   # write finished cells to docs/results/methods/tasks.json
    python -m benchmarks.method_results show         # print the tables of the page from that file

The unit of all statistics is the seed: intervals are t intervals over seeds, and differences are paired by seed. With
fewer than three seeds, the value of each is shown instead.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import markdown
from jola.methods import METHODS
from jola.studies.grid import Grid
from jola.studies.statistics import SeedMean, mean_over_seeds
from jola.system.files import json_bytes, replace_file

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results" / "methods"
TASKS, RATES = FOLDER / "tasks.json", FOLDER / "learning_rates.json"
BASELINE = "jola"
LEAST = 3
"""Minimum number of seeds for an interval; with two, its half-width is 13 times half of their difference."""

Cell = Mapping[str, Any]
BySeed = dict[int | None, Cell]
"""Cells of a method on a task by seed; the seed is None for a method that trains nothing."""


def cells_of(grid: Grid) -> list[dict[str, Any]]:
    """Return the facts that the page needs of each finished cell."""
    found = []
    for name, result in grid.results().items():
        cell, effects = grid.planned[name], result["side_effects"]
        if cell.arm not in METHODS:
            raise SystemExit(f"The grid has the arm {cell.arm}; this page has methods at their default settings.")
        found.append(
            {
                "method": cell.arm,
                "task": Path(cell.task).name,
                "seed": cell.seed if METHODS[cell.arm].trains else None,
                "test": {key: result["scores"][0][key] for key in ("metric", "value", "n")},
                "validation_accuracy": result["validation_accuracy"],
                "kept_step": result["kept_step"],
                "trainable": result["trainable"],
                "text_kl": effects and effects["kl"]["value"],
            }
        )
    return sorted(found, key=lambda cell: (cell["task"], cell["seed"] or 0, cell["method"]))


def read() -> list[dict[str, Any]]:
    """Return all stored cells: those of the grid, and those of the learning-rate search that have the default rate."""
    rates = json.loads(RATES.read_text("utf-8"))
    earlier = [
        {
            "method": row["method"],
            "task": rates["task"],
            "seed": rates["seed"],
            "test": {"metric": "exact_match", "value": row["test"]["accuracy"], "n": row["test"]["n"]},
            "text_kl": None,
        }
        for row in rates["results"]
        if row["test"] and row["learning_rate"] in (None, METHODS[row["method"]].learning_rate)
    ]
    return earlier + json.loads(TASKS.read_text("utf-8"))["cells"]


def tables(cells: Sequence[Cell]) -> list[list[list[str]]]:
    """Return the tables of accuracy, difference to JoLA, and divergence on plain text, with one row per method."""
    by_seed: dict[tuple[str, str], BySeed] = defaultdict(dict)
    for cell in cells:
        by_seed[cell["method"], cell["task"]][cell["seed"]] = cell
    tasks = sorted({task for _, task in by_seed})
    methods = [name for name in METHODS if any((name, task) in by_seed for task in tasks)]

    def table(entry: Callable[[BySeed, BySeed], str], names: Iterable[str]) -> list[list[str]]:
        return [
            ["method", *tasks],
            *(
                [METHODS[name].title, *(entry(by_seed[name, task], by_seed[BASELINE, task]) for task in tasks)]
                for name in names
            ),
        ]

    return [
        table(_accuracy, methods),
        table(_difference, [name for name in methods if name != BASELINE]),
        table(lambda own, _: _mean([cell["text_kl"] for cell in own.values()], "{:.2f}"), methods),
    ]


def _accuracy(own: BySeed, _: BySeed) -> str:
    if None in own:
        return f"{own[None]['test']['value']:.3f}"
    return _mean([cell["test"]["value"] for cell in own.values()], "{:.3f}")


def _difference(own: BySeed, baseline: BySeed) -> str:
    seeds = sorted(seed for seed in baseline if seed in own or None in own)
    return _mean(
        (own.get(seed, own.get(None))["test"]["value"] - baseline[seed]["test"]["value"] for seed in seeds), "{:+.3f}"
    )


def _mean(values: Iterable[float | None], form: str) -> str:
    """Format the mean with its interval, or with all values if there are too few seeds for a useful interval."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    found: SeedMean = mean_over_seeds(known)
    mean, seeds = form.format(found.mean), f"{found.n} seed{'s' * (found.n > 1)}"
    if found.low is None or found.high is None or found.n < LEAST:
        each = f" [{', '.join(map(form.format, known))}]" if found.n > 1 else ""
        return f"{mean}{each}, {seeds}"
    return f"{mean} ({form.format(found.low)} to {form.format(found.high)}), {seeds}"


def main() -> None:
    """Store results or show tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("store", "show"))
    parser.add_argument("grid", nargs="?", help="Folder of the grid, for 'store'.")
    options = parser.parse_args()
    if options.what == "store":
        if not options.grid:
            parser.error("store needs the folder of a grid")
        replace_file(TASKS, json_bytes({"cells": cells_of(Grid.open(options.grid))}, indent=1))
    else:
        print("\n\n".join(markdown(table) for table in tables(read())))


if __name__ == "__main__":
    main()
