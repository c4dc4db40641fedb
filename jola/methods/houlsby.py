"""Houlsby adapters: a bottleneck network after the attention and after the MLP of each layer (Houlsby et al., 2019)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from jola.errors import InputError
from jola.methods.base import HiddenMethod, LinearShape
from jola.settings import TrainingConfig, parse_layers, setting

if TYPE_CHECKING:
    from jola.edits.hidden import BottleneckEdits
    from jola.edits.sites import Geometry, Site


@dataclass
class HoulsbyConfig:
    """Settings of Houlsby adapters."""

    reduction_factor: int = setting(
        16, "Hidden size divided by the width r of the bottleneck.", advanced=False, bounds=(1, 65536)
    )
    layers: str = setting("all", "Layers that get adapters: 'all' or ranges such as '0-5,8'.", advanced=False)


class Houlsby(HiddenMethod):
    """h' = h + W_up σ(W_down h + b_down) + b_up with σ = swish after both sub-layers, initially W_up = 0."""

    name = "houlsby"
    title = "Houlsby adapters"
    summary = "Adds a small network with one hidden layer after the attention and after the MLP of each layer."
    formula = "h' = h + W_up·swish(W_down·h + b_down) + b_up"
    source = "Houlsby et al., ICML 2019, arXiv:1902.00751"
    full_name = "Houlsby adapters (Houlsby et al., ICML 2019)"
    tags = ("houlsby", "adapters")
    settings = HoulsbyConfig
    presets: ClassVar = {
        "narrower by 4": {"reduction_factor": 64},
        "narrower by 16": {"reduction_factor": 256},
    }
    learning_rate = 1e-3
    why_not_exported = (
        "Houlsby adapters are nonlinear functions of activations, which cannot be expressed as weights or as scales "
        "and offsets"
    )

    def check(self, settings: HoulsbyConfig, training: TrainingConfig) -> None:
        """Raise `InputError` if the list of layers cannot be parsed."""
        parse_layers(settings.layers, None)

    def build(self, settings: HoulsbyConfig, geometry: "Geometry") -> "Sequence[BottleneckEdits]":
        """Adapters at both sites."""
        from jola.edits.hidden import BottleneckEdits

        width = geometry.hidden_size
        bottleneck = width // settings.reduction_factor
        if not bottleneck:
            raise InputError(
                f"--reduction-factor is {settings.reduction_factor}, but the hidden size of the model is {width}; "
                f"choose at most {width}."
            )
        layers = parse_layers(settings.layers, geometry.num_layers)
        return [BottleneckEdits(site, geometry.num_layers, width, bottleneck, layers) for site in self.sites(settings)]

    def count(self, settings: HoulsbyConfig, geometry: "Geometry", linear: "Sequence[LinearShape]") -> int:
        """Two matrices and two biases at both sites of each layer."""
        hidden = geometry.hidden_size
        width = hidden // settings.reduction_factor
        layers = len(parse_layers(settings.layers, geometry.num_layers))
        return 2 * layers * (2 * hidden * width + width + hidden)

    def sites(self, settings: HoulsbyConfig) -> "list[Site]":
        """The outputs of attention and MLP."""
        from jola.edits.sites import Site

        return [Site.ATTENTION, Site.MLP]
