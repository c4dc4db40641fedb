"""Check the files of a run from elsewhere, before it becomes a run of this store.

`jola.runs.schema` defines what the files may contain; this module checks whether they fit each other and the adapter. A
file that is not valid rejects the whole run, with one sentence that names it.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jola.adapters.card import portable_name
from jola.adapters.directory import CONFIG_NAMES, WEIGHTS_LIMIT, WEIGHTS_NAME, Adapter, read_adapter
from jola.config import GROUPS, RunConfig
from jola.edits.masks.saved import FILE_NAME as MASKS_NAME
from jola.edits.masks.saved import SavedMasks
from jola.errors import InputError
from jola.runs.history import GateHistory, recorded_sites
from jola.runs.metrics import METRICS_NAME
from jola.runs.notes import read_notes
from jola.runs.schema import (
    FORMAT,
    FORMAT_VERSION,
    ArchiveFile,
    ConfigFile,
    GateHeader,
    MetricsRow,
    ResultFile,
    TaskFacts,
)
from jola.settings import STRATEGIES, check_revision
from jola.system.typed_json import JsonFile, read_typed, valid_part

ARCHIVE_NAME = "archive.json"

JSON_LIMIT = 1 << 20
TOTAL_LIMIT = 512 << 20
"""Maximum bytes of all files of an archive, unpacked."""
_LIMITS = {WEIGHTS_NAME: WEIGHTS_LIMIT, METRICS_NAME: 64 << 20, MASKS_NAME: 4 << 20}
_GATES_LIMIT = 256 << 20
_LINE_LIMIT = 1 << 16


@dataclass(frozen=True)
class Found:
    """Checked contents of an archive, for the files of a run."""

    run: str
    """Original id of the run; empty for an adapter without a run."""
    source: str
    state: str
    step: int
    total_steps: int
    created: float
    seconds: float
    adapter: dict[str, dict[str, Any]]
    """Configurations of the adapter, by file name."""
    config: dict[str, Any]
    result: dict[str, Any]
    notes: dict[str, str]


def limit_of(place: str) -> int:
    """Return the maximum bytes of a file of an archive, by its path in the run's directory."""
    name = place.rpartition("/")[2]
    return _GATES_LIMIT if name.endswith(".f32") else _LIMITS.get(name, JSON_LIMIT)


def check_contents(folder: Path, source: str, *, ours: bool = False) -> Found:
    """Check the unpacked run in ``folder``; messages name ``source``. Raises `InputError` for an invalid one.

    The name of the base model decides what is loaded, so it is reduced to a name without folders unless ``ours`` is
    true.
    """
    try:
        return _checked(folder, source, (lambda name: name) if ours else portable_name)
    except InputError as error:
        # The reader of the message does not know the folder in which the run was unpacked.
        words = str(error).replace(f"{folder}/", f"{source}: ").replace(str(folder), source)
        raise InputError(words) from error


def _checked(folder: Path, source: str, name_of: Callable[[Any], Any]) -> Found:
    adapter = read_adapter(folder / "adapter")
    described: dict[str, dict[str, Any]] = {}
    for name in CONFIG_NAMES:
        if content := read_typed(folder / "adapter" / name, JsonFile):
            described[name] = content | {"base_model_name_or_path": name_of(adapter.base_model)}
    about = read_typed(folder / ARCHIVE_NAME, JsonFile) or {}
    if about and (about.get("format"), about.get("version")) != (FORMAT, FORMAT_VERSION):
        raise InputError(
            f"{folder / ARCHIVE_NAME} has format {_short(about.get('format'))} {_short(about.get('version'))}, but "
            f"this version reads {FORMAT} {FORMAT_VERSION}; update jola-workbench."
        )
    about, _ = valid_part(about, ArchiveFile)
    given = read_typed(folder / "config.json", JsonFile) or {}
    config = _config(given, adapter, folder / "config.json", name_of)
    result = read_typed(folder / "result.json", ResultFile) or {}
    SavedMasks(folder).list()
    last = max(_metrics(folder / METRICS_NAME), *_gates(folder / "gates", adapter), 0)
    step = about.get("step") or last
    return Found(
        run=about.get("run", ""),
        source=source,
        state="cancelled" if about.get("state") == "cancelled" else "finished",
        step=step,
        total_steps=about.get("total_steps") or step,
        created=_time(about.get("created"), config.pop("created", None)),
        seconds=max(0.0, result.get("seconds") or 0.0),
        adapter=described,
        config=config,
        result=result,
        notes=asdict(read_notes(folder)),
    )


def _short(value: Any) -> str:
    return repr(value)[:40]


def _time(*candidates: float | None) -> float:
    """Return the first time after 9e8 (July 1998) that is not in the future, in seconds since the epoch, else now."""
    now = time.time()
    return next((found for found in candidates if found is not None and 9e8 < found <= now), now)


