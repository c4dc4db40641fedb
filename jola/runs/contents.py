"""What is in a run that somebody else made, checked file by file before it becomes a run here.

Sizes, types, shapes and values are compared with what this program writes and reads; text stays text. A file that is
not right refuses the whole, with a sentence that names it.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from jola.adapters.card import portable_name
from jola.adapters.directory import CONFIG_NAME, WEIGHTS_LIMIT, WEIGHTS_NAME, Adapter, read_adapter
from jola.config import RunConfig
from jola.edits.masks.saved import FILE_NAME as MASKS_NAME
from jola.edits.masks.saved import SavedMasks
from jola.edits.sites import Site, sites_of
from jola.errors import InputError
from jola.runs.history import GateHistory, recorded_sites
from jola.runs.notes import NOTES_NAME, notes_from

ARCHIVE_NAME = "archive.json"
FORMAT = "jola-run"
FORMAT_VERSION = 1

JSON_LIMIT = 1 << 20
TOTAL_LIMIT = 512 << 20
"""Bytes of everything in one archive, unpacked."""
_LIMITS = {WEIGHTS_NAME: WEIGHTS_LIMIT, "metrics.jsonl": 64 << 20, MASKS_NAME: 4 << 20}
_GATES_LIMIT = 256 << 20
_DEPTH = 12
_LINE_LIMIT = 1 << 16
_REVISION = re.compile(r"[\w.-]{1,100}", re.ASCII)
_LONGEST_TEXT = 1000
_TASK_TEXTS = ("name", "fingerprint")
_TASK_COUNTS = ("n_train", "n_validation", "n_test")
_TASK_LISTS = ("labels", "notes")


@dataclass(frozen=True)
class Found:
    """What an archive says, checked: content for the files of a run."""

    run: str
    """The id where it was made; empty for an adapter alone."""
    source: str
    state: str
    step: int
    total_steps: int
    created: float
    seconds: float
    adapter: dict[str, Any]
    config: dict[str, Any]
    result: dict[str, Any]
    notes: dict[str, str]


def limit_of(place: str) -> int:
    """Bytes that a file of an archive may have, by its path in the run's directory."""
    name = place.rpartition("/")[2]
    return _GATES_LIMIT if name.endswith(".f32") else _LIMITS.get(name, JSON_LIMIT)


def check_contents(folder: Path, source: str, *, ours: bool = False) -> Found:
    """Check an unpacked run in ``folder``; messages are about ``source``. `InputError` for what is not right.

    The name of the base model decides what is loaded, so a stranger's is reduced to one without folders; ``ours``
    keeps it.
    """
    try:
        return _checked(folder, source, (lambda name: name) if ours else portable_name)
    except InputError as error:
        # Whoever reads this knows nothing of the folder in which it was unpacked.
        words = str(error).replace(f"{folder}/", f"{source}: ").replace(str(folder), source)
        raise InputError(words) from error


def _checked(folder: Path, source: str, name_of: Callable[[Any], Any]) -> Found:
    adapter = read_adapter(folder / "adapter")
    described = _json(folder / "adapter" / CONFIG_NAME)
    described["base_model_name_or_path"] = name_of(adapter.base_model)
    about = _json(folder / ARCHIVE_NAME)
    if about and (about.get("format"), about.get("version")) != (FORMAT, FORMAT_VERSION):
        raise InputError(
            f"{folder / ARCHIVE_NAME} has format {_short(about.get('format'))} {_short(about.get('version'))}, and "
            f"{FORMAT} {FORMAT_VERSION} is read here; update jola-workbench."
        )
    config = _config(_json(folder / "config.json"), adapter, folder / "config.json", name_of)
    result = _result(_json(folder / "result.json"), folder / "result.json")
    SavedMasks(folder).list()
    last = max(_metrics(folder / "metrics.jsonl"), *_gates(folder / "gates", adapter), 0)
    step = _count(about.get("step"), last)
    seconds = _number(result.get("seconds"), 0.0)
    return Found(
        run=_text(about.get("run")),
        source=source,
        state="cancelled" if about.get("state") == "cancelled" else "finished",
        step=step,
        total_steps=_count(about.get("total_steps"), step),
        created=_time(about.get("created"), config.pop("created", None)),
        seconds=seconds if 0 <= seconds < 1e9 else 0.0,
        adapter=described,
        config=config,
        result=result,
        notes=asdict(notes_from(_json(folder / NOTES_NAME))),
    )


# JSON


