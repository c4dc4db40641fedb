"""``jola compare --methods``: compare methods with equally many tries of the learning rate for each."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from jola.cli import console
from jola.cli.common import Json, settings_type
from jola.cli.grid import OMITTED, make_cells, refuse_launcher, shared_settings, state_text
from jola.errors import InputError
from jola.methods import METHODS
from jola.studies.axes import NEUTRAL, numbers, recipe_notes, words_of
from jola.studies.methods import (
    SPACING,
    TRIES,
    check_metric,
    compared,
    comparison_dict,
    methods_table,
    plan_comparison,
)

if TYPE_CHECKING:
    from jola.studies.grid import Grid


def compare_methods(
    output: Annotated[Path, arg(help="Folder of the comparison, which is a grid; an interrupted one is resumed.")],
    methods: Annotated[
        str,
        arg(help=f"Comma-separated methods, with settings as in lora:rank=4: {', '.join(METHODS)}."),
    ],
    settings: Annotated[Any, arg(name="", constructor=settings_type(shared_settings(), {*OMITTED, "learning_rate"}))],
    tasks: Annotated[
        str,
        arg(
            aliases=["--task"],
            help="Comma-separated tasks, as `jola train --task` takes them, or groups: commonsense, mmlu-pro, gem.",
        ),
    ] = "sentiment",
    seeds: Annotated[str, arg(help="Comma-separated seeds.")] = "42",
    tries: Annotated[
        int,
        arg(
            help="Learning rates tried for each method, around its default, or that of its recipe; validation chooses. "
            "[rates]"
        ),
    ] = TRIES,
    spacing: Annotated[float, arg(help="Factor between two learning rates.")] = SPACING,
    train_size: Annotated[int, arg(help="Training examples; 0 uses all. [examples]")] = 200,
    model: Annotated[str, arg(help="Model, as `jola train --model` takes it.")] = "default",
    metric: Annotated[str, arg(help="Metric to show; by default the first one of each task.")] = "",
    workers: Annotated[
        int, arg(help="Cells that run at once; each gets a GPU, or an equal share of the CPU cores.")
    ] = 1,
    json: Json = False,
) -> None:
    """Train methods with several learning rates and seeds, and compare them at the rates that validation chooses.

    The folder is a grid: `jola grid show` and `jola grid run` work on it.
    """
    from jola.studies.executors import LocalExecutor

    refuse_launcher()
    if train_size < 0:
        raise InputError(f"--train-size is {train_size}; it must be at least 0.")
    shared = dataclasses.asdict(settings)
    neutral = {name: shared["training"].pop(name) for name in NEUTRAL if name in shared["training"]}
    planned = plan_comparison(
        output,
        words_of(methods),
        words_of(tasks),
        numbers(seeds, "--seeds"),
        tries=tries,
        spacing=spacing,
        train_sizes=(train_size,),
        models=(model,),
        settings=shared,
        neutral=neutral,
    )
    for sentence in recipe_notes(planned.arms.values(), shared):
        console.print_error(f"note: {sentence}")
    check_metric(planned, metric)
    complete, failed = make_cells(planned, list(planned.planned), LocalExecutor(planned.folder, workers))
    try:
        show_comparison(planned, metric, json)
    finally:
        if not complete:
            console.print_error(f"stopped; to continue: the same command, or `jola grid run {output}`")
    if not complete:
        sys.exit(130)
    if failed:
        console.print_error(f"note: `jola grid run {output} --retry` runs the failed cells again.")
        sys.exit(1)


def show_comparison(planned: "Grid", metric: str, json: bool) -> None:
    """Print the results of each method so far."""
    found = compared(planned, metric)
    if json:
        console.print_json(comparison_dict(planned, found))
        return
    table = methods_table(found)
    console.print_lines(table.columns, table.rows)
    console.print_text("\n".join(["", *table.notes, state_text(planned.state())]))
