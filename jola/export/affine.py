"""Edits as affine maps: the scale and the offset applied at each site of each layer.

All exports start from these maps. They include the gates at their evaluation values, masks and strength; several edits
at one site are combined into one map.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from jola.edits.gated import GatedEdits
from jola.edits.intervention import EditMask, Intervention
from jola.edits.sites import Site
from jola.errors import InputError

if TYPE_CHECKING:
    from jola.model.edited import EditedModel, Masks

Place = tuple[Site, int]
"""A site of a layer."""


@dataclass(frozen=True, eq=False)
class Affine:
    """z ↦ scale ⊙ z + offset at one site of one layer; both (units · width,), float64, on the CPU."""

    scale: Tensor
    offset: Tensor

    @property
    def scales(self) -> bool:
        """Whether any factor differs from 1."""
        return bool((self.scale != 1).any())

    @property
    def offsets(self) -> bool:
        """Whether anything is added."""
        return bool((self.offset != 0).any())

    def then(self, second: "Affine") -> "Affine":
        """The composition: this map, then the second."""
        return Affine(second.scale * self.scale, second.scale * self.offset + second.offset)


Affines = Mapping[Place, Affine]
"""The maps of a model by place; places without a map are not edited."""


def affine_edits(model: "EditedModel", mask: "Masks" = None, strength: float = 1.0) -> dict[Place, Affine]:
    """The edits in use as maps, only where they have an effect.

    Args:
        mask: As for `EditedModel.forward`, but without a batch dimension.
        strength: Factor on every edit.

    Raises:
        InputError: An intervention in use is not affine (see `is_affine`), the mask has a batch dimension, or the
            strength is not finite.
        ValueError: The mask does not fit the edits.
    """
    return combined(model.in_use, model.masks(mask), strength)


def is_affine(intervention: Intervention) -> TypeGuard[GatedEdits]:
    """Whether an intervention is a fixed scale and offset of heads or MLPs, or an offset after blocks."""
    return isinstance(intervention, GatedEdits) and (
        intervention.site in (Site.HEADS, Site.MLP)
        or (intervention.site is Site.BLOCK and intervention.halves == ("offset",))
    )


def combined(
    interventions: Sequence[Intervention], masks: Sequence[EditMask | None], strength: float = 1.0
) -> dict[Place, Affine]:
    """The maps of a sequence of interventions, each with its mask; see `affine_edits`."""
    if not math.isfinite(strength):
        raise InputError(f"The strength is {strength}; it must be a finite number.")
    result: dict[Place, Affine] = {}
    for intervention, mask in zip(interventions, masks, strict=True):
        if not is_affine(intervention):
            raise InputError(
                f"An intervention of type {type(intervention).__name__} at '{intervention.site}' is not a fixed scale "
                "and offset of heads or MLPs, or an offset after blocks, and cannot be exported; use it from Python."
            )
        scale, offset = (vectors(intervention, half, mask, strength).cpu().double() for half in ("scale", "offset"))
        for layer in range(intervention.layers):
            affine = Affine(1 + scale[layer].flatten(), offset[layer].flatten())
            place = intervention.site, layer
            result[place] = result[place].then(affine) if place in result else affine
    # In the order of a pass, because an offset after a block is added to the output of its MLP.
    order = sorted(result, key=lambda place: list(Site).index(place[0]))
    return {place: result[place] for place in order if result[place].scales or result[place].offsets}


@torch.no_grad()
def vectors(edits: GatedEdits, half: str, mask: EditMask | None = None, strength: float = 1.0) -> Tensor:
    """g·m or g·a of all units, multiplied by mask and strength, (layers, units, width), float32; 0 for closed gates."""
    factor = edits.gate_values()[half] * factors(edits, half, mask, strength)
    shape = edits.layers, edits.units, edits.width
    vector = edits.get_parameter(half) if half in edits.halves else factor.new_zeros(shape)
    factor = factor.unsqueeze(-1)
    # A closed unit contributes exactly 0, even if its vector is not finite.
    return torch.where(factor == 0, torch.zeros_like(vector), factor * vector)


def factors(edits: GatedEdits, half: str, mask: EditMask | None = None, strength: float = 1.0) -> Tensor:
    """The product of mask and strength for one half of each unit, (layers, units)."""
    ones = torch.ones(edits.layers, edits.units, device=edits.editable.device)
    if mask is None:
        return ones * strength
    given = mask.factor(half).to(ones)
    if given.dim() == 3:
        raise InputError("A mask with a batch dimension cannot be exported; give one mask of shape (layers, units).")
    if given.shape != ones.shape:
        raise ValueError(
            f"The mask has shape {tuple(given.shape)}; it must be {tuple(ones.shape)} for the edits at {edits.site}."
        )
    return given * strength
