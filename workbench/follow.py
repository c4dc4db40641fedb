"""What the page shows of a run, read from its directory while it is written.

A gate value in [0, 1] crosses to the page as one byte: 0 is a gate at exactly 0, 1 to 254 are the open ones in equal
steps, and 255 stands for a half of an edit that the run does not train.
"""

import base64
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jola.assets import ASSETS, DEFAULT_MODEL
from jola.errors import InputError
from jola.gate_history import STATES, GateHistory
from jola.runs import UNFINISHED, Run, RunStore
from workbench.jobs import last_sentence, log_tail

UNTRAINED = 255
_OPEN_LEVELS = 254
_CURVE_POINTS = 240
_FOLLOWED = 8
# Reading a long history again may cost at most this share of the time.
_READING_SHARE = 0.05

Codes = NDArray[np.uint8]


def encode_gates(gates: NDArray[np.float32]) -> Codes:
    """Gate values in [0, 1], any shape, as bytes."""
    open_levels = np.clip(np.rint(np.nan_to_num(gates) * _OPEN_LEVELS), 1, _OPEN_LEVELS)
    codes = np.where(gates > 0, open_levels, 0)
    return np.where(np.isnan(gates), UNTRAINED, codes).astype(np.uint8)


def state_counts(offset: Codes, scale: Codes) -> list[int]:
    """How many units have no edit, the offset alone, the scale alone, and both."""
    on = [(codes > 0) & (codes < UNTRAINED) for codes in (offset, scale)]
    return np.bincount((on[0] + 2 * on[1]).ravel(), minlength=len(STATES)).tolist()


class _History:
    """The gates of one site at every record, as bytes; reads anew what was added, within a bounded share of time."""

    def __init__(self, run: Run, site: str) -> None:
        self._run, self._site = run, site
        self._next_read = 0.0
        self.steps: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.codes: list[tuple[Codes, Codes]] = []
        self.counts: list[list[int]] = []

    def refresh(self, *, now: bool = False) -> None:
        begin = time.monotonic()
        if begin < self._next_read and not now:
            return
        history = self._run.gates(self._site)
        known = len(self.codes)
        if known > len(history) or not np.array_equal(self.steps, history.steps[:known]):
            self.codes, self.counts, known = [], [], 0  # the run went back to a checkpoint
        self._add(history, known)
        self.steps = history.steps
        self._next_read = begin + max(0.1, (time.monotonic() - begin) / _READING_SHARE)

    def _add(self, history: GateHistory, known: int) -> None:
        for index in range(known, len(history)):
            offset, scale = (encode_gates(history.fields[f"{half}_gate"][index]) for half in ("offset", "scale"))
            self.codes.append((offset, scale))
            self.counts.append(state_counts(offset, scale))


class Follower:
    """Reads one run for the page."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._lock = threading.Lock()
        self._histories: dict[str, _History] = {}

    def token(self) -> str:
        """Changes whenever the run wrote something or its process died."""
        return f"{self.run.version()}:{self.run.state}"

    def snapshot(self, site: str = "") -> dict[str, Any]:
        """Everything the run view shows; ``site`` empty or unknown means the first recorded one."""
        with self._lock:
            token = self.token()
            run, status, state = self.run, self.run.status(), self.run.state
            sites = sorted(run.sites(), key=lambda name: name != "heads")
            site = site if site in sites else next(iter(sites), "")
            metrics = run.metrics()
            active = state in UNFINISHED
            try:
                config = run.config()
            except InputError:
                config = {}
            view: dict[str, Any] = {
                "token": token,
                "run": run.id,
                "state": state,
                "active": active,
                "step": status["step"],
                "total": status["total_steps"],
                "message": describe_message(state, status["message"]),
                "about": describe_config(config),
                "facts": facts(status, state, metrics, config),
                "result": result_facts(run.result()),
                "curves": curves(metrics),
                "note": last_sentence(run) if state == "starting" else "",
                "log": log_tail(run) if not active and state != "finished" else "",
                "sites": sites,
                "frame": None,
            }
            if site:
                history = self._history(site)
                history.refresh(now=not active)
                view["records"] = len(history.codes)
                view["states"] = _thin_states(history)
                view["frame"] = self._last_frame(site)
            return view

    def frame(self, site: str, record: int) -> dict[str, Any] | None:
        """The gates at one record, counted from 0; None when there is no such record."""
        with self._lock:
            history = self._history(site)
            if not history.codes:
                history.refresh(now=True)
            if not 0 <= record < len(history.codes):
                return None
            return _frame(site, int(history.steps[record]), *history.codes[record])

    def _history(self, site: str) -> _History:
        if site not in self._histories:
            if site not in self.run.sites():
                raise InputError(f"The run {self.run.id} recorded no site '{site}'.")
            self._histories[site] = _History(self.run, site)
        return self._histories[site]

    def _last_frame(self, site: str) -> dict[str, Any] | None:
        last = self.run.last_gates(site)
        if last is None:
            return None
        step, fields = last
        return _frame(site, step, *(encode_gates(fields[f"{half}_gate"]) for half in ("offset", "scale")))


def _frame(site: str, step: int, offset: Codes, scale: Codes) -> dict[str, Any]:
    return {
        "site": site,
        "step": step,
        "layers": offset.shape[0],
        "units": offset.shape[1],
        "offset": base64.b64encode(offset.tobytes()).decode("ascii"),
        "scale": base64.b64encode(scale.tobytes()).decode("ascii"),
        "counts": state_counts(offset, scale),
    }


class Followers:
    """The runs that somebody is looking at, the last few of them."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Follower] = OrderedDict()

    def get(self, id: str) -> Follower | None:
        """The follower of a run; None when there is no such run."""
        try:
            run = self._store.get(id)
        except InputError:
            return None
        with self._lock:
            follower = self._known.setdefault(id, Follower(run))
            self._known.move_to_end(id)
            while len(self._known) > _FOLLOWED:
                self._known.popitem(last=False)
            return follower


