"""The label and the note that users give a run, in its ``notes.json``.

Both are only data: a label does not change the name of the directory.
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
"""Maximum characters of a label, which is one line."""
NOTE_LENGTH = 4000
"""Maximum characters of a note."""
# Marks of writing direction could let a label change the text next to it.
_DIRECTION_MARKS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class RunNotes:
    """The label and the note of a run; empty if it has none."""

    label: str = ""
    note: str = ""

    def changed(self, *, label: str | None = None, note: str | None = None) -> "RunNotes":
        """Return the notes with another label, another note, or both, without surrounding white space.

        Raises `InputError` for a text that is too long.
        """
        return RunNotes(
            self.label if label is None else _checked(" ".join(_readable(label).split()), "label", LABEL_LENGTH),
            self.note if note is None else _checked(_readable(note).strip(), "note", NOTE_LENGTH),
        )


def read_notes(folder: Path) -> RunNotes:
    """Read the notes in a run's directory; empty if they are missing or damaged."""
    return notes_from(read_valid_part(folder / NOTES_NAME, NotesFile)[0])


def notes_from(values: Mapping[str, str]) -> RunNotes:
    """Return the notes in the valid part of a `NotesFile`; texts that are too long are truncated."""
    label, note = (_readable(values.get(name, "")) for name in ("label", "note"))
    return RunNotes(" ".join(label.split())[:LABEL_LENGTH], note.strip()[:NOTE_LENGTH])


def write_notes(folder: Path, notes: RunNotes) -> None:
    """Write the notes to a run's directory atomically. Raises `InputError` if the disk is full or read-only."""
    replace_file(folder / NOTES_NAME, json_bytes(asdict(notes), indent=2))


def _readable(text: str) -> str:
    """Return the text without invisible characters, except line breaks and tabs."""
    text = _DIRECTION_MARKS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))


def _checked(text: str, what: str, limit: int) -> str:
    if len(text) > limit:
        raise InputError(f"The {what} has {len(text):,} characters, but the limit is {limit:,}; shorten it.")
    return text
