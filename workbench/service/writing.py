"""An answer while the model writes it: one thread appends text, another shows the text so far."""

import threading
from collections.abc import Iterator

from workbench.service.calls import Ticket

_FLUSH_SECONDS = 0.08


class Pieces:
    """Text that one thread appends to and another waits for."""

    def __init__(self) -> None:
        self._more = threading.Event()
        self.text = ""

    def put(self, piece: str) -> None:
        self.text += piece
        self._more.set()

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for text; return whether some arrived, and reset the flag."""
        if not self._more.wait(seconds):
            return False
        self._more.clear()
        return True


class Writing:
    """An answer while it is being written."""

    def __init__(self, ticket: Ticket[str], pieces: Pieces) -> None:
        self.ticket = ticket
        self._pieces = pieces
        self.stopped = False
        """Whether it was stopped before its end."""

    def texts(self) -> Iterator[str]:
        """Yield the answer so far when it grows or its place in the queue changes; closing the iterator stops it."""
        place = 0
        try:
            while not self.ticket.future.done():
                grown = self._pieces.wait(_FLUSH_SECONDS)
                if grown or self.ticket.place != place:
                    place = self.ticket.place
                    yield self._pieces.text
            self.stopped = self.ticket.stop.is_set()
            yield self.ticket.result()
        finally:
            self.ticket.give_up()