# In words and numbers

_STATE_WORDS = {
    "starting": "Loading the model and the data",
    "training": "Training",
    "evaluating": "Measuring test accuracy",
    "finished": "Finished",
    "cancelled": "Cancelled",
    "failed": "Failed",
    "killed": "Stopped: the training process is gone",
}


def describe_message(state: str, message: str) -> str:
    """The state in plain words, with what the run says of itself."""
    words = _STATE_WORDS.get(state, state)
    return f"{words}: {message}" if message and state != "finished" else words


def describe_config(config: Mapping[str, Any]) -> str:
    """Model and data of a run in one line."""

    def part(section: str, name: str) -> Any:
        found = config.get(section)
        return found.get(name) if isinstance(found, dict) else None

    model, task, n = part("model", "model"), part("task", "name") or part("data", "task"), part("task", "n_train")
    if model == "default":
        model = ASSETS[DEFAULT_MODEL].title
    pieces = [model, task, f"{n:,} training examples" if n else None]
    return " · ".join(str(piece) for piece in pieces if piece)


def seconds_left(metrics: Sequence[Mapping[str, Any]], total: int) -> float | None:
    """Seconds of training that remain, from the pace since the first step; None before the second step."""
    steps = [(m["step"], m["time"]) for m in metrics if "loss" in m and "time" in m]
    if len(steps) < 2 or not total:
        return None
    (first, begin), (last, end) = steps[0], steps[-1]
    return (end - begin) / (last - first) * max(0, total - last) if last > first else None


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _last(metrics: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return next((m[name] for m in reversed(metrics) if m.get(name) is not None), None)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def facts(
    status: Mapping[str, Any], state: str, metrics: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> dict[str, str]:
    """The figures of the run beside the map, by the name of their place on the page."""
    active = state in UNFINISHED
    started, end = status["started"], time.time() if active else status["updated"]
    validation = [m["validation_cross_entropy"] for m in metrics if m.get("validation_cross_entropy") is not None]
    left = seconds_left(metrics, status["total_steps"]) if state == "training" else None
    epochs, epoch = (config.get("training") or {}).get("epochs"), _last(metrics, "epoch")
    return {
        "step": f"{status['step']:,} / {status['total_steps']:,}" if status["total_steps"] else "–",
        "epoch": "–" if epoch is None else f"{epoch:.1f} / {epochs}" if epochs else f"{epoch:.1f}",
        "loss": _number(_last(metrics, "loss")),
        "cross_entropy": _number(_last(metrics, "cross_entropy")),
        "validation": _number(validation[-1] if validation else None),
        "elapsed": "–" if started is None or end is None else clock(end - started),
        "left": "–" if left is None else f"about {clock(left)}",
    }


def result_facts(result: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """(what, figure) of a finished run: accuracies with n and interval, share of closed gates."""
    if not result:
        return []
    rows = []
    for name, words in (("test", "Test accuracy"), ("test_options", "Choosing among the labels")):
        found = result.get(name)
        if found and found.get("accuracy") is not None:
            low, high = 100 * found["low"], 100 * found["high"]
            rows.append(
                (
                    words,
                    f"{100 * found['accuracy']:.1f} % (95 % interval {low:.1f} to {high:.1f}, n = {found['n']:,})",
                )
            )
    closed = result.get("closed") or {}
    for half in ("offset", "scale"):
        if closed.get(half) is not None:
            rows.append((f"{half.capitalize()} gates closed", f"{100 * closed[half]:.1f} %"))
    return rows


# Curves

Points = list[tuple[float, float]]


def _thin(points: Points) -> Points:
    """At most `_CURVE_POINTS` points: means over neighbours, the last one kept as it is."""
    if len(points) <= _CURVE_POINTS:
        return points
    edges = np.linspace(0, len(points) - 1, _CURVE_POINTS, dtype=int)
    means = [tuple(np.mean(points[a:b], axis=0).tolist()) for a, b in pairwise(edges)]
    return [(x, y) for x, y in means] + [points[-1]]


def curves(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Points (step, value) of cross-entropy and validation cross-entropy."""

    def series(name: str) -> Points:
        return [(m["step"], round(m[name], 5)) for m in metrics if m.get(name) is not None and "step" in m]

    return {"train": _thin(series("cross_entropy")), "validation": _thin(series("validation_cross_entropy"))}


def _thin_states(history: _History) -> dict[str, Any]:
    """Step and the counts of the four states at no more than `_CURVE_POINTS` of the records."""
    count = len(history.counts)
    chosen: Sequence[int] = range(count)
    if count > _CURVE_POINTS:
        chosen = np.linspace(0, count - 1, _CURVE_POINTS, dtype=int).tolist()
    return {"steps": [int(history.steps[i]) for i in chosen], "counts": [history.counts[i] for i in chosen]}
