"""Atomic creation of folders and files, and silencing of transformers."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging

from jola.errors import InputError
from jola.system.files import disk_errors, draft_of


@contextmanager
def new_folder(folder: Path | str) -> Iterator[Path]:
    """Create a draft folder that is renamed to ``folder`` if the block succeeds, and deleted otherwise.

    Raises:
        InputError: The folder already exists, or it cannot be written.
    """
    folder = Path(folder)
    if not folder.name:
        raise InputError(f"{folder} has no name of its own; give the name of a new folder.")
    taken = InputError(f"{folder} already exists; choose another name, or remove it first.")
    if os.path.lexists(folder) and not _is_empty(folder):
        raise taken
    draft = draft_of(folder)
    with disk_errors(folder):
        try:
            draft.mkdir(parents=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"{folder} cannot be created, because part of its path is a file; choose another folder."
            ) from error
    try:
        yield draft
        with disk_errors(folder):
            try:
                os.replace(draft, folder)
            except (FileExistsError, NotADirectoryError) as error:
                raise taken from error
            except OSError as error:
                if os.path.lexists(folder) and not _is_empty(folder):  # created by another process in the meantime
                    raise taken from error
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def new_file(file: Path | str) -> Iterator[Path]:
    """Like `new_folder`, for one file."""
    file = Path(file)
    if os.path.lexists(file):
        raise InputError(f"{file} already exists; choose another name, or remove it first.")
    draft = draft_of(file)
    with disk_errors(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{file.parent} is a file, not a folder; choose another folder.") from error
        try:
            yield draft
            os.replace(draft, file)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress the progress bars and notices of transformers, which would confuse users."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
