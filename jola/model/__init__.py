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

# nnsight gives every Python object a `save` attribute, and anyio refuses to define an attribute set with an attribute
# that has no annotation. With this one, it does not matter which of the two is imported first.
TypedAttributeSet.__annotations__ = {**TypedAttributeSet.__annotations__, "save": Any}
