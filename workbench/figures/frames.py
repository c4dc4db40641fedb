"""The data behind the figures of a run, as pandas tables, and their export as CSV.

Each function has the name of its figure. Unknown values are NaN, so that an empty table still has its columns.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from jola.edits.names import HALVES, STATES
from jola.errors import InputError
from jola.runs.history import GateHistory
from jola.system.spreadsheet import inert

Gates = GateHistory | Mapping[str, ArrayLike]
"""A history, or arrays (layers, units): by the names of `jola.runs.history.GATE_FIELDS`, as returned by
`Run.last_gates`, or by ``offset`` and ``scale``, as returned by `GatedEdits.gate_values`."""

Metrics = Sequence[Mapping[str, Any]]
"""The result of `Run.metrics`."""

Values = NDArray[np.float64]

SMOOTHING = 6
"""Number of steps on each side in the moving average of training losses."""


def to_csv(frame: pd.DataFrame) -> str:
    """Return the table as CSV. Text that a spreadsheet would evaluate as a formula is prefixed with an apostrophe."""
    safe = frame.rename(columns=inert)
    for index, kind in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_datetime64_any_dtype(kind):
            column = [inert(value) for value in frame.iloc[:, index]]
            safe.isetitem(index, pd.Series(column, index=frame.index, dtype=object))
    return safe.to_csv(index=False)


def _joined(parts: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


# Gates


def fields_at(gates: Gates, step: int | None = None) -> tuple[int | None, dict[str, Values]]:
    """Return step and fields, each (layers, units), of the last record up to ``step``; None means the last record.

    A history without records has no fields. For plain arrays, the step is the given one.
    """
    if not isinstance(gates, GateHistory):
        return step, {name: _plain(values, name) for name, values in gates.items()}
    if not len(gates):
        return step, {}
    wanted = gates.steps[-1] if step is None else max(int(step), gates.steps[0])
    index = int(np.searchsorted(gates.steps, wanted, side="right")) - 1
    return int(gates.steps[index]), {name: values[index].astype(float) for name, values in gates.fields.items()}


def _plain(values: ArrayLike, name: str) -> Values:
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or not array.size:
        raise InputError(f"{name} has the shape {array.shape}; it must be (layers, units).")
    return array


def field(fields: Mapping[str, Values], half: str, quantity: str) -> Values | None:
    """Return ``quantity`` (gate, open, norm) of one half, (layers, units); None if it is not among the fields."""
    return fields.get(f"{half}_{quantity}", fields.get(half))


def trained(fields: Mapping[str, Values], half: str) -> bool:
    """Whether a half was trained; otherwise its values are NaN or its P(open) is 0 everywhere."""
    probability = fields.get(f"{half}_open")
    if probability is not None:
        return bool((np.nan_to_num(probability) > 0).any())
    found = [values for name, values in fields.items() if name == half or name.startswith(f"{half}_")]
    return any(bool((~np.isnan(values)).any()) for values in found)


def states(fields: Mapping[str, Values]) -> NDArray[np.int64] | None:
    """Return the index into `STATES` of each unit, (layers, units), −1 if it is not edited; None without gates."""
    values = [field(fields, half, "gate") for half in HALVES]
    known = [array for array in values if array is not None]
    if not known:
        return None
    on = [(np.zeros_like(known[0]) if array is None else array) > 0 for array in values]
    return np.where(edited(*known), on[0] + 2 * on[1], -1)


def edited(*gates: Values) -> NDArray[np.bool_]:
    """Return which units have a gate in one of the halves; other units are NaN in all of them."""
    return np.asarray(~np.isnan(gates).all(axis=0))


def _cells(layers: int, units: int) -> dict[str, Any]:
    layer, unit = (axis.ravel() for axis in np.indices((layers, units)))
    return {"layer": layer, "unit": unit}


def gate_map(gates: Gates, step: int | None = None) -> pd.DataFrame:
    """Return one row per unit: layer, unit, every known field, and the state, empty for a unit that is not edited."""
    step, fields = fields_at(gates, step)
    if not fields:
        return pd.DataFrame(columns=["layer", "unit", "state"])
    shape = next(iter(fields.values())).shape
    columns = _cells(*shape) | {name: values.ravel() for name, values in fields.items()}
    state = states(fields)
    if state is not None:
        columns["state"] = np.asarray([*STATES, ""])[state].ravel()
    frame = pd.DataFrame(columns)
    if step is not None:
        frame.insert(0, "step", step)
    return frame


def spread_steps(history: GateHistory, count: int = 5) -> list[int]:
    """Return ``count`` recorded steps from the first to the last, as evenly spaced as the records allow."""
    if not len(history):
        return []
    wanted = np.linspace(history.steps[0], history.steps[-1], count)
    nearest = np.abs(history.steps[None, :] - wanted[:, None]).argmin(axis=1)
    return [int(history.steps[index]) for index in sorted(set(nearest.tolist()))]


def closed_map(history: GateHistory, steps: Sequence[int] | None = None) -> pd.DataFrame:
    """Return one row per chosen step, half, layer and unit, with ``p_closed`` = P(gate is exactly 0 in training)."""
    parts = []
    for step in spread_steps(history) if steps is None else steps:
        at, fields = fields_at(history, step)
        for half in HALVES:
            if fields and trained(fields, half):
                values = 1 - fields[f"{half}_open"]
                columns = {"step": at, "half": half, **_cells(*values.shape), "p_closed": values.ravel()}
                parts.append(pd.DataFrame(columns))
    return _joined(parts, ["step", "half", "layer", "unit", "p_closed"])


def state_counts(history: GateHistory) -> pd.DataFrame:
    """Return one row per record: step, and the number of units in each of `STATES`."""
    return pd.DataFrame({"step": history.steps, **history.counts()})


def open_by_layer(gates: Gates, step: int | None = None) -> pd.DataFrame:
    """Return one row per layer: open offset gates, open scale gates (NaN if a half was not trained), edited units."""
    _, fields = fields_at(gates, step)
    known = {half: values for half in HALVES if (values := field(fields, half, "gate")) is not None}
    columns: dict[str, Any] = {}
    for half, values in known.items():
        columns["layer"] = np.arange(len(values))
        columns[half] = (values > 0).sum(axis=1) if trained(fields, half) else math.nan
        columns["units"] = edited(*known.values()).sum(axis=1)
    return pd.DataFrame(columns).reindex(columns=["layer", *HALVES, "units"])


def head_history(history: GateHistory, layer: int, unit: int) -> pd.DataFrame:
    """Return one row per record: step, and every field of this unit. Raises `InputError` if the unit does not exist."""
    layers, units = next(iter(history.fields.values())).shape[1:]
    if not (0 <= layer < layers and 0 <= unit < units):
        raise InputError(
            f"There is no unit {unit} in layer {layer}; layers range from 0 to {layers - 1}, "
            f"units from 0 to {units - 1}."
        )
    return pd.DataFrame(
        {"step": history.steps} | {name: values[:, layer, unit] for name, values in history.fields.items()}
    )


def compare_gates(first: Gates, second: Gates, quantity: str = "gate") -> pd.DataFrame:
    """Return one row per half and unit of both runs: values in the first and the second, and their difference."""
    fields = [fields_at(gates)[1] for gates in (first, second)]
    parts = []
    for half in HALVES:
        values = [field(found, half, quantity) for found in fields]
        if values[0] is not None and values[1] is not None and values[0].shape == values[1].shape:
            columns = {"half": half, **_cells(*values[0].shape)}
            columns |= {"first": values[0].ravel(), "second": values[1].ravel()}
            parts.append(pd.DataFrame(columns | {"difference": (values[1] - values[0]).ravel()}))
    return _joined(parts, ["half", "layer", "unit", "first", "second", "difference"])


# Metrics


def series(metrics: Metrics, name: str) -> tuple[NDArray[np.int64], Values]:
    """Return the steps and values of one metric; entries without it are left out."""
    found = [
        (entry["step"], entry[name])
        for entry in metrics
        if isinstance(entry.get("step"), int)
        and isinstance(entry.get(name), int | float)
        and math.isfinite(entry[name])
    ]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=float)


def smooth(values: Values, reach: int = SMOOTHING) -> Values:
    """Return the moving average over ``reach`` neighbors on both sides, and over fewer at the ends to avoid bias."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    side = np.minimum(reach, np.minimum(at, len(values) - 1 - at))
    return (total[at + side + 1] - total[at - side]) / (2 * side + 1)


