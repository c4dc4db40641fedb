"""``jola runs``: list, show, compare, name, delete and restore runs, give them away and take them in."""

import dataclasses
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg, subcommand

from jola.cli import console
from jola.errors import InputError

if TYPE_CHECKING:
    from jola.runs.compare import ComparedValues
    from jola.runs.run import Run
    from jola.runs.summary import RunSummary

Json = Annotated[bool, arg(help="Print one JSON object.")]
RunName = Annotated[str, arg(help="Id or directory of a run.")]


@dataclass
class RunsList:
    """All runs, newest first."""

    json: Json = False


@dataclass
class RunsShow:
    """Settings, state and result of one run."""

    run: Positional[RunName]
    json: Json = False


@dataclass
class RunsCompare:
    """The settings in which runs differ, and how they ended."""

    run: Positional[Annotated[tuple[str, ...], arg(help="Ids or directories of two or more runs.")]]
    json: Json = False


@dataclass
class RunsRename:
    """Give a run another label; its id and its directory stay as they are."""

    run: Positional[RunName]
    label: Positional[Annotated[str, arg(help="The label; an empty one takes it away.")]]
    json: Json = False


@dataclass
class RunsNote:
    """Write a note about a run."""

    run: Positional[RunName]
    text: Positional[Annotated[str, arg(help="The note; an empty one takes it away.")]]
    json: Json = False


@dataclass
class RunsRemove:
    """Delete runs; 'restore' brings them back for a week."""

    run: Positional[Annotated[tuple[str, ...], arg(help="Ids of runs.")]]
    for_good: Annotated[bool, arg(help="Delete at once, so that nothing brings them back.")] = False


@dataclass
class RunsRestore:
    """Bring deleted runs back, or list those that can be."""

    run: Positional[Annotated[tuple[str, ...], arg(help="Ids of deleted runs; none lists them.")]] = ()
    json: Json = False


@dataclass
class RunsExport:
    """Write a run with its adapter into a zip file, without anything about this machine."""

    run: Positional[RunName]
    output: Annotated[Path, arg(help="The zip file, or a folder in which it gets the id of the run as its name.")] = (
        Path(".")
    )
    json: Json = False


@dataclass
class RunsImport:
    """Make a run of an exported one, of a zip file with an adapter, or of an adapter directory."""

    source: Positional[Annotated[Path, arg(help="The zip file or the directory.")]]
    label: Annotated[str, arg(help="A label for the run.")] = ""
    json: Json = False


@dataclass
class Runs:
    """The runs of this machine: list, show, compare, name, delete, restore, export, import."""

    action: (
        Annotated[RunsList, subcommand("list")]
        | Annotated[RunsShow, subcommand("show")]
        | Annotated[RunsCompare, subcommand("compare")]
        | Annotated[RunsRename, subcommand("rename")]
        | Annotated[RunsNote, subcommand("note")]
        | Annotated[RunsRemove, subcommand("remove")]
        | Annotated[RunsRestore, subcommand("restore")]
        | Annotated[RunsExport, subcommand("export")]
        | Annotated[RunsImport, subcommand("import")]
    ) = dataclasses.field(default_factory=RunsList)


def runs(command: Runs) -> None:
    """Do what a command says."""
    _ACTIONS[type(command.action)](command.action)


def find_run(name: str) -> "Run":
    """The run that an id or a directory means."""
    from jola.runs.run import Run
    from jola.runs.store import RunStore

    return Run.open(name) if Path(name).is_dir() else RunStore().get(name)


def accuracy_words(value: dict[str, Any]) -> str:
    """An accuracy with its n and interval."""
    return f"{value['accuracy']:.3f} (n = {value['n']}, 95 % interval {value['low']:.3f}–{value['high']:.3f})"


def _list(command: RunsList) -> None:
    from jola.runs.store import RunStore

    store = RunStore()
    summaries = store.summaries()
    if command.json:
        console.print_json({"runs": summaries})
    elif not summaries:
        console.output.print(f"No runs yet in {store.root}; `jola train` makes the first.", markup=False)
    else:
        columns = [
            "run",
            "label",
            "state",
            "task",
            "model",
            "n",
            "seed",
            "accuracy",
            "open offset/scale",
            "step",
            "size",
        ]
        console.print_table(columns, [_row(summary) for summary in summaries])


def _row(summary: "RunSummary") -> list[str]:
    return [
        summary["id"],
        summary["label"],
        summary["state"],
        str(summary["task"] or ""),
        str(summary["model"] or ""),
        str(summary["n_train"] or ""),
        str(summary["seed"] if summary["seed"] is not None else ""),
        accuracy_words(summary["accuracy"]) if summary["accuracy"] else "",
        _open_words(summary["open"]),
        f"{summary['step']}/{summary['total_steps']}",
        _size_words(summary["size"]),
    ]


