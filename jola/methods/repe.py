r"""RePE: directions that are computed, not trained, and added to the residual stream (Zou et al., 2023).

Each training example is read twice: with its right answer, and with a wrong one, which is another option or, without
options, the answer of another example that is not one of its references. Let r and w be the residual stream after layer
l at the last token of the right and the wrong answer. The direction of layer l is

    v_l = first principal component of the differences r − w, in both orders, with ‖v_l‖ = 1 and mean (r − w)·v_l ≥ 0,

or their mean, scaled to length 1. Control (section 3.2.2 of the paper) adds it at every position:

    h' = h + c · n_l · v_l        n_l: mean of ‖r‖ and ‖w‖ over the examples

The paper gives no layers and coefficients for this use. Those with the best validation accuracy are chosen, and among
ties those with the lowest cross-entropy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from jola.errors import InputError
from jola.methods.base import ActivationMethod, LinearShape, Material, Stage
from jola.settings import TrainingConfig, parse_layers, setting

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from jola.data.records import Example
    from jola.edits.directions import ComputedOffsets
    from jola.edits.sites import Geometry, Site

AUTO = "auto"
COEFFICIENTS = (0.02, 0.05, 0.1, 0.2)
"""Candidates for the coefficient, chosen by validation."""


@dataclass
class RePEConfig:
    """Settings of RePE."""

    layers: str = setting(
        AUTO,
        "Layers to steer: 'auto' chooses the middle third, the last third or all by validation; or ranges like '4-9'.",
        advanced=False,
    )
    coefficient: float | None = setting(
        None,
        "Length of the added vector; by default one of 0.02, 0.05, 0.1 and 0.2, chosen by validation.",
        unit="mean norms of the residual stream",
        advanced=False,
        bounds=(-100, 100),
    )
    direction: Literal["component", "mean"] = setting(
        "component", "Direction of a layer: the first principal component of the differences of pairs, or their mean."
    )


class RePE(ActivationMethod):
    """h' = h + c·v after layers, with computed directions v."""

    name = "repe"
    title = "RePE"
    summary = "Adds directions from right and wrong answers to the residual stream; computed, not trained."
    formula = "h' = h + v"
    source = "Zou et al., 2023, arXiv:2310.01405"
    full_name = "Representation Engineering (Zou et al., 2023)"
    tags = ("repe", "activation-editing")
    settings = RePEConfig
    learning_rate = None
    compact = True

    @property
    def unused_settings(self) -> frozenset[str]:
        """All except the directory and the seed, which is used to draw the examples and the wrong answers."""
        return frozenset(field.name for field in fields(TrainingConfig)) - {"seed", "output"}

    def check(self, settings: RePEConfig, training: TrainingConfig) -> None:
        """Raise `InputError` if the list of layers cannot be parsed."""
        if settings.layers != AUTO:
            parse_layers(settings.layers, None)

    def build(self, settings: RePEConfig, geometry: "Geometry") -> "Sequence[ComputedOffsets]":
        """Offsets after the layers, initially 0."""
        from jola.edits.directions import ComputedOffsets

        layers = parse_layers("all" if settings.layers == AUTO else settings.layers, geometry.num_layers)
        return [ComputedOffsets(geometry.num_layers, geometry.hidden_size, layers)]

    def sites(self, settings: RePEConfig) -> "list[Site]":
        """The residual stream after blocks."""
        from jola.edits.sites import Site

        return [Site.BLOCK]

    def stages(self, settings: RePEConfig) -> tuple[Stage, ...]:
        """One computed stage."""
        return (Stage("directions", "Computing directions", computed=True),)

    def compute(
        self, settings: RePEConfig, geometry: "Geometry", material: Material
    ) -> "tuple[RePEConfig, Mapping[str, Tensor]]":
        """Compute directions from the training examples; choose layers and coefficient by validation if not given."""
        from jola.edits.directions import directions

        wrong = wrong_answers(material.train, material.labels, material.random)
        if (settings.layers == AUTO or settings.coefficient is None) and not material.validation:
            raise InputError(
                "RePE chooses layers and coefficient on validation examples, but this task has none; give --layers and "
                "--coefficient, or validation examples."
            )
        right = material.after_blocks(material.train)
        other = material.after_blocks([replace(e, completion=w) for e, w in zip(material.train, wrong, strict=True)])
        vectors = directions(right - other, settings.direction)
        vectors *= ((right.norm(dim=-1) + other.norm(dim=-1)) / 2).mean(0)[:, None]
        found: list[tuple[tuple[float, float], RePEConfig]] = []
        candidates = [
            replace(settings, layers=layers, coefficient=coefficient)
            for layers in (layer_sets(geometry.num_layers) if settings.layers == AUTO else [settings.layers])
            for coefficient in (COEFFICIENTS if settings.coefficient is None else [settings.coefficient])
        ]
        if len(candidates) > 1 or material.validation:
            for candidate in candidates:
                edits = self._with(candidate, geometry, vectors)
                accuracy, cross_entropy = material.validate(
                    edits, layers=candidate.layers, coefficient=candidate.coefficient
                )
                found.append(((accuracy, -cross_entropy), candidate))
        chosen = max(found, key=lambda pair: pair[0])[1] if found else candidates[0]
        return chosen, self.tensors(self._with(chosen, geometry, vectors))

    def _with(self, settings: RePEConfig, geometry: "Geometry", vectors: "Tensor") -> "Sequence[ComputedOffsets]":
        edits = self.build(settings, geometry)
        for each in edits:
            each.fill(vectors * (settings.coefficient or 0.0))
        return edits

    def trainable(self, settings: RePEConfig, base: "PreTrainedModel", geometry: "Geometry") -> dict[str, int]:
        """Always 0."""
        self.build(settings, geometry)  # raises if the settings do not fit the model
        return {"directions": 0}

    def count(self, settings: RePEConfig, geometry: "Geometry", linear: "Sequence[LinearShape]") -> int:
        """Always 0."""
        return 0

    def export_refusal(self, form: str) -> str | None:
        """Refuse forms without edits of the residual stream."""
        holds = {
            "ia3": "an IA3 adapter contains only scales",
            "standalone": "the Python script edits heads and MLPs",
        }.get(form)
        if holds is None:
            return None
        return f"RePE adds to the residual stream, but {holds}; export the adapter, or merge it."


def wrong_answers(examples: "Sequence[Example]", labels: Sequence[str] | None, random: Random) -> list[str]:
    """Draw a wrong answer for each example from its options, the labels, or the answers of other examples.

    The references of an example are right answers as well.

    Raises:
        InputError: An example has no wrong answer.
    """
    everything = list(dict.fromkeys(example.completion for example in examples))
    wrong = []
    for example in examples:
        options = [*dict.fromkeys(example.options or labels or everything)]
        others = [option for option in options if option not in (example.completion, *example.references)]
        if not others:
            raise InputError(
                "RePE compares right answers with wrong ones, but all answers of this task are the same, or right for "
                "one of its examples; choose a task with at least two answers."
            )
        wrong.append(random.choice(others))
    return wrong


def layer_sets(layers: int) -> list[str]:
    """The middle third, the last third and all layers, in the format of ``--layers``."""
    third = max(1, layers // 3)
    first, last = (layers - third) // 2, layers - third
    sets: dict[str, Any] = {f"{first}-{first + third - 1}": None, f"{last}-{layers - 1}": None, f"0-{layers - 1}": None}
    return list(sets)
