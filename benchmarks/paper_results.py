"""Store results of grids, and write the paper's tables for the default model into docs/results/paper.md.

    python -m benchmarks.paper_results store main GRID   # write finished cells to docs/results/paper/main.json
    python -m benchmarks.paper_results write             # write the tables from these files into the page

Scores are computed from the stored answers of each cell, with the metrics of the paper: the first option in the answer
for commonsense reasoning, the extracted letter for MMLU-Pro, BLEU and ROUGE-L for generation. Short texts, which are
not in the paper, are scored by exact match.

In a study with one seed, intervals are over test examples, and differences to JoLA are paired by example. In a study
with several seeds, intervals are over seeds, and differences are paired by seed.
"""

import argparse
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.method_results import LEAST
from benchmarks.pages import markdown, with_body
from jola.evaluation.answers import metric_named
from jola.methods import METHODS
from jola.runs.answers import TestAnswer
from jola.studies.grid import Grid
from jola.studies.statistics import mean_over_seeds, paired_bootstrap
from jola.system.files import replace_file
from jola.system.formatting import interval_text

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
PAGE = RESULTS / "paper.md"
GROUPS = {
    "commonsense": ("first_label",),
    "mmlu_pro": ("answer_letter",),
    "generation": ("bleu", "rouge_l"),
    "short_text": ("exact_match",),
}
"""The metrics of each group of tasks, which is the folder that contains them. Differences use the first metric."""
BUILT_IN = {"sentiment": "short_text"}
"""Groups of tasks that are not in a folder."""
ACCURACIES = ("commonsense", "mmlu_pro", "short_text")
TITLES = {"bleu": "BLEU", "rouge_l": "ROUGE-L"}
"""Titles of the metrics that are not accuracies."""
STUDIES = ("main", "components", "sizes", "recipes")
BASELINE = "jola"
RESAMPLES = 2000
"""Resamples of the test examples, for BLEU."""

Cell = Mapping[str, Any]
Score = Mapping[str, Any]
Pair = tuple[Score, Score]
"""Scores of an arm and of JoLA with the same seed and examples."""


# From a grid to a file


def cells_of(grid: Grid) -> list[dict[str, Any]]:
    """Return the facts that the page needs of each finished cell."""
    found = []
    for name, result in grid.results().items():
        cell, effects = grid.planned[name], result["side_effects"]
        answers = grid.cell(name).run.answers()
        if not answers:
            raise SystemExit(f"The cell {name} has no answers.")
        group, task = group_and_task(cell.task)
        found.append(
            {
                "arm": cell.arm,
                "group": group,
                "task": task,
                "seed": cell.seed if is_trained(cell.arm) else None,
                "n_train": cell.train_size if is_trained(cell.arm) else None,
                "examples": hashlib.sha256(" ".join(answer.id for answer in answers).encode()).hexdigest()[:12],
                "scores": {metric: score(answers, metric) for metric in GROUPS[group]},
                "trainable": result["trainable"],
                "text_kl": effects and effects["kl"]["value"],
            }
        )
    return sorted(found, key=lambda cell: [str(cell[key]) for key in ("group", "task", "seed", "arm", "n_train")])


def group_and_task(task: str) -> tuple[str, str]:
    """Return the group and the name of a task."""
    path = Path(task)
    group = BUILT_IN.get(task, path.parent.name)
    if group not in GROUPS:
        raise SystemExit(f"{task} is not in a folder of one of these groups: {', '.join(GROUPS)}.")
    return group, path.name


def score(answers: Sequence[TestAnswer], name: str) -> dict[str, Any]:
    """Return value, n and interval of a metric, and the data for paired intervals.

    For an accuracy, these are a string with 1 for each right answer; for BLEU, the counts of each answer.
    """
    metric, examples = metric_named(name), [answer.example for answer in answers]
    given = [answer.answer for answer in answers]
    found = metric.score(given, examples)
    kept: dict[str, Any] = {"value": found.value, "n": found.n, "low": found.low, "high": found.high}
    values = metric.values(given, examples, None)
    if name not in TITLES:
        kept["right"] = "".join({0.0: "0", 1.0: "1"}[value] for value in values)
    elif metric.total is not None:
        kept["counts"] = [[int(count) for count in row] for row in values]
    return kept


def is_trained(arm: str) -> bool:
    """Return whether the results of an arm depend on training examples and seed."""
    return METHODS[method_of(arm)].trains


def method_of(arm: str) -> str:
    """Return the method of an arm such as ``jola:gates=none``."""
    return arm.partition(":")[0]


# From a file to tables


def read(study: str) -> list[dict[str, Any]]:
    """Return the stored cells of a study; an empty list if it has no file."""
    path = RESULTS / "paper" / f"{study}.json"
    return json.loads(path.read_text("utf-8"))["cells"] if path.exists() else []


def tables(cells: Sequence[Cell], study: str) -> dict[str, list[list[str]]]:
    """Return the tables of a study by title."""
    found = {}
    if study == "sizes":
        for task in tasks_of(cells):
            found[task] = sizes_table([cell for cell in cells if cell["task"] == task])
        return found
    for group in GROUPS:
        own = [cell for cell in cells if cell["group"] == group]
        if own:
            found[group] = scores_table(own)
            found[f"{group}, minus JoLA"] = differences_table(own)
    return {**found, "all tasks": means_table(cells)} if cells else {}


