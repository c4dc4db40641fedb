"""``jola grid``: plan, run and show the training runs of many methods, tasks and seeds."""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from jola.cli import console
from jola.cli.common import Json, importing_libraries, settings_type
from jola.config import EditConfig, RunConfig
from jola.errors import InputError
from jola.studies.axes import AXES, NEUTRAL, OF_A_LAUNCH, checked_axes, expand_arms, numbers, recipe_notes, words_of
from jola.studies.presets import PRESETS, preset_named
from jola.system.formatting import duration_text, score_text

if TYPE_CHECKING:
    from jola.studies.executors import Ended, Executor
    from jola.studies.grid import Grid, GridState

OMITTED = {*AXES, *OF_A_LAUNCH, "output", *(field.name for field in dataclasses.fields(EditConfig))}
"""Settings that are axes of a grid, depend on the method, or are impossible in a cell."""
_MOST_LINES = 100
"""Maximum number of cells that ``jola grid plan`` lists."""

GridFolder = Positional[Annotated[Path, arg(metavar="FOLDER", help="Folder of the grid.")]]
_TABLE_HELP = (
    "'results' has every number; 'methods' has each method at the learning rate that validation chooses; 'tasks', "
    "'sizes' and 'models' have one column for each task, number of training examples or model; 'cells' lists all cells."
)

grid = SubcommandApp()


def shared_settings() -> RunConfig:
    """Return the default settings of a grid, in which the learning rate is that of each method."""
    config = RunConfig()
    config.training = dataclasses.replace(config.training, learning_rate=None)
    return config


@grid.command
def plan(
    folder: GridFolder,
    settings: Annotated[Any, arg(name="", constructor=settings_type(shared_settings(), OMITTED))],
    preset: Annotated[str, arg(help=f"Table or figure of the paper: {', '.join(PRESETS)}.")] = "",
    tasks: Annotated[
        str,
        arg(help="Comma-separated tasks, as `jola train --task` takes them, or groups: commonsense, mmlu-pro, gem."),
    ] = "",
    methods: Annotated[
        str,
        arg(
            help="Comma-separated methods, with settings as in jola:gates=none; several values, as in "
            "lora:learning_rate=1e-4/1e-3, are several arms."
        ),
    ] = "",
    seeds: Annotated[str, arg(help="Comma-separated seeds.")] = "42",
    train_sizes: Annotated[str, arg(help="Comma-separated numbers of training examples; 0 uses all.")] = "",
    models: Annotated[str, arg(help="Comma-separated models, as `jola train --model` takes them.")] = "",
    json: Json = False,
) -> None:
    """Plan a grid in a folder, or add cells to the grid there; without methods and tasks, list its cells."""
    from jola.studies.grid import Grid

    if not any((preset, tasks, methods, train_sizes, models)) and seeds == "42" and (folder / "grid.json").is_file():
        if settings != type(settings)():
            raise InputError("Settings belong to a plan; give --methods and --tasks, or --preset, with them.")
        planned = Grid.open(folder)
    else:
        usual = preset_named(preset) if preset else None
        arms = words_of(methods) or (usual.arms if usual else ())
        named = words_of(tasks) or (usual.tasks if usual else ())
        if not arms or not named:
            raise InputError("Give --methods and --tasks, or --preset with a table or figure of the paper.")
        shared = dataclasses.asdict(settings)
        neutral = {name: shared["training"].pop(name) for name in NEUTRAL if name in shared["training"]}
        made = expand_arms(arms, shared)
        axes = checked_axes(
            made,
            named,
            numbers(train_sizes, "--train-sizes") or (usual.train_sizes if usual else (200,)),
            numbers(seeds, "--seeds"),
            words_of(models) or (usual.models if usual else ("default",)),
        )
        planned = Grid.plan(folder, axes, made, shared, neutral)
        for sentence in recipe_notes(made.values(), shared):
            console.print_error(f"note: {sentence}")
    _show_plan(planned, json)


def _show_plan(planned: "Grid", json: bool) -> None:
    from jola.studies.estimates import Pace

    states = planned.states()
    open_cells = [name for name, state in states.items() if state not in ("done", "failed")]
    failed = sum(state == "failed" for state in states.values())
    estimate = Pace(planned).estimate(open_cells)
    if json:
        cells = [{**cell._asdict(), "state": states[name]} for name, cell in planned.planned.items()]
        console.print_json({"folder": str(planned.folder), "cells": cells, "estimate": dataclasses.asdict(estimate)})
        return
    listed = list(states.items())[:_MOST_LINES]
    console.print_lines(["cell", "state"], [list(row) for row in listed])
    if len(states) > len(listed):
        console.print_text(f"… and {len(states) - len(listed):,} more: `jola grid show {planned.folder} --table cells`")
    counted = [f"{len(states):,} cells", f"{len(open_cells):,} to run", *([f"{failed:,} failed"] if failed else [])]
    console.print_text("\n" + ", ".join(counted))
    if estimate.known:
        unknown = estimate.cells - estimate.known
        more = f", and {unknown:,} cells without an estimate" if unknown else ""
        console.print_text(
            f"about {duration_text(estimate.seconds)} one after the other, estimated from earlier cells{more}"
        )
    elif open_cells:
        console.print_text("no estimate of the time before the first cell is done")
    if estimate.memory:
        console.print_text(f"memory of the largest process so far {estimate.memory / 1e9:.1f} GB")


