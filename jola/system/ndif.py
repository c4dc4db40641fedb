"""The key for NDIF, and what its users have to know; `jola.remote` sends the requests."""

import os

from jola.errors import InputError

KEY_VARIABLE = "NDIF_API_KEY"
"""Environment variable with the API key, as nnsight reads it."""

PRIVACY = "Prompts and edits leave this machine: they are sent to NDIF, which runs the model on its own servers."


def has_key() -> bool:
    """Whether there is an API key."""
    return bool(os.environ.get(KEY_VARIABLE, "").strip())


def require_key() -> None:
    """Raise `InputError` if there is no API key."""
    if not has_key():
        raise InputError(
            f"Remote models need an API key of NDIF; get one at https://ndif.us and set {KEY_VARIABLE} to it."
        )