def _open_words(opened: dict[str, int | None] | None) -> str:
    if opened is None:
        return ""
    halves = ["–" if opened[half] is None else str(opened[half]) for half in ("offset", "scale")]
    return f"{' / '.join(halves)} of {opened['units']}"


def _size_words(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _show(command: RunsShow) -> None:
    run = find_run(command.run)
    content = {"summary": run.summary(), "config": run.config(), "status": run.status(), "result": run.result()}
    if command.json:
        console.print_json(content)
    else:
        console.output.print_json(data=content)


def _compare(command: RunsCompare) -> None:
    from jola.runs.compare import compare_runs

    if len(command.run) < 2:
        raise InputError("Name two or more runs to compare; `jola runs` lists their ids.")
    comparison = compare_runs([find_run(name) for name in command.run])
    if command.json:
        console.print_json(comparison.to_dict())
        return
    names = [summary["label"] or summary["id"] for summary in comparison.runs]
    rows = [_compared(row) for row in comparison.figures if any(value is not None for value in row.values)]
    rows += [["settings that differ" if comparison.settings else "no setting differs", *[""] * len(names)]]
    rows += [[f"  {row.name}", *map(_plain, row.values)] for row in comparison.settings]
    console.print_table(["", *names], rows)
    if comparison.same_test is False:
        console.errors.print("note: the runs were tested on different examples; their accuracies compare little.")


def _compared(row: "ComparedValues") -> list[str]:
    shown: dict[str, Callable[[Any], str]] = {
        "accuracy": accuracy_words,
        "accuracy_options": accuracy_words,
        "validation_cross_entropy": lambda value: f"{value:.4f} nats",
        "seconds": lambda value: f"{value:.0f} s",
    }
    words = shown.get(row.name, _plain)
    return [row.name.replace("_", " "), *["" if value is None else words(value) for value in row.values]]


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _rename(command: RunsRename) -> None:
    _annotated(find_run(command.run), command.json, label=command.label)


def _note(command: RunsNote) -> None:
    _annotated(find_run(command.run), command.json, note=command.text)


def _annotated(run: "Run", json: bool, **texts: str) -> None:
    notes = run.annotate(**texts)
    if json:
        console.print_json({"run": run.id, **dataclasses.asdict(notes)})
    else:
        console.output.print(f"{run.id}  {notes.label}" + (f"\n{notes.note}" if notes.note else ""), markup=False)


def _remove(command: RunsRemove) -> None:
    from jola.runs.store import RunStore

    if not command.run:
        raise InputError("Name the runs to remove; `jola runs` lists their ids.")
    store = RunStore()
    for run_id in command.run:
        removed = store.remove(run_id)
        if command.for_good:
            store.trash.delete(removed)
        console.output.print(f"removed {run_id}", markup=False)
    if not command.for_good:
        ids = shlex.join(command.run)
        console.errors.print(f"note: `jola runs restore {ids}` brings back what was removed, for a week.", markup=False)


def _restore(command: RunsRestore) -> None:
    from jola.runs.store import RunStore

    store = RunStore()
    for run_id in command.run:
        store.restore(run_id)
        if not command.json:
            console.output.print(f"restored {run_id}", markup=False)
    deleted = store.trash.runs()
    if command.json:
        found = [{"id": run.id, "removed": run.removed, "path": str(run.path)} for run in deleted]
        console.print_json({"restored": command.run, "deleted": found})
    elif not command.run and deleted:
        rows = [[run.id, f"{datetime.fromtimestamp(run.removed):%Y-%m-%d %H:%M:%S}"] for run in deleted]
        console.print_table(["deleted run", "when"], rows)
    elif not command.run:
        console.output.print("No deleted run can be brought back.")


def _export(command: RunsExport) -> None:
    from jola.runs.archive import export_adapter

    run = find_run(command.run)
    file = export_adapter(run, command.output)
    if command.json:
        console.print_json({"run": run.id, "file": str(file), "bytes": file.stat().st_size})
    else:
        console.output.print(f"{file}  {_size_words(file.stat().st_size)}", markup=False)


def _import(command: RunsImport) -> None:
    from jola.runs.archive import import_archive
    from jola.runs.notes import RunNotes
    from jola.runs.store import RunStore

    RunNotes().changed(label=command.label)
    run = import_archive(command.source, RunStore(), name=str(command.source))
    if command.label:
        run.annotate(label=command.label)
    if command.json:
        console.print_json({"run": run.id, "path": str(run.path), "summary": run.summary()})
    else:
        console.output.print(f"run       {run.path}\nadapter   {run.adapter_dir}", markup=False)


_ACTIONS: dict[type, Callable[[Any], None]] = {
    RunsList: _list,
    RunsShow: _show,
    RunsCompare: _compare,
    RunsRename: _rename,
    RunsNote: _note,
    RunsRemove: _remove,
    RunsRestore: _restore,
    RunsExport: _export,
    RunsImport: _import,
}
