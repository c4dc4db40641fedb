"""Where each architecture can hold a folded edit: its projections, and the switches that give them a bias.

An offset becomes a bias, so what can be folded is what transformers lets a projection have (release 5.24). A projection
that has a bias takes it as it is. Some get one by a switch in the configuration, which mostly gives one to its
neighbours too; Qwen2 and Mistral hard-code its absence, but are Llama in every other respect.
"""

import copy
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from jola.edits.sites import Site
from jola.errors import InputError
from jola.export.affine import Affines
from jola.model.architectures import architecture_of, geometry_of

LLAMA_LIKE_MLP = "mlp.down_proj"
MLP_PROJECTIONS = {
    "gpt2": "mlp.c_proj",
    "gpt_neox": "mlp.dense_4h_to_h",
    "opt": "fc2",
    "phi": "mlp.fc2",
}
"""Path in a layer of the projection whose output is that of the MLP, where it is not Llama's."""

_HEADS = {Site.HEADS: "attention_bias"}
BIAS_SWITCHES: dict[str, dict[Site, str]] = {
    "llama": _HEADS | {Site.MLP: "mlp_bias"},
    "smollm3": _HEADS | {Site.MLP: "mlp_bias"},
    "qwen3": _HEADS,
    "gemma": _HEADS,
    "gemma2": _HEADS,
    "gemma3_text": _HEADS,
    "olmo2": _HEADS,
    "gpt_neox": _HEADS,
    "opt": {Site.HEADS: "enable_bias", Site.MLP: "enable_bias"},
}
"""The field of the configuration that gives the projection of a site a bias."""

LLAMA_UNDER_ANOTHER_NAME = ("qwen2", "mistral")

_SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "rope_parameters",
    "attention_dropout",
)
"""What Qwen2's and Mistral's configurations have in common with Llama's."""

ALTERNATIVES = "export the adapter or the standalone script instead, or mask the offsets out and fold the scales alone"


@dataclass(frozen=True)
class Target:
    """What a folded checkpoint is: the class of the model and its configuration."""

    kind: type[PreTrainedModel]
    config: PreTrainedConfig
    converted_from: str | None = None
    """Architecture of the frozen model, where it is another one."""


def projection_path(model: PreTrainedModel, site: Site, layer: int) -> str:
    """Dotted path of the projection that takes a folded edit: the attention output, or the last of the MLP."""
    architecture = architecture_of(model)
    inner = architecture.heads if site is Site.HEADS else MLP_PROJECTIONS.get(model.config.model_type, LLAMA_LIKE_MLP)
    return f"{architecture.layers}.{layer}.{inner}"


def projection(model: PreTrainedModel, site: Site, layer: int) -> nn.Module:
    """The module at `projection_path`.

    Raises:
        InputError: It is not a plain matrix of float numbers (packed by a quantisation, or an adapter of peft).
    """
    path = projection_path(model, site, layer)
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise InputError(
            f"This {model.config.model_type} model has no {path}, where the edit would go; {ALTERNATIVES}."
        ) from error
    weight = getattr(module, "weight", None)
    if type(module) not in (nn.Linear, Conv1D) or weight is None or not weight.is_floating_point():
        raise InputError(
            f"{path} is a {type(module).__name__} and not a plain matrix; load the model without quantisation and "
            "adapters, and export it again."
        )
    return module


def target_of(model: PreTrainedModel, edits: Affines) -> Target:
    """The plain checkpoint that can hold these edits.

    Raises:
        InputError: Its architecture cannot hold them; the message says what to do instead.
    """
    kind, config = model.config.model_type, copy.deepcopy(model.config)
    # The weights are plain numbers by now; a model read from a GGUF file remembers that they were not.
    config.__dict__.pop("quantization_config", None)
    lacking = [site for site in Site if any(_needs_bias(model, edits, place) for place in edits if place[0] is site)]
    if not lacking:
        return Target(type(model), config)
    if kind in LLAMA_UNDER_ANOTHER_NAME:
        return Target(LlamaForCausalLM, _as_llama(model, Site.MLP in lacking), kind)
    for site in lacking:
        switch = BIAS_SWITCHES.get(kind, {}).get(site)
        if switch is None or not hasattr(config, switch):
            path = projection_path(model, site, 0)
            raise InputError(
                f"The offsets at '{site}' cannot be folded into a plain {kind} model: transformers gives {path} no "
                f"bias that could hold them; {ALTERNATIVES}."
            )
        setattr(config, switch, True)
    return Target(type(model), config)


def _needs_bias(model: PreTrainedModel, edits: Affines, place: tuple[Site, int]) -> bool:
    return edits[place].offsets and getattr(projection(model, *place), "bias", None) is None


def _as_llama(model: PreTrainedModel, mlp_bias: bool) -> LlamaConfig:
    """The configuration of the Llama that computes what this Qwen2 or Mistral computes."""
    old: Any = model.config
    kinds = getattr(old, "layer_types", None) or ()
    if "sliding_attention" in kinds or (not kinds and getattr(old, "sliding_window", None) is not None):
        raise InputError(
            f"This {old.model_type} model attends within a sliding window, which the Llama model that could hold the "
            f"offsets does not have; {ALTERNATIVES}."
        )
    values = {name: copy.deepcopy(getattr(old, name)) for name in _SHARED}
    try:
        return LlamaConfig(
            **values, head_dim=geometry_of(model).head_dim, attention_bias=True, mlp_bias=mlp_bias, dtype=old.dtype
        )
    except (ValueError, StrictDataclassError) as error:
        reason = str(error).strip().splitlines()[-1].strip(" .")
        raise InputError(
            f"This {old.model_type} model has a shape that Llama does not take ({reason}); {ALTERNATIVES}."
        ) from error
