"""LoReFT: edits of a low-rank subspace of hidden states at the ends of the prompt (Wu et al., 2024, equation 2)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jola.errors import InputError
from jola.methods.base import HiddenMethod, LinearShape
from jola.settings import TrainingConfig, parse_layers, setting

if TYPE_CHECKING:
    from torch import Tensor

    from jola.edits.hidden import SubspaceEdits
    from jola.edits.intervention import Intervention
    from jola.edits.sites import Geometry, Site

EVERYWHERE = "all"
_END = re.compile(r"([fl])([1-9]\d{0,8})")


@dataclass
class LoReFTConfig:
    """Settings of LoReFT."""

    rank: int = setting(8, "Rank r of each edit: dimensions of its subspace.", advanced=False, bounds=(1, 4096))
    positions: str = setting(
        "f7+l7",
        "Tokens of the prompt to edit: 'f7+l7' for the first and last 7, 'f7' or 'l7' for one end, or 'all' for every "
        "token of prompt and answer.",
        advanced=False,
    )
    layers: str = setting("all", "Layers that may be edited: 'all' or ranges such as '0-5,8'.", advanced=False)
    ends: Literal["shared", "separate"] = setting(
        "shared", "Whether the first and last tokens share one edit in each layer or have one each."
    )
    start: Literal["identity", "published"] = setting(
        "identity", "Initial W and b: W = R and b = 0, which change nothing, or random ones as in the published code."
    )


class LoReFT(HiddenMethod):
    """h' = h + Rᵀ(W h + b − R h) after each block, with orthonormal rows of R."""

    name = "loreft"
    title = "LoReFT"
    summary = "Edits a low-rank subspace of the residual stream after each block, at the first and last prompt tokens."
    formula = "h' = h + Rᵀ(W·h + b − R·h)"
    source = "Wu et al., NeurIPS 2024, arXiv:2404.03592"
    full_name = "Low-rank Linear Subspace ReFT (Wu et al., NeurIPS 2024)"
    tags = ("reft", "loreft", "activation-editing")
    settings = LoReFTConfig
    presets: ClassVar = {"separate ends": {"ends": "separate"}, "every token": {"positions": "all"}}
    # Lower than the published 9e-4, which is less stable in the default model with its small hidden size.
    learning_rate = 3e-4
    why_not_exported = (
        "LoReFT multiplies activations by matrices at only some positions, which cannot be expressed as weights or as "
        "scales and offsets"
    )

    def check(self, settings: LoReFTConfig, training: TrainingConfig) -> None:
        """Raise `InputError` if the layers or positions cannot be parsed."""
        parse_layers(settings.layers, None)
        parse_positions(settings.positions)

    def build(self, settings: LoReFTConfig, geometry: "Geometry") -> "Sequence[SubspaceEdits]":
        """Edits of the chosen layers."""
        from jola.edits.hidden import SubspaceEdits

        if settings.rank > geometry.hidden_size:
            raise InputError(
                f"--rank is {settings.rank}, but the hidden size of the model is {geometry.hidden_size}; choose a rank "
                "that is not larger."
            )
        edits = SubspaceEdits(
            geometry.num_layers,
            geometry.hidden_size,
            settings.rank,
            parse_layers(settings.layers, geometry.num_layers),
            parse_positions(settings.positions),
            separate=settings.ends == "separate",
            identity=settings.start == "identity",
        )
        return [edits]

    def count(self, settings: LoReFTConfig, geometry: "Geometry", linear: "Sequence[LinearShape]") -> int:
        """R, W and b in each layer, twice if the two ends are separate."""
        first, last = parse_positions(settings.positions) or (0, 0)
        ends = 2 if settings.ends == "separate" and first and last else 1
        layers = len(parse_layers(settings.layers, geometry.num_layers))
        return ends * layers * settings.rank * (2 * geometry.hidden_size + 1)

    def prompt_note(self, settings: LoReFTConfig, longest: int) -> str | None:
        """A warning if no prompt is long enough for the positions."""
        ends = parse_positions(settings.positions)
        if ends is None or max(ends) <= longest // 2:
            return None
        return (
            f"--positions is {settings.positions!r}, but the longest prompt has {longest} tokens, and each end takes "
            f"at most half of a prompt: {longest // 2} tokens."
        )

    def sites(self, settings: LoReFTConfig) -> "list[Site]":
        """The residual stream after blocks."""
        from jola.edits.sites import Site

        return [Site.BLOCK]

    def parameter_groups(
        self, interventions: "Sequence[Intervention]", weight_decay: float, gate_learning_rate: float
    ) -> list[dict[str, Any]]:
        """W and b, and the reflections that define R, without weight decay."""
        own = _subspaces(interventions)
        return [
            {"params": [p for e in own for p in (e.weight, e.bias)], "weight_decay": weight_decay},
            {"params": [e.reflections for e in own], "weight_decay": 0.0},
        ]

    def tensors(self, interventions: "Sequence[Intervention]") -> "dict[str, Tensor]":
        """R, W and b."""
        return {
            f"{e.site}.{name}": tensor
            for e in _subspaces(interventions)
            for name, tensor in (("rotation", e.rotations), ("weight", e.weight), ("bias", e.bias))
        }

    def load(self, interventions: "Sequence[Intervention]", tensors: "Mapping[str, Tensor]") -> None:
        """Set R, W and b.

        Raises:
            InputError: The rows of R are not orthonormal.
        """
        for e in _subspaces(interventions):
            e.rotations = tensors[f"{e.site}.rotation"]
            e.weight.data.copy_(tensors[f"{e.site}.weight"])
            e.bias.data.copy_(tensors[f"{e.site}.bias"])


def parse_positions(text: str) -> tuple[int, int] | None:
    """Parse (first, last), the number of tokens at each end of a prompt; None means all tokens.

    Raises:
        InputError: The text cannot be parsed.
    """
    if text.strip().lower() == EVERYWHERE:
        return None
    ends: dict[str, int] = {}
    for part in text.lower().split("+"):
        match = _END.fullmatch(part.strip())
        if match is None or match[1] in ends:
            raise InputError(
                f"--positions is {text!r}; write 'f7+l7' for the first and last 7 tokens of the prompt, 'f7' or 'l7' "
                "for one end, or 'all'."
            )
        ends[match[1]] = int(match[2])
    return ends.get("f", 0), ends.get("l", 0)


def _subspaces(interventions: "Sequence[Intervention]") -> "list[SubspaceEdits]":
    from jola.edits.hidden import SubspaceEdits

    return [i for i in interventions if isinstance(i, SubspaceEdits)]
