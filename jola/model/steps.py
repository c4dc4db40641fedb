"""What is done to single activations of a pass: edits, and the tensors in the outputs of sub-layers."""

from typing import Any

import torch
from torch import Tensor, nn

from jola.edits.intervention import Edit
from jola.edits.sites import Site

Step = tuple[Any, Site, Edit]
"""nnsight's view of a module, the site there, and its edit."""


def apply_steps(steps: list[Step]) -> None:
    """Within a trace: apply edits, in the order in which the pass reaches them."""
    for envoy, site, edit in steps:
        if site is Site.HEADS:
            envoy.input = edit(envoy.input)
        else:
            envoy.output = on_hidden(edit, envoy.output)


def hidden_of(output: Any) -> Tensor:
    """The hidden states in a sub-layer's output, which some architectures give as a tuple."""
    return output[0] if isinstance(output, tuple) else output


def last_column(ids: Tensor) -> Tensor:
    """(batch, tokens) of bool: true in the last column."""
    return torch.arange(ids.shape[1], device=ids.device).eq(ids.shape[1] - 1).expand_as(ids)


def contiguous(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Hook before the head: for a slice of a batch, PyTorch would copy the head's weight for every row."""
    hidden, *others = arguments
    return (hidden.contiguous(), *others)


def on_hidden(edit: Edit, output: Any) -> Any:
    """Apply an edit to the hidden states in a sub-layer's output."""
    edited = edit(hidden_of(output))
    return (edited, *output[1:]) if isinstance(output, tuple) else edited
