"""Limits for connections to the server: their number, and how long a client may keep one without sending a request."""

import asyncio
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 500
HEAD_SECONDS = 10.0
"""Maximum time for the head of a request, from its first byte or from the start of the connection."""
BODY_SECONDS = 60.0
"""Longest pause in the body of a request."""


def most_connections() -> int:
    """Return the maximum number of open connections: at most half of the limit of open files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, files // 2)


class Connection(H11Protocol):
    """A connection that is closed if its client is too slow, or at once if there are too many.

    uvicorn only has a timeout for idle connections after a response, and its limit applies to complete requests.
    """

    most = most_connections()
    head_seconds = HEAD_SECONDS
    body_seconds = BODY_SECONDS
    _due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
        else:
            self._expect(self.head_seconds)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:  # the head is not complete
            if self._due is None:
                self._expect(self.head_seconds)
        elif self.conn.their_state is h11.SEND_BODY:
            self._expect(self.body_seconds)
        else:
            self._expect(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        super().connection_lost(exc)

    def _expect(self, seconds: float | None) -> None:
        """Close the connection unless data arrives within ``seconds``; None cancels the timeout."""
        if self._due is not None:
            self._due.cancel()
        self._due = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        self._due = None
        if self.flow.read_paused:  # the server itself has paused reading
            self._expect(self.body_seconds)
        else:
            self.transport.abort()
