"""``jola runs``: list, show, compare, annotate, delete and restore runs; export and import them as files."""

import dataclasses
import shlex
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg
from tyro.extras import SubcommandApp

from jola.cli import console
from jola.cli.common import Json, RunName, find_run
from jola.errors import InputError
from jola.system.formatting import accuracy_text, score_text, score_title

if TYPE_CHECKING:
    from jola.runs.compare import ComparedValues
    from jola.runs.summary import RunSummary

RunNames = Positional[
    Annotated[tuple[str, ...], arg(metavar="RUN [RUN ...]", help="Ids or directories of two or more runs.")]
]

runs = SubcommandApp()


@runs.command(name="list", is_default=True)
def list_runs(json: Json = False) -> None:
    """List all runs, newest first."""
    from jola.runs.store import RunStore

    store = RunStore()
    summaries = store.summaries()
    if json:
        console.print_json({"runs": summaries})
    elif not summaries:
        console.print_text(f"No runs yet in {store.root}; create one with `jola train`.")
    else:
        console.print_table(list(_columns(summaries[0])), [list(_columns(each).values()) for each in summaries])


def _columns(summary: "RunSummary") -> dict[str, Any]:
    return {
        "run": summary["id"],
        "label": summary["label"],
        "state": "damaged" if summary["problem"] else summary["state"],
        "task": summary["task"],
        "model": summary["model"],
        "n": summary["n_train"],
        "seed": summary["seed"],
        "test score": _score_text(summary["score"]),
        "open offset/scale": _open_text(summary["open"]),
        "step": f"{summary['step']}/{summary['total_steps']}",
        "size": console.size(summary["size"]),
    }


def _score_text(score: dict[str, Any] | None) -> str | None:
    if score is None:
        return None
    return score_text(score) if score["metric"] == "exact_match" else f"{score['title']} {score_text(score)}"


def _open_text(opened: dict[str, int | None] | None) -> str | None:
    if opened is None:
        return None
    halves = ["–" if opened[half] is None else str(opened[half]) for half in ("offset", "scale")]
    return f"{' / '.join(halves)} of {opened['units']}"


@runs.command
def show(run: RunName, json: Json = False) -> None:
    """Show the settings, state and result of a run."""
    found = find_run(run)
    content = {"summary": found.summary(), "config": found.config(), "status": found.status(), "result": found.result()}
    if json:
        console.print_json(content)
    else:
        console.output().print_json(data=content)


@runs.command
def compare(run: RunNames, json: Json = False) -> None:
    """Compare runs: the settings in which they differ, and their results."""
    from jola.runs.compare import compare_runs

    if len(run) < 2:
        raise InputError("Name two or more runs to compare; `jola runs` lists their ids.")
    comparison = compare_runs([find_run(name) for name in run])
    if json:
        console.print_json(comparison.to_dict())
        return
    names = [summary["label"] or summary["id"] for summary in comparison.runs]
    rows = [_figures(row) for row in comparison.figures if any(value is not None for value in row.values)]
    rows += [["settings that differ" if comparison.settings else "no setting differs", *[""] * len(names)]]
    rows += [[f"  {row.name}", *row.values] for row in comparison.settings]
    console.print_table(["", *names], rows)
    if comparison.same_test is False:
        console.print_error("note: the runs were tested on different examples; their scores are not comparable.")


def _figures(row: "ComparedValues") -> list[Any]:
    formats: dict[str, Callable[[Any], str]] = {
        "accuracy": accuracy_text,
        "accuracy_options": accuracy_text,
        "validation_cross_entropy": "{:.4f} nats".format,
        "seconds": "{:.0f} s".format,
    }
    scores = [value for value in row.values if isinstance(value, dict) and "metric" in value]
    text = score_text if scores else formats.get(row.name, str)
    name = score_title(scores[0]) if scores else row.name.replace("_", " ")
    return [name, *[None if value is None else text(value) for value in row.values]]


