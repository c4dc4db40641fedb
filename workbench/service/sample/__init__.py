"""A run included in the app, so that there is something to explore before the first training.

``sample.zip`` is an exported run of the default model on the default data, with most of its gate records left out. It
contains no text of the data. ``tools/sample_run.py`` trains and packs it again.
"""

import logging
from pathlib import Path

from jola.errors import InputError
from jola.runs.run import Run
from jola.runs.store import RunStore

ARCHIVE = Path(__file__).parent / "sample.zip"
SAMPLE_ID = "sample"
_MARK = ".sample-was-here"
_LOG = logging.getLogger(__name__)


def install(store: RunStore) -> Run | None:
    """Put the sample among the runs of a store, once; None when it was there before, or cannot be put there.

    A mark in the store remembers it, so that a sample that was deleted does not come back. What is installed is a run
    like the others: it can be renamed, deleted and restored, and the packaged file stays as it is.
    """
    mark = store.root / _MARK
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        mark.touch(exist_ok=False)
    except OSError as error:
        if not mark.exists():
            _LOG.warning("The sample run is left out: %s", error)
        return None
    from jola.runs.archive import import_archive  # which imports PyTorch, and most starts of the app end above

    try:
        return import_archive(ARCHIVE, store, id=SAMPLE_ID)
    except InputError as error:
        _LOG.warning("The sample run is left out: %s", error)
        mark.unlink(missing_ok=True)
        return None
