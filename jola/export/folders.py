"""Folders and files that appear complete or not at all, and transformers kept quiet meanwhile."""

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
    """A draft beside ``folder``, which takes its place when the block ends well and is gone when it does not.

    Raises:
        InputError: There is something in its place already, or it cannot be written.
    """
    folder = Path(folder)
    taken = InputError(f"{folder} is there already; choose another name, or remove it first.")
    if os.path.lexists(folder) and not _is_empty(folder):
        raise taken
    draft = draft_of(folder)
    with disk_errors(folder):
        try:
            draft.mkdir(parents=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{folder} cannot be a folder: there is a file in its place; choose another.") from error
    try:
        yield draft
        with disk_errors(folder):
            try:
                os.replace(draft, folder)
            except (FileExistsError, NotADirectoryError) as error:
                raise taken from error
            except OSError as error:
                if os.path.lexists(folder) and not _is_empty(folder):  # another process was faster
                    raise taken from error
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def new_file(file: Path | str) -> Iterator[Path]:
    """The same for one file."""
    file = Path(file)
    if os.path.lexists(file):
        raise InputError(f"{file} is there already; choose another name, or remove it first.")
    draft = draft_of(file)
    with disk_errors(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f"{file.parent} is a file and no folder; choose another place.") from error
        try:
            yield draft
            os.replace(draft, file)
        finally:
            draft.unlink(missing_ok=True)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the progress bars and notices of transformers, which speak of steps that are ours."""
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
