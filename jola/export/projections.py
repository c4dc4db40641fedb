"""The projections into which edits are folded, and the configuration switches that add a bias to them.

Folding turns an offset into a bias, so it depends on which projections can have a bias in transformers (release 5.24).
Some projections always have one. Others get one from a switch in the configuration, which usually adds biases to other
projections too. Qwen2 and Mistral have no such switch, but are otherwise identical to Llama.
"""

import copy
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from jola.edits.sites import Site
from jola.edits.weights import frozen_module
from jola.errors import InputError
from jola.export.affine import Affines
from jola.export.foldable import Foldable
from jola.model.architectures import architecture_of, geometry_of

LLAMA_LIKE_MLP = "mlp.down_proj"
MLP_PROJECTIONS = {
    "gpt2": "mlp.c_proj",
    "gpt_neox": "mlp.dense_4h_to_h",
    "opt": "fc2",
    "phi": "mlp.fc2",
}
"""Path within a layer of the last projection of the MLP, if it differs from that of Llama."""

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
"""The configuration field that adds a bias to the projection of a site."""

NORMALIZED_MLP = ("gemma2", "gemma3_text", "olmo2")
"""Architectures that normalize the output of the MLP before adding it to the residual stream."""

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
"""The fields that the configurations of Qwen2 and Mistral share with that of Llama."""

ALTERNATIVES = "export the adapter or the standalone script instead, or mask the offsets out and fold only the scales"


@dataclass(frozen=True)
class Target:
    """The model class and configuration of a folded checkpoint."""

    kind: type[PreTrainedModel]
    config: PreTrainedConfig
    converted_from: str | None = None
    """Architecture of the frozen model, if it differs."""


def projection_path(model: PreTrainedModel, site: Site, layer: int) -> str:
    """Dotted path of the projection into which an edit is folded: of the attention output, or the last of the MLP.

    The MLP output is the last term that a block adds to the residual stream, so an offset after the block is equivalent
    to an offset of the MLP output.
    """
    architecture = architecture_of(model)
    inner = architecture.heads if site is Site.HEADS else MLP_PROJECTIONS.get(model.config.model_type, LLAMA_LIKE_MLP)
    return f"{architecture.layers}.{layer}.{inner}"


def projection(model: PreTrainedModel, site: Site, layer: int) -> nn.Module:
    """The module at `projection_path`.

    Raises:
        InputError: The module is not a plain float matrix (for example quantized, or wrapped by peft).
    """
    path = projection_path(model, site, layer)
    try:
        module = frozen_module(model.get_submodule(path))
    except AttributeError as error:
        raise InputError(
            f"This {model.config.model_type} model has no {path}, into which the edit would be folded; {ALTERNATIVES}."
        ) from error
    weight = getattr(module, "weight", None)
    if type(module) not in (nn.Linear, Conv1D) or weight is None or not weight.is_floating_point():
        raise InputError(
            f"{path} is a {type(module).__name__}, not a plain matrix; load the model without quantization and "
            "adapters, and export it again."
        )
    return module


def target_of(model: PreTrainedModel, edits: Foldable) -> Target:
    """The plain checkpoint into which these edits can be folded.

    Raises:
        InputError: The edits cannot be folded into this architecture; the message gives alternatives.
    """
    kind, config = model.config.model_type, copy.deepcopy(model.config)
    # The weights are dequantized, but the configuration of a model read from GGUF still declares a quantization.
    config.__dict__.pop("quantization_config", None)
    affines = edits.affines
    if kind in NORMALIZED_MLP and any(site is Site.BLOCK for site, _ in affines):
        raise InputError(
            f"Offsets after blocks cannot be folded into a plain {kind} model: it normalizes the output of its MLPs "
            "before it adds it to the residual stream; export the adapter instead."
        )
    adapter = "export the adapter instead"
    lacking = {
        projection_path(model, *place): (
            place[0],
            f"offsets at '{place[0]}'",
            adapter if place[0] is Site.BLOCK else ALTERNATIVES,
        )
        for place in sorted(affines, key=lambda place: list(Site).index(place[0]))
        if _needs_bias(model, affines, place)
    }
    for path in edits.biases:
        if getattr(frozen_module(model.get_submodule(path)), "bias", None) is None:
            # There is one switch for the attention and one for the MLP.
            lacking[path] = Site.MLP if "mlp" in path.split(".") else Site.HEADS, "added biases", adapter
    if not lacking:
        return Target(type(model), config)
    sites = {site for site, _, _ in lacking.values()}
    if kind in LLAMA_UNDER_ANOTHER_NAME:
        return Target(LlamaForCausalLM, _as_llama(model, bool(sites & {Site.MLP, Site.BLOCK})), kind)
    for path, (site, what, alternatives) in lacking.items():
        switch = BIAS_SWITCHES.get(kind, {}).get(Site.MLP if site is Site.BLOCK else site)
        if switch is None or not hasattr(config, switch):
            raise InputError(
                f"The {what} cannot be folded into a plain {kind} model, because {path} has no bias in transformers; "
                f"{alternatives}."
            )
        setattr(config, switch, True)
    return Target(type(model), config)


def _needs_bias(model: PreTrainedModel, edits: Affines, place: tuple[Site, int]) -> bool:
    return edits[place].offsets and getattr(projection(model, *place), "bias", None) is None


def _as_llama(model: PreTrainedModel, mlp_bias: bool) -> LlamaConfig:
    """The configuration of the Llama model that is equivalent to this Qwen2 or Mistral model."""
    old: Any = model.config
    kinds = getattr(old, "layer_types", None) or ()
    if "sliding_attention" in kinds or (not kinds and getattr(old, "sliding_window", None) is not None):
        raise InputError(
            f"This {old.model_type} model uses a sliding window, which the Llama model needed for the offsets does not "
            f"support; {ALTERNATIVES}."
        )
    values = {name: copy.deepcopy(getattr(old, name)) for name in _SHARED}
    try:
        return LlamaConfig(
            **values, head_dim=geometry_of(model).head_dim, attention_bias=True, mlp_bias=mlp_bias, dtype=old.dtype
        )
    except (ValueError, StrictDataclassError) as error:
        reason = str(error).strip().splitlines()[-1].strip(" .")
        raise InputError(
            f"This {old.model_type} model has a shape that Llama does not support ({reason}); {ALTERNATIVES}."
        ) from error