# The files of a run


def _config(values: dict[str, Any], adapter: Adapter, path: Path, name_of: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the settings known to this version and facts about data and model; everything else is dropped."""
    parts = [*GROUPS]
    given = {part: dict(values[part]) for part in parts if isinstance(values.get(part), dict)}
    for part, name in (("model", "model"), ("data", "task")):
        if name in given.get(part, {}):
            given[part][name] = name_of(given[part][name])
    device_map = given.get("model", {}).get("device_map")
    if name_of is portable_name and isinstance(device_map, str) and device_map not in STRATEGIES:
        del given["model"]["device_map"]  # a file of another computer
    if "training" in given:
        given["training"] |= {"output": "", "report_to": "none"}
    try:
        method = {"method": values["method"]} if "method" in values else {}
        settings = RunConfig.from_dict({**given, **method}).to_dict()
    except InputError as error:
        raise InputError(f"{path} has settings that cannot be used: {error}") from error
    config: dict[str, Any] = {part: settings[part] for part in given}
    model = config.setdefault("model", settings["model"])
    if not values:
        model["model"], model["revision"] = name_of(adapter.base_model), adapter.revision
    check_revision(model["revision"], f"The revision in {path}")
    config["edits"] = asdict(adapter.edits)
    if adapter.method.name != RunConfig.method:
        config["method"] = adapter.method.name
    config["geometry"] = asdict(adapter.geometry)
    facts, _ = valid_part(values, ConfigFile)
    if isinstance(values.get("task"), dict):
        config["task"] = _task(values["task"], name_of)
    config |= {name: facts[name] for name in ("versions", "parameters", "created") if facts.get(name) is not None}
    return config


def _task(values: Mapping[str, Any], name_of: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the valid facts about the examples."""
    task = {name: value for name, value in valid_part(values, TaskFacts)[0].items() if name in TaskFacts.model_fields}
    return task | {"name": name_of(task["name"])} if "name" in task else task


def _metrics(path: Path) -> int:
    """Return the last step in the metrics; 0 without metrics."""
    last = 0
    if not path.is_file():
        return last
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line) if len(line) <= _LINE_LIMIT else None
            except (ValueError, RecursionError):
                entry = None
            if not isinstance(entry, dict) or any(isinstance(v, str | list | dict) for v in entry.values()):
                raise InputError(f"{path} is damaged in line {number}; export the run again.")
            if faults := valid_part(entry, MetricsRow)[1]:
                raise InputError(f"{path} is damaged in line {number} ({faults[0]}); export the run again.")
            if entry.get("step", -1) < last:
                raise InputError(f"{path} has an invalid step in line {number}; export the run again.")
            last = entry["step"]
    return last


def _gates(folder: Path, adapter: Adapter) -> list[int]:
    """Return the last step of each site that has a history."""
    last = []
    edits = {str(i.site): i for i in adapter.rebuild()}
    shapes = {site: (i.layers, i.units) for site, i in edits.items()}
    for site in recorded_sites(folder):
        path = folder / f"{site}.json"
        if site not in shapes:
            raise InputError(f"{path} is for a site that the adapter does not edit; export the run again.")
        header = read_typed(path, GateHeader) or {}
        shape = shapes[site]
        if (header.get("layers"), header.get("units")) != shape:
            raise InputError(f"{path} does not fit the adapter, which has {shape[0]} × {shape[1]} units.")
        if header.get("fields") != list(edits[site].record()):
            raise InputError(f"{path} lists the fields {header.get('fields')}, which the method does not record.")
        with np.errstate(invalid="ignore"):  # a step may be NaN, which is checked below
            history = GateHistory.read(folder, site)
        steps, values = history.steps, history.fields
        if len(steps) and (steps[0] < 0 or (np.diff(steps) <= 0).any() or steps[-1] >= 2**24):
            raise InputError(f"{folder / f'{site}.f32'} has invalid steps; export the run again.")
        for name, array in values.items():
            # NaN marks a half that is not trained.
            bad = np.isinf(array) | (array < 0) | ((array > 1) & (not name.endswith("_norm")))
            if bad.any():
                raise InputError(f"{folder / f'{site}.f32'} contains an invalid {name}; export the run again.")
        last.append(int(steps[-1]) if len(steps) else 0)
    strays = sorted(path.name for path in folder.glob("*.f32") if not path.with_suffix(".json").is_file())
    if strays:
        raise InputError(f"{folder / strays[0]} has no matching .json file; export the run again.")
    return last


def whole_records(header: Mapping[str, Any], path: Path) -> bytes:
    """Return the records of a gate history with a valid header, without an incomplete one at the end."""
    data = path.read_bytes() if path.is_file() else b""
    size = 4 * (1 + len(header["fields"]) * header["layers"] * header["units"])
    return data[: len(data) // size * size]
