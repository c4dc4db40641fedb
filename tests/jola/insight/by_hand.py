"""Expected results of `jola.insight`, from transformers' models, plain hooks and formulas.

Nothing here uses code of `jola.insight`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from jola.config import EditConfig
from jola.insight import EditRef
from jola.jola_model import JoLAModel
from tests.conftest import spread_edits
from tests.jola.model.passes import parameters_of
from tests.jola.model.plain_hooks import PATHS, Edits, edits_of, evaluation_gate, hooked
from tests.tiny import make_model

Make = Callable[..., JoLAModel]

IDS = [7, 41, 120, 9, 77, 203, 5, 150, 61, 18, 99]
ANSWER = "positive"
FINAL_NORM = {
    "phi": "model.final_layernorm",
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
    "opt": "model.decoder.final_layer_norm",
}
ONE_PLUS = ("gemma", "gemma2", "gemma3_text")
"""Architectures whose norms have the gain 1 + weight."""


def lively_model(tokenizer: Any, architecture: str, edits: EditConfig | None = None) -> JoLAModel:
    """Return a tiny model with random gains of norms and biases, so that omitting one changes results."""
    base = make_model(architecture)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model = JoLAModel(base, tokenizer, edits or EditConfig(sites="both"), name=f"lively-{architecture}")
    spread_edits(model)
    return model.eval()


def answer_tokens(model: JoLAModel, answer: str = ANSWER) -> list[int]:
    return list(model.tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"])


def parts_of(model: JoLAModel, off: EditRef | None = None, masks: Any = None) -> dict[str, Edits]:
    """Return the edits for plain hooks, optionally under masks and with one half of one edit switched off."""
    parts = {}
    for edits in model.gated_edits():
        factors = {half: torch.ones(edits.layers, edits.units) for half in ("offset", "scale")}
        for half in factors:
            if masks is not None:
                factors[half] = factors[half] * getattr(masks[edits.site], half)
            if off is not None and (off.site, off.half) == (edits.site, half):
                factors[half][off.layer, off.unit] = 0
        parts[edits.site] = edits_of(
            parameters_of(edits), None, offset_factor=factors["offset"], scale_factor=factors["scale"]
        )
    return parts


@torch.no_grad()
def score(plain: PreTrainedModel, ids: list[int], answer: list[int], sites: dict[str, Edits] | None = None) -> float:
    """Return ln p(answer), computed by hand."""
    with hooked(plain, sites or {}):
        logits = plain(torch.tensor([ids + answer])).logits[0].double()
    return sum(float(logits[len(ids) - 1 + i].log_softmax(-1)[token]) for i, token in enumerate(answer))


def all_open(model: JoLAModel) -> set[EditRef]:
    return {
        EditRef(str(edits.site), layer, unit, half, position)
        for position, edits in enumerate(model.gated_edits())
        for half in edits.halves
        for layer in range(edits.layers)
        for unit in range(edits.units)
        if evaluation_gate(edits.get_parameter(f"gates.{half}.log_alpha")[layer, unit]).item() > 0
    }


@contextmanager
def watched(plain: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """Yield a dictionary with the inputs and outputs of blocks, sites and the final norm in the last pass."""
    layers, heads, mlp = PATHS[plain.config.model_type]
    seen: dict[str, Any] = {}
    handles = []

    def keep(name: str, module: nn.Module) -> None:
        # Hooks run in the order of registration: these see activations before edits change them.
        def before(module: nn.Module, args: Any) -> None:
            seen[f"{name}.input"] = args[0]

        def after(module: nn.Module, args: Any, out: Any) -> None:
            seen[f"{name}.output"] = out[0] if isinstance(out, tuple) else out

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    blocks: Any = plain.get_submodule(layers)
    for layer, block in enumerate(blocks):
        keep(f"block.{layer}", block)
        keep(f"heads.{layer}", block.get_submodule(heads))
        keep(f"mlp.{layer}", block.get_submodule(mlp))
    keep("norm", final_norm(plain))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def final_norm(plain: PreTrainedModel) -> nn.Module:
    return plain.get_submodule(FINAL_NORM.get(plain.config.model_type, "model.norm"))


def linear_norm(architecture: str, norm: nn.Module, at: Tensor | None, c: Tensor) -> Tensor:
    """Apply a norm with its scale held fixed, written from the formulas."""
    weight = norm.get_parameter("weight")
    if isinstance(norm, nn.LayerNorm):
        scale = 1.0 if at is None else torch.sqrt(((at - at.mean()) ** 2).mean() + norm.eps)
        return weight * (c - c.mean()) / scale
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    scale = 1.0 if at is None else torch.sqrt((at**2).mean() + eps)
    return (1 + weight if architecture in ONE_PLUS else weight) * c / scale


def output_weight(plain: PreTrainedModel, layer: int) -> Tensor:
    """Return W_O with shape (in, out)."""
    layers, heads, _ = PATHS[plain.config.model_type]
    weight = plain.get_submodule(f"{layers}.{layer}.{heads}").get_parameter("weight")
    return weight if plain.config.model_type == "gpt2" else weight.T


def post_norm(plain: PreTrainedModel, layer: int, site: str) -> nn.Module | None:
    if plain.config.model_type not in ("gemma2", "gemma3_text", "olmo2"):
        return None
    name = "post_attention_layernorm" if site == "heads" else "post_feedforward_layernorm"
    return plain.get_submodule(f"model.layers.{layer}.{name}")
