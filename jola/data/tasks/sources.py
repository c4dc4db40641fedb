"""Load the examples of tasks that are not built in: from a folder, a file, or a Hub dataset."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.utils import HFValidationError, validate_repo_id

from jola.data.records import SUFFIXES, parse_rows, read_examples
from jola.data.tasks.hub import commit_of
from jola.data.tasks.info import Parts
from jola.errors import InputError
from jola.system.hub import hub_or_cache

HUB_PREFIX = "hf:"

PART_NAMES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""Names of the files and Hub splits of each part."""


def load_folder(folder: Path) -> Parts:
    """Read a folder with ``train``, ``validation`` and ``test`` files; only the first is required."""
    files = {part: _part_file(folder, part) for part in PART_NAMES}
    if files["train"] is None:
        raise InputError(f"{folder} has no training file; name it train{SUFFIXES[0]} (or {', '.join(SUFFIXES[1:])}).")
    parts = {part: read_examples(file) for part, file in files.items() if file is not None}
    return Parts(parts["train"], parts.get("validation"), parts.get("test"))


def load_file(path: Path) -> Parts:
    """Read a file as the training part; validation and test parts are carved from it later."""
    return Parts(read_examples(path))


def load_hub(task: str) -> Parts:
    """Load a Hub dataset, written ``hf:owner/name`` or ``hf:owner/name:configuration``.

    Raises:
        InputError: The name is malformed, the dataset does not exist or cannot be downloaded, or it has no training
            split or unusable columns.
    """
    name, _, configuration = task.removeprefix(HUB_PREFIX).partition(":")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise InputError(
            f"'{task}' is not a Hub dataset; write hf:owner/name or hf:owner/name:configuration."
        ) from None
    # Imported here because it takes a second and only Hub datasets need it.
    from datasets import load_dataset

    try:
        with hub_or_cache():
            splits = load_dataset(name, configuration or None)
    except Exception as error:
        # Network, cache, builders and readers raise different errors, which all mean the same to the user.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"The Hub dataset {name} could not be loaded: {reason}.") from error
    parts = {}
    for part, names in PART_NAMES.items():
        split = next((split for split in names if split in splits), None)
        if split is not None:
            parts[part] = parse_rows(_hub_rows(splits[split], f"{task} ({split})"))
    if not parts.get("train"):
        raise InputError(f"The Hub dataset {name} has no train split; it has {', '.join(map(str, splits)) or 'none'}.")
    found = (parts.get(part) or None for part in ("validation", "test"))
    return Parts(parts["train"], *found, revision=commit_of(splits))


def _hub_rows(split: Any, where: str) -> Iterator[tuple[str, Any]]:
    for number, row in enumerate(split, start=1):
        yield f"row {number} of {where}", row


def _part_file(folder: Path, part: str) -> Path | None:
    candidates = [folder / f"{name}{suffix}" for name in PART_NAMES[part] for suffix in SUFFIXES]
    found = [path for path in candidates if path.is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise InputError(f"{folder} has {names} for the same part; keep one of them.")
    return found[0] if found else None
