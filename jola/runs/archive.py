"""Runs as zip files: export a run, and import the runs of others.

An exported run contains everything needed to use its edits and to view its training, and nothing that tells where it
was trained::

    archive.json                    description of this file: {"format", "version", "run", "state", "step", …}
    adapter/adapter_config.json  adapter/adapter_model.safetensors  adapter/README.md
    adapter/heads.png
    config.json  result.json  metrics.jsonl  notes.json  masks.json
    gates/<site>.json  gates/<site>.f32

`import_archive` accepts such a file, a zip file of only an adapter directory, an adapter directory, or the directory of
a run. Imported files may come from strangers: see `jola.system.safe_zip` and `jola.runs.contents` for what is rejected.
"""

import os
import re
import secrets
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jola.adapters.card import PICTURE_NAME, portable_name
from jola.adapters.directory import CONFIG_NAME, CONFIG_NAMES, WEIGHTS_NAME
from jola.edits.masks.saved import FILE_NAME as MASKS_NAME
from jola.errors import InputError
from jola.runs.contents import (
    ARCHIVE_NAME,
    JSON_LIMIT,
    TOTAL_LIMIT,
    Found,
    check_contents,
    limit_of,
    whole_records,
)
from jola.runs.ids import fresh_id, is_plain_name
from jola.runs.metrics import METRICS_NAME
from jola.runs.notes import NOTES_NAME
from jola.runs.run import Run
from jola.runs.schema import FORMAT, FORMAT_VERSION
from jola.runs.store import RunStore
from jola.system.files import disk_errors, draft_of, json_bytes, read_json
from jola.system.safe_zip import MAX_RATIO, SafeZip

ADAPTER_FILES = (*CONFIG_NAMES, WEIGHTS_NAME, "README.md", PICTURE_NAME)
RUN_FILES = (ARCHIVE_NAME, "config.json", "result.json", METRICS_NAME, NOTES_NAME, MASKS_NAME)
_GATES = re.compile(r"gates/[a-z][a-z0-9_]{0,31}\.(?:json|f32)")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every entry, so that equal runs give equal files


# Export


def export_archive(run: Run, file: Path | str) -> Path:
    """Write a run that has an adapter to a zip file, atomically, and return its path.

    Folders in names of models and data are left out, and so is everything about the machine. If ``file`` is an existing
    folder, the zip file is written there under the id of the run.

    Raises:
        InputError: The run has no adapter yet, the file already exists, or it cannot be written.
    """
    file = Path(file)
    if file.is_dir():
        file = file / f"{run.id}.zip"
    if file.exists():
        raise InputError(f"{file} already exists; choose another name.")
    draft = draft_of(file)
    with disk_errors(file):
        try:
            with zipfile.ZipFile(draft, "w") as archive:
                for name, data in _exported(run, portable_name):
                    _add(archive, name, data)
            os.replace(draft, file)
        except FileNotFoundError as error:
            raise InputError(f"There is no folder {file.parent}; create it, or choose another one.") from error
        finally:
            draft.unlink(missing_ok=True)
    return file


export_adapter = export_archive
"""Alias of `export_archive`."""


def _exported(run: Run, name_of: Callable[[Any], Any]) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the files of an archive. Raises `InputError` if the run has no adapter yet."""
    if not (run.adapter_dir / CONFIG_NAME).is_file() or not (run.adapter_dir / WEIGHTS_NAME).is_file():
        raise InputError(run.why_no_adapter())
    status, config = run.status(), run.raw_config()
    about = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "run": run.id,
        "state": "cancelled" if run.state == "cancelled" else "finished",
        "step": status["step"],
        "total_steps": status["total_steps"],
        "created": run.created,
    }
    yield ARCHIVE_NAME, json_bytes(about, indent=2)
    for name in CONFIG_NAMES:
        if adapter := read_json(run.adapter_dir / name):
            adapter["base_model_name_or_path"] = name_of(adapter.get("base_model_name_or_path"))
            yield f"adapter/{name}", json_bytes(adapter, indent=2)
    for name in ADAPTER_FILES:
        if name not in CONFIG_NAMES and (run.adapter_dir / name).is_file():
            yield f"adapter/{name}", (run.adapter_dir / name).read_bytes()
    yield "config.json", json_bytes(_portable(config, name_of), indent=2)
    contents = {
        "result.json": run.result(),
        NOTES_NAME: asdict(run.notes()),
        MASKS_NAME: read_json(run.path / MASKS_NAME),
    }
    for name, content in contents.items():
        if content is not None and any(content.values()):
            yield name, json_bytes(content, indent=2)
    if metrics := run.metrics():
        yield METRICS_NAME, b"".join(map(json_bytes, metrics))
    for site in run.sites():
        header = read_json(run.gates_dir / f"{site}.json") or {}
        yield f"gates/{site}.json", json_bytes(header)
        yield f"gates/{site}.f32", whole_records(header, (run.gates_dir / f"{site}.f32"))


def _portable(config: dict[str, Any], name_of: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a configuration without information about this machine."""
    kept = {name: dict(value) if isinstance(value, dict) else value for name, value in config.items()}
    for part, name in (("model", "model"), ("model", "device_map"), ("data", "task"), ("task", "name")):
        if isinstance(kept.get(part), dict) and kept[part].get(name):
            kept[part][name] = name_of(kept[part][name])
    if isinstance(kept.get("training"), dict):
        kept["training"] = {n: v for n, v in kept["training"].items() if n not in ("output", "report_to")}
    return kept


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    # Closed gates compress so well that the reader would reject them as a zip bomb.
    packs_well = len(data) > JSON_LIMIT and len(zlib.compress(data)) * MAX_RATIO < 2 * len(data)
    archive.writestr(info, data, zipfile.ZIP_STORED if packs_well else zipfile.ZIP_DEFLATED)


