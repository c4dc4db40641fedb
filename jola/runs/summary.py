"""Summarize a run as one row of a table."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jola.config import RunConfig
from jola.edits.names import HALVES
from jola.methods import METHODS, Method
from jola.runs.history import GATE_FIELDS, Array
from jola.runs.notes import RunNotes
from jola.runs.scores import own_score
from jola.runs.state import State
from jola.system.formatting import is_share, score_label


class RunSummary(TypedDict):
    """One row of a table of runs; None if a value is not known (yet)."""

    id: str
    label: str
    """The user's label of the run; empty without a label."""
    note: str
    state: State
    task: str | None
    model: str | None
    method: str
    """Title of the method, for JoLA with the options that differ in parentheses: ``JoLA (offset, shared gates)``."""
    n_train: int | None
    seed: int | None
    device: str | None
    """Device of the model."""
    accuracy: dict[str, Any] | None
    """``{"accuracy", "n", "low", "high"}`` on the test examples, by exact match; None for tasks with other metrics."""
    score: dict[str, Any] | None
    """The score of the task's main metric on the test examples: ``{"metric", "title", "value", "n", "low", "high"}``,
    fractions, and ``"share"``, whether it is a share of right answers."""
    closed: dict[str, float | None] | None
    """Fraction of gates at exactly 0: ``{"offset", "scale"}``, None for a half that is not trained."""
    open: dict[str, int | None] | None
    """Gates that are not 0, of the kept edits or, before the end, at the last record: ``{"offset", "scale"}``, None for
    a half that is not trained, and ``"units"``, the number of units that may be edited. None without gates."""
    seconds: float | None
    created: float
    """Seconds since the epoch."""
    step: int
    total_steps: int
    size: int
    """Bytes of the whole directory."""
    adapter: bool
    """Whether there is an adapter to use or export."""
    problem: str
    """What is wrong with the files of the run, one sentence; empty if all of them can be read."""
    imported: bool
    """Whether the run was trained elsewhere and imported here."""


def summarise_run(
    id: str,
    *,
    config: Mapping[str, Any],
    status: Mapping[str, Any],
    result: Mapping[str, Any],
    notes: RunNotes,
    gates: Sequence[Mapping[str, Array]],
    state: State,
    created: float,
    size: int,
    adapter: bool,
    problem: str,
) -> RunSummary:
    """Summarize a run from the valid part of its files.

    Args:
        gates: The last gate record of each site: the fields of `jola.runs.history.GATE_FIELDS`, each (layers, units).
    """

    def setting(part: str, name: str) -> Any:
        section = config.get(part)
        return section.get(name) if isinstance(section, dict) else None

    started, updated = status["started"], status["updated"]
    seconds = result.get("seconds")
    if seconds is None and started is not None and updated is not None:
        seconds = max(0.0, updated - started)
    return {
        "id": id,
        "label": notes.label,
        "note": notes.note,
        "state": state,
        "task": setting("task", "name") or setting("data", "task"),
        "model": setting("model", "model"),
        "method": method_of(config),
        "n_train": setting("task", "n_train"),
        "seed": setting("training", "seed"),
        "device": status["device"] or config.get("device"),
        "accuracy": result.get("test"),
        "score": _score(result),
        "closed": result.get("closed"),
        "open": _open_gates(gates, result.get("closed")) if gates_in(config) != "none" else None,
        "seconds": seconds,
        "created": created,
        "step": status["step"],
        "total_steps": status["total_steps"],
        "size": size,
        "adapter": adapter,
        "problem": problem,
        "imported": isinstance(config.get("imported"), dict),
    }


def _score(result: Mapping[str, Any]) -> dict[str, Any] | None:
    score = own_score(result)
    return score and score | {"title": score_label(score), "share": is_share(score)}


def method_in(config: Mapping[str, Any]) -> Method:
    """Return the method of a configuration; JoLA if none is named, as by earlier versions, or if it is damaged."""
    name = config.get("method")
    return METHODS[name if isinstance(name, str) and name in METHODS else RunConfig.method]


def gates_in(config: Mapping[str, Any]) -> str:
    """Return the setting ``gates`` of a configuration: ``two``, ``shared`` or ``none``, also for methods without."""
    if not method_in(config).has_gates:
        return "none"
    edits = config.get("edits")
    return str(edits.get("gates", "two")) if isinstance(edits, dict) else "two"


def method_of(config: Mapping[str, Any]) -> str:
    """Return the method of a configuration in words, for JoLA with the options that differ in parentheses."""
    method = method_in(config)
    if method.name != RunConfig.method:
        return method.title
    edits = config.get("edits")
    edits = edits if isinstance(edits, dict) else {}
    changes = {
        "sites": {"mlp": "MLP", "both": "heads and MLP"},
        "operation": {"offset": "offset", "scale": "scale"},
        "gates": {"shared": "shared gates", "none": "no gates"},
    }
    words = [
        known[value] for name, known in changes.items() if isinstance(value := edits.get(name), str) and value in known
    ]
    return f"JoLA ({', '.join(words)})" if words else "JoLA"


def _open_gates(records: Sequence[Mapping[str, Array]], closed: Any) -> dict[str, int | None] | None:
    """Count the gates that are not 0 over all sites, from one record of each site and the fractions in a result.

    The last record is that of the last step, but the kept edits are often those of an earlier one. For these, the
    result has the exact fraction, and the record the number of gates that it refers to.
    """
    counts: dict[str, int | None] = {half: None for half in HALVES}
    units = 0
    for fields in records:
        if not set(GATE_FIELDS) <= set(fields):  # of a method without gates
            continue
        # A unit that may not be edited is recorded with probability 0, which no gate has.
        editable = np.logical_or(fields["offset_open"] > 0, fields["scale_open"] > 0)
        units += int(editable.sum())
        for half in HALVES:
            gates = fields[f"{half}_gate"]
            if not np.isnan(gates[editable]).all():
                counts[half] = (counts[half] or 0) + int((gates[editable] > 0).sum())
    if not units:
        return None
    if isinstance(closed, dict):
        for half in HALVES:
            share = closed.get(half)
            if counts[half] is not None and isinstance(share, int | float) and 0 <= share <= 1:
                counts[half] = round((1 - share) * units)
    return {**counts, "units": units}