def titled(arm: str) -> str:
    """Return the name of an arm for the page."""
    name, *settings = arm.split(":")
    return ", ".join((METHODS[name].title, *(setting.replace("=", " = ") for setting in settings)))


def arms_of(cells: Iterable[Cell]) -> list[str]:
    """Return the arms: methods in registry order, each followed by its variants."""
    names = list(METHODS)
    return sorted({cell["arm"] for cell in cells}, key=lambda arm: (names.index(method_of(arm)), arm))


def tasks_of(cells: Iterable[Cell]) -> list[str]:
    """Return the sorted names of the tasks."""
    return sorted({cell["task"] for cell in cells})


def has_seeds(cells: Iterable[Cell]) -> bool:
    """Return whether there are several seeds, so that intervals are over seeds."""
    return len({cell["seed"] for cell in cells} - {None}) > 1


def scores_table(cells: Sequence[Cell]) -> list[list[str]]:
    """Return the scores of a group of tasks, with one row per arm."""
    columns = [(task, metric) for task in tasks_of(cells) for metric in GROUPS[cells[0]["group"]]]
    heads = []
    for task, metric in columns:
        sizes = sorted({cell["scores"][metric]["n"] for cell in cells if cell["task"] == task})
        title = f"{task}, {TITLES[metric]}" if metric in TITLES else task
        heads.append(f"{title} (n = {' or '.join(map(str, sizes))})")
    rows = []
    for arm in arms_of(cells):
        own = [[c["scores"][metric] for c in cells if (c["arm"], c["task"]) == (arm, task)] for task, metric in columns]
        rows.append([titled(arm), *(entry(scores, has_seeds(cells)) for scores in own)])
    return [["method", *heads], *rows]


def sizes_table(cells: Sequence[Cell]) -> list[list[str]]:
    """Return scores on a task and differences to JoLA, with one column per number of training examples."""
    sizes = sorted({cell["n_train"] for cell in cells} - {None})
    metric = GROUPS[cells[0]["group"]][0]
    by_size = [[cell for cell in cells if cell["n_train"] in (None, n)] for n in sizes]
    rows = []
    for arm in arms_of(cells):
        own = [[cell["scores"][metric] for cell in column if cell["arm"] == arm] for column in by_size]
        rows.append([titled(arm), *(entry(scores, has_seeds(cells)) for scores in own)])
    for arm in arms_of(cells):
        if arm != BASELINE:
            found = [difference(pairs_of(column, arm), has_seeds(cells)) for column in by_size]
            rows.append([f"{titled(arm)} minus {titled(BASELINE)}", *found])
    tested = sorted({cell["scores"][metric]["n"] for cell in cells})
    return [[f"training examples (n = {' or '.join(map(str, tested))})", *map(str, sizes)], *rows]


def entry(scores: Sequence[Score], seeds: bool) -> str:
    """Format the mean over seeds with its interval, or the score of the only seed with its interval over examples."""
    if seeds or not scores:
        return over_values([score["value"] for score in scores])
    (only,) = scores
    return interval_text(only["value"], only["low"], only["high"])


def over_values(values: Sequence[float], sign: str = "") -> str:
    """Format the mean with a 95 % t interval, or with all values if there are too few for an interval."""
    if not values:
        return "–"
    found = mean_over_seeds(values)
    if 1 < found.n < LEAST:
        return f"{found.mean:{sign}.3f} [{', '.join(f'{value:{sign}.3f}' for value in values)}]"
    return interval_text(found.mean, found.low, found.high, sign=sign)


# Differences


def differences_table(cells: Sequence[Cell]) -> list[list[str]]:
    """Return differences to JoLA for a group of tasks, in the first metric."""
    tasks = tasks_of(cells)
    rows = []
    for arm in arms_of(cells):
        if arm != BASELINE:
            pairs = [pairs_of([cell for cell in cells if cell["task"] == task], arm) for task in tasks]
            rows.append([titled(arm), *(difference(found, has_seeds(cells)) for found in pairs)])
    return [["method", *tasks], *rows]


def pairs_of(cells: Sequence[Cell], arm: str) -> list[Pair]:
    """Return pairs of scores of an arm and of JoLA on one task, with equal seed and training size, in seed order.

    An arm that depends on neither seed nor training examples is paired with each cell of JoLA.
    """
    own = {(cell["seed"], cell["n_train"]): cell for cell in cells if cell["arm"] == arm}
    found = []
    for cell in sorted((c for c in cells if c["arm"] == BASELINE), key=lambda c: (c["seed"], c["n_train"])):
        other = own.get((cell["seed"], cell["n_train"])) or own.get((None, None))
        if other:
            if other["examples"] != cell["examples"]:
                raise SystemExit(f"{arm} and {BASELINE} were tested on different examples of {cell['task']}.")
            metric = GROUPS[cell["group"]][0]
            found.append((other["scores"][metric], cell["scores"][metric]))
    return found


