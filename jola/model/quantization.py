"""Frozen models whose weights are stored in 4 or 8 bits; edits stay in float32."""

import importlib.util
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import BitsAndBytesConfig, PreTrainedModel, TorchAoConfig

from jola.errors import InputError

PACKAGES = {"4bit": "bitsandbytes", "8bit": "bitsandbytes", "int8": "torchao"}
"""Quantizations (NF4, LLM.int8() and int8 weights), and the packages that implement them."""


def quantization_config(quantize: str, dtype: torch.dtype) -> Any:
    """The quantization config of transformers.

    Args:
        dtype: Data type in which layers compute; unused by '8bit' and 'int8'.

    Raises:
        InputError: The quantization does not exist, or its package is not installed.
    """
    if quantize not in PACKAGES:
        raise InputError(f"--quantize is {quantize!r}; choose none or one of {', '.join(PACKAGES)}.")
    package = PACKAGES[quantize]
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"--quantize {quantize} needs the package {package}, which is not installed; "
            "pip install 'jola-workbench[quantization]', or load the model with --quantize none."
        )
    if quantize == "4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    from torchao.quantization import Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports]

    return TorchAoConfig(Int8WeightOnlyConfig())


def settle(base: PreTrainedModel) -> None:
    """Keep 4-bit layers on the CPU in the layout that supports gradients.

    In passes without gradients, bitsandbytes would repack their weights for the instructions of some processors, in a
    layout that has no backward pass.
    """
    # Layers of bitsandbytes have this attribute, but `nn.Module` does not declare it.
    for module in cast("Iterable[Any]", base.modules()):
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantized(weight: Tensor) -> bool:
    """Whether a parameter does not store the numbers of its checkpoint."""
    return not weight.is_floating_point() or type(weight) not in (Tensor, nn.Parameter, DTensor)


def count(weight: Tensor) -> int:
    """Number of weights that a parameter represents; a byte of 4-bit weights stores two."""
    shape = getattr(getattr(weight, "quant_state", None), "shape", weight.shape)
    return torch.Size(shape).numel()


def refuse_quantized(base: PreTrainedModel, what: str) -> None:
    """Refuse an operation that computes with the weights themselves.

    Raises:
        InputError: The weights are quantized.
    """
    if any(is_quantized(weight) for weight in base.parameters()):
        raise InputError(
            f"{what} is computed from the weights of the base model, which are quantized here; load the model with "
            "--quantize none."
        )
