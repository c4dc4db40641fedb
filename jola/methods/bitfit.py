"""BitFit: biases of the query, key and value projections (Ben Zaken et al., 2022), added by peft.

Current models have no biases there that could be trained. Biases are therefore added, initially 0, by ``BeftConfig`` of
peft (BEFT, arXiv:2509.15974). If a module already has a bias, the two are added, so that training the added one is
equivalent to training the original one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jola.errors import InputError
from jola.methods.base import LinearShape
from jola.methods.weights import WeightMethod, named_like
from jola.settings import setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from jola.edits.biases import BiasEdits
    from jola.edits.sites import Geometry
    from jola.edits.weights import WeightEdits

QKV = "qkv"
QKV_NAMES = ("q_proj", "k_proj", "v_proj", "query_key_value", "c_attn")


@dataclass
class BitFitConfig:
    """Settings of BitFit."""

    target_modules: str = setting(
        QKV,
        "Modules to which a bias is added: 'qkv' for queries, keys and values, or names such as 'v_proj'.",
        advanced=False,
    )


class BitFit(WeightMethod):
    """y = W·x + b + c, initially c = 0."""

    name = "bitfit"
    title = "BitFit"
    summary = "Adds a bias to the query, key and value projections."
    formula = "y' = W·x + b + c"
    source = "Ben Zaken, Goldberg and Ravfogel, ACL 2022, arXiv:2106.10199"
    full_name = "Bias-term Fine-tuning (Ben Zaken, Goldberg and Ravfogel, ACL 2022)"
    tags = ("bitfit", "peft")
    every, every_words = QKV, "query, key and value projections with a known name"
    settings = BitFitConfig
    presets: ClassVar = {"values, as in BEFT": {"target_modules": "v_proj"}}
    learning_rate = 5e-3

    def edits_class(self) -> "type[BiasEdits]":
        """`BiasEdits`."""
        from jola.edits.biases import BiasEdits

        return BiasEdits

    def peft_config(self, settings: BitFitConfig) -> Any:
        """The ``BeftConfig`` of peft for these settings."""
        from peft import BeftConfig

        return BeftConfig(target_modules=self.targets(settings) or list(QKV_NAMES), task_type="CAUSAL_LM")

    def count(self, settings: BitFitConfig, geometry: "Geometry", linear: "Sequence[LinearShape]") -> int | None:
        """One bias for each output feature."""
        targets = self.targets(settings) or QKV_NAMES
        return sum(outputs for _, outputs, _ in named_like(targets, linear)) or None

    def _inject(self, base: "PreTrainedModel", geometry: "Geometry", settings: BitFitConfig) -> "WeightEdits":
        try:
            return super()._inject(base, geometry, settings)
        except TypeError as error:  # raised by peft for modules other than nn.Linear
            raise InputError(
                f"BitFit needs modules of type Linear, but those of this {geometry.architecture} model have another "
                "type (GPT-2 uses Conv1D with biases); choose other modules with --target-modules, or train LoRA."
            ) from error
