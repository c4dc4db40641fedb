"""Which run a panel shows on each page, because results of a long call may arrive after another run was opened."""

import threading
from collections import OrderedDict

_REMEMBERED = 1000
"""Maximum number of pages."""


class OpenedRuns:
    """The run that a panel shows on each page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, str] = OrderedDict()

    def open(self, page: str, run: str) -> bool:
        """Record that a page shows a run, by id; return whether it showed another one before."""
        with self._lock:
            before = self._runs.pop(page, run)
            self._runs[page] = run
            while len(self._runs) > _REMEMBERED:
                self._runs.popitem(last=False)
            return before != run

    def shows(self, page: str, run: str) -> bool:
        """Whether a page still shows a run; True if it has opened none."""
        with self._lock:
            return self._runs.get(page, run) == run
