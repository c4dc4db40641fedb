"""JoLA: gated offsets and scales of attention heads (Lai, Fraser and Titov, 2025, equations 2 to 5)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from jola.errors import InputError
from jola.methods.base import ActivationMethod, LinearShape
from jola.settings import EditConfig, TrainingConfig, chosen_by, parse_heads, parse_layers

if TYPE_CHECKING:
    from jola.edits.gated import GatedEdits
    from jola.edits.intervention import Intervention
    from jola.edits.sites import Geometry, Site


class JoLA(ActivationMethod):
    """Offsets and scales with Hard-Concrete gates, and the ablations of the paper."""

    name = "jola"
    title = "JoLA"
    summary = "Adds an offset to and scales the output of attention heads; gates learn which heads to leave alone."
    formula = "z' = (1 + g_m·m) ⊙ z + g_a·a"
    source = "Lai, Fraser and Titov, ICML 2025, arXiv:2502.01179"
    full_name = "Joint Localization and Activation Editing (Lai, Fraser and Titov, ICML 2025)"
    tags = ("jola", "activation-editing")
    open_words = "halves that are open"
    settings = EditConfig
    presets: ClassVar = {"heads and MLPs": {"sites": "both"}}
    learning_rate = 5e-3
    has_gates = True

    def check(self, settings: EditConfig, training: TrainingConfig) -> None:
        """Refuse chosen heads without edits of heads, shared gates with the reference objective, and invalid lists."""
        if settings.heads != "all" and settings.sites == "mlp":
            raise InputError("--heads picks attention heads, but --sites is mlp; use --layers instead.")
        if training.objective == "reference" and settings.gates == "shared":
            raise InputError(
                "--objective reference weights the gates of offsets and scales differently, but --gates is shared; use "
                "--objective paper."
            )
        parse_layers(settings.layers, None)
        if chosen_by(settings.heads) is None:
            parse_heads(settings.heads, None, None)
        elif settings.layers != "all":
            raise InputError(
                f"--heads {settings.heads} chooses among the heads of all layers; leave out --layers or name the heads."
            )

    def build(self, settings: EditConfig, geometry: "Geometry") -> "Sequence[GatedEdits]":
        """`GatedEdits` at the sites of the settings."""
        from jola.edits.gated import build_edits

        return build_edits(settings, geometry)

    def count(self, settings: EditConfig, geometry: "Geometry", linear: "Sequence[LinearShape]") -> int:
        """Offsets, scales and gates of all units that may be edited."""
        halves = 2 if settings.operation == "both" else 1
        gates = {"two": halves, "shared": 1, "none": 0}[settings.gates]
        layers = parse_layers(settings.layers, geometry.num_layers)
        total = 0
        for site in self.sites(settings):
            width = geometry.units(site)[1]
            number = len(layers) if site == "mlp" else _count_heads(settings.heads, layers, geometry)
            total += number * (halves * width + gates)
        return total

    def sites(self, settings: EditConfig) -> "list[Site]":
        """Heads, MLPs, or both."""
        from jola.edits.sites import sites_of

        return sites_of(settings)

    def parameter_groups(
        self, interventions: "Sequence[Intervention]", weight_decay: float, gate_learning_rate: float
    ) -> list[dict[str, Any]]:
        """The edits, and the gates with their own learning rate and without weight decay."""
        from jola.edits.gated import GatedEdits

        gated = [i for i in interventions if isinstance(i, GatedEdits)]
        groups: list[dict[str, Any]] = [
            {"params": [p for e in gated for p in e.edit_parameters()], "weight_decay": weight_decay}
        ]
        if gates := [p for e in gated for p in e.gate_parameters()]:
            groups.append({"params": gates, "lr": gate_learning_rate, "weight_decay": 0.0})
        return groups


def _count_heads(heads: str, layers: "Sequence[int]", geometry: "Geometry") -> int:
    """Number of heads in `layers` that the setting `heads` names, or lets a selector choose."""
    if (chosen := chosen_by(heads)) is not None:
        return chosen[1]
    pairs = parse_heads(heads, geometry.num_layers, geometry.num_heads)
    return len(layers) * geometry.num_heads if pairs is None else sum(layer in layers for layer, _ in pairs)
