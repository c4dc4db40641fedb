"""Imports of large libraries, which take most of the time of a short command."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import PyTorch and what builds on it inside the block: faster, and in a process that ends faster.

    While modules are imported, the garbage collector examines more and more objects and finds next to nothing; when the
    process ends, it examines all of them again. Inside the block it is off. Afterwards it ignores the objects that
    exist by then (`gc.freeze`). Once nnsight has been imported, the block has no effect: models may exist, and they
    must remain subject to garbage collection.
    """
    if "nnsight" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