@grid.command
def run(
    folder: GridFolder,
    workers: Annotated[
        int | None,
        arg(
            help="Cells that run at once; each gets a GPU, or an equal share of the CPU cores. Default: 1; with --ray, "
            "one per GPU or node."
        ),
    ] = None,
    shard: Annotated[str, arg(help="Run one part of the cells: 3/16 is part 3, counted from 0, of 16.")] = "",
    ray: Annotated[
        tuple[str, ...] | None,
        arg(metavar="[ADDRESS]", help="Run cells on a Ray cluster; without an address, start Ray on this computer."),
    ] = None,
    retry: Annotated[bool, arg(help="Run failed cells again.")] = False,
    minutes: Annotated[float, arg(help="Start no cell after this time. [minutes]")] = float("inf"),
    json: Json = False,
) -> None:
    """Run the cells that are not done; interrupted cells resume from their checkpoints."""
    from jola.studies.executors import LocalExecutor
    from jola.studies.grid import Grid, shard_of

    refuse_launcher()
    planned = Grid.open(folder)
    names = shard_of(planned.planned, shard) if shard else list(planned.planned)
    with ExitStack() as stack:
        if ray is None:
            executor = LocalExecutor(planned.folder, 1 if workers is None else workers, locks=not shard)
        else:
            from jola.studies.ray_executor import RayExecutor

            if len(ray) > 1:
                raise InputError(f"--ray takes one address; {ray[1]!r} is another.")
            executor = stack.enter_context(RayExecutor(planned.folder, "".join(ray), workers, locks=not shard))
        if retry:
            planned.retry(names)
        end = time.monotonic() + 60 * minutes
        complete, failed = make_cells(planned, names, executor, minutes=minutes)
    out_of_time = time.monotonic() >= end
    state = planned.state()
    if json:
        console.print_json({"folder": str(planned.folder), **dataclasses.asdict(state)})
    else:
        console.print_text(state_text(state))
    if not complete and not out_of_time:
        console.print_error(f"stopped; to continue: `jola grid run {folder}`")
        sys.exit(130)
    if failed:
        console.print_error("note: `jola grid run --retry` runs the failed cells again.")
        sys.exit(1)


def refuse_launcher() -> None:
    """Refuse several processes of a launcher, each of which would run all cells.

    Raises:
        InputError: There are several processes.
    """
    from jola.system.processes import launched

    if launched() > 1:
        raise InputError(
            "Each cell of a grid runs in a separate process; start jola without torchrun or accelerate launch, and set "
            "the number of processes with --workers."
        )


def make_cells(
    planned: "Grid", names: Sequence[str], executor: "Executor", *, minutes: float = float("inf")
) -> tuple[bool, int]:
    """Run cells, and print a line for each that ends.

    Returns:
        Whether all have a result or a failure, and how many failed in this call.
    """
    from jola.studies.executors import run_grid
    from jola.system.processes import at_work

    with at_work(planned.folder), _Watcher(planned, names, executor.slots) as watcher:
        return run_grid(planned, names, executor, watcher, minutes=minutes), watcher.failed


class _Watcher:
    """Prints a line for each cell that ends, and in a terminal one line with the running cells."""

    def __init__(self, planned: "Grid", names: Sequence[str], slots: int) -> None:
        self._grid, self._names, self._slots = planned, names, slots
        self._left = ""
        self._line = console.errors().status("")
        self.failed = 0

    def __enter__(self) -> "_Watcher":
        if console.errors().is_terminal:
            self._line.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._line.stop()

    def ended(self, cell: "Ended") -> None:
        """Print the line of a cell."""
        from jola.studies.estimates import Pace

        said, result = cell.message, self._grid.result(cell.name)
        if result:
            said = f"{score_text(result['scores'][0])}, " if result["scores"] else ""
            said += duration_text(result["seconds"])
        self.failed += cell.outcome == "failed"
        cells = {name: self._grid.cell(name) for name in self._names if self._grid.result(name) is None}
        left = [name for name, waiting in cells.items() if waiting.failure() is None]
        estimate = Pace(self._grid).estimate(left)
        self._left = f"about {duration_text(estimate.seconds / self._slots)} left" if estimate.known else ""
        line = f"{cell.done:,} of {cell.total:,}  {cell.name}  {cell.outcome}  {said}".rstrip()
        console.print_error(f"{line}  ({self._left})" if self._left else line)

    def looked(self, running: Sequence[str], waiting: int) -> None:
        """Show the steps of the running cells."""
        if not console.errors().is_terminal:
            return
        parts = [f"{name} {_step_text(self._grid.cell(name).run.status())}" for name in running]
        parts += [f"{waiting} running in other processes"] if waiting else []
        from rich.text import Text

        self._line.update(Text(" · ".join([*parts, *([self._left] if self._left else [])])))


