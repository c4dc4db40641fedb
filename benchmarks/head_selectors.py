"""Compare edits of the heads that selectors choose: the results of docs/results/selectors.md.

    python -m benchmarks.head_selectors DATA [--studies trec-few] [--parts 0 1] [--seeds 42 43] [--results FOLDER]
    python -m benchmarks.head_selectors --page      # only writes the page from the stored results

DATA contains one folder for each task, with train, validation and test files. Results are written to
docs/results/selectors/STUDY as they are computed, and are not computed again. Several processes can run different seeds
of a study at the same time. Only the part of the page between its marks is written.
"""

import argparse
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pages import markdown, with_body

ROOT = Path(__file__).resolve().parent.parent

FOLDER = ROOT / "docs" / "results" / "selectors"
PAGE = ROOT / "docs" / "results" / "selectors.md"
BEGIN, END = "<!-- results: written by benchmarks/head_selectors.py -->", "<!-- end of results -->"
SELECTORS = ("jola", "smp", "dsp", "pass", "gradient", "offset", "lofit", "ablation", "random")
SWAPS = ("dsp", "pass")
EPOCHS, L0_WEIGHT, VALIDATION_SIZE, TEST_SIZE = 2, 1e-2, 40, 300
"""The budget of every training, less than the defaults have: a larger λ closes as many gates in fewer steps."""


@dataclass(frozen=True)
class Part:
    """Cells of a study that are computed together, seed by seed."""

    selectors: tuple[str, ...]
    swaps: tuple[str, ...]
    ks: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A comparison of selectors on one task in one data type."""

    title: str
    task: str
    dtype: str
    seeds: tuple[int, ...]
    parts: tuple[Part, ...]

    @property
    def ks(self) -> tuple[str, ...]:
        """Every K, in the order of the parts."""
        return tuple(dict.fromkeys(k for part in self.parts for k in part.ks))


FEW = ("16", "64", "halves")
EIGHT = tuple(range(42, 50))
FEW_PARTS = (
    Part(("jola", "random", "offset"), (), FEW),
    Part(("gradient", "lofit", "dsp"), (), FEW),
    Part(("pass", "smp", "ablation"), (), FEW),
    Part(("dsp_tuned", "pass_tuned"), (), FEW),
    Part((), SWAPS, ("auto",)),
)
STUDIES: Mapping[str, Study] = {
    "trec-few": Study("TREC, few heads and equal halves", "trec", "bfloat16", EIGHT, FEW_PARTS),
    "sst2-few": Study("SST-2, few heads and equal halves", "sst2", "bfloat16", EIGHT, FEW_PARTS),
    "trec": Study(
        "TREC, as many heads as JoLA leaves open",
        "trec",
        "float32",
        (42, 43, 44),
        (Part(SELECTORS, (), ("auto",)), Part((), SWAPS, ("auto",))),
    ),
}


def main() -> None:
    """Compute what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the tasks")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--parts", nargs="+", type=int, help="only these parts of the studies, by number from 0")
    parser.add_argument("--seeds", nargs="+", type=int, help="only these seeds")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the results")
    parser.add_argument("--page", action="store_true", help="only write the page")
    options = parser.parse_args()
    if not options.page:
        if options.data is None:
            parser.error("the folder of the tasks is missing")
        results = options.results.resolve()
        # Settings name a task by its folder, and are the same on every machine.
        os.chdir(options.data)
        for name in options.studies:
            study = STUDIES[name]
            for number, part in enumerate(study.parts):
                for seed in study.seeds:
                    if number in (options.parts or [number]) and seed in (options.seeds or [seed]):
                        run(study, part, seed, results / name)
    if options.results == FOLDER:
        write_page()


def run(study: Study, part: Part, seed: int, folder: Path) -> None:
    """Compute the missing cells of a part for one seed."""
    from jola.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
    from jola.studies.comparison import compare
    from jola.studies.results import Comparison
    from jola.studies.selector_grid import SelectorGrid

    grid = SelectorGrid(part.selectors, part.swaps, part.ks, (seed,))
    stored = Comparison(folder)
    if all(stored.cell(name) for name in grid.cell_names()):
        return
    config = RunConfig(
        model=ModelConfig(dtype=study.dtype),
        data=DataConfig(task=study.task, validation_size=VALIDATION_SIZE, test_size=TEST_SIZE),
        training=TrainingConfig(epochs=EPOCHS, l0_weight=L0_WEIGHT),
    )
    compare(config, grid, folder, progress=_Lines())


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
    body = "\n\n".join(part for name, study in STUDIES.items() for part in _study(name, study))
    return with_body(text, body, BEGIN, END)


