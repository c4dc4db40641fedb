"""Directions from pairs of activations, and offsets along them, which are computed, not trained: RePE."""

from collections.abc import Sequence

import torch
from torch import Tensor

from jola.edits.gated import GatedEdits
from jola.edits.sites import Site


class ComputedOffsets(GatedEdits):
    """Offsets of the residual stream after some layers, initially 0, without trainable parameters.

    Args:
        layers: Number of layers of the model.
        width: Hidden size.
        edited: Layers with an offset.
    """

    def __init__(self, layers: int, width: int, edited: Sequence[int]) -> None:
        editable = torch.zeros(layers, 1, dtype=torch.bool)
        editable[list(edited)] = True
        super().__init__(
            Site.BLOCK, layers, 1, width, gates="none", operation="offset", editable=editable, initial_std=0.0
        )
        self.requires_grad_(False)

    def fill(self, vectors: Tensor) -> None:
        """Set the offsets from `vectors`, (layers, width), and to 0 in layers that are not edited."""
        self.get_parameter("offset").data.copy_(vectors[:, None] * self.editable[..., None])
        self.eval()

    def trainable_count(self) -> int:
        """Always 0."""
        return 0


def directions(differences: "Tensor", kind: str) -> "Tensor":
    """One direction of length 1 for each layer, (layers, hidden), that points towards the right answers.

    Args:
        differences: Right minus wrong, (examples, layers, hidden).
        kind: 'component' or 'mean'.
    """
    mean = differences.mean(0)
    # The differences in both orders have mean 0, so their first principal component is the first right singular vector
    # of the differences in one order.
    found = torch.linalg.svd(differences.transpose(0, 1), full_matrices=False).Vh[:, 0] if kind == "component" else mean
    found = torch.nn.functional.normalize(found, dim=-1)
    return torch.where((found * mean).sum(-1, keepdim=True) < 0, -found, found)
