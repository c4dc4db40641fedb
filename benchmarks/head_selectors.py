"""How well edits do on the heads that selectors choose: what docs/results/selectors.md says, made or gone on with.

    python -m benchmarks.head_selectors DATA [--stages trec trec-swaps …] [--seeds 42 43 44]
    python -m benchmarks.head_selectors --page      # write the page anew from the results there are

DATA holds one folder for each task, with train, validation and test files. Results lie in docs/results/selectors/TASK,
each as soon as there is one, and what is there is not done again; several calls may work at different seeds at once.
The page is written after each stage; only what stands between its marks is, the words around it are kept.
"""

import argparse
import os
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pages import with_body

ROOT = Path(__file__).resolve().parent.parent

FOLDER = ROOT / "docs" / "results" / "selectors"
PAGE = ROOT / "docs" / "results" / "selectors.md"
BEGIN, END = "<!-- results: written by benchmarks/head_selectors.py -->", "<!-- end of results -->"
SEEDS = (42, 43, 44)
SELECTORS = ("jola", "smp", "dsp", "pass", "gradient", "offset", "lofit", "ablation", "random")
SWAPS = ("dsp", "pass")
EPOCHS, L0_WEIGHT, VALIDATION_SIZE, TEST_SIZE = 2, 1e-2, 40, 300
"""The budget of every training, less than the defaults have: a larger λ closes as many gates in fewer steps."""


@dataclass(frozen=True)
class Stage:
    """A part of the comparison."""

    task: str
    selectors: tuple[str, ...]
    swaps: tuple[str, ...]
    ks: tuple[str, ...]


STAGES = {
    "trec": Stage("trec", SELECTORS, (), ("auto",)),
    "trec-swaps": Stage("trec", (), SWAPS, ("auto",)),
    "sst2": Stage("sst2", SELECTORS, SWAPS, ("auto",)),
    "trec-k": Stage("trec", SELECTORS, (), ("16", "64")),
    "sst2-k": Stage("sst2", SELECTORS, (), ("16", "64")),
}


