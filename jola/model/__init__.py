"""The frozen model: supported architectures, loading, and forward passes through nnsight."""

from typing import TYPE_CHECKING, Any

from anyio import TypedAttributeSet

from jola._lazy import lazily

if TYPE_CHECKING:
    from jola.jola_model import JoLAModel as JoLAModel

__getattr__ = lazily(
    __name__,
    {
        "jola.jola_model": ("JoLAModel",),
    },
)

# nnsight adds a `save` attribute to every Python object, and anyio refuses to define an attribute set that has an
# attribute without an annotation. With this annotation, the two can be imported in either order.
TypedAttributeSet.__annotations__ = {**TypedAttributeSet.__annotations__, "save": Any}
