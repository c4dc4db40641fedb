"""The states of the open pages, on the server: gestures that come quickly one after the other all find the last one."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from workbench.service.page_state import PageState

_KEPT_PAGES = 512


class Pages:
    """The choices of each open page, by the name that gradio gives it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: OrderedDict[str, PageState] = OrderedDict()

    def get(self, page: str) -> PageState:
        """The present state of a page; that of a fresh one when it is not known."""
        with self._lock:
            return self._states.get(page, PageState())

    def change(self, page: str, change: Callable[[PageState], PageState]) -> PageState:
        """Replace the state of a page in one step, and return the new one; when ``change`` raises, nothing happens."""
        with self._lock:
            state = change(self._states.get(page, PageState()))
            self._states[page] = state
            self._states.move_to_end(page)
            while len(self._states) > _KEPT_PAGES:
                self._states.popitem(last=False)
            return state

    def forget(self, page: str) -> None:
        """The page was closed."""
        with self._lock:
            self._states.pop(page, None)
