"""Use as many threads as there are free cores, adjusted while a process computes.

PyTorch's threads wait for each other by spinning. If other processes are busy, a waiting thread occupies a core that
the thread it waits for needs, and a computation slows down disproportionately: on two cores with three busy processes,
a training step with two threads takes more than three times as long as with one.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil

INTERVAL = 2.0
"""Minimum seconds between two decisions, because shorter samples of the load are too noisy."""
_TOLERATED = 0.3
"""Cores that other processes may use without costing a thread, because a desktop is never quite idle."""
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Sample:
    """Processor seconds used up to a point in time.

    Args:
        time: Seconds of the monotonic clock.
        own: Used by this process, in all its threads.
        busy: Used by all processes, on the cores that this process may use.
        cores: Number of these cores.
    """

    time: float
    own: float
    busy: float
    cores: int


def take_sample() -> Sample:
    """Take a sample now."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    allowed = affinity(0) if affinity else range(os.cpu_count() or 1)
    times: list[Any] = psutil.cpu_times(percpu=True)
    used = [each for core, each in enumerate(times) if core in allowed]
    # On Linux, the time of guests is also included in user time.
    busy = sum(sum(each) - each.idle - getattr(each, "iowait", 0) - getattr(each, "guest", 0) for each in used)
    return Sample(time.monotonic(), time.process_time(), busy, len(used))


def threads_for(before: Sample, now: Sample, most: int) -> int:
    """Return the number of threads to use, from 1 to `most`: the cores that others left free between two samples."""
    seconds = now.time - before.time
    others = max(0.0, (now.busy - before.busy - (now.own - before.own)) / seconds)
    return min(max(1, int(now.cores - others + _TOLERATED)), most)


class ThreadControl:
    """Adjusts the number of threads to the load of the machine.

    Args:
        most: Maximum number of threads, used if nothing else runs.
        set_threads: Called with each new number.
        sample: Measures the load.
    """

    def __init__(
        self, most: int, set_threads: Callable[[int], None], sample: Callable[[], Sample] = take_sample
    ) -> None:
        self.most, self.threads = most, most
        self._set, self._sample = set_threads, sample
        self._before = sample()

    def update(self) -> None:
        """Decide again if the last decision is `INTERVAL` seconds old; call it between units of work."""
        now = self._sample()
        if now.time - self._before.time < INTERVAL:
            return
        wanted = threads_for(self._before, now, self.most)
        self._before = now
        if wanted != self.threads:
            self.threads = wanted
            self._set(wanted)

    def restore(self) -> None:
        """Return to the maximum number of threads."""
        if self.threads != self.most:
            self.threads = self.most
            self._set(self.most)


def fixed_by_user() -> bool:
    """Whether environment variables set the number of threads, so that it must not be changed."""
    return any(os.environ.get(name) for name in _VARIABLES)
