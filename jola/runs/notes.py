"""What people write about a run: a label and a note, in the run's ``notes.json``.

Both are data and nothing else: the directory keeps its name, whatever a run is called.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from jola.errors import InputError
from jola.runs.schema import NotesFile
from jola.system.files import json_bytes, replace_file
from jola.system.typed_json import read_valid_part

NOTES_NAME = "notes.json"
LABEL_LENGTH = 80
"""Characters of a label, which is one line."""
NOTE_LENGTH = 4000
"""Characters of a note."""
# Marks that turn the direction of writing around would let a label rewrite what stands beside it.
_DIRECTION_MARKS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class RunNotes:
    """A label, empty where the run has none, and a note."""

    label: str = ""
    note: str = ""

    def changed(self, *, label: str | None = None, note: str | None = None) -> "RunNotes":
        """These notes with another label, another note, or both; blanks around them are dropped.

        `InputError` for a text that is too long.
        """
        return RunNotes(
            self.label if label is None else _checked(" ".join(_readable(label).split()), "label", LABEL_LENGTH),
            self.note if note is None else _checked(_readable(note).strip(), "note", NOTE_LENGTH),
        )


def read_notes(folder: Path) -> RunNotes:
    """The notes in a run's directory; empty ones when there are none or they are damaged."""
    return notes_from(read_valid_part(folder / NOTES_NAME, NotesFile)[0])


def notes_from(values: Mapping[str, str]) -> RunNotes:
    """The notes in the valid part of a `NotesFile`; what is too long is cut."""
    label, note = (_readable(values.get(name, "")) for name in ("label", "note"))
    return RunNotes(" ".join(label.split())[:LABEL_LENGTH], note.strip()[:NOTE_LENGTH])


def write_notes(folder: Path, notes: RunNotes) -> None:
    """Put the notes into a run's directory in one step; `InputError` when the disk is full or read-only."""
    replace_file(folder / NOTES_NAME, json_bytes(asdict(notes), indent=2))


def _readable(text: str) -> str:
    """The text without invisible characters, except for line breaks and tabs."""
    text = _DIRECTION_MARKS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))


def _checked(text: str, what: str, limit: int) -> str:
    if len(text) > limit:
        raise InputError(f"The {what} has {len(text):,} characters and at most {limit:,} are kept; shorten it.")
    return text