def _by_step(metrics: Metrics, names: Sequence[str]) -> pd.DataFrame:
    frame = pd.DataFrame({"step": np.empty(0, dtype=np.int64)})
    for name in names:
        steps, values = series(metrics, name)
        column = pd.DataFrame({"step": steps, name: values}).drop_duplicates("step", keep="last")
        frame = frame.merge(column, on="step", how="outer")
    return frame.sort_values("step", ignore_index=True)


def losses(metrics: Metrics) -> pd.DataFrame:
    """Return one row per step: cross-entropy, its moving average, penalty, and validation cross-entropy, in nats."""
    frame = _by_step(metrics, ["cross_entropy", "penalty", "validation_cross_entropy"])
    steps, values = series(metrics, "cross_entropy")
    mean = pd.DataFrame({"step": steps, "cross_entropy_mean": smooth(values)}).drop_duplicates("step", keep="last")
    return frame.merge(mean, on="step", how="left")


def rates(metrics: Metrics) -> pd.DataFrame:
    """Return one row per step: the learning rates of edits and gates, and λ."""
    return _by_step(metrics, ["learning_rate", "gate_learning_rate", "l0_weight"])


def compare_curves(runs: Mapping[str, Metrics], quantity: str = "validation_cross_entropy") -> pd.DataFrame:
    """Return one row per run and step: the value of the metric ``quantity``."""
    parts = []
    for name, metrics in runs.items():
        steps, values = series(metrics, quantity)
        parts.append(pd.DataFrame({"run": name, "step": steps, quantity: values}))
    return _joined(parts, ["run", "step", quantity])
