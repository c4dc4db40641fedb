"""The API key of NDIF, and what its users must know; `jola.remote` sends the requests."""

import os

from jola.errors import InputError

KEY_VARIABLE = "NDIF_API_KEY"
"""Environment variable with the API key."""

HOST_VARIABLE = "NDIF_HOST"
"""Environment variable with the address of a server other than `HOST`."""

HOST = "https://api.ndif.us"


def api_key() -> str:
    """The API key; empty if there is none."""
    return os.environ.get(KEY_VARIABLE, "").strip()


def has_key() -> bool:
    """Whether there is an API key."""
    return bool(api_key())


def host() -> str:
    """The address that requests are sent to."""
    return os.environ.get(HOST_VARIABLE, "").strip().rstrip("/") or HOST


def privacy() -> str:
    """Return a sentence that says which data leave this machine, and where they are sent."""
    server = "NDIF" if host() == HOST else f"NDIF at {host()}"
    return f"Prompts and edits leave this machine: they are sent to {server}, which runs the model on its own servers."


def require_key() -> None:
    """Raise `InputError` if there is no API key or the address of the server is not valid."""
    if not has_key():
        raise InputError(
            f"Remote models need an API key of NDIF; get one at https://ndif.us and set {KEY_VARIABLE} to it."
        )
    if not host().startswith(("https://", "http://")):
        raise InputError(f"{HOST_VARIABLE} must begin with https:// or http://; correct or unset it.")
