"""Zero-shot: the unchanged base model, tested like every other method."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from jola.methods.base import ActivationMethod, LinearShape
from jola.settings import TrainingConfig

if TYPE_CHECKING:
    from jola.edits.intervention import Intervention
    from jola.edits.sites import Geometry


@dataclass
class ZeroShotConfig:
    """Zero-shot has no settings."""


class ZeroShot(ActivationMethod):
    """No interventions and no training: a run tests the base model with the template of its task."""

    name = "zero-shot"
    title = "Zero-shot"
    summary = "Tests the unchanged base model, without training."
    formula = "h' = h"
    source = "no training"
    full_name = "Zero-shot (the base model)"
    settings = ZeroShotConfig
    trains = False
    learning_rate = None

    @property
    def unused_settings(self) -> frozenset[str]:
        """All except the directory and the seed, which is used to draw the examples."""
        return frozenset(field.name for field in fields(TrainingConfig)) - {"seed", "output"}

    def build(self, settings: Any, geometry: "Geometry") -> "Sequence[Intervention]":
        """An empty list."""
        return []

    def count(self, settings: Any, geometry: "Geometry", linear: "Sequence[LinearShape]") -> int:
        """Always 0."""
        return 0
