"""Limits login attempts: each wrong password makes the next attempt wait longer."""

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

_MOST_ADDRESSES = 1000
_FORGOTTEN_SECONDS = 3600.0
_MOST_HELD = 200


@dataclass(frozen=True)
class Patience:
    """Waiting times: none for fewer than ``free`` wrong attempts, then 1 s, doubling up to ``longest``."""

    free: int
    longest: float
    """Seconds."""

    def seconds(self, wrong: int) -> float:
        """Return the wait after this many wrong attempts."""
        return 0.0 if wrong < self.free else min(2.0 ** min(wrong - self.free, 30), self.longest)


@dataclass
class _Count:
    wrong: int = 0
    last: float = 0.0


class Attempts:
    """Counts login attempts, per address and in total.

    Each attempt counts as wrong until `right` is called, so that concurrent attempts gain nothing. An address that has
    to wait is refused. The wait for the total is short, and attempts are delayed instead of refused: this slows guesses
    from many addresses without locking out a user who knows the password.

    Args:
        clock: Monotonic clock, in seconds.
        sleep: Delays an attempt by this many seconds.
        most_held: Maximum number of delayed attempts; further ones are refused.
    """

    def __init__(
        self,
        each: Patience = Patience(5, 300.0),
        total: Patience = Patience(50, 2.0),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        most_held: int = _MOST_HELD,
    ) -> None:
        self._each, self._total, self._clock = each, total, clock
        self._sleep, self._most_held, self._held = sleep, most_held, 0
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._all = _Count()

    async def begin(self, address: str) -> float:
        """Count an attempt, and delay it if the total number of wrong attempts requires it.

        Returns:
            0 if the attempt may proceed; otherwise it is refused and not counted, and may be repeated after this many
            seconds.
        """
        now, network = self._clock(), _network(address)
        own = self._counts.get(network, _Count())
        for count in (own, self._all):
            if now - count.last > _FORGOTTEN_SECONDS:
                count.wrong = 0
        refused = own.last + self._each.seconds(own.wrong) - now if own.wrong else 0.0
        if refused > 0:
            return refused
        held = self._all.last + self._total.seconds(self._all.wrong) - now if self._all.wrong else 0.0
        if held > 0 and self._held >= self._most_held:
            return held
        for count in (own, self._all):
            count.wrong, count.last = count.wrong + 1, now
        self._counts[network] = own
        self._counts.move_to_end(network)
        while len(self._counts) > _MOST_ADDRESSES:
            self._counts.popitem(last=False)
        if held > 0:
            self._held += 1
            try:
                await self._sleep(held)
            finally:
                self._held -= 1
                self._all.last = max(self._all.last, self._clock())
        return 0.0

    def right(self, address: str) -> None:
        """Record that the attempt was right, and reset the count of its address."""
        own = self._counts.pop(_network(address), None)
        self._all.wrong -= min(self._all.wrong, own.wrong if own else 0)


def _network(address: str) -> str:
    """Return what identifies a client: its IPv4 address, or the /64 network of its IPv6 address, which it owns."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if found.version == 6 and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
