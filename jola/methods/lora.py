"""LoRA: low-rank changes of the weights of linear modules (Hu et al., 2022), made, merged and stored by peft."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jola.errors import InputError
from jola.methods.base import Method
from jola.settings import TrainingConfig, setting

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from jola.edits.intervention import Intervention
    from jola.edits.sites import Geometry
    from jola.edits.weights import LowRankEdits
    from jola.model.tracing import TracedModel

ALL_LINEAR = "all-linear"
_MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


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


class LoRA(Method):
    """W' = W + (α/r)·B·A, from B = 0."""

    name = "lora"
    title = "LoRA"
    summary = "Adds a low-rank matrix to the weights of linear modules."
    formula = "W' = W + (α/r)·B·A"
    source = "Hu et al., ICLR 2022, arXiv:2106.09685"
    full_name = "Low-Rank Adaptation (Hu et al., ICLR 2022)"
    tags = ("lora", "peft")
    own_config = False
    settings = LoRAConfig
    presets: ClassVar = {"queries and values": {"target_modules": "q_proj,v_proj"}}
    learning_rate = 1e-3

    def check(self, settings: LoRAConfig, training: TrainingConfig) -> None:
        """Refuse names that cannot be names of modules."""
        for name in _targets(settings):
            if not _MODULE_NAME.fullmatch(name):
                raise InputError(
                    f"--target-modules is {settings.target_modules!r}; write 'all-linear' or names of modules such as "
                    "'q_proj,v_proj'."
                )

    def attach(self, traced: "TracedModel", settings: LoRAConfig) -> "Sequence[LowRankEdits]":
        """peft's layers in the model, at rest, and one intervention that applies them."""
        with traced.lock:
            try:
                return [self._inject(traced.base, traced.geometry, settings)]
            finally:
                traced.wrap()

    def trainable(self, settings: LoRAConfig, base: "PreTrainedModel", geometry: "Geometry") -> dict[str, int]:
        """Those of peft's layers."""
        edits = self._inject(base, geometry, settings)
        edits.detach_from(base)
        return {"train": edits.trainable_count()}

    def _inject(self, base: "PreTrainedModel", geometry: "Geometry", settings: LoRAConfig) -> "LowRankEdits":
        from jola.edits.weights import LowRankEdits

        try:
            return LowRankEdits.inject(base, geometry.num_layers, self.peft_config(settings))
        except InputError:
            raise
        except ValueError as error:  # peft found nothing to change
            named = f"no module called {settings.target_modules}" if _named(settings) else "no linear module"
            raise InputError(
                f"This {geometry.architecture} model has {named}; choose others with --target-modules."
            ) from error

    def export_refusal(self, form: str) -> str | None:
        """Refuse the forms that hold edits of activations only."""
        holds = {
            "ia3": "an IA3 adapter holds scales of activations",
            "standalone": "the Python script holds scales and offsets of activations",
            "edits": "the table lists gates and vectors of activations",
        }.get(form)
        return holds and f"LoRA changes weights, but {holds}; export the adapter, which peft loads, or merge it."

    def shapes(self, settings: LoRAConfig, geometry: "Geometry") -> None:
        """The widths of linear modules are not part of a geometry."""

    def rebuild(
        self, settings: LoRAConfig, geometry: "Geometry", tensors: "Mapping[str, Tensor]"
    ) -> "Sequence[LowRankEdits]":
        """Edits to look at without their model."""
        from jola.edits.weights import LowRankEdits

        return [LowRankEdits.of_tensors(tensors, geometry.num_layers, settings.alpha / settings.rank)]

    def tensors(self, interventions: "Sequence[Intervention]") -> "dict[str, Tensor]":
        """By the names of peft."""
        from jola.edits.weights import LowRankEdits

        return {name: t for i in interventions if isinstance(i, LowRankEdits) for name, t in i.tensors().items()}

    def peft_config(self, settings: LoRAConfig) -> Any:
        """The ``LoraConfig`` of peft with these settings."""
        from peft import LoraConfig

        alpha: Any = settings.alpha  # peft declares whole numbers and multiplies by any
        return LoraConfig(
            r=settings.rank,
            lora_alpha=alpha,
            lora_dropout=settings.dropout,
            target_modules=_targets(settings) if _named(settings) else ALL_LINEAR,
            bias="none",
            task_type="CAUSAL_LM",
        )

    def foreign_config(
        self, settings: LoRAConfig, interventions: "Sequence[Intervention]", base: str
    ) -> dict[str, Any]:
        """The ``adapter_config.json`` that stock peft reads."""
        from jola.edits.weights import LowRankEdits

        names = sorted(
            {
                path.rpartition(".")[2]
                for i in interventions
                if isinstance(i, LowRankEdits)
                for path in i.path_of.values()
            }
        )
        config = self.peft_config(dataclasses.replace(settings, target_modules=",".join(names)))
        config.base_model_name_or_path, config.inference_mode = base, True
        return {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}


def _named(settings: LoRAConfig) -> bool:
    return settings.target_modules.strip() != ALL_LINEAR


def _targets(settings: LoRAConfig) -> list[str]:
    return [name.strip() for name in settings.target_modules.split(",")] if _named(settings) else []
