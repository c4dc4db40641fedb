"""Open an adapter from a directory or a zip file of an adapter or of a run, or from a repository on the Hub."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi

from jola.adapters.directory import CONFIG_NAME
from jola.adapters.hub import HUB_NAME, fetch
from jola.runs.archive import import_archive
from jola.runs.store import RunStore


@contextmanager
def local_adapter(source: Path | str, revision: str | None = None, *, api: HfApi | None = None) -> Iterator[Path]:
    """Yield the directory of an adapter; that of a zip file exists only inside the block.

    Args:
        source: A directory or a zip file of an adapter or of a run, or "owner/name" on the Hub.
        revision: Branch, tag or commit of a repository on the Hub.
        api: Client of the Hub; of the public one by default.

    Raises:
        InputError: The source does not exist, cannot be fetched, or is a zip file that is damaged, unsafe or of another
            kind (see `jola.runs.archive`).
    """
    # os.path returns False for strings that cannot be paths, where pathlib raises.
    path = Path(os.path.expanduser(source))
    if os.path.isfile(path):
        with tempfile.TemporaryDirectory(prefix="jola-adapter-") as folder:
            yield import_archive(path, RunStore(Path(folder))).adapter_dir
    elif not os.path.exists(path) and isinstance(source, str) and HUB_NAME.fullmatch(source):
        yield fetch(source, revision, api=api)
    else:
        of_run = path / "adapter"
        yield of_run if os.path.isfile(of_run / CONFIG_NAME) and not os.path.isfile(path / CONFIG_NAME) else path