def main() -> None:
    """Do what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the tasks")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    if not options.page:
        if options.data is None:
            parser.error("the folder of the tasks is missing")
        # Settings name a task by its folder, and are the same on every machine.
        os.chdir(options.data)
        for stage in options.stages:
            for seed in options.seeds:
                run(STAGES[stage], seed)
                write_page()
    write_page()


def run(stage: Stage, seed: int) -> None:
    """Do what is missing of a stage, for one seed."""
    from jola.config import DataConfig, RunConfig, TrainingConfig
    from jola.studies.comparison import compare
    from jola.studies.selector_grid import SelectorGrid

    config = RunConfig(
        data=DataConfig(task=stage.task, validation_size=VALIDATION_SIZE, test_size=TEST_SIZE),
        training=TrainingConfig(epochs=EPOCHS, l0_weight=L0_WEIGHT),
    )
    grid = SelectorGrid(stage.selectors, stage.swaps, stage.ks, (seed,))
    compare(config, grid, FOLDER / stage.task, progress=_Lines())


class _Lines:
    """One line for each phase."""

    def phase(self, name: str, total: int | None = None) -> None:
        print(name, flush=True)

    def advance(self, done: int, **values: float) -> None:
        pass

    def note(self, sentence: str) -> None:
        print(sentence, flush=True)


# The page


def write_page() -> None:
    """Write the tables of all results into the page."""
    from jola.system.files import replace_file

    replace_file(PAGE, page(PAGE.read_text(encoding="utf-8")).encode())


def page(text: str) -> str:
    """The text of the page with the tables of all results between its marks."""
    body = "\n\n".join(part for task in ("trec", "sst2") for part in _task(task))
    return with_body(text, body, BEGIN, END)


def _task(task: str) -> Iterable[str]:
    from jola.studies.results import Comparison

    if not (FOLDER / task).is_dir():
        return
    comparison = Comparison.open(FOLDER / task)
    cells = comparison.cells()
    if not cells:
        return
    done = {cell.name for cell in cells}
    yield f"## {task}"
    yield _ran(task, done)
    yield _accuracies(comparison)
    for k in ("auto", "16", "64"):
        overlaps = _overlaps(comparison, k)
        if overlaps:
            yield overlaps
    yield _ranks(comparison)


def _ran(task: str, done: set[str]) -> str:
    """What of the plan there is, by its parts and seeds."""
    from jola.studies.selector_grid import SelectorGrid

    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    lines = [f"Trainings that have run, of those planned:\n\n| | {seeds} |\n|{'---|' * (1 + len(SEEDS))}"]
    for stage in STAGES.values():
        if stage.task != task:
            continue
        for words, selectors, swaps in (
            ("select, then edit", stage.selectors, ()),
            ("gate swap", (), stage.swaps),
        ):
            if not selectors and not swaps:
                continue
            counts = []
            for seed in SEEDS:
                grid = SelectorGrid(selectors, swaps, stage.ks, (seed,))
                names = [name for name in grid.cell_names() if not name.startswith("jola-")]
                counts.append(f"{sum(name in done for name in names)} of {len(names)}")
            lines.append(f"| {words}, K = {', '.join(stage.ks)} | {' | '.join(counts)} |")
    return "\n".join(lines)


def _accuracies(comparison: Any) -> str:
    from jola.system.formatting import interval_text

    protocols = {"base": "no edits", "jola": "JoLA", "edit": "select, then edit", "swap": "gate swap"}
    head = (
        "| heads chosen by | protocol | K | heads | accuracy (95 % interval) | n | minus JoLA (95 % interval) "
        "| p (Holm) | selection ÷ JoLA's training, processor time | steps of selection |\n|" + "---|" * 10
    )
    lines = [head]
    steps = _steps(comparison)
    for row in comparison.rows():
        n = f"{row.items} × {row.seeds}" if row.protocol != "base" else str(row.items)
        lines.append(
            "| "
            + " | ".join(
                (
                    f"`{row.method}`" if row.protocol in ("edit", "swap") else "–",
                    protocols[row.protocol],
                    row.k or "–",
                    "–" if row.heads is None else f"{row.heads:.0f}",
                    interval_text(row.accuracy, row.low, row.high),
                    n,
                    _difference(row),
                    "–" if row.p_holm is None else f"{row.p_holm:.2g}",
                    "–" if row.processor_ratio is None or row.method == "jola" else f"{row.processor_ratio:.2f}",
                    steps.get((row.protocol, row.method, row.k), "–"),
                )
            )
            + " |"
        )
    return "\n".join(lines)


def _difference(row: Any) -> str:
    from jola.system.formatting import interval_text

    if row.difference is None:
        return "–"
    return interval_text(row.difference, row.difference_low, row.difference_high, sign="+")


def _steps(comparison: Any) -> dict[tuple[str, str, str], str]:
    found: dict[tuple[str, str, str], list[int]] = {}
    for cell in comparison.cells():
        if cell.protocol == "edit" and cell.method != "jola":
            found.setdefault((cell.protocol, cell.method, cell.k), []).append(cell.selection.steps)
    return {key: f"{statistics.mean(steps):.0f}" for key, steps in found.items()}


def _overlaps(comparison: Any, k: str) -> str:
    """Jaccard index with JoLA's heads, a mean over seeds, with what chance would give."""
    from jola.studies.statistics import overlap

    pairs: dict[str, list[Any]] = {}
    sizes: list[int] = []
    for seed in SEEDS:
        sets = comparison.head_sets(seed, k)
        scores = comparison.scores(f"jola-seed{seed}")
        if scores is None or len(sets) < 2:
            continue
        reference = sets.pop("jola", None) if k == "auto" else scores.top(int(k))
        sets.pop("jola", None)
        if reference is None:
            continue
        sizes.append(len(reference))
        for method, heads in sets.items():
            pairs.setdefault(method, []).append(overlap(heads, reference))
    if not pairs:
        return ""
    whose = "JoLA's open heads" if k == "auto" else f"the {k} heads with JoLA's largest expected gates"
    span = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    lines = [
        f"Heads in common with {whose} ({span} of the model's heads; means over seeds, p of each seed, one-sided):",
        "",
        "| | Jaccard index | by chance | seeds | p |\n|---|---|---|---|---|",
    ]
    for method, found in pairs.items():
        lines.append(
            f"| `{method}` | {statistics.mean(f.jaccard for f in found):.3f} | "
            f"{statistics.mean(f.expected_jaccard for f in found):.3f} | {len(found)} | "
            f"{', '.join(f'{f.p_value:.2g}' for f in found)} |"
        )
    return "\n".join(lines)


def _ranks(comparison: Any) -> str:
    """Rank correlation with JoLA's expected gates, and of a method with itself for another seed."""
    from jola.studies.statistics import rank_correlation

    by_seed = {seed: scores for seed in SEEDS if (scores := comparison.all_scores(seed))}
    methods = [m for m in SELECTORS if any(m in scores for scores in by_seed.values())]
    lines = [
        "Rank correlation over all heads (Spearman's ρ): with JoLA's expected gates for the same seed, and of a method "
        "with itself for another seed:",
        "",
        "| | with JoLA, by seed | largest p | with itself, by pair of seeds |\n|---|---|---|---|",
    ]
    seeds = list(by_seed)
    for method in methods:
        own = [by_seed[seed][method] for seed in seeds if method in by_seed[seed]]
        with_jola = [
            rank_correlation(by_seed[seed][method], by_seed[seed]["jola"])
            for seed in seeds
            if method in by_seed[seed] and "jola" in by_seed[seed] and method != "jola"
        ]
        itself = [f"{rank_correlation(a, b).spearman:.2f}" for index, a in enumerate(own) for b in own[index + 1 :]]
        shown = ", ".join(f"{found.spearman:.2f}" for found in with_jola) or "–"
        largest = f"{max(found.spearman_p for found in with_jola):.2g}" if with_jola else "–"
        lines.append(f"| `{method}` | {shown} | {largest} | {', '.join(itself) or '–'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
