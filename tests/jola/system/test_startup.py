"""Imports without the garbage collector."""

import gc
import subprocess
import sys

import pytest

from jola.system.startup import quick_imports
from tests import ROOT

IMPORTS = """
import gc
from jola.system.startup import quick_imports

with quick_imports():
    assert not gc.isenabled()
    with quick_imports():
        import torch
    assert not gc.isenabled() and not gc.get_freeze_count()
assert gc.isenabled() and gc.get_freeze_count() > len(gc.get_objects())
"""

FAILS = """
import gc
from jola.system.startup import quick_imports

try:
    with quick_imports():
        import no_such_package
except ModuleNotFoundError:
    assert gc.isenabled() and not gc.get_freeze_count()
else:
    raise AssertionError
"""


@pytest.mark.parametrize("script", [IMPORTS, FAILS], ids=["imported", "missing"])
def test_the_collector_is_off_while_modules_are_imported_and_skips_them_later(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_nothing_changes_once_models_may_exist() -> None:
    assert "torch" in sys.modules
    frozen = gc.get_freeze_count()
    with quick_imports():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_a_collector_that_was_off_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