def _step_text(status: Mapping[str, Any]) -> str:
    state = {"starting": "loading", "evaluating": "testing"}.get(status["state"])
    return state or f"step {status['step']} of {status['total_steps']}"


def state_text(state: "GridState") -> str:
    """Return ``12 of 16 cells done, 1 failed, 3 open``, and why cells failed."""
    others = [f"{number:,} {name}" for name, number in state.counts.items() if number and name != "done"]
    lines = [", ".join([f"{state.counts['done']:,} of {state.total:,} cells done", *others])]
    return "\n".join([*lines, *(f"failed  {name}: {message}" for name, message in state.failed.items())])


@grid.command
def show(
    folder: GridFolder,
    table: Annotated[
        Literal["results", "methods", "tasks", "sizes", "models", "cells"], arg(help=_TABLE_HELP)
    ] = "results",
    best: Annotated[
        bool,
        arg(help="Of the arms of each method, show only the one that validation chooses."),
    ] = False,
    metric: Annotated[str, arg(help="Metric to show; by default the first one of each task.")] = "",
    json: Json = False,
    csv: Annotated[bool, arg(help="Print comma-separated values; those of 'results' have every number.")] = False,
    markdown: Annotated[bool, arg(help="Print Markdown.")] = False,
    latex: Annotated[bool, arg(help="Print a LaTeX tabular.")] = False,
    html: Annotated[bool, arg(help="Print an HTML page.")] = False,
) -> None:
    """Show the results so far, with intervals over seeds and differences to JoLA."""
    from jola.studies.formats import FORMATS
    from jola.studies.grid import Grid
    from jola.studies.methods import compared, comparison_dict, methods_table
    from jola.studies.rows import Row
    from jola.studies.tables import TABLES, cells_table
    from jola.system.spreadsheet import csv_text

    chosen = [
        name for name, wanted in (("csv", csv), ("markdown", markdown), ("latex", latex), ("html", html)) if wanted
    ]
    if len(chosen) + json > 1:
        raise InputError("Choose one of --json, --csv, --markdown, --latex and --html.")
    if best and table in ("methods", "cells"):
        raise InputError(f"--best does not apply to --table {table}; leave one of them out.")
    if metric and table == "cells":
        raise InputError("--metric does not apply to --table cells, which shows the first metric of each task.")
    opened = Grid.open(folder)
    if json and table == "methods":
        console.print_json(comparison_dict(opened, compared(opened, metric)))
        return
    if json:
        rows = [dataclasses.asdict(row) for row in opened.rows(metric, best=best)]
        console.print_json({"folder": str(opened.folder), **dataclasses.asdict(opened.state()), "rows": rows})
        return
    if chosen == ["csv"] and table == "results":
        names = [field.name for field in dataclasses.fields(Row)]
        values = [dataclasses.astuple(row) for row in opened.rows(metric, best=best)]
        console.print_text(csv_text([names, *values]).rstrip("\n"))
        return
    if table == "methods":
        made = methods_table(compared(opened, metric))
    else:
        made = cells_table(opened) if table == "cells" else TABLES[table](opened.rows(metric, best=best))
    if chosen:
        console.print_text(FORMATS[chosen[0]](made).rstrip("\n"))
    else:
        console.print_lines(made.columns, made.rows)
        console.print_text("\n".join(["", *made.notes, state_text(opened.state())]))


@grid.command
def export(
    folder: GridFolder,
    output: Annotated[Path, arg(help="Zip file to create.")] = Path("grid.zip"),
    json: Json = False,
) -> None:
    """Write plan, results and tables to a zip file, without adapters and without paths from this computer."""
    from jola.studies.export import export_grid
    from jola.studies.grid import Grid

    file = export_grid(Grid.open(folder), output)
    if json:
        console.print_json({"file": str(file), "bytes": file.stat().st_size})
    else:
        console.print_text(f"{file}  {console.size(file.stat().st_size)}")


@grid.command
def cell(
    folder: GridFolder,
    name: Positional[Annotated[str, arg(metavar="CELL", help="Name of the cell.")]],
    without_locks: Annotated[bool, arg(help="Continue even if the file system has no locks.")] = False,
) -> None:
    """Run one cell in this process, as `jola grid run` does in a separate process."""
    from jola.studies.cells import Interrupted, Locked
    from jola.studies.executors import INTERRUPTED, LOCKED
    from jola.studies.grid import Grid

    began = time.time()
    opened = Grid.open(folder)
    with console.ConsoleProgress() as progress:
        with importing_libraries():
            from jola.studies.worker import make_cell

        try:
            result = make_cell(opened, name, locks=not without_locks, progress=progress, began=began)
        except Locked:
            console.print_error(f"Another process is running {name}.")
            sys.exit(LOCKED)
        except Interrupted:
            console.print_error(f"stopped; to continue: `jola grid run {folder}`")
            sys.exit(INTERRUPTED)
    for score in result["scores"]:
        console.print_text(f"{score['metric']}  {score_text(score)}")
