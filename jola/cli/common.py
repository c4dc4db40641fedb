"""What several commands share: finding the adapter that a name means, and quiet libraries."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jola.cli.runs import find_run
from jola.errors import InputError


def find_adapter(name: str) -> tuple[Path, Any]:
    """The adapter directory that a name means, and the run it belongs to when there is one."""
    from jola.adapters.directory import CONFIG_NAME
    from jola.runs.run import Run

    folder = Path(name)
    if (folder / CONFIG_NAME).is_file():
        parent = folder.resolve().parent
        return folder, Run.open(parent) if (parent / "status.json").is_file() else None
    run = find_run(name)
    if not (run.adapter_dir / CONFIG_NAME).is_file():
        raise InputError(f"The run {run.id} has no adapter yet ({run.state}); wait for its end or choose another.")
    return run.adapter_dir, run


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own bars and notices out of the way of ours."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    disable_progress_bars()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    yield
