"""LoRA: low-rank changes of the weights of linear modules (Hu et al., 2022), created, merged and saved by peft."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jola.methods.base import LinearShape
from jola.methods.weights import WeightMethod, named_like
from jola.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from jola.edits.low_rank import LowRankEdits
    from jola.edits.sites import Geometry

ALL_LINEAR = "all-linear"


@dataclass
class LoRAConfig:
    """Settings of LoRA."""

    rank: int = setting(8, "Rank r of each weight update.", advanced=False, bounds=(1, 4096))
    alpha: float = setting(16.0, "Scaling: the update is multiplied by α/r.", bounds=(1e-6, 1e6))
    dropout: float = setting(0.05, "Dropout on the input of the update during training.", bounds=(0, 0.99))
    target_modules: str = setting(
        ALL_LINEAR,
        "Modules to adapt: 'all-linear', or names such as 'q_proj,v_proj'.",
        advanced=False,
    )


class LoRA(WeightMethod):
    """W' = W + (α/r)·B·A, initially B = 0."""

    name = "lora"
    title = "LoRA"
    summary = "Adds a low-rank matrix to the weights of linear modules."
    formula = "W' = W + (α/r)·B·A"
    source = "Hu et al., ICLR 2022, arXiv:2106.09685"
    full_name = "Low-Rank Adaptation (Hu et al., ICLR 2022)"
    tags = ("lora", "peft")
    every, every_words = ALL_LINEAR, "linear module"
    settings = LoRAConfig
    presets: ClassVar = {"queries and values": {"target_modules": "q_proj,v_proj"}}
    learning_rate = 1e-3

    def edits_class(self) -> "type[LowRankEdits]":
        """`LowRankEdits`."""
        from jola.edits.low_rank import LowRankEdits

        return LowRankEdits

    def count(self, settings: LoRAConfig, geometry: "Geometry", linear: "Sequence[LinearShape]") -> int | None:
        """A and B of each module, of `rank` rows and columns."""
        targets = self.targets(settings)
        modules = linear if targets is None else named_like(targets, linear)
        return settings.rank * sum(outputs + inputs for _, outputs, inputs in modules) or None

    def rebuild(
        self, settings: LoRAConfig, geometry: "Geometry", tensors: "Mapping[str, Tensor]"
    ) -> "Sequence[LowRankEdits]":
        """Create the edits without a model, for inspection."""
        return [self.edits_class().of_tensors(tensors, geometry.num_layers, settings.alpha / settings.rank)]

    def peft_config(self, settings: LoRAConfig) -> Any:
        """The ``LoraConfig`` of peft for these settings."""
        from peft import LoraConfig

        alpha: Any = settings.alpha  # peft declares an int but accepts any number
        return LoraConfig(
            r=settings.rank,
            lora_alpha=alpha,
            lora_dropout=settings.dropout,
            target_modules=self.targets(settings) or ALL_LINEAR,
            bias="none",
            task_type="CAUSAL_LM",
        )
