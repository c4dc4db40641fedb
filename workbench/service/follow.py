"""The state of a run for the page, read from its directory while the run writes to it."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from jola.config import RunConfig
from jola.data.assets import ASSETS, DEFAULT_MODEL
from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.scores import scores_in
from jola.runs.state import UNFINISHED, pause_requested
from jola.runs.store import RunStore
from jola.runs.summary import gates_in, method_in
from jola.system.formatting import accuracy_text, score_label, score_text
from workbench.service.jobs import RESUMABLE
from workbench.service.processes import last_sentence, log_tail
from workbench.service.run_frames import UNTRAINED, GateFrames, chosen_records, encode_gates, state_counts
from workbench.service.waiting import Waiting

__all__ = ["UNTRAINED", "Follower", "Followers", "encode_gates", "state_counts"]

_CURVE_POINTS = 240
_FOLLOWED = 8


class Follower:
    """Reads one run for the page."""

    def __init__(self, run: Run, waiting: Waiting | None = None) -> None:
        self.run = run
        self._waiting = waiting or Waiting(RunStore(run.path.parent))
        self._lock = threading.Lock()
        self._histories: dict[str, GateFrames] = {}

    def token(self) -> str:
        """Return a token that changes whenever the run writes something, its process dies, or the queue changes.

        It includes the size of the log, because the process of a failed run prints the reason after it has recorded its
        end.
        """
        state = self.run.state
        log = _size_of_log(self.run) if _has_log(state) else 0
        return f"{self.run.version()}:{log}:{self._pausing()}:{self._waiting.mark()}:{state}"

    def _is_own(self) -> bool:
        """Whether the run is in the store, so that it can be paused and resumed individually."""
        return self.run.path.parent == self._waiting.store.root

    def _pausing(self) -> bool:
        return pause_requested(self.run) and self.run.alive

    def snapshot(self, site: str = "", *, curves: bool = True) -> dict[str, Any]:
        """Return everything that the run view shows; an empty or unknown ``site`` means the first recorded one.

        Without ``curves``, the curves of a running run are left out, which are most of the data.
        """
        with self._lock:
            token = self.token()
            run, status, state = self.run, self.run.status(), self.run.state
            sites = sorted(run.sites(), key=lambda name: name != "heads")
            site = site if site in sites else next(iter(sites), "")
            metrics = run.metrics()
            active = state in UNFINISHED
            queue = self._waiting.ids()
            place = queue.index(run.id) if run.id in queue else None
            config, problem = run.raw_config(), run.problem()
            message = describe_message(state, describe_end(status, state), place, self._pausing(), status["device"])
            view: dict[str, Any] = {
                "token": token,
                "run": run.id,
                "state": state,
                "active": active,
                "step": status["step"],
                "total": status["total_steps"],
                "warning": status["warning"],
                "message": f"{message}. This run is damaged: {problem}" if problem else message,
                "can": actions(state, self._pausing()) if self._is_own() else [],
                "queue": [{"id": id, "about": self._about(id)} for id in queue],
                "about": describe_config(config),
                "facts": facts(status, state, metrics, config),
                "gates": gates_in(config),
                "method": method_in(config).title,
                "trains": method_in(config).trains,
                "has_gates": method_in(config).has_gates,
                "kept": kept_step(run.result()),
                "result": result_of(run, config),
                "curves": curves_of(metrics) if curves or not active else None,
                "note": last_sentence(run) if state == "starting" else "",
                "log": log_tail(run) if _has_log(state) else "",
                "sites": sites,
                "frame": None,
            }
            if site:
                history = self._history(site)
                history.refresh(now=not active)
                view["records"] = len(history)
                view["states"] = _thin_states(history) if view["curves"] else None
                view["frame"] = self._last_frame(site)
            return view

    def _about(self, id: str) -> str:
        """Describe a waiting run in a few words."""
        run = Run(self._waiting.store.root / id)
        since = run.status()["queued"]
        at = f"since {datetime.fromtimestamp(since):%H:%M:%S}" if since else ""
        label = run.notes().label
        return " · ".join(part for part in (label, describe_config(run.raw_config()), at) if part)

    def frame(self, site: str, record: int) -> dict[str, Any] | None:
        """Return the gates of one record, counted from 0; None if the record does not exist."""
        with self._lock:
            history = self._history(site)
            if not len(history):
                history.refresh(now=True)
            return history.frame(record)

    def frame_at(self, site: str, step: int) -> dict[str, Any] | None:
        """Return the gates and number of the last record up to ``step``, or of the first one; None without records."""
        with self._lock:
            history = self._history(site)
            history.refresh(now=True)
            record = history.record_at(step)
            frame = history.frame(record)
            return None if frame is None else {**frame, "record": record}

    def course(self, site: str) -> list[dict[str, Any]]:
        """Return the gates at a few steps over the run, for P(closed) at chosen steps (paper, figure 7)."""
        with self._lock:
            history = self._history(site)
            history.refresh(now=True)
            frames = [history.frame(record) for record in chosen_records(len(history))]
            return [frame for frame in frames if frame is not None]

    def _history(self, site: str) -> GateFrames:
        if site not in self._histories:
            if site not in self.run.sites():
                raise InputError(f"The run {self.run.id} recorded no site '{site}'.")
            config = self.run.raw_config()
            gated, has_gates = gates_in(config) != "none", method_in(config).has_gates
            self._histories[site] = GateFrames(self.run, site, gated=gated, only_norms=not has_gates)
        return self._histories[site]

    def _last_frame(self, site: str) -> dict[str, Any] | None:
        last = self.run.last_gates(site)
        return None if last is None else self._history(site).encode(*last)


class Followers:
    """Followers of the most recently viewed runs."""

    def __init__(self, store: RunStore, find_elsewhere: Callable[[str], Run | None] = lambda id: None) -> None:
        self._store = store
        self._find_elsewhere = find_elsewhere
        self._waiting = Waiting(store)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Follower] = OrderedDict()

    def get(self, id: str) -> Follower | None:
        """Return the follower of a run; None if the run does not exist."""
        run = self._find_elsewhere(id)
        try:
            run = run or self._store.get(id)
        except InputError:
            return None
        with self._lock:
            follower = self._known.setdefault(id, Follower(run, self._waiting))
            self._known.move_to_end(id)
            while len(self._known) > _FOLLOWED:
                self._known.popitem(last=False)
            return follower


def _size_of_log(run: Run) -> int:
    try:
        return run.log_path.stat().st_size
    except OSError:
        return 0


def _has_log(state: str) -> bool:
    """Whether the page shows the log of a run in this state."""
    return state not in UNFINISHED and state != "finished"


# In words and numbers

_STATE_WORDS = {
    "queued": "Waiting for its turn",
    "paused": "Paused",
    "starting": "Loading the model and the data",
    "training": "Training",
    "evaluating": "Testing",
    "finished": "Finished",
    "cancelled": "Cancelled",
    "failed": "Failed",
    "killed": "Stopped: the training process no longer exists",
}


def describe_message(
    state: str, message: str, place: int | None = None, pausing: bool = False, device: str = ""
) -> str:
    """Describe the state in words, with the place in the queue or the message of the run.

    Args:
        device: Device that was assigned to the run, mentioned while it is running.
    """
    words = _STATE_WORDS.get(state, state)
    if device and state in UNFINISHED:
        words = f"{words} on {device}"
    if state == "queued" and place is not None:
        before = "next in line" if place == 0 else f"{place + 1}. in line"
        return f"{words}: {before}"
    if pausing:
        return f"{words}: pauses at the next step"
    joint = " " if state == "finished" else ": "
    return f"{words}{joint}{message}" if message else words


def describe_end(status: Mapping[str, Any], state: str) -> str:
    """Return the message of a run; for a finished run, the reason if it ended before its last step."""
    step, total = status["step"], status["total_steps"]
    if state == "finished" and 0 < step < total:
        return f"at step {step:,} of {total:,}, because validation did not improve"
    return status["message"] if state != "finished" else ""


def kept_step(result: Mapping[str, Any] | None) -> int | None:
    """Return the step whose edits were kept; None if it is unknown or the last trained step."""
    kept, steps = (result or {}).get("kept_step"), (result or {}).get("steps")
    return kept if isinstance(kept, int) and isinstance(steps, int) and kept != steps else None


def describe_config(config: Mapping[str, Any]) -> str:
    """Describe model and data of a run in one line."""

    def part(section: str, name: str) -> Any:
        found = config.get(section)
        return found.get(name) if isinstance(found, dict) else None

    method = method_in(config)
    model, task = part("model", "model"), part("task", "name") or part("data", "task")
    n = part("task", "n_train") or part("data", "train_size") if method.trains else None  # before reading the data
    if model == "default":
        model = ASSETS[DEFAULT_MODEL].title
    named = method.title if method.name != RunConfig.method else None
    pieces = [named, model, task, f"{n:,} training examples" if n else None]
    return " · ".join(str(piece) for piece in pieces if piece)


def actions(state: str, pausing: bool) -> list[str]:
    """Return the actions that are possible in this state: ``pause``, ``resume``, ``cancel``."""
    if state in UNFINISHED:
        return ["cancel"] if pausing else ["pause", "cancel"]
    if state == "queued":
        return ["cancel"]
    can = ["resume"] if state in RESUMABLE else []
    return [*can, "cancel"] if state == "paused" else can


def step_pace(metrics: Sequence[Mapping[str, Any]], since: float | None = None) -> float | None:
    """Return the mean seconds per step after ``since``, including validations; None before the second step."""
    steps = [(m["step"], m["time"]) for m in metrics if "loss" in m and "time" in m]
    # Exclude the gap of a pause.
    steps = [(step, at) for step, at in steps if since is None or at >= since]
    if len(steps) < 2 or steps[-1][0] <= steps[0][0]:
        return None
    (first, begin), (last, end) = steps[0], steps[-1]
    return (end - begin) / (last - first)


def seconds_left(metrics: Sequence[Mapping[str, Any]], total: int, since: float | None = None) -> float | None:
    """Estimate the remaining seconds of training from the pace after ``since``; None before the second step."""
    pace = step_pace(metrics, since)
    if pace is None or not total:
        return None
    last = max(m["step"] for m in metrics if "loss" in m and "time" in m)
    return pace * max(0, total - last)


def clock(seconds: float) -> str:
    """Format seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _last(metrics: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return next((m[name] for m in reversed(metrics) if m.get(name) is not None), None)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def _share(value: float | None, n: int | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %" + (f" (n = {n:,})" if n else "")


def facts(
    status: Mapping[str, Any], state: str, metrics: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> dict[str, str]:
    """Return the figures of the run next to the map, by the name of their field on the page."""
    active = state in UNFINISHED
    started, end = status["started"], time.time() if active else status["updated"]
    left = seconds_left(metrics, status["total_steps"], started) if state == "training" else None
    epochs, epoch = (config.get("training") or {}).get("epochs"), _last(metrics, "epoch")
    return {
        "step": f"{status['step']:,} / {status['total_steps']:,}" if status["total_steps"] else "–",
        "epoch": "–" if epoch is None else f"{epoch:.1f} / {epochs}" if epochs else f"{epoch:.1f}",
        "loss": _number(_last(metrics, "loss")),
        "cross_entropy": _number(_last(metrics, "cross_entropy")),
        "validation": _number(_last(metrics, "validation_cross_entropy")),
        "accuracy": _share(_last(metrics, "validation_accuracy"), (config.get("task") or {}).get("n_validation")),
        "elapsed": "–" if started is None or end is None else clock(end - started),
        "left": "–" if left is None else f"about {clock(left)}",
    }


def result_facts(
    result: Mapping[str, Any] | None, gates: Callable[[str], int] | None = None, *, gated: bool = True
) -> list[tuple[str, str]]:
    """Return (name, figure) pairs of a finished run: scores with n and interval, kept step, share of closed gates.

    ``gates`` returns the number of gates of a half, if known; ``gated`` tells whether the run has gates.
    """
    if not result:
        return []
    rows = [(score_label(score), score_text(score, percent=True)) for score in scores_in(result)]
    kept = kept_step(result)
    if kept is not None:
        rows.append(("Edits kept", f"step {kept:,}"))
    if validation := result.get("validation"):
        rows.append(("Validation accuracy", accuracy_text(validation, percent=True)))
    closed = (result.get("closed") or {}) if gated else {}
    for half in ("offset", "scale"):
        if half in closed:
            share, n = closed[half], gates(half) if gates else 0
            figure = "not trained" if share is None else f"{100 * share:.1f} %" + (f" (n = {n:,})" if n else "")
            rows.append((f"{half.capitalize()} gates closed", figure))
    return rows


def result_of(run: Run, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return `result_facts` of a run with this configuration, with the number of trained gates over all sites."""

    def gates(half: str) -> int:
        records = [record for site in run.sites() if (record := run.last_gates(site)) is not None]
        values = [fields[f"{half}_gate"] for _, fields in records if f"{half}_gate" in fields]
        return sum(int((~np.isnan(gates)).sum()) for gates in values)

    return result_facts(run.result(), gates, gated=gates_in(config) != "none")


# Curves

Points = list[tuple[float, float]]

CURVES = {
    "train": "cross_entropy",
    "validation": "validation_cross_entropy",
    "penalty": "penalty",
    "edit_rate": "learning_rate",
    "gate_rate": "gate_learning_rate",
    "l0_weight": "l0_weight",
}
"""Names in ``metrics.jsonl`` by the names on the page."""


def _thin(points: Points) -> Points:
    """Reduce points to at most `_CURVE_POINTS`: means over neighbors, and the last point unchanged."""
    if len(points) <= _CURVE_POINTS:
        return points
    edges = np.linspace(0, len(points) - 1, _CURVE_POINTS, dtype=int)
    means = [tuple(np.mean(points[a:b], axis=0).tolist()) for a, b in pairwise(edges)]
    return [(x, y) for x, y in means] + [points[-1]]


def curves_of(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Return points (step, value) of the parts of the loss, of the learning rates and of λ."""

    def series(name: str) -> Points:
        return [(m["step"], float(f"{m[name]:.6g}")) for m in metrics if m.get(name) is not None and "step" in m]

    return {name: _thin(series(metric)) for name, metric in CURVES.items()}


def _thin_states(history: GateFrames) -> dict[str, Any]:
    """Return steps, counts of the states, means of P(closed) and of norms at up to `_CURVE_POINTS` records."""
    count = len(history)
    chosen: Sequence[int] = range(count)
    if count > _CURVE_POINTS:
        chosen = np.linspace(0, count - 1, _CURVE_POINTS, dtype=int).tolist()
    return {
        "steps": [history.steps[i] for i in chosen],
        "counts": [history.counts[i] for i in chosen] if history.counts else [],
        "closed": [history.closed[i] for i in chosen] if history.closed else [],
        "norms": [history.norms[i] for i in chosen],
    }
