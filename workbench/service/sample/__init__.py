"""A run and a comparison included in the app, so that there is something to explore before the first training.

``sample.zip`` is an exported run of the default model on the default data, with most of its gate records left out.
``comparison.zip`` is a small comparison of selectors on the same model and data, without the edits of its runs.
Neither contains text of the data. ``tools/sample_run.py`` and ``tools/sample_comparison.py`` train and pack them again.
"""

import logging
import shutil
import zipfile
from pathlib import Path

from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.store import RunStore

ARCHIVE = Path(__file__).parent / "sample.zip"
COMPARISON_ARCHIVE = Path(__file__).parent / "comparison.zip"
SAMPLE_ID = "sample"
_MARK = ".sample-was-here"
_LOG = logging.getLogger(__name__)


def install(store: RunStore) -> Run | None:
    """Install the sample run in a store, once; None if it was installed before or cannot be installed.

    A marker file in the store prevents a deleted sample from coming back. The installed run is like any other: it can
    be renamed, deleted and restored, and the packaged file does not change.
    """
    if not _first_time(store.root, "run"):
        return None
    from jola.runs.archive import import_archive  # imports PyTorch, which most starts of the app do not need

    try:
        return import_archive(ARCHIVE, store, id=SAMPLE_ID)
    except InputError as error:
        _LOG.warning("The sample run is left out: %s", error)
        (store.root / _MARK).unlink(missing_ok=True)
        return None


def install_comparison(root: Path) -> Path | None:
    """Install the sample comparison in a folder, once; return its folder, or None like `install`."""
    if not _first_time(root, "comparison"):
        return None
    folder, unpacked = root / SAMPLE_ID, root / f".{SAMPLE_ID}"
    try:
        with zipfile.ZipFile(COMPARISON_ARCHIVE) as archive:
            archive.extractall(unpacked)
        return unpacked.rename(folder)
    except OSError as error:
        _LOG.warning("The sample comparison is left out: %s", error)
        shutil.rmtree(unpacked, ignore_errors=True)
        (root / _MARK).unlink(missing_ok=True)
        return None


def _first_time(root: Path, noun: str) -> bool:
    """Whether the sample was never installed in this folder; creates the marker file."""
    mark = root / _MARK
    try:
        root.mkdir(parents=True, exist_ok=True)
        mark.touch(exist_ok=False)
    except OSError as error:
        if not mark.exists():
            _LOG.warning("The sample %s is left out: %s", noun, error)
        return False
    return True