def _study(name: str, study: Study) -> Iterator[str]:
    from jola.studies.results import Comparison

    if not (FOLDER / name).is_dir():
        return
    comparison = Comparison.open(FOLDER / name)
    cells = comparison.cells()
    if not cells:
        return
    yield f"## {study.title}"
    yield _ran(study, {cell.name for cell in cells})
    yield _accuracies(comparison)
    for reference in ("random", "jola"):
        if against := _paired(study, cells, reference):
            yield against
    if trained := _on_a_trained_base(study, cells):
        yield trained
    for k in study.ks:
        if k != "halves" and (overlaps := _overlaps(comparison, study.seeds, k)):
            yield overlaps
    yield _ranks(comparison, study)


def _ran(study: Study, done: set[str]) -> str:
    """The number of stored training runs by part and seed."""
    from jola.studies.selector_grid import SelectorGrid

    head = ["", *(f"seed {seed}" for seed in study.seeds)]
    rows = []
    for part in study.parts:
        words = "select, then edit" if part.selectors else "gate swap"
        names = ", ".join(f"`{name}`" for name in part.selectors or part.swaps)
        counts = []
        for seed in study.seeds:
            grid = SelectorGrid(part.selectors, part.swaps, part.ks, (seed,))
            planned = [name for name in grid.cell_names() if not name.startswith("jola-")]
            counts.append(f"{sum(name in done for name in planned)} of {len(planned)}")
        rows.append([f"{words}, K = {', '.join(part.ks)}: {names}", *counts])
    return f"Training runs that have run, of those planned, in {study.dtype}:\n\n{markdown([head, *rows])}"


def _accuracies(comparison: Any) -> str:
    from jola.system.formatting import interval_text

    protocols = {"base": "no edits", "jola": "JoLA", "edit": "select, then edit", "swap": "gate swap"}
    steps = _steps(comparison)
    table = [
        [
            "heads chosen by",
            "protocol",
            "K",
            "heads",
            "offsets / scales",
            "accuracy (95 % interval)",
            "n",
            "minus JoLA (95 % interval)",
            "p (Holm)",
            "selection ÷ JoLA's training, CPU time",
            "steps of selection",
        ]
    ]
    table += [
        [
            f"`{row.method}`" if row.protocol in ("edit", "swap") else "–",
            protocols[row.protocol],
            row.k or "–",
            "–" if row.heads is None else f"{row.heads:.0f}",
            "–" if row.offsets is None else f"{row.offsets:.0f} / {row.scales:.0f}",
            interval_text(row.accuracy, row.low, row.high),
            f"{row.items} × {row.seeds}" if row.protocol != "base" else str(row.items),
            _difference(row),
            "–" if row.p_holm is None else f"{row.p_holm:.2g}",
            "–" if row.processor_ratio is None or row.method == "jola" else f"{row.processor_ratio:.2f}",
            steps.get((row.protocol, row.method, row.k), "–"),
        ]
        for row in comparison.rows()
    ]
    return markdown(table)


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


def _paired(study: Study, cells: Sequence[Any], reference: str) -> str:
    """Accuracy minus that of edits of the heads that `reference` chooses, with the same K and seed."""
    accuracy = {(c.protocol, c.method, c.k, c.seed): c.accuracy for c in cells}
    methods = [name for part in study.parts for name in part.selectors if name not in (reference, "random")]
    ks = [k for k in study.ks if any(key[1:3] == (reference, k) for key in accuracy)]
    numbers = tuple(k for k in ks if k.isdigit())
    columns = {f"K = {k}": (k,) for k in ks}
    if len(numbers) > 1:
        columns[f"mean of K = {' and '.join(numbers)}"] = numbers
    rows = []
    for name in ("", *methods):
        row = [_paired_cell(accuracy, study.seeds, name, reference, chosen) for chosen in columns.values()]
        if any(cell != "–" for cell in row):
            rows.append([f"`{name}`" if name else "JoLA", *row])
    if not ks or not rows:
        return ""
    heads = "random heads" if reference == "random" else f"the heads that `{reference}` chooses"
    return (
        f"Accuracy minus that of edits of {heads} with the same K, paired by seed (95 % interval, number of seeds):\n\n"
        + markdown([["", *columns], *rows])
    )


