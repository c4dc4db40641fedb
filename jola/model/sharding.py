"""A frozen model whose weights are divided among the processes of a launch, by PyTorch's `fully_shard` (FSDP).

Each process stores a part of every weight, and a layer is gathered in all processes while it runs. Every pass of one
process therefore needs a pass of all the others at the same time; the tokens may differ.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from jola.errors import InputError
from jola.model.architectures import architecture_of
from jola.model.placement import FrozenWeights, is_sharded
from jola.system.distributed import in_any, launched
from jola.system.progress import Stopped


def check_sharding(*, quantize: str, device_map: object) -> None:
    """Check that a model can be divided among processes.

    Raises:
        InputError: There is only one process, or the weights are quantized or spread over devices.
    """
    if quantize != "none":
        raise InputError(
            f"--shard-base does not divide weights in {quantize}; leave out --shard-base, or use --quantize none."
        )
    if device_map is not None:
        raise InputError("--shard-base and --device-map both place the weights; leave one of them out.")
    if launched() == 1:
        raise InputError(
            "--shard-base divides the frozen model among several processes, but there is only one; start jola with "
            "torchrun --nproc-per-node N -m jola, or leave --shard-base out."
        )


def shard(base: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Divide a model among all processes, in place, and return it; all processes must call this together.

    Layers are moved to `device` one at a time, so that it never stores more than one whole layer.

    Args:
        base: The model, with all its weights in main memory.
    """
    FrozenWeights(base).note_middles()
    base.requires_grad_(False)
    # With a separate group, its communication does not have to be ordered with that of the gradients of the edits.
    group: Any = distributed.new_group()
    mesh = DeviceMesh.from_group(group, device.type)
    for layer in base.get_submodule(architecture_of(base).layers).children():
        fully_shard(layer, mesh=mesh)
    name = type(base).__name__
    fully_shard(base, mesh=mesh, reshard_after_forward=True)
    # Transformers looks up the abilities of a model by its class name, which FSDP changes.
    type(base).__name__ = name
    return base


@contextmanager
def passes_together(base: PreTrainedModel) -> Iterator[None]:
    """Let each process run any number of passes without gradients inside the block, which all processes must enter.

    A process that leaves the block, or raises `Stopped` between two passes, joins the passes of the others with one
    token until all have left. Other exceptions are raised at once: they may come from the middle of a layer for which
    the other processes wait, so that the launcher has to end these.
    """
    if not is_sharded(base):
        yield
        return

    def announce(*_: Any) -> None:
        in_any(True, base.device)

    hook = base.register_forward_pre_hook(announce, prepend=True)
    joins = True
    try:
        yield
    except BaseException as error:
        joins = isinstance(error, Stopped)
        raise
    finally:
        hook.remove()
        if joins:
            token = torch.zeros(1, 1, dtype=torch.long, device=base.device)
            with torch.no_grad():
                while in_any(False, base.device):
                    base(token, use_cache=False)
