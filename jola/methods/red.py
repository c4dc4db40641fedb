"""RED: a scale and an offset of every MLP output, without gates (Wu et al., 2024, equation 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jola.methods.base import ActivationMethod, LinearShape
from jola.settings import EditConfig, TrainingConfig, parse_layers, setting

if TYPE_CHECKING:
    from jola.edits.gated import GatedEdits
    from jola.edits.sites import Geometry, Site


@dataclass
class REDConfig:
    """Settings of RED."""

    layers: str = setting("all", "Layers that may be edited: 'all' or ranges such as '0-5,8'.", advanced=False)


class RED(ActivationMethod):
    """h' = l ⊙ h + b at the output of the MLP of each layer, initially l = 1 and b = 0."""

    name = "red"
    title = "RED"
    summary = "Scales the MLP output of each layer and adds an offset to it; no gates."
    formula = "h' = (1 + m) ⊙ h + a"
    source = "Wu et al., ACL 2024, arXiv:2402.15179"
    full_name = "Representation Editing (Wu et al., ACL 2024)"
    tags = ("red", "activation-editing")
    settings = REDConfig
    # The official code uses 2e-5 for Llama 2 7B and 1e-3 to 0.1 for RoBERTa, GPT-2 and T5.
    learning_rate = 5e-3

    def check(self, settings: REDConfig, training: TrainingConfig) -> None:
        """Raise `InputError` if the list of layers cannot be parsed."""
        parse_layers(settings.layers, None)

    def build(self, settings: REDConfig, geometry: "Geometry") -> "Sequence[GatedEdits]":
        """`GatedEdits` without gates at the MLPs."""
        from jola.edits.gated import build_edits

        return build_edits(EditConfig(sites="mlp", gates="none", layers=settings.layers), geometry, initial_std=0.0)

    def count(self, settings: REDConfig, geometry: "Geometry", linear: "Sequence[LinearShape]") -> int:
        """A scale and an offset of the hidden size in each layer."""
        return 2 * geometry.hidden_size * len(parse_layers(settings.layers, geometry.num_layers))

    def sites(self, settings: REDConfig) -> "list[Site]":
        """The outputs of MLPs."""
        from jola.edits.sites import Site

        return [Site.MLP]
