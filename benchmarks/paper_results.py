"""The paper's tables on the default model, from grids to the page docs/results/paper.md.

    python -m benchmarks.paper_results store main GRID   # the cells that are done, into docs/results/paper/main.json
    python -m benchmarks.paper_results show [main]       # the tables of the page, from those files

Scores are computed from the answers that the run of each cell kept. Accuracies are those of the paper: the first option
in the answer for commonsense reasoning, the extracted letter for MMLU-Pro. Generation has BLEU and ROUGE-L.

The unit of intervals is the seed, if there are three or more; with two, both values are shown, and with one, the
interval is over test examples. Differences to JoLA are paired by task and seed.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.method_results import markdown
from jola.evaluation.answers import score_answers
from jola.methods import METHODS
from jola.studies.grid import Grid
from jola.studies.statistics import mean_over_seeds
from jola.system.files import json_bytes, replace_file

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "results" / "paper"
GROUPS = {"commonsense": ("first_label",), "mmlu_pro": ("answer_letter",), "generation": ("bleu", "rouge_l")}
"""The metrics of each group of tasks. The group of a task is the folder that contains it."""
STUDIES = ("main", "components", "sizes")
BASELINE = "jola"
LEAST = 3
"""Seeds that an interval over seeds needs."""

Cell = Mapping[str, Any]


def cells_of(grid: Grid) -> list[dict[str, Any]]:
    """What the page needs of each cell that is done."""
    found = []
    for name, result in grid.results().items():
        cell, effects = grid.planned[name], result["side_effects"]
        trains = METHODS[cell.arm.partition(":")[0]].trains
        folder = Path(cell.task)
        group = folder.parent.name if folder.parent.name in GROUPS else "commonsense"
        scores = score_answers(grid.cell(name).run.answers() or [], GROUPS[group])
        found.append(
            {
                "arm": cell.arm,
                "task": folder.name,
                "group": group,
                "seed": cell.seed if trains else None,
                "n_train": cell.train_size if trains else None,
                "scores": {s.metric: {"value": s.value, "n": s.n, "low": s.low, "high": s.high} for s in scores},
                "trainable": result["trainable"],
                "kept_step": result["kept_step"],
                "text_kl": effects and effects["kl"]["value"],
            }
        )
    return sorted(found, key=lambda cell: [str(cell[key]) for key in ("group", "task", "seed", "arm", "n_train")])


def read(study: str) -> list[dict[str, Any]]:
    """The stored cells of a study; none before there are any."""
    path = FOLDER / f"{study}.json"
    return json.loads(path.read_text("utf-8"))["cells"] if path.exists() else []


def tables(cells: Sequence[Cell]) -> dict[str, list[list[str]]]:
    """The tables of a study by their titles: scores, then the mean over all accuracies and the difference to JoLA."""
    arms = list(dict.fromkeys(arm for arm in _ordered({cell["arm"] for cell in cells})))
    found = {}
    for group, metrics in GROUPS.items():
        tasks = sorted({cell["task"] for cell in cells if cell["group"] == group})
        if tasks:
            columns = [(task, metric) for task in tasks for metric in metrics]
            heads = [f"{task}, {metric}" if len(metrics) > 1 else task for task, metric in columns]
            rows = [[titled(arm), *(entry(cells, arm, *column) for column in columns)] for arm in arms]
            found[group] = [["method", *heads], *rows]
    found["means"] = [
        ["method", "accuracy", "minus JoLA", "BLEU", "minus JoLA", "KL on plain text", "trained numbers"],
        *(summary(cells, arm) for arm in arms),
    ]
    return found


def _ordered(arms: Iterable[str]) -> list[str]:
    """Methods in the order of the registry, and the variants of each after it."""
    names = list(METHODS)
    return sorted(arms, key=lambda arm: (names.index(arm.partition(":")[0]), arm))


def titled(arm: str) -> str:
    """The name of an arm as people read it."""
    name, *settings = arm.split(":")
    return f"{METHODS[name].title}, {', '.join(settings)}" if settings else METHODS[name].title


def entry(cells: Sequence[Cell], arm: str, task: str, metric: str) -> str:
    """The scores of an arm on a task over seeds."""
    found = [cell["scores"][metric] for cell in cells if (cell["arm"], cell["task"]) == (arm, task)]
    if len(found) == 1 and found[0]["low"] is not None:
        return f"{found[0]['value']:.3f} ({found[0]['low']:.3f}–{found[0]['high']:.3f})"
    return spread([score["value"] for score in found], "{:.3f}")


def spread(values: Sequence[float], form: str) -> str:
    """The mean with a 95 % t interval, or with the single values where there are too few of them."""
    if not values:
        return "–"
    found = mean_over_seeds(values)
    mean = form.format(found.mean)
    if len(values) >= LEAST and found.low is not None and found.high is not None:
        return f"{mean} ({form.format(found.low)} to {form.format(found.high)})"
    return f"{mean} [{', '.join(map(form.format, values))}]" if len(values) > 1 else mean


def summary(cells: Sequence[Cell], arm: str) -> list[str]:
    """Means of an arm over its tasks and seeds, and its differences to JoLA with an interval over tasks."""
    own = [cell for cell in cells if cell["arm"] == arm]

    def over(groups: Iterable[str], metric: Callable[[str], str]) -> tuple[str, str]:
        values: dict[str, list[float]] = defaultdict(list)
        differences: dict[str, list[float]] = defaultdict(list)
        for cell in own:
            if cell["group"] in groups:
                name = metric(cell["group"])
                value = cell["scores"][name]["value"]
                values[cell["task"]].append(value)
                differences[cell["task"]] += [value - other for other in _of_baseline(cells, cell, name)]
        if not values:
            return "–", "–"
        mean = sum(map(_mean, values.values())) / len(values)
        paired = [_mean(each) for each in differences.values() if each]
        return f"{mean:.3f}, {len(values)} tasks", "" if arm == BASELINE else spread(paired, "{:+.3f}")

    accuracy = over([group for group in GROUPS if group != "generation"], lambda group: GROUPS[group][0])
    bleu = over(["generation"], lambda group: GROUPS[group][0])
    effects = [cell["text_kl"] for cell in own if cell["text_kl"] is not None]
    numbers = sorted({cell["trainable"] for cell in own})
    return [
        titled(arm),
        *accuracy,
        *bleu,
        f"{_mean(effects):.2f}, {len(effects)} runs" if effects else "–",
        " to ".join(f"{n:,}" for n in dict.fromkeys((numbers[0], numbers[-1]))),
    ]


def _of_baseline(cells: Iterable[Cell], own: Cell, metric: str) -> list[float]:
    """The scores of JoLA with the task, size and seed of a cell; of every seed for a cell that depends on none."""
    return [
        cell["scores"][metric]["value"]
        for cell in cells
        if (cell["arm"], cell["task"], cell["n_train"]) == (BASELINE, own["task"], own["n_train"] or cell["n_train"])
        and own["seed"] in (None, cell["seed"])
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    """Store or show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("store", "show"))
    parser.add_argument("study", nargs="?", choices=STUDIES, help="which tables")
    parser.add_argument("grid", nargs="?", help="folder of the grid, for 'store'")
    options = parser.parse_args()
    if options.what == "store":
        if not options.study or not options.grid:
            parser.error("store needs the name of a study and the folder of its grid")
        FOLDER.mkdir(parents=True, exist_ok=True)
        replace_file(
            FOLDER / f"{options.study}.json", json_bytes({"cells": cells_of(Grid.open(options.grid))}, indent=1)
        )
        return
    for study in [options.study] if options.study else STUDIES:
        for title, table in tables(read(study)).items() if read(study) else ():
            print(f"{study}, {title}\n\n{markdown(table)}\n")


if __name__ == "__main__":
    main()
