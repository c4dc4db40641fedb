"""Imports of large libraries, which take most of the time of a short command."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Disable the garbage collector while PyTorch and packages that use it are imported inside the block.

    During imports, the garbage collector examines more and more objects and frees almost none; when the process ends,
    it examines all of them again. Inside the block it is off. After a successful import it ignores the objects that
    exist by then (`gc.freeze`). Once PyTorch has been imported, the block has no effect: models may exist, and they
    must remain subject to garbage collection.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()
