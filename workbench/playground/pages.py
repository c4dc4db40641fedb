"""The states of the open pages, on the server, so that gestures in quick succession all see the latest state."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from workbench.playground.edit_map.value import new_revision
from workbench.service.page_state import PageState

_KEPT_PAGES = 512


class Pages:
    """The states of the open pages, by gradio's name of the page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: OrderedDict[str, PageState] = OrderedDict()

    def get(self, page: str) -> PageState:
        """Return the current state of a page; a new state if the page is unknown."""
        with self._lock:
            return self._states.get(page, PageState())

    def change(self, page: str, change: Callable[[PageState], PageState]) -> PageState:
        """Replace the state of a page atomically, and return the new one; if ``change`` raises, nothing changes."""
        with self._lock:
            state = replace(change(self._states.get(page, PageState())), revision=new_revision())
            self._states[page] = state
            self._states.move_to_end(page)
            while len(self._states) > _KEPT_PAGES:
                self._states.popitem(last=False)
            return state

    def forget(self, page: str) -> None:
        """Drop the state of a page that was closed."""
        with self._lock:
            self._states.pop(page, None)
