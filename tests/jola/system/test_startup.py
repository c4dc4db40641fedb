"""Imports without the garbage collector."""

import gc
import subprocess
import sys

import pytest

from jola.system.startup import quick_imports

IMPORTS = """
import gc
from jola.system.startup import quick_imports

with quick_imports():
    assert not gc.isenabled()
    with quick_imports():
        import torch
    assert not gc.isenabled() and not gc.get_freeze_count()
assert gc.isenabled() and gc.get_freeze_count() > 100_000
try:
    with quick_imports():
        import no_such_package
except ModuleNotFoundError:
    assert gc.isenabled()
"""


def test_the_collector_is_off_while_modules_are_imported_and_skips_them_later() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)


def test_nothing_changes_once_models_may_exist() -> None:
    assert "nnsight" in sys.modules
    frozen = gc.get_freeze_count()
    with quick_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_a_collector_that_was_off_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "nnsight")
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
