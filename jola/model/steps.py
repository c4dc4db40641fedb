"""Helpers of a pass: apply edits to activations, get hidden states from outputs, and select positions."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jola.data.examples import IGNORED
from jola.edits.intervention import Edit
from jola.edits.sites import Site

Step = tuple[Any, Site, Edit]
"""The envoy of a module in nnsight, its site, and the edit."""


def apply_steps(steps: list[Step]) -> None:
    """Apply edits within a trace, in the order in which the pass reaches them."""
    for envoy, site, edit in steps:
        if site is Site.HEADS:
            envoy.input = edit(envoy.input)
        else:
            envoy.output = on_hidden(edit, envoy.output)


def hidden_of(output: Any) -> Tensor:
    """The hidden states in the output of a sub-layer, which is a tuple in some architectures."""
    return output[0] if isinstance(output, tuple) else output


def new_tokens(arguments: Mapping[str, Any], width: int) -> int:
    """Maximum number of new tokens of a generation, at least 1.

    Args:
        arguments: Arguments of ``generate`` of transformers.
        width: Number of tokens of the prompts, with padding.
    """
    most, length = arguments.get("max_new_tokens"), arguments.get("max_length")
    if most is None and length is not None:
        most = length - width
    return max(most or 1, 1)


def last_column(ids: Tensor) -> Tensor:
    """(batch, tokens) of bool: true in the last column."""
    return torch.arange(ids.shape[1], device=ids.device).eq(ids.shape[1] - 1).expand_as(ids)


def contiguous(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Pre-hook of the head: for a slice of a batch, PyTorch would copy the weight of the head for every row."""
    hidden, *others = arguments
    return (hidden.contiguous(), *others)


def on_hidden(edit: Edit, output: Any) -> Any:
    """Apply an edit to the hidden states in the output of a sub-layer."""
    edited = edit(hidden_of(output))
    return (edited, *output[1:]) if isinstance(output, tuple) else edited


def rows_of(inputs: Mapping[str, Tensor], positions: Tensor | Literal["last"] | None) -> Tensor | None:
    """Positions at which to compute logits, (batch, tokens) of bool; None means everywhere.

    Args:
        inputs: Arguments of the pass.
        positions: Positions in the same form, or 'last' for the last real token of each row.
    """
    if positions is None:
        return None
    ids = inputs["input_ids"]
    if isinstance(positions, Tensor):
        if positions.shape != ids.shape or positions.dtype is not torch.bool:
            raise ValueError(f"positions must be bool of shape {tuple(ids.shape)}, like the tokens.")
        return positions.to(ids.device)
    real = inputs.get("attention_mask", torch.ones_like(ids))
    counted = real.long().cumsum(-1)
    return (counted == counted[:, -1:]) & (real > 0)


def before_labels(labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Number of real tokens before the first label of each row, (batch,)."""
    before = (labels != IGNORED).cumsum(1) == 0
    return (before if attention_mask is None else before & (attention_mask > 0)).sum(1)


def log_probabilities(logits: Tensor, tokens: Tensor) -> Tensor:
    """ln p of each token, float32 on the CPU, from logits (tokens, vocabulary)."""
    return -F.cross_entropy(logits.float(), tokens.to(logits.device), reduction="none").cpu()


def then(first: Edit, second: Edit) -> Edit:
    """Compose two edits: `second` edits the result of `first`."""
    return lambda z: second(first(z))
