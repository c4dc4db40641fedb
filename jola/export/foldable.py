"""Edits in the form in which weights can hold them: affine maps of activations, and changes of weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from jola.edits.weights import LowRankEdits
from jola.errors import InputError
from jola.export.affine import Affines, combined

if TYPE_CHECKING:
    from jola.model.edited import EditedModel, Masks


@dataclass(frozen=True)
class LowRank:
    """factor · B·A, the change of one weight."""

    a: Tensor
    """(r, inputs)."""
    b: Tensor
    """(outputs, r)."""
    factor: float

    def matrix(self) -> Tensor:
        """(outputs, inputs), float64, on the CPU."""
        a, b = (part.detach().cpu().double() for part in (self.a, self.b))
        return self.factor * (b @ a)


@dataclass(frozen=True)
class Foldable:
    """Edits of a model; without arguments, none."""

    affines: Affines = field(default_factory=dict)
    """Maps of activations, applied to the changed weights."""
    updates: Mapping[str, tuple[LowRank, ...]] = field(default_factory=dict)
    """Changes of weights by the path of their module; they add up."""


def foldable_edits(model: "EditedModel", mask: "Masks" = None, strength: float = 1.0) -> Foldable:
    """The edits in use, only where they have an effect.

    Args:
        mask: As for `EditedModel.forward`, but without a batch dimension.
        strength: Factor on every edit.

    Raises:
        InputError: The method in use cannot be folded, the mask has a batch dimension, or the strength is not finite.
        ValueError: The mask does not fit the edits.
    """
    used = list(zip(model.in_use, model.masks(mask), strict=True))
    others = [(i, m) for i, m in used if not isinstance(i, LowRankEdits)]
    affines = combined([i for i, _ in others], [m for _, m in others], strength)
    updates: dict[str, tuple[LowRank, ...]] = {}
    for edits, own in used:
        if not isinstance(edits, LowRankEdits):
            continue
        if own is not None and own.by_row:
            raise InputError("A mask with a batch dimension cannot be exported; give one mask for all rows.")
        for path, (a, b, factor) in edits.factorised(own, strength).items():
            updates[path] = (*updates.get(path, ()), LowRank(a, b, factor))
    return Foldable(affines, updates)
