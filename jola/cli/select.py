"""``jola select``: choose heads of a model for a task. ``jola compare``: choices of heads against JoLA's own."""

import dataclasses
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from jola.cli import console
from jola.cli.common import find_adapter, quiet_libraries
from jola.cli.runs import Json
from jola.config import DataConfig, EditConfig, ModelConfig, RunConfig, TrainingConfig
from jola.errors import InputError
from jola.studies.grid import DEFAULT_SELECTORS, SELECTOR_NAMES, SWAP_NAMES, Grid

_SELECTORS = ", ".join(SELECTOR_NAMES)
_UNUSED = {"seed", "output", "report_to", "record_every", "sites", "layers", "heads"}
"""Settings of a run that have no place here, or another form."""


def _settings_of(*parts: type) -> list[tuple[str, Any, Any]]:
    """The fields of some groups of settings with their help lines, as `dataclasses.make_dataclass` takes them."""
    fields: list[tuple[str, Any, Any]] = []
    for part in parts:
        hints = typing.get_type_hints(part)
        for field in dataclasses.fields(part):
            if field.name not in _UNUSED:
                unit = field.metadata["unit"]
                help = field.metadata["help"] + (f" [{unit}]" if unit else "")
                fields.append((field.name, Annotated[hints[field.name], arg(help=help)], field.default))
    return fields


@dataclass
class _SelectBase:
    selector: Positional[Annotated[str, arg(help=f"How heads are chosen: {_SELECTORS}.")]]
    k: Annotated[int, arg(help="How many heads to choose. [heads]")] = 32
    seed: Annotated[int, arg(help="Seed of the training examples and of the selector.")] = 42
    adapter: Annotated[str, arg(help="For 'jola': adapter directory, or the id or directory of a run.")] = ""
    output: Annotated[Path | None, arg(help="JSON file to write the chosen heads to.")] = None
    scores: Annotated[Path | None, arg(help="JSON file to write the scores of all heads to.")] = None
    json: Json = False


@dataclass
class _CompareBase:
    output: Annotated[Path, arg(help="Folder of the comparison; one that was interrupted goes on.")]
    selectors: Annotated[str, arg(help=f"Selectors for select-then-edit, with commas between: {_SELECTORS}.")] = (
        ",".join(DEFAULT_SELECTORS)
    )
    swaps: Annotated[
        str, arg(help=f"Methods whose gates take the place of JoLA's, with commas between: {', '.join(SWAP_NAMES)}.")
    ] = ""
    k: Annotated[str, arg(help="Numbers of heads, with commas between; 'auto' is JoLA's number of open heads.")] = (
        "auto"
    )
    seeds: Annotated[str, arg(help="Seeds, with commas between.")] = "42"
    json: Json = False


_SELECTING = {"epochs", "batch_size", "max_grad_norm"}
Select = dataclasses.make_dataclass(
    "Select",
    [
        *_settings_of(ModelConfig, DataConfig),
        *(field for field in _settings_of(TrainingConfig) if field[0] in _SELECTING),
    ],
    bases=(_SelectBase,),
)
Select.__doc__ = "Choose the heads that are worth editing, and print them as --heads takes them."
Compare = dataclasses.make_dataclass(
    "Compare",
    _settings_of(ModelConfig, EditConfig, DataConfig, TrainingConfig),
    bases=(_CompareBase,),
)
Compare.__doc__ = "Train edits on the heads that selectors choose, and compare them with JoLA."


def select(command: Any) -> None:
    """Do what ``jola select`` says."""

    config = _config(command, command.seed)
    with quiet_libraries(), console.ConsoleProgress() as progress:
        from jola import JoLAModel, Template, load_task
        from jola.selectors import SELECTORS
        from jola.studies.editing import budget_of

        if command.selector not in SELECTORS:
            raise InputError(f"{command.selector!r} is no selector; choose one of {', '.join(SELECTORS)}.")
        if (command.selector == "jola") != bool(command.adapter):
            raise InputError("The selector 'jola' needs --adapter, and no other one takes it.")
        own: dict[str, Any] = {"adapter": str(find_adapter(command.adapter)[0])} if command.adapter else {}
        selector = SELECTORS[command.selector](budget=budget_of(config), **own)
        progress.phase("load")
        task = load_task(config.data, command.seed)
        for sentence in task.notes:
            progress.note(sentence)
        model = JoLAModel.from_pretrained(**dataclasses.asdict(config.model))
        begun: list[int] = []

        def tell(done: int, total: int) -> None:
            if not begun:
                progress.phase("Selecting heads", total)
                begun.append(total)
            progress.advance(done)

        template = Template(model.tokenizer, config.data.template)
        scores = selector(model, task.train, command.k, command.seed, template=template, progress=tell)
        heads = scores.top(command.k)
    # Printed first: it took long, and a file that cannot be written must not lose it.
    if command.json:
        console.print_json(heads.to_dict() | {"cost": dataclasses.asdict(scores.cost), "n_train": len(task.train)})
    else:
        console.print_text(heads.to_text())
    if command.output:
        heads.save(command.output)
    if command.scores:
        scores.save(command.scores)


def compare(command: Any) -> None:
    """Do what ``jola compare`` says."""

    config = _config(command, TrainingConfig.seed)
    with quiet_libraries(), console.ConsoleProgress() as progress:
        from jola.studies.comparison import compare as run

        seeds = _words(command.seeds)
        if bad := [word for word in seeds if not (word.isascii() and word.isdigit())]:
            raise InputError(f"--seeds names {bad[0]!r}; seeds are whole numbers with commas between.")
        grid = Grid(
            _words(command.selectors), _words(command.swaps), _words(command.k), tuple(int(word) for word in seeds)
        )
        comparison = run(config, grid, command.output, progress=progress)
    rows = comparison.rows()
    if command.json:
        console.print_json({"folder": str(comparison.folder), "rows": [dataclasses.asdict(row) for row in rows]})
        return
    columns = ["heads chosen by", "protocol", "K", "heads", "accuracy", "minus JoLA", "p (Holm)", "time / JoLA's"]
    console.print_table(columns, [_table_row(row) for row in rows])


def _table_row(row: Any) -> list[str]:
    def interval(value: float | None, low: float | None, high: float | None) -> str:
        return "" if value is None else f"{value:.3f} ({low:.3f} to {high:.3f})"

    counted = f", n = {row.items}" + (f" × {row.seeds} seeds" if row.seeds > 1 else "")
    return [
        row.method,
        {"edit": "select-then-edit", "swap": "gate swap"}.get(str(row.protocol), str(row.protocol)),
        row.k,
        "" if row.heads is None else f"{row.heads:g}",
        interval(row.accuracy, row.low, row.high) + counted,
        interval(row.difference, row.difference_low, row.difference_high),
        "" if row.p_holm is None else f"{row.p_holm:.3g}",
        "" if row.cost_ratio is None else f"{row.cost_ratio:.2f}",
    ]


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _config(command: Any, seed: int) -> RunConfig:
    """The settings of a run among the flags of a command."""
    given = {field.name: getattr(command, field.name) for field in dataclasses.fields(command)}
    groups = {
        group.name: {
            f.name: given[f.name] for f in dataclasses.fields(part) if f.name in given and f.name not in _UNUSED
        }
        for group, part in zip(dataclasses.fields(RunConfig), RunConfig().parts(), strict=True)
    }
    groups["training"]["seed"] = seed
    return RunConfig.from_dict(groups)
