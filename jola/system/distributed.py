"""The processes of ``accelerate launch`` or ``torchrun``, which train and test together, on one machine or several.

Without such a launch there is one process, and these functions do nothing.
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
"""Error for a device map in a launch of several processes."""


def meet(on_cpu: Callable[[], bool]) -> bool:
    """Join the other processes, if there are any; return whether this is the first one, which writes files.

    `on_cpu` returns whether they compute on the CPU; it is called only if there are others.
    """
    if launched() == 1:
        return True
    return PartialState(cpu=on_cpu()).is_main_process


def processes() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def share(items: Sequence[T]) -> Sequence[T]:
    """Return the items that this process works on: every n-th of n processes."""
    number = distributed.get_rank() if processes() > 1 else 0
    return items[number :: processes()]


def joined(results: Sequence[T] | None) -> list[T] | None:
    """Return the results of all processes for their `share`, in the order of the items; all processes must call it.

    None if any process passes None.
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
    """Run `action` in the first process and return its result in all of them; all raise its `InputError`."""
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
    """Whether `value` is true in any process, for decisions that all must make at the same step."""
    if processes() == 1:
        return value
    anywhere = torch.tensor(int(value), device=device)
    distributed.all_reduce(anywhere, distributed.ReduceOp.MAX)
    return bool(anywhere)
