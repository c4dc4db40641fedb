"""Access to the Hugging Face Hub when there may be no network."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TIMEOUT = 10.0
"""Seconds to wait for the Hub to answer a first request."""
_lock = threading.Lock()
_offline: list[bool] = []
"""One entry for each block, in any thread, that reads only caches because the Hub did not answer."""


@contextmanager
def hub_or_cache(name: str = "") -> Iterator[None]:
    """Let libraries read only their caches inside the block if the Hub does not answer a first request.

    Nothing is requested for a ``name`` that is a local path.

    Without this, the libraries request each file six times, which takes more than 20 seconds without a network. Proxies
    and the address of the Hub (HF_ENDPOINT) are those of `huggingface_hub`.
    """
    from huggingface_hub import constants  # these take long to import
    from huggingface_hub.utils import get_session

    if (name and Path(name).exists()) or not _enter(constants, get_session):
        yield
        return
    try:
        yield
    finally:
        with _lock:
            _offline.pop()
            constants.HF_HUB_OFFLINE = bool(_offline)


def _enter(constants: Any, get_session: Callable[[], Any]) -> bool:
    """Switch the libraries to their caches if the Hub does not answer; return whether this block needs the caches."""
    with _lock:
        if not _offline:
            if constants.HF_HUB_OFFLINE:  # the user's choice
                return False
            try:
                get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
            except Exception:  # the HTTP library, and with it the types of errors, depends on the release of the client
                constants.HF_HUB_OFFLINE = True
            else:
                return False
        _offline.append(True)
        return True
