"""Versions of installed packages."""

from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version


def installed_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the versions of packages by name; None for those that are not installed."""
    installed: dict[str, str | None] = dict.fromkeys(names)
    for name in installed:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed
