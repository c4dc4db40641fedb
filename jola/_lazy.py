"""Lazy imports of the public names of packages, so that ``import jola`` and ``jola --help`` are fast."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, homes: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """Create a module ``__getattr__`` (PEP 562) that imports each name from the module in which it is defined.

    Args:
        package: Name of the package that exports the names.
        homes: Names by the module in which they are defined.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home_of[name]), name)

    return __getattr__
