"""The history of a run's edits: a binary file that grows during training.

``<site>.json`` describes the file: ``{"layers", "units", "fields"}``, and ``"unit_names"`` if units have names.
``<site>.f32`` is a sequence of float32 records: the step, then each field as (layers, units) in row-major order.
float32 represents steps exactly up to 2**24. Each record is appended with a single write, so a killed process leaves at
most one incomplete record at the end, which readers ignore and the next writer removes.
"""

import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from jola.edits.names import STATES
from jola.errors import InputError
from jola.runs.schema import GATE_FIELDS, GateHeader
from jola.system.files import append_whole, disk_errors, make_folder, replace_file
from jola.system.typed_json import LARGEST, read_typed

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float32]


@dataclass(frozen=True)
class _Layout:
    layers: int
    units: int
    fields: tuple[str, ...] = GATE_FIELDS
    unit_names: tuple[str, ...] | None = None

    @property
    def floats(self) -> int:
        return 1 + len(self.fields) * self.layers * self.units

    @property
    def bytes(self) -> int:
        return 4 * self.floats

    def header(self) -> dict[str, Any]:
        names = {} if self.unit_names is None else {"unit_names": list(self.unit_names)}
        return {"layers": self.layers, "units": self.units, "fields": list(self.fields), **names}

    def split(self, records: Array) -> dict[str, Array]:
        """(S, floats) → each field as (S, layers, units)."""
        values = records[:, 1:].reshape(len(records), len(self.fields), self.layers, self.units)
        return {name: values[:, index] for index, name in enumerate(self.fields)}


def _read_layout(folder: Path, site: str) -> _Layout | None:
    if not site.isidentifier():
        raise InputError(f"'{site}' is not the name of a site; use one of {recorded_sites(folder)}.")
    header = read_typed(folder / f"{site}.json", GateHeader)
    if not header:
        return None
    layers, units, fields, names = header["layers"], header["units"], header["fields"], header.get("unit_names")
    _check_records(folder / f"{site}.f32")
    return _Layout(layers, units, tuple(fields), None if names is None else tuple(names))


