"""The recorded edits of a run in the format of the map on the page.

A value in [0, 1] is sent as one byte: 0 is exactly 0, 1 to 254 are larger values in equal steps, and 255 means not
trained. A norm is sent as its share of `norm_top`, a round number that no norm of the run so far exceeds, so that a
color means the same norm at every step.
"""

import base64
import math
import time
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jola.edits.names import STATES
from jola.runs.history import Array, GateHistory
from jola.runs.run import Run

UNTRAINED = 255
_OPEN_LEVELS = 254
# Reading a long history may take at most this share of the time; reads are at least this many seconds apart.
_READING_SHARE = 0.05
_READING_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_MOST_RECORDS = 2048
"""Maximum number of records that are read at once; each contains six numbers per unit."""

Codes = NDArray[np.uint8]


def encode_gates(gates: NDArray[np.float32], top: float = 1.0) -> Codes:
    """Encode values in [0, top], of any shape, as bytes."""
    levels = np.clip(np.rint(np.clip(np.nan_to_num(gates), 0, top) * (_OPEN_LEVELS / top)), 1, _OPEN_LEVELS)
    codes = np.where(gates > 0, levels, 0)
    return np.where(np.isnan(gates), UNTRAINED, codes).astype(np.uint8)


def state_counts(offset: Codes, scale: Codes) -> list[int | None]:
    """Return the numbers of units with no edit, only the offset, only the scale, and both.

    Units that may not be edited are left out. None for a state that no unit can have because a half is not trained.
    """
    on = [(codes > 0) & (codes < UNTRAINED) for codes in (offset, scale)]
    trained = [codes < UNTRAINED for codes in (offset, scale)]
    counts = np.bincount((on[0] + 2 * on[1])[trained[0] | trained[1]], minlength=len(STATES)).tolist()
    known = [bool(half.any()) for half in trained]
    possible = (known[0] or known[1], known[0], known[1], known[0] and known[1])
    return [count if may else None for count, may in zip(counts, possible, strict=True)]


def channels_of(fields: Iterable[str]) -> tuple[str, ...]:
    """Return the channels of a cell of the map, from the names of the recorded fields."""
    return tuple(name.removesuffix("_norm") for name in fields if name.endswith("_norm"))


def round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20 … (or 0.1, 0.2, 0.5 …) that is at least ``value``; 1 without a value."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(round(factor * power, 12) for factor in (1, 2, 5, 10) if factor * power >= value)


