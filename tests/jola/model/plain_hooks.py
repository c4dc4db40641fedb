"""A second implementation of JoLA: forward hooks on an unchanged transformers model, loops over layers and heads.

It shares no code with `jola`: module paths, gates and the edit are written from the paper.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

LLAMA = ("model.layers", "self_attn.o_proj", "mlp")
PATHS = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma": LLAMA,
    "gemma2": LLAMA,
    "gemma3_text": LLAMA,
    "olmo2": LLAMA,
    "smollm3": LLAMA,
    "phi": ("model.layers", "self_attn.dense", "mlp"),
    "gpt2": ("transformer.h", "attn.c_proj", "mlp"),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "mlp"),
    "opt": ("model.decoder.layers", "self_attn.out_proj", "fc2"),
}
"""Module paths: layers of the model; attention output projection and MLP of a layer."""


def evaluation_gate(phi: Tensor) -> Tensor:
    """Return clip(1.2·σ(φ) − 0.1, 0, 1)."""
    return (1.2 / (1 + torch.exp(-phi)) - 0.1).clamp(0, 1)


def training_gate(phi: Tensor, uniform: Tensor) -> Tensor:
    """Return the Hard-Concrete sample for the given noise."""
    u = (1 - 2e-6) * uniform + 1e-6
    s = 1 / (1 + torch.exp(-(torch.log(u) - torch.log(1 - u) + phi) / 0.33))
    return (1.2 * s - 0.1).clamp(0, 1)


@dataclass
class Edits:
    """Offsets and scales of one site, with their gates; None for a half that does not exist.

    Vectors have shape (layers, units, width), gates (layers, units).
    """

    offset: Tensor | None
    scale: Tensor | None
    offset_gate: Tensor
    scale_gate: Tensor

    def __call__(self, layer: int, z: Tensor) -> Tensor:
        """Return z' = (1 + g_m·m) ⊙ z + g_a·a, unit by unit."""
        units = self.offset_gate.shape[1]
        edited = []
        for unit, part in enumerate(z.chunk(units, dim=-1)):
            if self.scale is not None:
                part = (1 + self.scale_gate[layer, unit] * self.scale[layer, unit]) * part
            if self.offset is not None:
                part = part + self.offset_gate[layer, unit] * self.offset[layer, unit]
            edited.append(part)
        return torch.cat(edited, dim=-1)


SiteEdit = Callable[[int, Tensor], Tensor]
"""Maps (layer, activation) to the edited activation."""


def edits_of(
    parameters: Mapping[str, Tensor],
    uniform: Mapping[str, Tensor] | None = None,
    offset_factor: Tensor | float = 1.0,
    scale_factor: Tensor | float = 1.0,
) -> Edits:
    """Build edits from the parameters of one site, keyed by their names in a checkpoint.

    `uniform` is the noise of the gates in training, with the same keys; the factors multiply the gates.
    """
    vectors = [parameters.get(half) for half in ("offset", "scale")]
    shape = next(v for v in vectors if v is not None).shape[:2]

    def gate(half: str) -> Tensor:
        for name in (f"gates.{half}.log_alpha", "gates.shared.log_alpha"):
            if name in parameters:
                phi = parameters[name]
                return evaluation_gate(phi) if uniform is None else training_gate(phi, uniform[name])
        return torch.ones(shape)

    return Edits(vectors[0], vectors[1], offset_factor * gate("offset"), scale_factor * gate("scale"))


@contextmanager
def hooked(model: PreTrainedModel, sites: Mapping[str, SiteEdit]) -> Iterator[None]:
    """Edit every pass of the model inside the block, at those of the sites 'heads' and 'mlp' that are in `sites`."""
    layers_path, heads_path, mlp_path = PATHS[model.config.model_type]
    handles = []
    layers = model.get_submodule(layers_path)
    assert isinstance(layers, nn.ModuleList)
    for layer, block in enumerate(layers):
        if "heads" in sites:
            hook = _input_hook(sites["heads"], layer)
            handles.append(block.get_submodule(heads_path).register_forward_pre_hook(hook))
        if "mlp" in sites:
            hook = _output_hook(sites["mlp"], layer)
            handles.append(block.get_submodule(mlp_path).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_hook(edit: SiteEdit, layer: int) -> Callable[..., Any]:
    return lambda module, inputs: (edit(layer, inputs[0]), *inputs[1:])


def _output_hook(edit: SiteEdit, layer: int) -> Callable[..., Any]:
    return lambda module, inputs, output: edit(layer, output)


def cross_entropy(logits: Tensor, labels: Tensor) -> list[float]:
    """Return −log p of each label, row by row: position t is predicted at t − 1, and −100 means no label."""
    losses = []
    for row, targets in zip(logits.double(), labels.tolist(), strict=True):
        for t in range(1, len(targets)):
            if targets[t] != -100:
                scores = row[t - 1]
                losses.append(float(torch.logsumexp(scores, 0) - scores[targets[t]]))
    assert all(math.isfinite(loss) for loss in losses)
    return losses
