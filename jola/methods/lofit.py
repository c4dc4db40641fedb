r"""LoFiT: offsets of attention heads that are chosen by a first training (Yin, Ye and Durrett, 2024, section 3).

1. Scales A of all heads, z ← (1 + A) ⊙ z, are trained, initialized from N(0, 0.001²), with λ·Σ|A| added to the
   cross-entropy. The K heads with the largest ‖A‖₂ are chosen.
2. The scales are discarded. Offsets v of the chosen heads, z ← z + v, are added and trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from jola.errors import InputError
from jola.methods.base import ActivationMethod, LinearShape, Stage
from jola.settings import EditConfig, TrainingConfig, parse_heads, setting

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from jola.edits.gated import GatedEdits
    from jola.edits.intervention import Intervention
    from jola.edits.sites import Geometry, Site

AUTO = "auto"


@dataclass
class LoFiTConfig:
    """Settings of LoFiT."""

    kept_heads: int = setting(
        32, "K: number of heads that get an offset.", unit="heads", advanced=False, bounds=(1, 1 << 20)
    )
    heads: str = setting(
        AUTO, "Heads that get an offset: 'auto' trains scales to choose them; or layer:head pairs such as '3:0,3:7'."
    )
    l1_weight: float = setting(
        5e-4, "Weight of Σ|A| in the loss of the scales; published: 5e-4 to 5e-3.", unit="nats", bounds=(0, 1e3)
    )
    scale_learning_rate: float = setting(5e-3, "Peak learning rate of the scales.", unit="per step", bounds=(1e-9, 1e3))


class LoFiT(ActivationMethod):
    """z' = z + v at K heads."""

    name = "lofit"
    title = "LoFiT"
    summary = "Trains scales of all heads to choose K of them, then offsets of these heads; no gates."
    formula = "z' = z + v"
    source = "Yin, Ye and Durrett, NeurIPS 2024, arXiv:2406.01563"
    full_name = "Localized Fine-Tuning on LLM Representations (Yin, Ye and Durrett, NeurIPS 2024)"
    tags = ("lofit", "activation-editing")
    settings = LoFiTConfig
    presets: ClassVar = {"64 heads": {"kept_heads": 64}, "128 heads": {"kept_heads": 128}}
    learning_rate = 1e-2
    compact = True

    def check(self, settings: LoFiTConfig, training: TrainingConfig) -> None:
        """Raise `InputError` for 'all' heads or a list of heads that cannot be parsed."""
        if settings.heads != AUTO and parse_heads(settings.heads, None, None) is None:
            raise InputError("--heads is 'all', but LoFiT chooses heads; write 'auto' or pairs such as '3:0,3:7'.")

    def build(self, settings: LoFiTConfig, geometry: "Geometry") -> "Sequence[GatedEdits]":
        """Scales of all heads if none are chosen, else offsets of the chosen ones."""
        from jola.edits.gated import build_edits

        if settings.heads != AUTO:
            return build_edits(EditConfig(gates="none", operation="offset", heads=settings.heads), geometry)
        heads = geometry.num_layers * geometry.num_heads
        if settings.kept_heads > heads:
            raise InputError(
                f"--kept-heads is {settings.kept_heads}, but the model has {heads} heads; choose at most {heads}."
            )
        return build_edits(EditConfig(gates="none", operation="scale"), geometry)

    def count(self, settings: LoFiTConfig, geometry: "Geometry", linear: "Sequence[LinearShape]") -> int:
        """Scales of all heads if none are chosen, else offsets of the chosen ones."""
        total = geometry.num_layers * geometry.num_heads
        heads = total if settings.heads == AUTO else len(settings.heads.split(","))
        return heads * geometry.head_dim

    def sites(self, settings: LoFiTConfig) -> "list[Site]":
        """The attention heads."""
        from jola.edits.sites import Site

        return [Site.HEADS]

    def stages(self, settings: LoFiTConfig) -> tuple[Stage, ...]:
        """First the scales if no heads are chosen, then the offsets."""
        offsets = Stage("offsets", "Training offsets")
        if settings.heads != AUTO:
            return (offsets,)
        penalty = partial(l1_penalty, settings.l1_weight)
        return (Stage("scales", "Training scales", settings.scale_learning_rate, penalty), offsets)

    def next_settings(self, settings: LoFiTConfig, interventions: "Sequence[Intervention]") -> LoFiTConfig:
        """Settings that name the K heads with the largest scales."""
        scores = scaling_norms(interventions[0]).cpu()
        order = scores.double().flatten().argsort(descending=True, stable=True)[: settings.kept_heads]
        pairs = sorted(divmod(place, scores.shape[1]) for place in order.tolist())
        return replace(settings, heads=",".join(f"{layer}:{head}" for layer, head in pairs))

    def export_refusal(self, form: str) -> str | None:
        """Refuse the form without offsets."""
        if form != "ia3":
            return None
        return (
            "LoFiT trains offsets, but an IA3 adapter contains only scales; export the adapter or the standalone "
            "script."
        )

    def trainable(self, settings: LoFiTConfig, base: "PreTrainedModel", geometry: "Geometry") -> dict[str, int]:
        """Number of parameters of the scales of all heads and of the offsets of K heads."""
        count = sum(edits.trainable_count() for edits in self.build(settings, geometry))
        if settings.heads != AUTO:
            return {"offsets": count}
        return {"scales": count, "offsets": settings.kept_heads * geometry.head_dim}


def l1_penalty(l1_weight: float, edits: "Sequence[GatedEdits]", weight: float) -> "Tensor":
    """λ·Σ|A| over the scales of all heads.

    Args:
        l1_weight: λ.
        weight: Weight of the gate penalty; unused.
    """
    return l1_weight * edits[0].get_parameter("scale").abs().sum()


def scaling_norms(edits: "Intervention") -> "Tensor":
    """‖A‖₂ of each head, (layers, heads), the score for choosing heads."""
    return edits.get_parameter("scale").detach().norm(dim=-1)
