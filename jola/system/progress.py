"""Progress of a long operation: phases, steps and notes."""

from typing import Protocol


class Progress(Protocol):
    """What a caller may want to see: phases, steps, notes."""

    def phase(self, name: str, total: int | None = None) -> None:
        """A new phase begins: 'load', 'train', 'evaluate', with its number of steps when it is known."""

    def advance(self, done: int, **values: float) -> None:
        """`done` of the phase's total, with numbers worth showing."""

    def note(self, sentence: str) -> None:
        """Something the user should know."""


class Stopped(Exception):
    """Raised by whoever is called with the progress of an operation, to stop the operation."""


class Quiet:
    """Progress that goes nowhere."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Ignore a phase."""

    def advance(self, done: int, **values: float) -> None:
        """Ignore a step."""

    def note(self, sentence: str) -> None:
        """Ignore a note."""
