"""Repeat training runs with one change at a time: the results of docs/results/training.md and training-tables.md.

    python -m benchmarks.training_experiments plan [--experiments steady] [--arms baseline] [--seeds 1 2]
    python -m benchmarks.training_experiments run DATA [--minutes 60] [the same options]
    python -m benchmarks.training_experiments run DATA --test POLICY … [the same options]
    python -m benchmarks.training_experiments show [--markdown]

DATA contains one folder for each task, with train, validation and test files. A cell of the plan is one training. Its
result is written to docs/results/training/EXPERIMENT when it ends. Cells with a result, and cells that another process
runs, are skipped.

Every training runs to its last step. Where early stopping would have ended it, and which epoch each policy would have
kept, is computed afterwards (`benchmarks/training_results.py`), because neither changes the preceding steps. The 100
validation examples are those that `jola train` draws; the parameters that a policy keeps are scored on other, held-out
examples. Only ``--test`` reads the test part: run it once, for the arms and policies chosen on held-out examples.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

FOLDER = ROOT / "docs" / "results" / "training"
PAGE, TABLES = (ROOT / "docs" / "results" / name for name in ("training.md", "training-tables.md"))
DEFAULTS = ROOT / "docs" / "defaults.md"
STATES = ROOT / "build" / "training"
BEGIN, END = "<!-- results: written by benchmarks/training_experiments.py -->", "<!-- end of results -->"


BASELINE: Mapping[str, Any] = {
    "gates": "two",
    "gate_start": 2.0,
    "epochs": 8,
    "batch_size": 4,
    "learning_rate": 5e-3,
    "gate_learning_rate": 0.15,
    "l0_weight": 2e-3,
    "l0_schedule": "constant",
    "settle_ratio": 0.0,
    "warmup_ratio": 0.1,
    "max_grad_norm": 1.0,
}
"""Settings of the arm ``baseline``, which other arms change. All other settings are the defaults of `jola train`."""


@dataclass(frozen=True)
class Arm:
    """One change to the baseline.

    `settings` are settings of `jola train`. `clip` is 'together' (one norm over all gradients) or 'apart' (one norm for
    the edits and one for the gates, each clipped to ``max_grad_norm``). `adam` is (β₁, β₂, ε).
    """

    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    clip: str = "together"
    adam: tuple[float, float, float] = (0.9, 0.999, 1e-8)

    def levers(self) -> dict[str, Any]:
        """Return the changes that are not settings of `jola train`."""
        default = Arm("")
        names = ("clip", "adam")
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(default, name)}


DEFAULT_ARM = "baseline"
"""The arm with the default settings of `jola train`."""
ARMS = {
    "baseline": Arm("baseline"),
    "no-gates": Arm("edits without gates", {"gates": "none"}),
    "late-l0": Arm("λ = 0 for the first quarter of the steps", {"l0_schedule": "late"}),
    "rate-2e-3": Arm("rate of the edits 2e-3", {"learning_rate": 2e-3}),
    "settled-50": Arm("gates fixed at their evaluation values after half of the steps", {"settle_ratio": 0.5}),
    "settled-75": Arm(
        "gates fixed at their evaluation values after three quarters of the steps", {"settle_ratio": 0.25}
    ),
    "lower-l0": Arm("λ = 5e-4", {"l0_weight": 5e-4}),
    "late-settled": Arm(
        "λ = 0 for the first quarter of the steps, gates fixed after three quarters",
        {"l0_schedule": "late", "settle_ratio": 0.25},
    ),
    "late-settled-4e-3": Arm(
        "λ = 0 for the first quarter of the steps, then 4e-3, gates fixed after three quarters",
        {"l0_schedule": "late", "settle_ratio": 0.25, "l0_weight": 4e-3},
    ),
    "batch-8": Arm("batches of 8, 16 epochs", {"batch_size": 8, "epochs": 16}),
    "gate-rate-0.05": Arm("rate of the gates 0.05", {"gate_learning_rate": 0.05}),
    "warmup-25": Arm("warm-up over a quarter of the steps", {"warmup_ratio": 0.25}),
    "clip-apart": Arm("gradients of edits and gates clipped apart", clip="apart"),
    "no-l0": Arm("gates without a penalty", {"l0_weight": 0.0}),
    "beta2-0.99": Arm("Adam's β₂ = 0.99", adam=(0.9, 0.99, 1e-8)),
    "eps-1e-6": Arm("Adam's ε = 1e-6", adam=(0.9, 0.999, 1e-6)),
    "clip-10": Arm("gradients clipped at 10", {"max_grad_norm": 10.0}),
}


@dataclass(frozen=True)
class Cell:
    """One training: an arm on a task, with the seed of the examples and the seed of everything else."""

    experiment: str
    task: str
    data_seed: int
    arm: str
    seed: int
    dtype: str = "bfloat16"

    @property
    def name(self) -> str:
        """The name of the result file without its extension."""
        return f"{self.task}-{self.data_seed}-{self.dtype}-{self.arm}-seed{self.seed}"


def plan() -> list[Cell]:
    """Return all cells, the most informative first; seeds come in rounds, so that an interrupted plan is balanced."""
    first, others = (DEFAULT_ARM, "no-gates", "late-l0"), ("sst2", "snips", "subj", "vader_tweets")
    cells = []
    for dtype, arms in (("bfloat16", first), ("bfloat16", ARMS), ("float32", first)):
        for seed in range(1, 9):
            cells += [Cell("steady", "trec", 44, arm, seed, dtype) for arm in arms]
            cells += [Cell("tasks", task, 44, arm, seed, dtype) for task in others for arm in arms]
    return list(dict.fromkeys(cells))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--results", type=Path, default=FOLDER, help="folder of the results")
    chosen.add_argument("--experiments", nargs="+", help="only these")
    chosen.add_argument("--tasks", nargs="+", help="only these")
    chosen.add_argument("--arms", nargs="+", choices=ARMS, help="only these")
    chosen.add_argument("--seeds", nargs="+", type=int, help="only these training seeds")
    chosen.add_argument("--dtypes", nargs="+", help="only these data types")
    commands.add_parser("plan", parents=[chosen], help="list the cells, done and open")
    running = commands.add_parser("run", parents=[chosen], help="run the open cells")
    running.add_argument("data", type=Path, help="folder of the tasks")
    running.add_argument("--states", type=Path, default=STATES, help="folder of the saved parameters")
    running.add_argument("--minutes", type=float, default=float("inf"), help="start no training after this time")
    running.add_argument(
        "--test", nargs="+", metavar="POLICY", help="test what these policies keep, instead of training"
    )
    showing = commands.add_parser("show", parents=[chosen], help="print the tables")
    showing.add_argument("--markdown", action="store_true", help="write them into the pages instead")
    options = parser.parse_args()
    if options.command == "show":
        show(options.results, page=options.markdown)
        return
    wanted = {"experiment": "experiments", "task": "tasks", "arm": "arms", "seed": "seeds", "dtype": "dtypes"}
    cells = [
        cell
        for cell in plan()
        if all(
            getattr(options, many) is None or getattr(cell, one) in getattr(options, many)
            for one, many in wanted.items()
        )
    ]
    if options.command == "plan":
        for cell in cells:
            print("done " if path_of(cell, options.results).exists() else "open ", cell.experiment, cell.name)
        return
    from benchmarks.training_results import POLICIES
    from jola.studies.cells import Locked, locked

    results, states = options.results.resolve(), options.states.resolve()
    # Tasks are named by their folders relative to DATA, so that stored settings are the same on every machine.
    os.chdir(options.data)
    end = time.monotonic() + 60 * options.minutes
    for cell in cells:
        place = path_of(cell, results), states / cell.experiment / cell.name
        if time.monotonic() >= end:
            return
        with suppress(Locked), locked(place[1]):
            if not options.test and not place[0].exists():
                run(cell, *place)
            if place[0].exists() and place[1].exists():
                score_kept(cell, *place, "test" if options.test else "held_out", options.test or list(POLICIES))


def path_of(cell: Cell, results: Path) -> Path:
    """Return the path of the result of a cell."""
    return results / cell.experiment / f"{cell.name}.json"


def run(cell: Cell, path: Path, states: Path) -> None:
    """Train one cell and store its result."""
    from benchmarks.training_cell import train

    result = train(cell, ARMS[cell.arm], states)
    store(path, result)
    last = result["epochs"][-1]["correct"]
    print(f"{cell.name}: {last.count('1')} of {len(last)} correct, {result['seconds']} s", flush=True)


def score_kept(cell: Cell, path: Path, states: Path, part: str, policies: Sequence[str]) -> None:
    """Score the parameters of one training that policies keep, and add missing scores to the stored result.

    Args:
        part: Examples to score: 'held_out' or 'test'.
    """
    from benchmarks.training_results import POLICIES, Training

    training = Training(json.loads(path.read_text(encoding="utf-8")))
    done = training.data.get(part, {})
    names = {POLICIES[policy].kept(training).name for policy in policies} - set(done)
    if names:
        from benchmarks import training_cell

        score = training_cell.score_held_out if part == "held_out" else training_cell.score_test
        found = score(cell, ARMS[cell.arm], states, sorted(names))
        store(path, training.data | {part: done | found})


def store(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result of a training, with one line per epoch."""
    from jola.system.files import replace_file

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(result, ensure_ascii=False).replace('{"step', '\n{"step') + "\n").encode())


def show(results: Path, *, page: bool) -> None:
    """Print the tables of all results, or write them into the pages."""
    from benchmarks.pages import with_body
    from jola.system.files import replace_file

    for path, body in bodies(results).items():
        if page:
            replace_file(path, with_body(path.read_text(encoding="utf-8"), body, BEGIN, END).encode())
        else:
            print(body)


def bodies(results: Path) -> dict[Path, str]:
    """Return the generated part of each page."""
    from benchmarks.training_results import read
    from benchmarks.training_tables import of_defaults, overview, tables

    trainings = read(results)
    arms = {name: arm.about for name, arm in ARMS.items()}
    return {
        PAGE: overview(trainings, arms),
        TABLES: tables(trainings, arms),
        DEFAULTS: of_defaults(trainings),
    }


if __name__ == "__main__":
    main()