class GateFrames:
    """The records of one site: their steps, statistics of each, and any of them as a frame.

    Reads only new records, within a bounded share of the time. ``gated`` is false for a run without gates: its edits
    are always on, and the probability that a gate is open is not shown. ``only_norms`` is true for a method without
    gates: only the norms of its edits are shown, as for a run that recorded no gates.
    """

    def __init__(self, run: Run, site: str, *, gated: bool = True, only_norms: bool = False) -> None:
        self._run, self._site, self._gated = run, site, gated
        self._only_norms = only_norms or not self._read(0, 0).has_gates
        self._next_read = 0.0
        self.steps: list[int] = []
        self.counts: list[list[int | None]] = []
        self.closed: list[tuple[float | None, float | None]] = []
        """Mean P(closed) of the offset and of the scale gates at each record; None for a half without trained gates."""
        self.norms: list[list[float | None]] = []
        """Mean norm of each channel at each record; None for a channel that is not trained."""
        self.unit_names: tuple[str, ...] | None = None
        self.norm_top = 1.0
        self._norm = 0.0

    def __len__(self) -> int:
        return len(self.steps)

    def refresh(self, *, now: bool = False) -> None:
        """Read new records if a read is due, or in any case with ``now``."""
        begin = time.monotonic()
        if begin < self._next_read and not now:
            return
        # Read the last known record again: if the run went back to a checkpoint, it has changed or is missing.
        while True:
            start = max(0, len(self) - 1)
            history = self._read(start, start + _MOST_RECORDS)
            if self.steps and (not len(history) or history.steps[0] != self.steps[-1]):
                self.steps, self.counts, self.closed, self.norms, self._norm = [], [], [], [], 0.0
                continue
            self._add(history, skip=1 if self.steps else 0)
            if len(history) < _MOST_RECORDS:
                break
        took = time.monotonic() - begin
        self._next_read = begin + min(max(_READING_PAUSE, took / _READING_SHARE), _LONGEST_PAUSE)

    def _add(self, history: GateHistory, skip: int) -> None:
        self.unit_names = history.unit_names
        channels = channels_of(history.fields)
        for index in range(skip, len(history)):
            fields = self._known({name: values[index] for name, values in history.fields.items()})
            self.steps.append(int(history.steps[index]))
            self.norms.append([_mean(fields[f"{channel}_norm"]) for channel in channels])
            if not self._only_norms:
                self.counts.append(
                    state_counts(encode_gates(fields["offset_gate"]), encode_gates(fields["scale_gate"]))
                )
                self.closed.append((_mean_closed(fields["offset_open"]), _mean_closed(fields["scale_open"])))
        for channel in channels:
            norms = history.fields[f"{channel}_norm"]
            if norms.size and not np.isnan(norms).all():
                self._norm = max(self._norm, float(np.nanmax(norms)))
        self.norm_top = round_up(self._norm)

    def _read(self, start: int, stop: int) -> GateHistory:
        return GateHistory.read(self._run.gates_dir, self._site, start, stop)

    def _known(self, fields: dict[str, Array]) -> dict[str, Array]:
        """Return the fields of a record, without gates that the run does not have."""
        if self._only_norms:
            return {name: values for name, values in fields.items() if name.endswith("_norm")}
        if self._gated:
            return fields
        return {name: np.full_like(v, np.nan) if name.endswith("_open") else v for name, v in fields.items()}

    def frame(self, record: int) -> dict[str, Any] | None:
        """Return the record with this number, counted from 0; None if it does not exist."""
        if record < 0:
            return None
        history = self._read(record, record + 1)
        if not len(history):
            return None
        return self.encode(int(history.steps[0]), {name: values[0] for name, values in history.fields.items()})

    def record_at(self, step: int) -> int:
        """Return the number of the last record up to ``step``, or of the first one; -1 without records."""
        return min(len(self) - 1, max(0, bisect_right(self.steps, step) - 1))

    def encode(self, step: int, fields: dict[str, Array]) -> dict[str, Any]:
        """Encode a record for the page: its fields in base64, and how to read them."""
        fields = self._known(fields)
        channels = channels_of(fields)
        norms = [fields[f"{channel}_norm"] for channel in channels]
        highest = max((float(np.nanmax(values)) for values in norms if not np.isnan(values).all()), default=0.0)
        if highest > self.norm_top:  # the record is newer than those that were read
            self._norm, self.norm_top = highest, round_up(highest)
        layers, units = norms[0].shape
        codes = {
            name: encode_gates(values, self.norm_top if name.endswith("_norm") else 1.0)
            for name, values in fields.items()
        }
        return {
            "site": self._site,
            "step": step,
            "layers": layers,
            "units": units,
            "unit_names": self.unit_names,
            "channels": channels,
            "has_gates": not self._only_norms,
            "norm_top": self.norm_top,
            "counts": [] if self._only_norms else state_counts(codes["offset_gate"], codes["scale_gate"]),
            "fields": {name: base64.b64encode(code.tobytes()).decode("ascii") for name, code in codes.items()},
        }


def _mean(values: Array) -> float | None:
    trained = values[~np.isnan(values)]
    return float(f"{trained.mean():.6g}") if trained.size else None


def _mean_closed(opened: Array) -> float | None:
    trained = opened[~np.isnan(opened)]
    return round(float(1 - trained.mean()), 4) if trained.size else None


def chosen_records(count: int, wanted: int = 5) -> list[int]:
    """Return the numbers of up to ``wanted`` records: the first, the last, and others at increasing distances.

    Most gates close early, so that equal distances would mostly show records that hardly differ.
    """
    if count <= wanted:
        return list(range(count))
    spread = (np.geomspace(1, 11, wanted) - 1) / 10
    return sorted({round(float(share) * (count - 1)) for share in spread})
