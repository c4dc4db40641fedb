"""Write files that other processes may read at the same time."""

import errno
import fcntl
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jola.errors import InputError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission, a long name and a folder in place of a file into an `InputError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise InputError(
                f"There is no space left on the disk for {path}; free some space and try again."
            ) from error
        if error.errno in _FORBIDDEN:
            raise InputError(f"{path} is not writable; choose another location or change its permissions.") from error
        if error.errno == errno.EISDIR:
            raise InputError(f"{path} cannot be written because it is a folder; move or rename it.") from error
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{path} is too long for the file system; choose a shorter name.") from error
        raise


def make_folder(folder: Path) -> None:
    """Create a folder and its parents if missing. Raises `InputError` as `disk_errors`, and for a file in its place."""
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"{folder} cannot be created: a file is in the way; move it or choose another folder."
            ) from error


@contextmanager
def removed_on_error(folder: Path) -> Iterator[None]:
    """Remove a folder that was just created if the block raises, for instance because the disk is full."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def folder_locked(folder: Path) -> Iterator[None]:
    """Exclude other processes and threads that lock the same folder, without a lock file; not reentrant."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def draft_of(path: Path) -> Path:
    """Return a hidden name next to ``path`` that no other process or thread writes to."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def replace_file(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write ``data`` to ``path`` atomically: a reader finds the old content or the new, never a part.

    With ``durable``, also wait until the data are on the disk, which survives a loss of power and costs milliseconds.
    Raises `InputError` if the disk is full or may not be written.
    """
    draft = draft_of(path)
    with disk_errors(path):
        try:
            with open(draft, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            with suppress(OSError):
                draft.unlink()
            raise


def append_whole(descriptor: int, data: bytes, path: Path) -> None:
    """Append ``data`` with a single write to a descriptor opened with ``O_APPEND``.

    A single write leaves at most one incomplete record if the process is killed. If the disk takes only a part, that
    part is removed again, so that the file still ends with a complete record, and `InputError` is raised.
    """
    with disk_errors(path):
        size = os.fstat(descriptor).st_size
        written = os.write(descriptor, data)
        if written != len(data):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def plain(value: Any) -> Any:
    """Return ``value`` for JSON: tensors and arrays as numbers and lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_bytes(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """Return ``content`` as one JSON object in UTF-8 with a line break at its end."""
    text = json.dumps(plain(content), ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-8", errors="replace") + b"\n"


def read_json(path: Path) -> dict[str, Any] | None:
    """Read the JSON object in ``path``; None if the file is missing, incomplete or contains something else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