def _on_a_trained_base(study: Study, cells: Sequence[Any]) -> str:
    """Accuracy with the scores of a base that was trained first, minus that with scores of the base as it is."""
    accuracy = {(c.protocol, c.method, c.k, c.seed): c.accuracy for c in cells}
    trained = [name for part in study.parts for name in part.selectors if name.endswith("_tuned")]
    ks = [k for k in study.ks if any(key[1] in trained and key[2] == k for key in accuracy)]
    if not ks:
        return ""
    rows = [["", *(f"K = {k}" for k in ks)]]
    rows += [
        [f"`{name}`", *(_paired_cell(accuracy, study.seeds, name, name.removesuffix("_tuned"), (k,)) for k in ks)]
        for name in trained
    ]
    return (
        "Accuracy with heads chosen on a base that was trained first, minus that with heads that the same selector "
        f"chooses on the base as it is, paired by seed (95 % interval, number of seeds):\n\n{markdown(rows)}"
    )


def _paired_cell(
    accuracy: Mapping[tuple[str, str, str, int], float],
    seeds: Sequence[int],
    method: str,
    reference: str,
    ks: Sequence[str],
) -> str:
    """Format the mean difference over seeds, each the mean over `ks`; an empty method is JoLA's own training."""
    from jola.studies.statistics import mean_over_seeds
    from jola.system.formatting import interval_text

    changes = []
    for seed in seeds:
        others = [("edit", reference, k, seed) for k in ks]
        own = [("edit", method, k, seed) if method else ("jola", "jola", "", seed) for k in ks]
        if accuracy.keys() >= {*own, *others}:
            pairs = zip(own, others, strict=True)
            changes.append(statistics.fmean(accuracy[one] - accuracy[other] for one, other in pairs))
    if not changes:
        return "–"
    found = mean_over_seeds(changes)
    return f"{interval_text(found.mean, found.low, found.high, sign='+')}, {found.n}"


def _overlaps(comparison: Any, seeds: Sequence[int], k: str) -> str:
    """Jaccard index with JoLA's heads, a mean over seeds, beside the value expected by chance."""
    from jola.studies.statistics import overlap

    found: dict[str, list[Any]] = {}
    sizes: list[int] = []
    for seed in seeds:
        sets = comparison.head_sets(seed, k)
        reference = sets.pop("jola", None) if k == "auto" else _best_of_jola(comparison, seed, int(k))
        sets.pop("jola", None)
        if reference is None or not sets:
            continue
        sizes.append(len(reference))
        for method, heads in sets.items():
            found.setdefault(method, []).append(overlap(heads, reference))
    if not found:
        return ""
    whose = "JoLA's open heads" if k == "auto" else f"the {k} heads with JoLA's largest expected gates"
    sentence = (
        f"Heads in common with {whose} ({_range(sizes, '')} of the model's heads); means over seeds, and "
        "the smallest and largest one-sided p:"
    )
    rows = [["", "Jaccard index", "by chance", "seeds", "p"]]
    rows += [
        [
            f"`{method}`",
            f"{statistics.mean(o.jaccard for o in overlaps):.3f}",
            f"{statistics.mean(o.expected_jaccard for o in overlaps):.3f}",
            str(len(overlaps)),
            _range([o.p_value for o in overlaps], ".2g"),
        ]
        for method, overlaps in found.items()
    ]
    return f"{sentence}\n\n{markdown(rows)}"


def _best_of_jola(comparison: Any, seed: int, k: int) -> Any:
    scores = comparison.scores(f"jola-seed{seed}")
    return scores and scores.top(k)


def _ranks(comparison: Any, study: Study) -> str:
    """Rank correlation with JoLA's expected gates, and of a method with itself for another seed."""
    from jola.studies.statistics import rank_correlation

    by_seed = [scores for seed in study.seeds if (scores := comparison.all_scores(seed))]
    rows = [["", "with JoLA", "largest p", "seeds", "with itself", "pairs of seeds"]]
    for method in dict.fromkeys(name for part in study.parts for name in part.selectors):
        own = [scores[method] for scores in by_seed if method in scores]
        if not own:
            continue
        with_jola = [
            rank_correlation(scores[method], scores["jola"])
            for scores in by_seed
            if method != "jola" and {method, "jola"} <= scores.keys()
        ]
        itself = [rank_correlation(a, b).spearman for index, a in enumerate(own) for b in own[index + 1 :]]
        rows.append(
            [
                f"`{method}`",
                _mean_and_range([found.spearman for found in with_jola]),
                f"{max(found.spearman_p for found in with_jola):.2g}" if with_jola else "–",
                str(len(own)),
                _mean_and_range(itself),
                str(len(itself)),
            ]
        )
    return (
        "Rank correlation over all heads (Spearman's ρ, mean and range) with JoLA's expected gates for the same seed, "
        f"and of a method with itself for another seed:\n\n{markdown(rows)}"
    )


def _range(values: Sequence[float], digits: str) -> str:
    low, high = (format(value, digits) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _mean_and_range(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f} ({_range(values, '.2f')})" if values else "–"


if __name__ == "__main__":
    main()
