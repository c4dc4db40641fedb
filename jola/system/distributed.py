"""The processes of ``accelerate launch`` or ``torchrun``, which train and test together, on one machine or several.

Outside of such a launch there is one process, and nothing here does anything.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import distributed

from jola.errors import InputError
from jola.system.processes import launched

T = TypeVar("T")

SINGLE_PROCESS = "--device-map spreads one process over all devices; start a single process, or leave it out."
"""Refusal of a device map in a launch of several processes."""


def meet(on_cpu: Callable[[], bool]) -> bool:
    """Join the other processes, if there are any; whether this is the first of them, which writes.

    `on_cpu` says whether they compute on the processor; it is asked only if there are others.
    """
    if launched() == 1:
        return True
    return PartialState(cpu=on_cpu()).is_main_process


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def share(items: Sequence[T]) -> Sequence[T]:
    """The items that this process works on: every n-th of n processes."""
    number = distributed.get_rank() if processes() > 1 else 0
    return items[number :: processes()]


def joined(results: Sequence[T] | None) -> list[T] | None:
    """The results of all processes for their `share`, in the order of the items; all processes call it.

    None if any process has None.
    """
    shares: list[Any] = [results]
    if processes() > 1:
        shares = [None] * processes()
        distributed.all_gather_object(shares, results)
    if any(each is None for each in shares):
        return None
    total = sum(map(len, shares))
    return [shares[i % len(shares)][i // len(shares)] for i in range(total)]


def by_first(action: Callable[[], Any], first: bool) -> Any:
    """What `action` gives in the first process, in all of them; an InputError there is one everywhere."""
    if processes() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if first:
        try:
            outcome[0] = action()
        except InputError as error:
            outcome[1] = str(error)
    distributed.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise InputError(outcome[1])
    return outcome[0]


def in_any(value: bool, device: torch.device) -> bool:
    """Whether `value` is true in any of the processes: what all must do at the same step is decided together."""
    if processes() == 1:
        return value
    anywhere = torch.tensor(int(value), device=device)
    distributed.all_reduce(anywhere, distributed.ReduceOp.MAX)
    return bool(anywhere)
