"""The module paths of the intervention sites in each supported architecture, and the activation shapes there.

To add an architecture, add one row to `ARCHITECTURES`: the module paths of its layers, of the attention output
projection and of the MLP within a layer, and whether its positions are learned. The paths are checked whenever such a
model is loaded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from jola.edits.sites import Geometry, Site
from jola.errors import InputError

if TYPE_CHECKING:  # takes seconds to import and is not needed to read adapters
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Architecture:
    """Module paths: `layers` from the model, `heads` and `mlp` from one layer."""

    layers: str
    heads: str
    mlp: str
    learned_positions: bool = False
    """Whether each position has a learned embedding, so that there are no positions beyond the last of them."""


_LLAMA_LIKE = Architecture("model.layers", "self_attn.o_proj", "mlp")

ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA_LIKE,
    "smollm3": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "gemma": _LLAMA_LIKE,
    "gemma2": _LLAMA_LIKE,
    "gemma3_text": _LLAMA_LIKE,
    "olmo2": _LLAMA_LIKE,
    "phi": Architecture("model.layers", "self_attn.dense", "mlp"),
    "gpt2": Architecture("transformer.h", "attn.c_proj", "mlp", learned_positions=True),
    "gpt_neox": Architecture("gpt_neox.layers", "attention.dense", "mlp"),
    "opt": Architecture("model.decoder.layers", "self_attn.out_proj", "fc2", learned_positions=True),
}
"""Keyed by ``config.model_type`` of transformers."""


def architecture_of(model: "PreTrainedModel") -> Architecture:
    """The row of `ARCHITECTURES` for a model; `InputError` if its architecture has no row."""
    return architecture_named(model.config.model_type)


def architecture_named(kind: str) -> Architecture:
    """The row of `ARCHITECTURES` for a ``model_type``; `InputError` if there is none."""
    if kind not in ARCHITECTURES:
        raise InputError(
            f"Models of architecture {kind!r} are not supported; supported architectures are "
            f"{', '.join(sorted(ARCHITECTURES))}. To add one, add the paths of its layers, attention output projection "
            "and MLP to jola/model/architectures.py."
        )
    return ARCHITECTURES[kind]


def geometry_of(model: "PreTrainedModel") -> Geometry:
    """Read the geometry from the modules of a model.

    The width of a head is the input width of the attention output projection divided by the number of heads, because
    some architectures have no ``config.head_dim`` and hidden_size / heads is wrong for others.
    """
    architecture, kind = architecture_of(model), model.config.model_type
    try:
        layers = model.get_submodule(architecture.layers)
        widths = {_input_width(layer.get_submodule(architecture.heads)) for layer in layers.children()}
    except AttributeError as error:
        raise InputError(
            f"This {kind} model is not built as expected ({error}); jola/model/architectures.py does not describe it "
            "correctly."
        ) from error
    heads = model.config.num_attention_heads
    if len(widths) != 1 or min(widths) % heads:
        raise InputError(
            f"The attention of this {kind} model cannot be split into {heads} equal heads in every layer (projection "
            f"inputs of {sorted(widths)}); such models are not supported."
        )
    head_dim = widths.pop() // heads
    if (expected := getattr(model.config, "head_dim", None) or head_dim) != head_dim:
        raise InputError(
            f"The heads of this {kind} model have width {expected}, but the input of {architecture.heads} has {heads} "
            f"× {head_dim} numbers; jola/model/architectures.py does not describe this model correctly."
        )
    return Geometry(
        architecture=kind,
        num_layers=len(list(layers.children())),
        num_heads=heads,
        head_dim=head_dim,
        hidden_size=model.config.hidden_size,
    )


def learned_positions(model: "PreTrainedModel") -> int | None:
    """Number of learned positions of a model; None for other encodings of positions, which have no such limit."""
    return model.config.max_position_embeddings if architecture_of(model).learned_positions else None


def length_limit(model: "PreTrainedModel", max_length: int) -> int:
    """`max_length` in tokens (0: no limit), or the number of learned positions of the model if that is less."""
    most = learned_positions(model)
    return max_length if most is None or 0 < max_length <= most else most


def check_length(model: "PreTrainedModel", inputs: Mapping[str, Tensor], new_tokens: int = 1) -> None:
    """Raise `InputError` if a row of `inputs` and `new_tokens` after it exceed the learned positions of a model.

    The last new token needs no position, because no pass reads it.
    """
    most, mask = learned_positions(model), inputs.get("attention_mask")
    width = (inputs["input_ids"] if mask is None else mask).shape[-1]
    if most is None or width + new_tokens - 1 <= most:
        return
    longest = width if mask is None else int(mask.sum(1).max())  # without padding
    if longest + new_tokens - 1 > most:
        answer = f" with an answer of up to {new_tokens:,}" if new_tokens > 1 else ""
        raise InputError(
            f"A text of {longest:,} tokens{answer} is too long for this {model.config.model_type} model, which has "
            f"positions for {most:,}; shorten the text{' or the answer' if answer else ''}."
        )


def module_path(model: "PreTrainedModel", site: Site, layer: int) -> str:
    """Dotted path of the module at a site: the site is the module's input for HEADS and its output for all others."""
    architecture = architecture_of(model)
    block = f"{architecture.layers}.{layer}"
    inside = {Site.HEADS: architecture.heads, Site.ATTENTION: architecture.heads, Site.MLP: architecture.mlp}
    return block if site is Site.BLOCK else f"{block}.{inside[site]}"


def head_path(model: "PreTrainedModel") -> str:
    """Dotted path of the language-model head."""
    head = model.get_output_embeddings()
    return next(name for name, module in model.named_modules() if module is head)


def check_widths(geometry: Geometry, found: Iterable[tuple[Site, int, int]]) -> None:
    """Raise `InputError` if a width in ``found``, (site, layer, width), differs from the geometry."""
    for site, layer, width in found:
        units, each = geometry.units(site)
        if width != units * each:
            raise InputError(
                f"Layer {layer} of this {geometry.architecture} model has {width} numbers at site '{site}' where "
                f"{units} × {each} were expected; jola/model/architectures.py does not describe this model correctly."
            )


def _input_width(projection: nn.Module) -> int:
    # GPT-2's Conv1D stores its weight as (in, out); nn.Linear as (out, in).
    if isinstance(projection, nn.Linear):
        return projection.in_features
    return projection.get_parameter("weight").shape[0]
