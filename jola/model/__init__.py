"""The frozen model: supported architectures, loading, and forward passes through nnsight."""

from importlib import import_module
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

# nnsight gives every Python object a `save` attribute, after which these modules cannot be imported any more.
for _name in ("anyio.abc", "anyio.streams.file", "anyio.streams.tls"):
    import_module(_name)