def _json(path: Path) -> dict[str, Any]:
    """The object in a file, empty when there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON; export the run again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; export the run again.")
    if not _is_shallow(content, _DEPTH):
        raise InputError(f"{path} is nested deeper than any file of a run; export the run again.")
    return content


def _is_shallow(value: Any, depth: int) -> bool:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_shallow(item, depth - 1) for item in inner)
    return True


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # an integer of a thousand digits is no number of ours


def _count(value: Any, otherwise: int) -> int:
    return value if _is_count(value) else otherwise


def _number(value: Any, otherwise: float) -> float:
    return value if _is_number(value) else otherwise


def _text(value: Any) -> str:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else ""


def _short(value: Any) -> str:
    return repr(value)[:40]


def _time(*candidates: Any) -> float:
    """The first that is a moment between 2000 and now, seconds since the epoch; now when none is."""
    now = time.time()
    return next((float(found) for found in candidates if _is_number(found) and 9e8 < found <= now), now)


# The files of a run


def _config(values: dict[str, Any], adapter: Adapter, path: Path, name_of: Callable[[Any], Any]) -> dict[str, Any]:
    """Settings that this version has, and facts about data and model; of everything else nothing."""
    parts = [part.name for part in fields(RunConfig)]
    given = {part: dict(values[part]) for part in parts if isinstance(values.get(part), dict)}
    for part, name in (("model", "model"), ("data", "task")):
        if name in given.get(part, {}):
            given[part][name] = name_of(given[part][name])
    if "training" in given:
        given["training"] |= {"output": "", "report_to": "none"}
    try:
        settings = RunConfig.from_dict(given).to_dict()
    except InputError as error:
        raise InputError(f"{path} has settings that cannot be used: {error}") from error
    config: dict[str, Any] = {part: settings[part] for part in given}
    model = config.setdefault("model", settings["model"])
    if not values:
        model["model"], model["revision"] = name_of(adapter.base_model), adapter.revision
    if model["revision"] is not None and not _REVISION.fullmatch(model["revision"]):
        raise InputError(f"{path} names the revision {_short(model['revision'])}, which is none; export the run again.")
    config["edits"] = asdict(adapter.edits)
    config["geometry"] = asdict(adapter.geometry)
    if isinstance(values.get("task"), dict):
        config["task"] = _task(values["task"], name_of)
    for name in ("versions", "parameters"):
        if isinstance(values.get(name), dict):
            config[name] = {_text(k): v for k, v in values[name].items() if _is_number(v) or isinstance(v, str)}
    if _is_number(values.get("created")):
        config["created"] = values["created"]
    return config


def _task(values: Mapping[str, Any], name_of: Callable[[Any], Any]) -> dict[str, Any]:
    task: dict[str, Any] = {name: _text(values[name]) for name in _TASK_TEXTS if isinstance(values.get(name), str)}
    if "name" in task:
        task["name"] = name_of(task["name"])
    task |= {name: values[name] for name in _TASK_COUNTS if _is_count(values.get(name))}
    for name in _TASK_LISTS:
        if isinstance(values.get(name), list):
            task[name] = [_text(item) for item in values[name][:1000] if isinstance(item, str)]
    return task


def _result(values: dict[str, Any], path: Path) -> dict[str, Any]:
    for name in ("test", "test_options"):
        found = values.get(name)
        if found is not None:
            whole = isinstance(found, dict) and all(_is_number(found.get(k)) for k in ("accuracy", "low", "high"))
            if not whole or not _is_count(found.get("n")):
                raise InputError(f"{path} gives no accuracy with its n and interval in {name!r}; export the run again.")
    closed = values.get("closed")
    if closed is not None and not (
        isinstance(closed, dict) and all(v is None or (_is_number(v) and 0 <= v <= 1) for v in closed.values())
    ):
        raise InputError(f"{path} gives no fractions of closed gates; export the run again.")
    for name in ("seconds", "steps", "kept_step", "n_train"):
        if values.get(name) is not None and not _is_number(values[name]):
            raise InputError(
                f"{path} gives {name} as {_short(values[name])}, which is no number; export the run again."
            )
    return values


def _metrics(path: Path) -> int:
    """The last step in the metrics; 0 without them."""
    last = 0
    if not path.is_file():
        return last
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line) if len(line) <= _LINE_LIMIT else None
            except (ValueError, RecursionError):
                entry = None
            if not isinstance(entry, dict) or not all(v is None or _is_number(v) for v in entry.values()):
                raise InputError(f"{path} is damaged in line {number}; export the run again.")
            if not _is_count(entry.get("step")) or entry["step"] < last:
                raise InputError(f"{path} counts no steps in line {number}; export the run again.")
            last = entry["step"]
    return last


def _gates(folder: Path, adapter: Adapter) -> list[int]:
    """The last step of the history of each site that has one."""
    last = []
    for site in recorded_sites(folder):
        path = folder / f"{site}.json"
        if site not in sites_of(adapter.edits):
            raise InputError(f"{path} is about a place that the adapter does not edit; export the run again.")
        header = _json(path)
        shape = (adapter.geometry.num_layers, adapter.geometry.units(Site(site))[0])
        if (header.get("layers"), header.get("units")) != shape:
            raise InputError(f"{path} does not fit the adapter, which has {shape[0]} × {shape[1]} units.")
        with np.errstate(invalid="ignore"):  # a step may be no number, which is found below
            history = GateHistory.read(folder, site)
        steps, values = history.steps, history.fields
        if len(steps) and (steps[0] < 0 or (np.diff(steps) <= 0).any() or steps[-1] >= 2**24):
            raise InputError(f"{folder / f'{site}.f32'} counts no steps; export the run again.")
        for name, array in values.items():
            # Not a number stands for a half that is not trained.
            bad = np.isinf(array) | (array < 0) | ((array > 1) & (not name.endswith("_norm")))
            if bad.any():
                raise InputError(f"{folder / f'{site}.f32'} holds a {name} that is none; export the run again.")
        last.append(int(steps[-1]) if len(steps) else 0)
    strays = sorted(path.name for path in folder.glob("*.f32") if not path.with_suffix(".json").is_file())
    if strays:
        raise InputError(f"{folder / strays[0]} has no description beside it; export the run again.")
    return last


def whole_records(header: Mapping[str, Any], path: Path) -> bytes:
    """The records of a gate history without an unfinished one at the end."""
    data = path.read_bytes() if path.is_file() else b""
    layers, units, names = header.get("layers"), header.get("units"), header.get("fields")
    if not (_is_count(layers) and _is_count(units) and isinstance(names, list)):
        return b""
    size = 4 * (1 + len(names) * int(layers or 0) * int(units or 0))
    return data[: len(data) // size * size]