def _check_records(path: Path) -> None:
    """Raise `InputError` if the records exist but cannot be read."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "something else"
        raise InputError(f"{path} must be a file, but is {what}.")


def is_readable(folder: Path, site: str) -> bool:
    """Whether a site has a history with a valid header."""
    try:
        return _read_layout(folder, site) is not None
    except InputError:
        return False


def recorded_sites(folder: Path) -> list[str]:
    """Return the names of the sites with a gate history in ``folder``, sorted."""
    return sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))


class GateWriter:
    """Appends records to a gate history; the only writer of its file.

    Opening the history of a killed process removes the incomplete record at its end. Raises `InputError` if the folder
    contains a history of another shape.
    """

    def __init__(
        self,
        folder: Path | str,
        site: str,
        layers: int,
        units: int,
        fields: Sequence[str] = GATE_FIELDS,
        unit_names: Sequence[str] | None = None,
    ) -> None:
        folder = Path(folder)
        self.path = folder / f"{site}.f32"
        self._layout = _Layout(layers, units, tuple(fields), None if unit_names is None else tuple(unit_names))
        make_folder(folder)
        existing = _read_layout(folder, site)
        if existing is None:
            replace_file(folder / f"{site}.json", json.dumps(self._layout.header()).encode())
        elif replace(existing, unit_names=None) != replace(self._layout, unit_names=None):
            raise InputError(
                f"{self.path} records {existing.layers} × {existing.units} gates and this model has "
                f"{layers} × {units}; choose another run directory."
            )
        with disk_errors(self.path):
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._cut(self._records())

    def _records(self) -> int:
        return os.fstat(self._descriptor).st_size // self._layout.bytes

    def _cut(self, records: int) -> None:
        os.ftruncate(self._descriptor, records * self._layout.bytes)

    def _step_of(self, record: int) -> int:
        data = os.pread(self._descriptor, 4, record * self._layout.bytes)
        return int(np.frombuffer(data, dtype="<f4")[0])

    @property
    def last_step(self) -> int | None:
        """Step of the last record; None if there are no records."""
        records = self._records()
        return self._step_of(records - 1) if records else None

    def append(self, step: int, values: Mapping[str, Any]) -> bool:
        """Append the record of ``step``: a (layers, units) array or CPU tensor for every field.

        If the last record is of the same step, nothing is appended and False is returned: the last step of a run often
        coincides with a regular record. NaN marks halves or units that the run does not train. Raises `ValueError` for
        an earlier step, a missing field or a wrong shape, and `InputError` if the disk is full.
        """
        last = self.last_step
        if last is not None and step <= last:
            if step == last:
                return False
            raise ValueError(f"step {step} comes before the recorded step {last}: call truncate_after first")
        record = np.empty(self._layout.floats, dtype="<f4")
        record[0] = step
        fields = record[1:].reshape(len(self._layout.fields), self._layout.layers, self._layout.units)
        for index, name in enumerate(self._layout.fields):
            value = np.asarray(values[name]) if name in values else None
            if value is None or value.shape != fields[index].shape:
                found = "missing" if value is None else f"of shape {value.shape}"
                raise ValueError(f"{name} is {found}, expected shape {fields[index].shape}")
            fields[index] = value
        append_whole(self._descriptor, record.tobytes(), self.path)
        return True

    def truncate_after(self, step: int) -> None:
        """Drop the records of later steps, before training resumes from the checkpoint of ``step``."""
        records = self._records()
        while records and self._step_of(records - 1) > step:
            records -= 1
        self._cut(records)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class GateHistory:
    """The edits of one site over a run.

    ``steps`` (S,) is increasing, with -1 for damaged records; ``fields`` maps every recorded field to an array
    (S, layers, units); ``unit_names`` are the names of the units, if they have any.
    """

    site: str
    steps: NDArray[np.int64]
    fields: dict[str, Array]
    unit_names: tuple[str, ...] | None = None

    @property
    def has_gates(self) -> bool:
        """Whether gates were recorded, not only norms."""
        return set(GATE_FIELDS) <= set(self.fields)

    @classmethod
    def read(cls, folder: Path | str, site: str = "heads", start: int = 0, stop: int | None = None) -> "GateHistory":
        """Read the records so far; safe while the run writes. Raises `InputError` if no history was begun.

        ``start`` and ``stop`` select records by index, like a slice.
        """
        folder = Path(folder)
        layout = _read_layout(folder, site)
        if layout is None:
            known = ", ".join(recorded_sites(folder)) or "none"
            raise InputError(f"{folder} contains no gate history of the site '{site}' (recorded: {known}).")
        # Read, not memory-mapped: a resuming run shortens the file, and accessing a mapped page beyond its end kills
        # the reader.
        try:
            with open(folder / f"{site}.f32", "rb") as file:
                there = os.fstat(file.fileno()).st_size // layout.bytes
                wanted = max(0, (there if stop is None else min(stop, there)) - start)
                data = np.fromfile(file, dtype="<f4", count=wanted * layout.floats, offset=start * layout.bytes)
        except FileNotFoundError:
            data = np.empty(0, dtype="<f4")
        records = data[: len(data) // layout.floats * layout.floats].reshape(-1, layout.floats)
        return cls(site, _steps(records), layout.split(records), layout.unit_names)

    def __len__(self) -> int:
        return len(self.steps)

    def _index(self, step: int | None) -> int:
        if not len(self):
            raise InputError(f"No gates of the site '{self.site}' have been recorded yet.")
        index = len(self) - 1 if step is None else int(np.searchsorted(self.steps, step, side="right")) - 1
        if index < 0:
            raise InputError(f"The first gates were recorded at step {self.steps[0]}, after step {step}.")
        return index

    def at(self, step: int) -> dict[str, Array]:
        """Return the fields, each (layers, units), of the last record at or before ``step``."""
        index = self._index(step)
        return {name: values[index] for name, values in self.fields.items()}

    def counts(self) -> dict[str, NDArray[np.int64]]:
        """Count the units in each of `STATES` at each record, (S,). A half is on if its gate is > 0.

        Units without a trained half (NaN) are in no state. Empty if no gates were recorded.
        """
        if not self.has_gates:
            return {}
        offset, scale = self.fields["offset_gate"], self.fields["scale_gate"]
        state = (offset > 0) + 2 * (scale > 0).astype(np.int64)
        state[np.isnan(offset) & np.isnan(scale)] = -1
        return {name: (state == index).sum(axis=(1, 2)) for index, name in enumerate(STATES)}

    def closed(self, step: int | None = None) -> dict[str, float]:
        """Return the fraction of evaluation gates that are exactly 0, at ``step`` or at the last record.

        Keys ``offset`` and ``scale``. Gates that the run does not train (NaN) are not counted; the fraction is NaN if
        none are left. Empty if no gates were recorded.
        """
        index = self._index(step)
        if not self.has_gates:
            return {}
        fractions = {}
        for half in ("offset", "scale"):
            gates = self.fields[f"{half}_gate"][index]
            gates = gates[~np.isnan(gates)]
            fractions[half] = float((gates == 0).mean()) if gates.size else math.nan
        return fractions

    def to_frame(self) -> "pd.DataFrame":
        """Return a long table: one row for each step, layer and unit, with a column for each field."""
        import pandas as pd  # here, because it takes longer to import than everything else in this module

        shape = next(iter(self.fields.values())).shape
        record, layer, unit = (axis.ravel() for axis in np.indices(shape))
        columns: dict[str, NDArray[Any]] = {"step": self.steps[record], "layer": layer, "unit": unit}
        return pd.DataFrame(columns | {name: values.ravel() for name, values in self.fields.items()})


def read_last(folder: Path | str, site: str = "heads") -> tuple[int, dict[str, Array]] | None:
    """Return step and fields, each (layers, units), of the last record, reading only that; None before it."""
    folder = Path(folder)
    layout = _read_layout(folder, site)
    if layout is None:
        return None
    try:
        with open(folder / f"{site}.f32", "rb") as file:
            records = os.fstat(file.fileno()).st_size // layout.bytes
            if not records:
                return None
            file.seek((records - 1) * layout.bytes)
            data = file.read(layout.bytes)
    except FileNotFoundError:
        return None
    if len(data) != layout.bytes:  # meanwhile shortened by a resuming writer
        return None
    record = np.frombuffer(data, dtype="<f4").reshape(1, -1)
    step = int(_steps(record)[0])
    return None if step < 0 else (step, {name: values[0] for name, values in layout.split(record).items()})


def _steps(records: Array) -> NDArray[np.int64]:
    """Return the steps of records, (S,); -1 for damaged records, whose step is not a count."""
    steps = records[:, 0]
    return np.where((steps >= 0) & (steps < LARGEST), steps, -1).astype(np.int64)


def truncate_history(folder: Path | str, site: str, step: int) -> None:
    """Drop the records after ``step``, and an incomplete one, from a history that no writer has open."""
    layout = _read_layout(Path(folder), site)
    if layout is not None:
        with GateWriter(folder, site, layout.layers, layout.units, layout.fields, layout.unit_names) as writer:
            writer.truncate_after(step)
