"""Edits that can be folded into weights: affine maps of activations, and changes of weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from jola.edits.biases import BiasEdits
from jola.edits.low_rank import LowRankEdits
from jola.edits.weights import WeightEdits
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
    """Edits of a model; empty by default."""

    affines: Affines = field(default_factory=dict)
    """Maps of activations, applied to the changed weights."""
    updates: Mapping[str, tuple[LowRank, ...]] = field(default_factory=dict)
    """Changes of weights by the path of their module; they add up."""
    biases: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    """Added biases, each (outputs,), by the path of their module; they add up."""


def foldable_edits(model: "EditedModel", mask: "Masks" = None, strength: float = 1.0) -> Foldable:
    """The edits in use in foldable form, only where they have an effect.

    Args:
        mask: As for `EditedModel.forward`, but without a batch dimension.
        strength: Factor on every edit.

    Raises:
        InputError: The method in use cannot be folded, the mask has a batch dimension, or the strength is not finite.
        ValueError: The mask does not fit the edits.
    """
    used = list(zip(model.in_use, model.masks(mask), strict=True))
    others = [(i, m) for i, m in used if not isinstance(i, WeightEdits)]
    affines = combined([i for i, _ in others], [m for _, m in others], strength)
    updates: dict[str, tuple[LowRank, ...]] = {}
    biases: dict[str, tuple[Tensor, ...]] = {}
    for edits, own in used:
        if own is not None and own.by_row and isinstance(edits, WeightEdits):
            raise InputError("A mask with a batch dimension cannot be exported; give one mask for all rows.")
        if isinstance(edits, LowRankEdits):
            for path, (a, b, factor) in edits.factorised(own, strength).items():
                updates[path] = (*updates.get(path, ()), LowRank(a, b, factor))
        elif isinstance(edits, BiasEdits):
            for path, bias in edits.added(own, strength).items():
                biases[path] = (*biases.get(path, ()), bias)
    return Foldable(affines, updates, biases)
