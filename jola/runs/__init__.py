"""Training runs as directories: store, state, history, notes, archive, trash and comparison."""

from typing import TYPE_CHECKING

from jola._lazy import lazily

if TYPE_CHECKING:
    from jola.runs.run import Run as Run
    from jola.runs.store import RunStore as RunStore

__getattr__ = lazily(
    __name__,
    {
        "jola.runs.run": ("Run",),
        "jola.runs.store": ("RunStore",),
    },
)
