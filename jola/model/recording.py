"""Which activations a pass keeps, and what it gives; see `TracedModel.record`."""

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Wanted:
    """The activations to keep of one pass, by layer."""

    entering: Collection[int] = ()
    """Residual stream entering a layer; the number of layers stands for what leaves the last one."""
    heads: Collection[int] = ()
    """Input of the attention output projection, before the edit of this pass."""
    projected: Collection[int] = ()
    """Output of the attention output projection, after the edit of this pass."""
    mlp: Collection[int] = ()
    """Output of the MLP sub-layer, before the edit of this pass."""
    attention: Collection[int] = ()
    """Attention weights (batch, heads, tokens, tokens), inside `TracedModel.plain_attention`."""


@dataclass
class Record:
    """What a pass gave: logits, and the activations that were `Wanted`, by layer, of shape (batch, tokens, …).

    Where logits were asked at chosen rows, what the last MLP gives and what leaves the last layer is right there alone.
    """

    logits: Tensor
    entering: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)
    projected: dict[int, Tensor] = field(default_factory=dict)
    mlp: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Tensor] = field(default_factory=dict)
