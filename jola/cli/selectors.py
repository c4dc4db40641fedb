"""``jola select``: choose heads of a model for a task. ``jola compare``: compare such choices with JoLA's own."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from jola.cli import console
from jola.cli.common import Json, find_adapter, importing_libraries, run_config, settings_type
from jola.config import EditConfig, RunConfig, TrainingConfig
from jola.errors import InputError
from jola.studies.axes import numbers, words_of
from jola.studies.selector_grid import DEFAULT_SELECTORS, SELECTOR_NAMES, SWAP_NAMES, SelectorGrid
from jola.system.formatting import interval_text

_SELECTORS = ", ".join(SELECTOR_NAMES)
_OF_ONE_RUN = {"seed", "output", "report_to", "record_every", "sites", "layers", "heads"}
"""Settings that a comparison sets itself, or takes in another form."""
_OF_TRAINING = {field.name for group in (EditConfig, TrainingConfig) for field in dataclasses.fields(group)}
_OF_SELECTION = {"epochs", "batch_size", "max_grad_norm"}


def select(
    selector: Positional[Annotated[str, arg(metavar="SELECTOR", help=f"How heads are chosen: {_SELECTORS}.")]],
    settings: Annotated[Any, arg(name="", constructor=settings_type(RunConfig(), _OF_TRAINING - _OF_SELECTION))],
    k: Annotated[int, arg(help="Number of heads to choose. [heads]")] = 32,
    seed: Annotated[int, arg(help="Seed of the training examples and of the selector.")] = 42,
    adapter: Annotated[str, arg(help="For 'jola': adapter directory, or the id or directory of a run.")] = "",
    output: Annotated[Path | None, arg(help="JSON file to write the chosen heads to.")] = None,
    scores: Annotated[Path | None, arg(help="JSON file to write the scores of all heads to.")] = None,
    json: Json = False,
) -> None:
    """Choose the heads that are most worth editing, and print them in the form that --heads takes."""
    config = run_config(settings, seed=seed)
    with console.ConsoleProgress() as progress:
        with importing_libraries():
            from jola.selectors.choose import score_heads

        if (selector == "jola") != bool(adapter):
            raise InputError("--adapter is required by the selector 'jola' and not accepted by any other.")
        own: dict[str, Any] = {"adapter": str(find_adapter(adapter)[0])} if adapter else {}
        found, count = score_heads(config, selector, k, progress, **own)
        heads = found.top(k)
    # Printed first, so that a file that cannot be written does not lose a result that took minutes.
    if json:
        console.print_json(heads.to_dict() | {"cost": dataclasses.asdict(found.cost), "n_train": count})
    else:
        console.print_text(heads.to_text())
    if output:
        heads.save(output)
    if scores:
        found.save(scores)


def compare_command(arguments: Sequence[str]) -> Callable[..., None]:
    """Return ``jola compare`` for methods if ``--methods`` is given, else for selectors."""
    of_methods = any(argument.partition("=")[0] == "--methods" for argument in arguments)
    if arguments[:1] != ["compare"] or not of_methods:
        return compare
    from jola.cli.compare_methods import compare_methods  # imports NumPy and SciPy

    compare_methods.__name__ = "compare"
    return compare_methods


def compare(
    output: Annotated[Path, arg(help="Folder of the comparison; an interrupted one is resumed.")],
    settings: Annotated[Any, arg(name="", constructor=settings_type(RunConfig(), _OF_ONE_RUN))],
    selectors: Annotated[str, arg(help=f"Comma-separated selectors for select-then-edit: {_SELECTORS}.")] = (
        ",".join(DEFAULT_SELECTORS)
    ),
    swaps: Annotated[
        str, arg(help=f"Comma-separated methods whose gates replace JoLA's: {', '.join(SWAP_NAMES)}.")
    ] = "",
    k: Annotated[
        str,
        arg(
            help="Comma-separated numbers of heads; 'auto' is the number of heads that JoLA leaves open, 'halves' its "
            "numbers of open offsets and open scales."
        ),
    ] = "auto",
    seeds: Annotated[str, arg(help="Comma-separated seeds.")] = "42",
    json: Json = False,
) -> None:
    """Train edits on the heads that selectors choose, and compare them with JoLA; with --methods, compare methods.

    `jola compare --methods jola,lora --help` has the flags of a comparison of methods.
    """
    config = run_config(settings)
    with console.ConsoleProgress() as progress:
        with importing_libraries():
            from jola.studies.comparison import compare as run

        grid = SelectorGrid(words_of(selectors), words_of(swaps), words_of(k), numbers(seeds, "--seeds"))
        comparison = run(config, grid, output, progress=progress)
    rows = comparison.rows()
    if json:
        console.print_json({"folder": str(comparison.folder), "rows": [dataclasses.asdict(row) for row in rows]})
        return
    columns = ["heads chosen by", "protocol", "K", "heads", "accuracy", "minus JoLA", "p (Holm)", "time / JoLA's"]
    console.print_table(columns, [_cells(row) for row in rows])


def _cells(row: Any) -> list[str | None]:
    sample = f", n = {row.items:,}" + (f" × {row.seeds} seeds" if row.seeds > 1 else "")
    return [
        row.method,
        {"edit": "select-then-edit", "swap": "gate swap"}.get(row.protocol, row.protocol),
        row.k,
        None if row.heads is None else f"{row.heads:g}",
        interval_text(row.accuracy, row.low, row.high) + sample,
        None
        if row.difference is None
        else interval_text(row.difference, row.difference_low, row.difference_high, sign="+"),
        None if row.p_holm is None else f"{row.p_holm:.3g}",
        None if row.cost_ratio is None else f"{row.cost_ratio:.2f}",
    ]