# Import


def import_archive(source: Path | str, store: RunStore, *, id: str | None = None, name: str | None = None) -> Run:
    """Import an exported run, a zip file with an adapter, or an adapter directory as a run.

    The run is ``finished``, or ``cancelled`` if it was, and marked as imported; an adapter without a run becomes a run
    without history. Nothing is added to the store unless everything was found to be valid.

    Args:
        source: The zip file, or the directory of an adapter or of a run.
        store: Store of the imported run.
        id: Id of the run; a new one by default.
        name: Name of the source in messages, if its path means nothing to the reader.

    Raises:
        InputError: The source is not such a file, is damaged or unsafe, or there is a run with this id.
    """
    source = Path(source)
    name = name or source.name
    if id is not None and (not is_plain_name(id) or os.path.lexists(store.root / id)):
        raise InputError(f"{id!r} is not an id that a new run can have; choose another.")
    with _draft(store) as draft:
        if os.path.isdir(source):
            _take_folder(source, draft)
        elif os.path.isfile(source):
            with SafeZip(source, name) as archive:
                archive.unpack(_places(archive), draft, limit_of, TOTAL_LIMIT)
        else:
            place = str(source)[:200]
            raise InputError(f"There is no file or folder {place}; name a zip file or an adapter directory.")
        found = check_contents(draft, name, ours=os.path.isdir(source))
        _write_run(draft, found)
        return _publish(draft, store, found, id)


@contextmanager
def _draft(store: RunStore) -> Iterator[Path]:
    """Yield a hidden folder inside the store; it is removed afterwards unless it was renamed."""
    draft = store.root / f".importing-{secrets.token_hex(4)}"
    with disk_errors(store.root):
        draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _places(archive: SafeZip) -> dict[str, str]:
    """Return where each entry goes in a run's directory. Raises `InputError` for entries of other kinds."""
    entries = archive.entries
    configs = [entry for entry in entries if entry.rpartition("/")[2] == CONFIG_NAME]
    if len(configs) != 1:
        found = "more than one" if configs else "no"
        raise InputError(
            f"{archive.name} contains {found} {CONFIG_NAME}; it must contain exactly one adapter or one exported run."
        )
    folder = configs[0].removesuffix(CONFIG_NAME)
    root = folder.removesuffix("adapter/")
    is_run = folder.endswith("adapter/") and any(f"{root}{known}" in entries for known in RUN_FILES)
    places: dict[str, str] = {}
    for entry in entries:
        inner = entry.removeprefix(root if is_run else folder)
        place = inner if is_run else f"adapter/{inner}"
        inside = entry.startswith(root if is_run else folder)
        if not inside or not _is_part(place):
            raise InputError(f"{archive.name} contains {entry!r}, which is not part of an adapter or a run; remove it.")
        places[entry] = place
    return places


def _is_part(place: str) -> bool:
    return place in RUN_FILES or place in {f"adapter/{n}" for n in ADAPTER_FILES} or bool(_GATES.fullmatch(place))


def _take_folder(source: Path, draft: Path) -> None:
    """Copy the files of a run's directory or of an adapter directory, and no others."""
    if not (source / CONFIG_NAME).is_file() and Run(source).is_run():
        for file, data in _exported(Run(source), lambda name: name):
            with disk_errors(draft):
                (draft / file).parent.mkdir(exist_ok=True)
                (draft / file).write_bytes(data)
        return
    if not (source / CONFIG_NAME).is_file():
        raise InputError(f"{source} is not an adapter directory: it has no {CONFIG_NAME}.")
    with disk_errors(draft):
        (draft / "adapter").mkdir()
        for file in ADAPTER_FILES:
            if not (source / file).is_file():
                continue
            if (source / file).stat().st_size > limit_of(f"adapter/{file}"):
                raise InputError(f"{source / file} exceeds the size limit for this file; nothing was imported.")
            shutil.copyfile(source / file, draft / "adapter" / file)


def _write_run(draft: Path, found: Found) -> None:
    """Write the checked contents in place of the archive's files, and the files that make it a run."""
    now = time.time()
    config = {
        **found.config,
        "created": found.created,
        "imported": {"time": now, "run": found.run, "from": found.source},
    }
    began = found.created
    status = {
        "state": found.state,
        "pid": None,
        "step": found.step,
        "total_steps": found.total_steps,
        "message": "",
        "started": began,
        "updated": began + found.seconds,
        "writes": 1,
    }
    files = {
        **{f"adapter/{name}": content for name, content in found.adapter.items()},
        "config.json": config,
        "status.json": status,
        "result.json": found.result,
        NOTES_NAME: found.notes,
    }
    with disk_errors(draft):
        (draft / ARCHIVE_NAME).unlink(missing_ok=True)
        for name, content in files.items():
            if content:
                (draft / name).write_bytes(json_bytes(content, indent=2))


def _publish(draft: Path, store: RunStore, found: Found, id: str | None) -> Run:
    task = found.config.get("task", {}).get("name")
    while True:
        place = store.root / (id or fresh_id(task or "imported"))
        try:
            with disk_errors(place):
                place.mkdir()
        except FileExistsError:
            if id:
                raise InputError(f"There is a run '{id}' already; choose another id.") from None
            continue
        with disk_errors(place):
            os.replace(draft, place)  # onto the empty directory, which is reserved for this run
        return Run(place)
