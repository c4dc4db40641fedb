"""Count the numbers that autograd saves for a backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor


def numbers_kept(forward: Callable[[], Tensor]) -> tuple[int, Tensor]:
    """Return (number of saved tensor elements, result) of `forward`."""
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    return total, result
