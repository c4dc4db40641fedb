"""Interventions: small modules that say where they act on a model and what they do there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from jola.edits.sites import Site

if TYPE_CHECKING:
    from jola.edits.gated import GatedEdits

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class EditMask:
    """A factor for each half of each edit in one call, without touching the model.

    `offset` and `scale` have shape (layers, units), or (batch, layers, units) to give each row of a batch (and all
    beams that are made of it) its own mask. 1 leaves an edit as it was trained, 0 switches it off, other values set
    its strength.
    """

    offset: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        if self.offset.shape != self.scale.shape:
            raise ValueError(
                f"The halves of a mask differ in shape: offset {tuple(self.offset.shape)}, "
                f"scale {tuple(self.scale.shape)}."
            )

    @property
    def by_row(self) -> bool:
        """Whether each row of a batch has its own mask."""
        return self.offset.dim() == 3

    @classmethod
    def all(cls, edits: "GatedEdits") -> "EditMask":
        """Every edit on."""
        return cls(torch.ones(edits.layers, edits.units), torch.ones(edits.layers, edits.units))

    @classmethod
    def none(cls, edits: "GatedEdits") -> "EditMask":
        """Every edit off."""
        return cls(torch.zeros(edits.layers, edits.units), torch.zeros(edits.layers, edits.units))


class Intervention(nn.Module):
    """Base of everything that edits activations: a site, and what happens there in the layers it names."""

    site: Site

    @property
    def uniform(self) -> bool:
        """Whether, without a mask by row, every position of every row is edited in the same way."""
        return False

    def prepare(self, mask: EditMask | None = None, strength: float = 1.0) -> Mapping[int, Edit]:
        """The edits of one forward pass, by layer; layers that are not named stay untouched.

        It is called once a pass, so that what is random is drawn once and shared by all layers and positions.
        """
        raise NotImplementedError
