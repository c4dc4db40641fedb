"""`make_cell`: run one cell of a grid in this process."""

import dataclasses
import shutil
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jola.config import RunConfig
from jola.errors import InputError
from jola.runs.run import Run
from jola.studies.axes import NEUTRAL
from jola.studies.cells import CellFolder, Interrupted, locked
from jola.studies.grid import Grid
from jola.studies.schema import FORMAT, GridResultFile, SessionsFile
from jola.system.files import json_bytes, replace_file
from jola.system.formatting import is_share
from jola.system.progress import Progress, Quiet
from jola.system.startup import quick_imports
from jola.system.typed_json import read_valid_part, valid_part

if TYPE_CHECKING:
    from jola.training.run import Prepared

LAYER_PROMPTS = 16
"""Number of test examples on whose prompts the changes of layers are measured."""
_SESSIONS = "sessions.json"


def make_cell(
    grid: Grid, name: str, *, locks: bool = True, progress: Progress | None = None, began: float | None = None
) -> dict[str, Any]:
    """Train and test one cell, unless it has a result, and return its result.

    Args:
        grid: The grid.
        name: Name of one of its cells.
        locks: Whether to refuse a file system without locks.
        progress: Receives phases, steps and notes.
        began: Start of the cell's process, in seconds since the epoch; now by default.

    Raises:
        InputError: The cell cannot be run; ``failed.json`` says why.
        Locked: Another process runs it.
        Interrupted: The run was stopped on request.
    """
    if name not in grid.planned:
        raise InputError(f"There is no cell {name!r} in {grid.folder}; `jola grid plan` lists the cells.")
    cell, began = grid.cell(name), began or time.time()
    with locked(cell.path, required=locks):
        if (result := grid.result(name)) is not None:
            return result
        try:
            result = _make(grid, name, cell, progress or Quiet(), began)
        except InputError as error:
            cell.write_failure(str(error))
            raise
        except Interrupted:
            raise
        except Exception as error:
            cell.write_failure(f"{type(error).__name__}: {error}")
            raise
        cell.write_result(result)
        # Checkpoints are large, and a cell that is done is not trained further.
        shutil.rmtree(cell.run.checkpoints_dir, ignore_errors=True)
        return result


def _make(grid: Grid, name: str, cell: CellFolder, progress: Progress, began: float) -> dict[str, Any]:
    with quick_imports():
        from jola.data.tasks import load_task
        from jola.selectors.choose import chosen_heads
        from jola.selectors.heads import fingerprint
        from jola.training.run import run_training

    config = grid.config(name)
    task = load_task(config.data, config.training.seed)
    if not task.test:
        raise InputError(f"The task {task.name} has no test examples.")
    if grid.several_sizes and len(task.train) < config.data.train_size:
        raise InputError(
            f"The task {task.name} has {len(task.train):,} training examples, fewer than {config.data.train_size:,}."
        )
    examples = fingerprint(task.test)
    grid.claim_test_examples(config.data.task, examples, len(task.test))
    run = cell.run
    if run.is_run():
        try:
            stored = run.run_config()
        except InputError:  # killed while it was created
            shutil.rmtree(run.path)
        else:
            config = _resumed(run, stored, config)
    if run.state != "finished" or not run.result():
        if run.is_run():
            run.write_facts({"training": dataclasses.asdict(config.training)})
        _keep_session(cell)
        run = run_training(config, resume=True, progress=progress, choose=chosen_heads, measure=_measure)
        if run.state in ("cancelled", "paused"):
            raise Interrupted(name)
    result = _result(cell, run, examples, began)
    _, faults = valid_part({"format": FORMAT, **result}, GridResultFile)
    if faults:
        raise InputError(
            f"The run in {run.path} has a result that is not valid: {faults[0]}; remove the folder of the run to run "
            "the cell again."
        )
    return result


