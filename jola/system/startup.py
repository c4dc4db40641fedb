"""Imports of large libraries, which take most of the time of a short command."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import PyTorch and what builds on it inside the block, without the garbage collector.

    While modules are imported, the garbage collector examines more and more objects and finds next to nothing; when the
    process ends, it examines all of them again. Inside the block it is off. After a successful import it ignores the
    objects that exist by then (`gc.freeze`). Once PyTorch has been imported, the block has no effect: models may exist,
    and they must remain subject to garbage collection.
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
