"""Access to the Hugging Face Hub when there may be no network."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TIMEOUT = 10.0
"""Seconds that the Hub has to answer a first request."""


@contextmanager
def hub_or_cache(name: str = "") -> Iterator[None]:
    """Within this, libraries read only their caches if the Hub does not answer a first request.

    Nothing is requested for a ``name`` that is a local path.

    Without it they ask for each file six times, which takes more than 20 seconds without a network. Proxies and the
    address of the Hub (HF_ENDPOINT) are those of `huggingface_hub`.
    """
    from huggingface_hub import constants  # these take long to import
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE or (name and Path(name).exists()):
        yield
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception:  # errors of whatever HTTP library this release of the client uses
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False
