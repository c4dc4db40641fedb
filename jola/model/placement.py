"""Place the weights of a frozen model on one device, on several, in memory or on disk, and read them.

With several devices, accelerate's hooks move the activations and weights: a layer on an accelerator runs there. The
weights of a layer in memory or on disk are copied to the main device for each pass.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from jola.edits.weights import frozen_names
from jola.errors import InputError
from jola.model.quantization import is_quantized
from jola.settings import STRATEGIES
from jola.system.paths import is_there

DISK = "disk"

DeviceMap = str | Path | Mapping[str, str | int] | None
"""One of `STRATEGIES`, a JSON file, or a device, 'cpu' or 'disk' for each module; None places all on one device."""


def read_device_map(given: str | Path | Mapping[str, str | int]) -> str | dict[str, str | int]:
    """Read a device map in the form that transformers accepts.

    Raises:
        InputError: `given` is neither a strategy nor a file with a JSON object of module names and devices.
    """
    if isinstance(given, Mapping):
        return _checked(dict(given), "The device map")
    if given in STRATEGIES:
        return str(given)
    path = Path(os.path.expanduser(given)) if is_there(str(given)) else Path(given)
    if not path.is_file():
        raise InputError(
            f"--device-map is {str(given)!r}, which is not a file; give one of {', '.join(STRATEGIES)}, or a JSON file "
            'such as {"model.embed_tokens": "cuda:0", …}.'
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"The device map {path} is not valid JSON ({error}).") from error
    return _checked(content, f"The device map {path}")


def _checked(content: Any, what: str) -> dict[str, str | int]:
    """Check the content of a device map. Errors do not show values: the file may be a different one with secrets."""
    if not isinstance(content, dict) or not content:
        raise InputError(f"{what} is not an object of module names and devices; write one entry for each module.")
    for name, place in content.items():
        if not isinstance(place, str) and type(place) is not int:
            raise InputError(
                f"{what} has a value of type {type(place).__name__} for {name!r}; "
                "give the name or the number of a device."
            )
    return content


def check_device_map(placed: Mapping[str, str | int], empty: PreTrainedModel, layers: str) -> None:
    """Check that a device map fits a model.

    Args:
        empty: The model on the meta device.
        layers: Path of its layers.

    Raises:
        InputError: The map names a module that does not exist or a device that this machine does not have, places a
            module twice or not at all, splits a layer over accelerators, or places everything on disk.
    """
    modules = {name for name, _ in empty.named_modules()} | {name for name, _ in empty.named_parameters()}
    for name in placed:
        if name not in modules:
            known = ", ".join(n for n, m in empty.named_modules() if n and not isinstance(m, nn.ModuleList))[:120]
            raise InputError(f"The device map places {name!r}, which is not a module of this model ({known}, …).")
        if above := [other for other in placed if other != name and (not other or name.startswith(f"{other}."))]:
            raise InputError(f"The device map places {name!r} twice, as a part of {above[0]!r}; leave one of them out.")
    for name, _ in [*empty.named_parameters(), *empty.named_buffers()]:
        if not any(not place or name == place or name.startswith(f"{place}.") for place in placed):
            raise InputError(f"The device map does not place {name}; add it or a module that contains it.")
    for index in range(len(list(empty.get_submodule(layers).children()))):
        inside = {_name(p) for n, p in placed.items() if f"{n}.".startswith(f"{layers}.{index}.")} - {"cpu", DISK}
        if len(inside) > 1:
            raise InputError(
                f"The device map splits layer {index} over {' and '.join(sorted(inside))}; place each layer on one."
            )
    if set(placed.values()) == {DISK}:
        raise InputError("The device map puts everything on disk; place at least one module on a device or 'cpu'.")
    for place in dict.fromkeys(placed.values()):
        if place != DISK and not _exists(place):
            raise InputError(f"The device map uses {place!r}, which this machine does not have; it has {_devices()}.")


def _exists(place: str | int) -> bool:
    try:
        return torch.empty(0, device=place).device.type != "meta"
    except (RuntimeError, AssertionError):
        return False


def _name(place: str | int) -> str:
    """The name of a device, also for the number of an accelerator: 0 is cuda:0."""
    try:
        return DISK if place == DISK else str(torch.empty(0, device=place).device)
    except (RuntimeError, AssertionError):
        return str(place)


def _devices() -> str:
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    accelerators = [f"{kind.type}:{i}" for i in range(torch.accelerator.device_count())] if kind else []
    return ", ".join([*accelerators, "cpu", DISK])


def main_device(base: PreTrainedModel) -> torch.device:
    """Device of the input and the logits of a model, and of the edits of activations."""
    place = getattr(getattr(base, "_hf_hook", None), "execution_device", None)
    return base.device if place is None else torch.device(place)


def is_spread(base: PreTrainedModel) -> bool:
    """Whether the weights are on several devices, or are copied from memory or disk for each pass."""
    return len({_name(place) for place in getattr(base, "hf_device_map", {}).values()}) > 1


def is_sharded(base: PreTrainedModel) -> bool:
    """Whether the weights are divided among processes; see `jola.model.sharding`."""
    return isinstance(base, FSDPModule)


def refuse_spread(base: PreTrainedModel, what: str) -> None:
    """Refuse an operation that needs all weights on one device.

    Raises:
        InputError: The weights are on several devices or divided among processes.
    """
    if is_spread(base):
        raise InputError(f"{what} needs the whole model on one device; load it without a device map.")
    if is_sharded(base):
        raise InputError(f"{what} needs the whole model in one process; load it without --shard-base.")


_noted: WeakKeyDictionary[nn.Module, dict[str, float]] = WeakKeyDictionary()


class FrozenWeights(Mapping[str, Tensor]):
    """The parameters of a frozen model by their names in its checkpoint, read one at a time from memory or disk.

    If the weights are divided among processes, each process reads its own part.
    """

    def __init__(self, base: nn.Module) -> None:
        self._base = base
        self._places = frozen_names(base)

    def is_exact(self, name: str) -> bool:
        """Whether a parameter has the values of the checkpoint, that is, is not quantized."""
        return not is_quantized(self._base.get_parameter(self._places[name]))

    def middle(self, name: str) -> float:
        """The middle element of a parameter, by which an adapter recognizes its base model."""
        if self._base in _noted:
            return _noted[self._base][name]
        tensor = self[name].detach()
        return float(tensor.flatten()[tensor.numel() // 2])

    def note_middles(self) -> None:
        """Store `middle` of all parameters before they are divided among processes."""
        _noted[self._base] = {name: self.middle(name) for name in self}

    def __getitem__(self, name: str) -> Tensor:
        module, _, leaf = self._places[name].rpartition(".")
        holder = self._base.get_submodule(module)
        tensor = holder.get_parameter(leaf)
        if tensor.device.type != "meta":
            return tensor
        with align_module_device(holder):
            return holder.get_parameter(leaf).detach().clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
