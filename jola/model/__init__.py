"""The frozen model: supported architectures, loading, and forward passes through nnsight."""

from typing import TYPE_CHECKING

from jola._lazy import lazily

if TYPE_CHECKING:
    from jola.jola_model import JoLAModel as JoLAModel

__getattr__ = lazily(
    __name__,
    {
        "jola.jola_model": ("JoLAModel",),
    },
)
