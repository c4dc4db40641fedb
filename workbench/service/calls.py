"""A worker thread with a queue of calls."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")


class Superseded(Exception):
    """Raised if the answer is no longer needed: a newer call of the page replaced this one, or the app is closing."""


class Ticket(Generic[Answer]):
    """A call that is waiting, running or done."""

    def __init__(self, number: int, ahead: Callable[[int], int]) -> None:
        self.number = number
        self.stop = threading.Event()
        """Set once the answer is no longer needed; long computations check it."""
        self.future: Future[Answer]
        self._started = threading.Event()
        self._ahead = ahead

    @property
    def place(self) -> int:
        """Number of calls before this one, including the running one; 0 once this one has started."""
        return 0 if self._started.is_set() or self.future.done() else self._ahead(self.number)

    def waiting(self, first: float = 0.4, then: float = 0.5) -> Iterator[int]:
        """Yield `place` repeatedly until the call is done; yield nothing if it is done within ``first`` seconds."""
        pause = first
        while not self.done(pause):
            yield self.place
            pause = then

    def done(self, seconds: float = 0.0) -> bool:
        """Wait at most ``seconds``, and return whether the call is done."""
        try:
            self.future.exception(seconds)
        except CancelledError:
            return True
        except TimeoutError:
            return False
        return True

    def result(self) -> Answer:
        """Wait for the answer and return it. Raises the exception of the call, or `Superseded`."""
        try:
            return self.future.result()
        except CancelledError:
            raise Superseded from None

    def give_up(self) -> None:
        """Remove the call from the queue, or stop it."""
        self.stop.set()
        self.future.cancel()


class Calls:
    """Runs calls one after the other, in the order of their submission."""

    def __init__(self, name: str) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._open: dict[int, Ticket] = {}
        self._latest: dict[tuple[str, str], Ticket] = {}

    def submit(self, work: Callable[[Ticket[Answer]], Answer], *, page: str = "", kind: str = "") -> Ticket[Answer]:
        """Append a call to the queue; with a page and a kind, it replaces the older call of that page and kind."""
        named = (page, kind) if page and kind else None
        with self._lock:
            ticket: Ticket[Answer] = Ticket(next(self._numbers), self._ahead)

            def call() -> Answer:
                ticket._started.set()
                if ticket.stop.is_set():
                    raise Superseded
                return work(ticket)

            try:
                ticket.future = self._worker.submit(call)
            except RuntimeError:  # closed
                raise Superseded from None
            self._open[ticket.number] = ticket
            older = self._latest.get(named) if named else None
            if named:
                self._latest[named] = ticket
        if older is not None:
            older.give_up()
        ticket.future.add_done_callback(lambda _: self._done(ticket, named))
        return ticket

    def close(self) -> None:
        """Accept no further calls, drop the waiting ones and ask the running one to stop."""
        with self._lock:
            for ticket in self._open.values():
                ticket.stop.set()
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _ahead(self, number: int) -> int:
        with self._lock:
            return sum(other < number for other in self._open)

    def _done(self, ticket: Ticket, named: tuple[str, str] | None) -> None:
        with self._lock:
            self._open.pop(ticket.number, None)
            if named and self._latest.get(named) is ticket:
                del self._latest[named]


class Stops:
    """The current calls of each page, so that a page can stop only its own work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tickets: dict[tuple[str, str], Ticket[Any]] = {}

    def begin(self, page: str, kind: str, ticket: Ticket[Any]) -> None:
        """Register a call of a page; it replaces the older call of this kind."""
        with self._lock:
            self._tickets[page, kind] = ticket

    def stop(self, page: str, kind: str | None = None) -> None:
        """Stop one kind of work of a page, or all of it."""
        with self._lock:
            keys = [key for key in self._tickets if key[0] == page and kind in (None, key[1])]
            tickets = [self._tickets.pop(key) for key in keys]
        for ticket in tickets:
            ticket.give_up()
