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

# nnsight gives every Python object a `save` attribute, after which these classes cannot be defined any more; recent
# versions of anyio define the first one only when it is asked for.
for _module, _class in (
    ("anyio.abc", "SocketAttribute"),
    ("anyio.streams.file", "FileStreamAttribute"),
    ("anyio.streams.tls", "TLSAttribute"),
):
    getattr(import_module(_module), _class)
