"""`SavedMasks`: named masks, stored in ``masks.json`` in the directory of their run."""

import threading
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from jola.edits.masks.head_mask import HeadMask
from jola.edits.names import HALVES
from jola.errors import InputError
from jola.system.files import json_bytes, replace_file
from jola.system.typed_json import JsonFile, Line, Time, read_typed

FILE_NAME = "masks.json"
MAX_MASKS = 200
"""Maximum number of masks per run, over all sites."""
MAX_NAME = 80
"""Maximum length of a name, in characters."""
MAX_UNITS = 1 << 19
"""Maximum number of layers × units of a mask."""

_VERSION = 1
_writing = threading.Lock()


@dataclass(frozen=True)
class SavedMask:
    """A named mask."""

    name: str
    site: str
    mask: HeadMask
    saved: float
    """Seconds since the epoch."""


class _Entry(JsonFile):
    """One mask in the file, which people can edit."""

    model_config = ConfigDict(extra="forbid")

    name: Line
    site: Line
    layers: Annotated[int, Field(gt=0, le=MAX_UNITS)]
    units: Annotated[int, Field(gt=0, le=MAX_UNITS)]
    mask: str
    saved: Time
    channels: Annotated[list[Line], Field(min_length=1, max_length=8)] | None = None
    """Channels of a mask whose channels are not offset and scale."""


class _MasksFile(JsonFile):
    version: Literal[1]
    masks: list[_Entry]


_Entries = list[SavedMask]  # defined here, because `SavedMasks.list` shadows the builtin


class SavedMasks:
    """The named masks of one site of a run; names are data and never become paths.

    Raises `InputError` for a name that is invalid, taken or unknown, for too many masks, for a damaged file (which is
    left unchanged), and if the disk is full. Saving is safe across threads of one process; if two processes save at the
    same time, the later one wins.
    """

    def __init__(self, run: Path | str, site: str = "heads") -> None:
        self.path = Path(run) / FILE_NAME
        self.site = site

    def list(self) -> tuple[SavedMask, ...]:
        """All masks of this site, in the order in which they were first saved."""
        return tuple(entry for entry in self._read() if entry.site == self.site)

    def get(self, name: str) -> HeadMask:
        """The mask with this name."""
        entries = self._read()
        return entries[self._index(entries, name)].mask

    def save(self, name: str, mask: HeadMask, *, replace: bool = False) -> SavedMask:
        """Save a mask under a name; with ``replace``, overwrite an existing mask of this name."""
        entry = SavedMask(_checked_name(name), self.site, mask, time.time())
        with _writing:
            entries = self._read()
            taken = [index for index, old in enumerate(entries) if self._is(old, entry.name)]
            if taken and not replace:
                raise InputError(f"A mask named '{entry.name}' already exists; choose another name or replace it.")
            if taken:
                entries[taken[0]] = entry
            elif len(entries) >= MAX_MASKS:
                raise InputError(f"The run already has {MAX_MASKS} masks, the maximum; remove one first.")
            else:
                entries.append(entry)
            self._write(entries)
        return entry

    def rename(self, old: str, new: str) -> None:
        """Rename a mask."""
        name = _checked_name(new)
        with _writing:
            entries = self._read()
            index = self._index(entries, old)
            if any(self._is(entry, name) for place, entry in enumerate(entries) if place != index):
                raise InputError(f"A mask named '{name}' already exists; choose another name.")
            entries[index] = replace(entries[index], name=name)
            self._write(entries)

    def remove(self, name: str) -> None:
        """Remove a mask."""
        with _writing:
            entries = self._read()
            del entries[self._index(entries, name)]
            self._write(entries)

    def _is(self, entry: SavedMask, name: str) -> bool:
        return entry.site == self.site and entry.name == name

    def _index(self, entries: Sequence[SavedMask], name: str) -> int:
        for index, entry in enumerate(entries):
            if self._is(entry, _normal(name)):
                return index
        raise InputError(f"This run has no mask named '{name}'; it may have been removed or renamed.")

    def _read(self) -> _Entries:
        try:
            content = read_typed(self.path, _MasksFile)
            if content is None and self.path.exists():
                raise InputError(f"{self.path} is empty.")
            return [_saved_mask(**entry) for entry in content["masks"]] if content is not None else []
        except InputError as error:
            reason = str(error).replace(str(self.path), "it").rstrip(".")
            raise InputError(f"{self.path} is damaged ({reason}); move it away to save masks again.") from error

    def _write(self, entries: Sequence[SavedMask]) -> None:
        masks = [
            {
                "name": entry.name,
                "site": entry.site,
                "layers": entry.mask.layers,
                "units": entry.mask.units,
                "mask": entry.mask.to_text(),
                "saved": entry.saved,
                **({} if entry.mask.channels == HALVES else {"channels": list(entry.mask.channels)}),
            }
            for entry in entries
        ]
        try:
            replace_file(self.path, json_bytes({"version": _VERSION, "masks": masks}, indent=1))
        except FileNotFoundError as error:
            raise InputError(f"{self.path.parent} no longer exists; the mask was not saved.") from error


def _saved_mask(
    *, name: str, site: str, layers: int, units: int, mask: str, saved: float, channels: Sequence[str] | None = None
) -> SavedMask:
    if layers * units > MAX_UNITS:
        raise InputError(f"'{name[:MAX_NAME]}' is a mask of {layers} × {units} units, more than any model has.")
    read = HeadMask.from_text(mask, layers, units, tuple(channels or HALVES))
    return SavedMask(_checked_name(name), site, read, float(saved))


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise InputError("The name of a mask must be text.")
    name = _normal(name)
    if not name:
        raise InputError("The mask has no name; enter one.")
    if len(name) > MAX_NAME:
        raise InputError(f"The name has {len(name)} characters; the maximum is {MAX_NAME}.")
    if not name.isprintable():
        raise InputError("The name contains characters that cannot be displayed, such as a line break; remove them.")
    return name
