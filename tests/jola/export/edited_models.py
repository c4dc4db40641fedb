"""Helpers for the tests of exports: edited tiny models of every architecture."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from jola.config import EditConfig
from jola.errors import InputError
from jola.jola_model import JoLAModel
from tests.conftest import spread_edits
from tests.tiny import CONFIGS, VOCABULARY, make_model

ARCHITECTURES = sorted(CONFIGS)
MLP_BIAS = ("gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "qwen2", "smollm3")
"""Architectures whose MLPs can have a bias, which an offset needs."""
BATCH = torch.randint(3, VOCABULARY, (2, 13), generator=torch.Generator().manual_seed(5))


def random_model(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """Return a model with large random weights, including biases and gains of norms."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.generation_config.eos_token_id = None
    return model


def plain(architecture: str) -> PreTrainedModel:
    """Return the model without edits, with random biases and gains of norms."""
    model = make_model(architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # zero biases of a fresh model would hide mistakes
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model


@torch.no_grad()
def rounded(base: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Round the weights to `dtype` in place; unlike ``to``, this leaves buffers unchanged."""
    for parameter in base.parameters():
        parameter.copy_(parameter.to(dtype))
    return base


def edited(
    base: PreTrainedModel | str, tokenizer: PreTrainedTokenizerFast, edits: EditConfig | None = None, seed: int = 1
) -> JoLAModel:
    """Return a model with edits as after training."""
    name = base if isinstance(base, str) else base.config.model_type
    model = JoLAModel(plain(base) if isinstance(base, str) else base, tokenizer, edits, name=f"tiny-{name}")
    spread_edits(model, seed)
    return model.eval()


@torch.no_grad()
def greedy(model: JoLAModel | PreTrainedModel, ids: Tensor = BATCH, count: int = 8) -> Tensor:
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)


@torch.no_grad()
def largest(one: JoLAModel | PreTrainedModel, other: JoLAModel | PreTrainedModel, ids: Tensor = BATCH) -> float:
    """Return the largest |Δlogit| between two models."""
    return float((one(ids).logits - other(ids).logits).abs().max())


@torch.no_grad()
def logits(model: Any, **arguments: Any) -> Tensor:
    return model(BATCH, **arguments).logits


def refusal(call: Callable[[], Any]) -> str:
    """Return the one-sentence error of a refused call."""
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)
