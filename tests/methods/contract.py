"""Test cases of every method: its settings, and the removal of one of its units by hand."""

from dataclasses import dataclass
from typing import Any

import torch

from jola.config import RunConfig
from jola.edits.gated import GatedEdits
from jola.edits.hidden import BottleneckEdits, SubspaceEdits
from jola.edits.intervention import Intervention
from jola.edits.weights import WeightEdits
from jola.jola_model import JoLAModel
from jola.methods.bitfit import BitFitConfig
from jola.methods.houlsby import HoulsbyConfig
from jola.methods.lofit import LoFiTConfig
from jola.methods.lora import LoRAConfig
from jola.methods.loreft import LoReFTConfig
from jola.methods.red import REDConfig
from jola.methods.repe import RePEConfig
from jola.settings import EditConfig
from tests.tiny import make_model, make_tokenizer

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma", "gpt2", "gpt_neox")
"""With grouped keys, a separate head width, one key for all heads, transposed weights and parallel residuals."""


@dataclass(frozen=True)
class Case:
    """A method with settings that make its tests meaningful on a tiny model."""

    method: str
    settings: Any
    begins_as_base: bool
    """Whether a model with fresh edits equals the base model."""
    exact_files: bool = True
    """Whether saved and loaded edits give the same results bit for bit, and not only up to rounding."""
    refuses: tuple[str, ...] = ()
    """Forms of export that the method does not support."""
    not_on: tuple[str, ...] = ()
    """Architectures that the method refuses."""
    by_gradients: bool = True
    """Whether it is fitted by gradients."""
    fitted_with: Any = None
    """Settings for fitting, if `settings` contain choices that fitting makes."""

    @property
    def name(self) -> str:
        return self.method

    def config(self, **groups: Any) -> RunConfig:
        """Return a configuration with the settings of this case."""
        return RunConfig(method=self.method, edits=self.fitted_with or self.settings, **groups)


ALL_BUT_THE_ADAPTER = ("merged", "standalone", "ia3", "gguf", "edits")

CASES = (
    Case("jola", EditConfig(sites="both"), begins_as_base=False),
    Case("red", REDConfig(), begins_as_base=True),
    Case("lora", LoRAConfig(rank=3, dropout=0.1), begins_as_base=True, refuses=("ia3", "standalone", "edits")),
    Case("bitfit", BitFitConfig(), begins_as_base=True, refuses=("ia3", "standalone", "edits"), not_on=("gpt2",)),
    Case("loreft", LoReFTConfig(rank=3), begins_as_base=True, exact_files=False, refuses=ALL_BUT_THE_ADAPTER),
    Case("houlsby", HoulsbyConfig(reduction_factor=4), begins_as_base=True, refuses=ALL_BUT_THE_ADAPTER),
    Case(
        "lofit",
        LoFiTConfig(heads="0:1,1:3,2:0,2:2"),
        begins_as_base=False,
        refuses=("ia3",),
        fitted_with=LoFiTConfig(kept_heads=4),
    ),
    Case(
        "repe",
        RePEConfig(layers="0-2", coefficient=0.1),
        begins_as_base=True,
        refuses=("ia3", "standalone"),
        by_gradients=False,
        fitted_with=RePEConfig(),
    ),
)
PLACES = [(case, architecture) for case in CASES for architecture in ARCHITECTURES if architecture not in case.not_on]
"""Every method on every architecture that it supports."""


def case_of(method: str) -> Case:
    """Return the case of a method."""
    return next(case for case in CASES if case.method == method)


def fresh(case: Case, architecture: str) -> JoLAModel:
    """Return a tiny model with fresh edits, in evaluation mode."""
    return JoLAModel(make_model(architecture), make_tokenizer(), case.settings, name=f"tiny-{architecture}")


def trained(case: Case, architecture: str, seed: int = 1) -> JoLAModel:
    """Return a tiny model with edits as after training: large enough to matter, some gates closed."""
    return fill(fresh(case, architecture), seed)


def fill(model: JoLAModel, seed: int = 1) -> JoLAModel:
    """Give the edits of a model values as after training, and return the model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for intervention in model.own_interventions():
            for name, parameter in intervention.named_parameters():
                if name == "reflections":  # parameters of rotations, which are random from the start
                    continue
                spread = 3.0 if "log_alpha" in name else 0.3
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return model


def take_out(intervention: Intervention, layer: int, unit: int) -> None:
    """Remove the effect of one unit through its parameters and not by a mask."""
    with torch.no_grad():
        if isinstance(intervention, GatedEdits):
            for parameter in intervention.edit_parameters():
                parameter[layer, unit] = 0
        elif isinstance(intervention, SubspaceEdits):
            intervention.weight[:, layer] = intervention.rotations[:, layer]
            intervention.bias[:, layer] = 0
        elif isinstance(intervention, BottleneckEdits):
            intervention.up[layer] = 0
            intervention.up_bias[layer] = 0
        else:
            assert isinstance(intervention, WeightEdits)
            intervention.value(intervention.path_of[layer, unit], list(intervention.parts)[-1]).zero_()