def _resumed(run: Run, stored: RunConfig, planned: RunConfig) -> RunConfig:
    """Return the settings with which the run of a cell continues: its own, but those in `NEUTRAL` as planned now.

    All others must be as planned: the folder may come from somebody else, and a reader of the plan would not notice
    other data or another model.
    """
    pairs = [("method", stored.method, planned.method)]
    for part, planned_part in zip(stored.parts(), planned.parts(), strict=True):
        names = [setting.name for setting in dataclasses.fields(planned_part)]
        pairs += [(name, getattr(part, name, None), getattr(planned_part, name)) for name in names]
    for name, value, other in pairs:
        if name not in NEUTRAL and value != other:
            raise InputError(
                f"The run in {run.path} has {name} {value!r}, but the grid plans {other!r}; remove the folder of the "
                "run to run the cell as planned."
            )
    neutral = {name: getattr(planned.training, name) for name in NEUTRAL}
    return dataclasses.replace(stored, training=dataclasses.replace(stored.training, **neutral))


def _measure(prepared: "Prepared", progress: Progress) -> dict[str, Any]:
    """Measure side effects and changes of layers, for the result of the run; empty without edits, or if it fails."""
    import torch

    from jola.evaluation.side_effects import side_effects
    from jola.insight import layer_changes

    model = prepared.model
    if not model.method.trains:
        return {}
    started = time.perf_counter()
    progress.phase("Measuring side effects")
    try:
        effects = side_effects(model)
        changes = layer_changes(model, prepared.task.test[:LAYER_PROMPTS], template=prepared.template)
    except (InputError, torch.OutOfMemoryError) as error:
        progress.note(f"Side effects and changes of layers are left out: {error}")
        return {}
    return {
        "side_effects": effects.to_dict(),
        "layer_changes": changes.to_dict(),
        "measure_seconds": time.perf_counter() - started,
    }


def _validation_accuracy(result: Mapping[str, Any]) -> float | None:
    """Return the validation accuracy of the kept edits; None if the task's score is not a share of right answers."""
    scores, validation = result.get("scores") or [], result.get("validation")
    return validation["accuracy"] if validation and scores and is_share(scores[0]) else None


def _keep_session(cell: CellFolder) -> None:
    """Record the time of an interrupted session, before the next one replaces the status of the run."""
    status = cell.run.status()
    started, updated = status["started"], status["updated"]
    if started is not None and updated is not None:
        sessions = _sessions(cell) | {str(started): max(0.0, updated - started)}
        replace_file(cell.path / _SESSIONS, json_bytes(sessions))


def _sessions(cell: CellFolder) -> dict[str, float]:
    """Return the seconds of the interrupted sessions by their start times, without damaged entries."""
    return {began: float(seconds) for began, seconds in read_valid_part(cell.path / _SESSIONS, SessionsFile)[0].items()}


def _result(cell: CellFolder, run: Run, examples: str, began: float) -> dict[str, Any]:
    """Return the content of ``result.json`` for a cell whose run has finished."""
    result, config, status = run.result() or {}, run.raw_config(), run.status()
    # Longer than this process if an earlier one was killed after the run and before it wrote the result.
    started, updated = status["started"] or began, status["updated"] or began
    last = max(time.time() - began, updated - started) - (result.get("measure_seconds") or 0)
    sessions = _sessions(cell) | {str(started): last}
    parameters = config.get("parameters") or {}
    weights = run.adapter_dir / "adapter_model.safetensors"
    return {
        "scores": result.get("scores") or [],
        "validation": result.get("validation_cross_entropy"),
        "validation_accuracy": _validation_accuracy(result),
        "trainable": parameters.get("trainable", 0),
        "frozen": parameters.get("frozen", 0),
        "steps": result.get("steps"),
        "kept_step": result.get("kept_step"),
        "n_train": result.get("n_train") or 0,
        "seconds": sum(sessions.values()),
        "sessions": len(sessions),
        "peak_memory": result.get("peak_memory") or 0,
        "adapter_bytes": weights.stat().st_size if weights.is_file() else 0,
        "test_examples": examples,
        "side_effects": result.get("side_effects"),
        "layer_changes": result.get("layer_changes"),
        "notes": (config.get("task") or {}).get("notes") or [],
        "machine": config.get("machine"),
        "versions": config.get("versions") or {},
        "ended": time.time(),
    }
