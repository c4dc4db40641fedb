"""Made-up comparisons in the format of `jola compare`: of any shape, written at once, without a model."""

from pathlib import Path

import numpy as np

from jola.config import RunConfig
from jola.selectors import Cost, HeadScores, HeadSet, Provenance
from jola.studies.axes import NEUTRAL
from jola.studies.results import Cell, Comparison
from workbench.service.comparison_plan import Plan

SHAPE = (6, 4)
OPEN = 9
"""Number of heads that JoLA leaves open."""


def make_comparison(
    folder: Path,
    plan: Plan | None = None,
    *,
    config: RunConfig | None = None,
    shape: tuple[int, int] = SHAPE,
    jola_open: int = OPEN,
    items: int = 40,
    undone: int = 0,
) -> Comparison:
    """Write a comparison with the results of all cells except the last ``undone``."""
    plan = plan or Plan(("jola", "gradient", "random"), (), ("auto", "3"), (42,))
    settings = (config or RunConfig()).to_dict()
    for name in ("seed", *NEUTRAL):
        del settings["training"][name]
    comparison = Comparison(folder)
    cells = plan.cells()
    comparison.write_settings({"settings": settings, "versions": {}, "planned": plan.cell_names()})
    generator = np.random.default_rng(0)
    base = generator.random(shape)
    right = generator.random(items)
    comparison.write_cell(Cell("base", "base", "", 0, None, tuple(map(bool, right < 0.3)), Cost(), Cost()))
    for protocol, method, k, seed in cells[: len(cells) - undone]:
        count = int(k) if k.isdigit() else jola_open
        own = np.random.default_rng([seed, *method.encode()])
        values = own.random(shape) + (0 if method == "random" else 1.2 * base)
        scores = HeadScores(values, Provenance(method, seed=seed), Cost(8, 64, 64, 3.0, 3.0))
        comparison.write_scores(f"{method}-seed{seed}", scores)
        answers = np.clip(right + 0.15 * own.standard_normal(items), 0, 1) < {"jola": 0.9, "random": 0.6}.get(
            method, 0.8
        )
        heads: HeadSet = scores.top(count)
        selection = Cost() if protocol != "edit" or method in ("jola", "random") else Cost(8, 64, 64, 3.0, 3.0)
        comparison.write_cell(
            Cell(protocol, method, k, seed, heads, tuple(map(bool, answers)), Cost(8, 64, 64, 10.0, 10.0), selection)
        )
    return comparison