def difference(pairs: Sequence[Pair], seeds: bool) -> str:
    """Format the mean difference over seeds with its interval, or that of the only seed with one over examples."""
    values = [own["value"] - other["value"] for own, other in pairs]
    if seeds or not pairs:
        return over_values(values, "+")
    ((own, other),) = pairs
    if own == other:
        return "+0.000, the same answers are correct"
    return interval_text(values[0], *over_examples(own, other), sign="+")


def over_examples(own: Score, other: Score) -> tuple[float, float]:
    """Return the 95 % interval of a difference, from resampled test examples."""
    if "right" in own:
        found = paired_bootstrap([letter == "1" for letter in own["right"]], [r == "1" for r in other["right"]])
        return found.low, found.high
    total = metric_named("bleu").total
    assert total is not None
    first, second = np.array(own["counts"]), np.array(other["counts"])
    draws = np.random.default_rng(0).integers(0, len(first), (RESAMPLES, len(first)))
    low, high = np.quantile([total(first[d].sum(0)) - total(second[d].sum(0)) for d in draws], [0.025, 0.975])
    return float(low), float(high)


# Means over tasks


def means_table(cells: Sequence[Cell]) -> list[list[str]]:
    """Return means over the tasks that all arms have, and differences to JoLA with a t interval over tasks."""
    arms = arms_of(cells)
    shared = [task for task in tasks_of(cells) if {c["arm"] for c in cells if c["task"] == task} == set(arms)]
    own = [cell for cell in cells if cell["task"] in shared]
    parts = {
        "accuracy": [cell for cell in own if cell["group"] in ACCURACIES],
        "BLEU": [cell for cell in own if cell["group"] not in ACCURACIES],
    }
    parts = {name: part for name, part in parts.items() if part}
    heads = [head for name, part in parts.items() for head in (f"{name}, {_tasks(part)}", "minus JoLA")]
    rows = []
    for arm in arms:
        of_arm = [cell for cell in own if cell["arm"] == arm]
        numbers = sorted({cell["trainable"] for cell in of_arm})
        effects = task_means(of_arm, lambda cell: cell["text_kl"])
        rows.append(
            [
                titled(arm),
                *(text for part in parts.values() for text in over_tasks(part, arm)),
                f"{np.mean(list(effects.values())):.2f}" if effects else "–",
                " to ".join(f"{number:,}" for number in dict.fromkeys(numbers[:1] + numbers[-1:])),
            ]
        )
    return [["method", *heads, f"KL on plain text, {_tasks(own)}", "trainable parameters"], *rows]


def _tasks(cells: Iterable[Cell]) -> str:
    number = len(tasks_of(cells))
    return f"{number} task{'s' * (number != 1)}"


def over_tasks(cells: Sequence[Cell], arm: str) -> tuple[str, str]:
    """Return the mean score of an arm, with equal weight per task, and its difference to JoLA."""
    means = task_means([cell for cell in cells if cell["arm"] == arm], first_score)
    mean = f"{np.mean(list(means.values())):.3f}"
    if arm == BASELINE:
        return mean, ""
    pairs = [pairs_of([cell for cell in cells if cell["task"] == task], arm) for task in means]
    values = [float(np.mean([own["value"] - other["value"] for own, other in each])) for each in pairs if each]
    return mean, over_values(values, "+")


def first_score(cell: Cell) -> float:
    """Return the value of the first metric, which differences use."""
    return cell["scores"][GROUPS[cell["group"]][0]]["value"]


def task_means(cells: Iterable[Cell], value: Any) -> dict[str, float]:
    """Return the mean of a value over the cells of each task, without cells whose value is None."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        if (number := value(cell)) is not None:
            found.setdefault(cell["task"], []).append(number)
    return {task: float(np.mean(numbers)) for task, numbers in sorted(found.items())}


def section(study: str) -> str:
    """Return the tables of a study as Markdown."""
    return "\n\n".join(f"#### {title}\n\n{markdown(table)}" for title, table in tables(read(study), study).items())


def written(page: str) -> str:
    """Return the page with the tables of all studies that have results."""
    for study in STUDIES:
        if read(study):
            page = with_body(page, section(study), f"<!-- {study} -->", f"<!-- end of {study} -->")
    return page


def main() -> None:
    """Store results, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("store", "write"))
    parser.add_argument("study", nargs="?", choices=STUDIES, help="for 'store'")
    parser.add_argument("grid", nargs="?", help="folder of the grid, for 'store'")
    options = parser.parse_args()
    if options.what == "store":
        if not options.study or not options.grid:
            parser.error("store needs the name of a study and the folder of its grid")
        cells = cells_of(Grid.open(options.grid))
        (RESULTS / "paper").mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(cell) for cell in cells)  # one line per cell
        replace_file(RESULTS / "paper" / f"{options.study}.json", f'{{"cells": [\n{lines}\n]}}\n'.encode())
        return
    replace_file(PAGE, written(PAGE.read_text("utf-8")).encode())


if __name__ == "__main__":
    main()
