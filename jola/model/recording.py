"""The activations that a pass should record, and its results. See `TracedModel.record`."""

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Wanted:
    """The layers at which one pass records activations, for each kind of activation."""

    entering: Collection[int] = ()
    """Residual stream entering a layer; the number of layers means the output of the last layer."""
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
    """The results of a pass: logits, and the activations that were `Wanted`, by layer, of shape (batch, tokens, …).

    If logits were computed only at chosen rows, the outputs of the last MLP and of the last layer are valid only there.
    """

    logits: Tensor
    entering: dict[int, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)
    projected: dict[int, Tensor] = field(default_factory=dict)
    mlp: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Tensor] = field(default_factory=dict)