@runs.command
def rename(
    run: RunName,
    label: Positional[Annotated[str, arg(metavar="LABEL", help="The label; an empty one removes it.")]],
    json: Json = False,
) -> None:
    """Give a run a label; its id and its directory do not change."""
    _annotate(run, json, label=label)


@runs.command
def note(
    run: RunName,
    text: Positional[Annotated[str, arg(metavar="NOTE", help="The note; an empty one removes it.")]],
    json: Json = False,
) -> None:
    """Attach a note to a run."""
    _annotate(run, json, note=text)


def _annotate(name: str, json: bool, **texts: str) -> None:
    run = find_run(name)
    notes = run.annotate(**texts)
    if json:
        console.print_json({"run": run.id, **dataclasses.asdict(notes)})
    else:
        console.print_text(f"{run.id}  {notes.label}" + (f"\n{notes.note}" if notes.note else ""))


@runs.command
def remove(
    run: Positional[Annotated[tuple[str, ...], arg(metavar="RUN [RUN ...]", help="Ids of runs.")]],
    for_good: Annotated[bool, arg(help="Delete permanently, so that 'restore' cannot bring the runs back.")] = False,
) -> None:
    """Delete runs; 'restore' can bring them back for a week."""
    from jola.runs.store import RunStore

    if not run:
        raise InputError("Name the runs to remove; `jola runs` lists their ids.")
    store = RunStore()
    for run_id in run:
        removed = store.remove(run_id)
        if for_good:
            store.trash.delete(removed)
        console.print_text(f"removed {run_id}")
    if not for_good:
        console.print_error(f"note: restore them within a week with `jola runs restore {shlex.join(run)}`.")


@runs.command
def restore(
    run: Positional[
        Annotated[tuple[str, ...], arg(metavar="[RUN ...]", help="Ids of deleted runs; none lists them.")]
    ] = (),
    json: Json = False,
) -> None:
    """Restore deleted runs, or list those that can be restored."""
    from jola.runs.store import RunStore

    store = RunStore()
    for run_id in run:
        store.restore(run_id)
        if not json:
            console.print_text(f"restored {run_id}")
    deleted = store.trash.runs()
    if json:
        found = [{"id": each.id, "removed": each.removed, "path": str(each.path)} for each in deleted]
        console.print_json({"restored": run, "deleted": found})
    elif not run and deleted:
        rows = [[each.id, f"{datetime.fromtimestamp(each.removed):%Y-%m-%d %H:%M:%S}"] for each in deleted]
        console.print_table(["deleted run", "when"], rows)
    elif not run:
        console.print_text("No deleted run can be restored.")


@runs.command
def export(
    run: RunName,
    output: Annotated[Path, arg(help="Zip file to create, or a folder to create <run>.zip in.")] = Path("."),
    json: Json = False,
) -> None:
    """Write a run and its adapter to a zip file, without paths or names from this machine."""
    from jola.runs.archive import export_archive

    found = find_run(run)
    file = export_archive(found, output)
    if json:
        console.print_json({"run": found.id, "file": str(file), "bytes": file.stat().st_size})
    else:
        console.print_text(f"{file}  {console.size(file.stat().st_size)}")


@runs.command(name="import")
def import_run(
    source: Positional[Annotated[Path, arg(metavar="SOURCE", help="Zip file, run directory or adapter directory.")]],
    label: Annotated[str, arg(help="Label for the run.")] = "",
    json: Json = False,
) -> None:
    """Create a run from a run or an adapter: a directory or a zip file of either."""
    from jola.runs.archive import import_archive
    from jola.runs.notes import RunNotes
    from jola.runs.store import RunStore

    # An unusable label is refused before anything is imported.
    RunNotes().changed(label=label)
    run = import_archive(source, RunStore(), name=str(source))
    if label:
        run.annotate(label=label)
    if json:
        console.print_json({"run": run.id, "path": str(run.path), "summary": run.summary()})
    else:
        console.print_text(f"run       {run.path}\nadapter   {run.adapter_dir}")
