"""Folders of downloaded assets and of training runs.

They follow the conventions of the platform unless the environment variable ``JOLA_HOME`` names one folder for both.
They are functions, so that a change of the variable takes effect at once.
"""

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

APP_NAME = "jola-workbench"
HOME_VARIABLE = "JOLA_HOME"


def is_there(path: str) -> bool:
    """Whether a user's path, with ``~`` expanded, is an existing file or folder; no text raises an error."""
    try:
        return os.path.exists(os.path.expanduser(path))
    except ValueError:  # an impossible user name after ~
        return False


def _home() -> Path | None:
    home = os.environ.get(HOME_VARIABLE, "").strip()
    return Path(home).expanduser().resolve() if home else None


def cache_home() -> Path:
    """Folder of files that can be fetched again: the default model and data."""
    home = _home()
    return home / "cache" if home else user_cache_path(APP_NAME, appauthor=False)


def runs_home() -> Path:
    """Folder with one directory for each training run."""
    home = _home()
    return home / "runs" if home else user_data_path(APP_NAME, appauthor=False) / "runs"
