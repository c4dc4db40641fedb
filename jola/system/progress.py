"""Progress of a long operation: phases, steps and notes."""

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of an operation: phases, steps and notes."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Begin a phase, such as 'load', 'train' or 'evaluate', with its number of steps if it is known."""

    def advance(self, done: int, **values: float) -> None:
        """Report that `done` steps of the phase are done, with numbers worth showing."""

    def note(self, sentence: str) -> None:
        """Report something that the user should know, in one sentence."""


class Stopped(Exception):
    """Raised by a progress callback to stop the operation."""


class Quiet:
    """Progress that ignores everything."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Ignore a phase."""

    def advance(self, done: int, **values: float) -> None:
        """Ignore a step."""

    def note(self, sentence: str) -> None:
        """Ignore a note."""
