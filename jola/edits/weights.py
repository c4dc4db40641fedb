"""`WeightEdits`: edits of weights by peft layers in the frozen model, and access to the model without these layers."""

import itertools
import math
import re
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from jola.edits.intervention import Edit, EditMask, Intervention
from jola.edits.sites import Site
from jola.errors import InputError

_PREFIX = "base_model.model."
_IN_MLP = ("fc1", "fc2")
_REACHED = (
    *("q_proj", "k_proj", "v_proj", "c_attn", "query_key_value", "o_proj", "out_proj"),
    *("gate_proj", "up_proj", "down_proj", "c_fc", "fc1", "dense_h_to_4h", "dense_4h_to_h", "fc2", "c_proj", "dense"),
)
"""Names of linear modules in the order in which a pass reaches them."""
_MODULE_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)+", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")
_numbers = itertools.count()

Place = tuple[int, int]
"""(layer, unit)."""
_T = TypeVar("_T")


class WeightEdits(Intervention):
    """Changes of modules in the layers of a model, implemented by peft layers inside the frozen model.

    The parameters of the peft layers, in float32, are also registered here, so that optimizers, checkpoints and
    distributed training see them. Outside of `applied`, the peft layers are inactive and return the output of their
    frozen module. One model may therefore contain several of these edits, and each pass applies those that it names.

    Args:
        modules: peft layers by their path in the model; empty for edits without a model, see `of_tensors`.
        paths: Paths of all edited modules.
        layers: Number of layers of the model.
        adapter: Name of this adapter in the peft layers.
    """

    site = Site.WEIGHTS
    parts: ClassVar[Mapping[str, str]]
    """The tensors of one module: name → the suffix that peft appends to the path of the module in a file."""
    attributes: ClassVar[tuple[str, ...]]
    """Attributes of a peft layer with one entry for each adapter; the first has an entry for every adapter."""

    def __init__(self, modules: Mapping[str, Any], paths: Sequence[str], layers: int, adapter: str = "") -> None:
        super().__init__()
        self.layers, self.adapter = layers, adapter
        self._modules_of: dict[Place, Any] = {}
        places, self.unit_names = _places(paths)
        self.path_of: dict[Place, str] = {place: path for path, place in places.items()}
        """Path in the model of the module at each place."""
        self.values = nn.ParameterDict()
        for path, module in modules.items():
            self._modules_of[places[path]] = module
            for part, parameter in self._parameters_of(module).items():
                self.values[_key(path, part)] = parameter

    def value(self, path: str, part: str) -> Tensor:
        """A parameter of the module at a path."""
        return self.values[_key(path, part)]

    def _parameters_of(self, module: Any) -> dict[str, nn.Parameter]:
        """The parameters of a peft layer by the names of `parts`."""
        raise NotImplementedError

    def _scale(self, place: Place, module: Any, factor: float) -> None:
        """Scale the change of a peft layer by a factor; 1 is as trained."""
        raise NotImplementedError

    def _config(self) -> Any:
        """A peft configuration that creates the same layers in another copy of the model."""
        raise NotImplementedError

    @property
    def uniform(self) -> bool:
        """True: a weight is the same at all positions."""
        return True

    def prepare(self, mask: EditMask | None = None, strength: float = 1.0) -> Mapping[int, Edit]:
        """No edits of activations."""
        return {}

    @contextmanager
    def applied(self, mask: EditMask | None = None, strength: float = 1.0) -> Iterator[None]:
        """Use the edited weights in passes of the model inside the block; hold the lock of the model.

        Raises:
            ValueError: The mask has another shape, or differs by row: the rows of a batch share the weights.
        """
        factors = self._factors(mask) * strength
        used = [(place, module) for place, module in self._modules_of.items() if factors[place] != 0]
        for place, module in used:
            self._scale(place, module, float(factors[place]))
            # `set_adapter` of peft would disable gradients when the adapter is deactivated, which is before `backward`.
            module._active_adapter = [*module._active_adapter, self.adapter]
        try:
            yield
        finally:
            for place, module in used:
                module._active_adapter = [name for name in module._active_adapter if name != self.adapter]
                self._scale(place, module, 1.0)

    def record(self) -> dict[str, Tensor]:
        """The norm of each change; NaN if a layer does not have the module."""
        missing = torch.ones(self.layers, self.units, dtype=torch.bool)
        for place in self.path_of:
            missing[place] = False
        return {f"{channel}_norm": norms.masked_fill(missing, math.nan) for channel, norms in self.norms().items()}

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by their names in a file of peft."""
        return {
            f"{_PREFIX}{path}{suffix}": self.value(path, part)
            for path in self.path_of.values()
            for part, suffix in self.parts.items()
        }

    def scaled(self, mask: EditMask | None = None, strength: float = 1.0) -> dict[str, Tensor]:
        """`tensors`, detached, in which the last part of each module is multiplied by mask and strength.

        Raises:
            ValueError: The mask does not fit.
        """
        factors, result = self._factors(mask) * strength, {n: t.detach() for n, t in self.tensors().items()}
        suffix = list(self.parts.values())[-1]
        for place, path in self.path_of.items():
            result[f"{_PREFIX}{path}{suffix}"] = result[f"{_PREFIX}{path}{suffix}"] * float(factors[place])
        return result

    def factors(self, mask: EditMask | None = None, strength: float = 1.0) -> dict[str, float]:
        """The product of mask and strength for each edited module, by path.

        Raises:
            ValueError: The mask does not fit.
        """
        factors = self._factors(mask) * strength
        return {path: float(factors[place]) for place, path in self.path_of.items() if factors[place] != 0}

    def _factors(self, mask: EditMask | None) -> Tensor:
        if mask is None:
            return torch.ones(self.layers, self.units)
        given = mask.factor(self.channels[0]).float().cpu()
        if given.dim() == 3 and len(given) == 1:
            given = given[0]
        if given.dim() == 3:
            raise ValueError("Rows of a batch share the weights of the model; give one mask for all of them.")
        if given.shape != (self.layers, self.units):
            raise ValueError(
                f"The mask has shape {tuple(given.shape)}; the edits at {self.site} need ({self.layers}, {self.units})."
            )
        return given

    def _map(self, number: Any) -> Tensor:
        """(layers, units): a number computed from the parts of each module, 0 where there is no module."""
        result = torch.zeros(self.layers, self.units)
        for place, path in self.path_of.items():
            result[place] = number(*(self.value(path, part).detach().cpu() for part in self.parts))
        return result

    @classmethod
    def inject(cls, base: nn.Module, layers: int, config: Any) -> Self:
        """Add new, inactive peft layers to a model. The caller must hold the lock and wrap the model again afterwards.

        Args:
            config: Configuration of peft.

        Raises:
            InputError: The configuration names modules outside the layers.
            ValueError: The configuration names no module of the model.
            TypeError: The configuration names modules that peft cannot change in this way.
        """
        from peft import inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapter = f"jola{next(_numbers)}"
        trains = {id(p): p.requires_grad for p in base.parameters()}
        active = {id(m): m._active_adapter for m in base.modules() if isinstance(m, BaseTunerLayer)}
        # peft stores the configurations of adapters in the model, and would treat those of other methods as its own.
        record = base.__dict__.pop("peft_config", None)
        modules: dict[str, Any] = {}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*cannot merge the BEFT adapter.*")
                inject_adapter_in_model(config, base, adapter)
            modules = cls._layers_in(base, adapter)
            if outside := [name for name in modules if _inside(name) is None]:
                raise InputError(
                    f"--target-modules names {outside[0]}, which is outside the layers; name modules of layers."
                )
        except BaseException:
            cls._remove(base, cls._layers_in(base, adapter), adapter)
            raise
        finally:
            base.__dict__.pop("peft_config", None)
            if record is not None:
                base.__dict__["peft_config"] = record
            for module in base.modules():
                if isinstance(module, BaseTunerLayer):
                    module._active_adapter = active.get(id(module), [])
            for parameter in base.parameters():
                parameter.requires_grad_(trains.get(id(parameter), True))
        edits = cls(modules, list(modules), layers, adapter)
        for module in modules.values():
            # If the weights of a module are kept in memory or on disk, the parameters of peft are on the meta device.
            # The module runs on the device of the hook.
            hook = getattr(module.get_base_layer(), "_hf_hook", None)
            for parameter in edits._parameters_of(module).values():
                if parameter.is_meta and hook is not None:
                    values = torch.zeros_like(parameter, device=hook.execution_device)
                    torch.utils.swap_tensors(parameter, nn.Parameter(values))
                parameter.data = parameter.data.float()
        return edits

    def copied_to(self, base: nn.Module) -> Self:
        """The same edits for a copy of the frozen model, for passes without gradients."""
        copy = type(self).inject(base, self.layers, self._config())
        for name, value in copy.values.items():
            value.data.copy_(self.values[name].detach())
        return copy.eval().requires_grad_(False)

    def detach_from(self, base: nn.Module) -> None:
        """Remove the peft layers from the model. The caller must hold the lock and wrap the model again afterwards."""
        self._remove(base, {self.path_of[place]: module for place, module in self._modules_of.items()}, self.adapter)
        self._modules_of.clear()

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], layers: int) -> Self:
        """Create edits from the tensors of a file, without a model, for inspection.

        Raises:
            InputError: A tensor is missing, does not belong to a module of these layers, or two belong to the same one.
        """
        first = next(iter(cls.parts.values()))
        paths = [n.removeprefix(_PREFIX).removesuffix(first) for n in tensors if n.endswith(first)]
        places = {path: _inside(path) or (layers, "") for path in paths}
        paths.sort(key=lambda path: (places[path][0], _column_order(path)))
        at = {place: path for path, place in places.items()}
        names = {f"{_PREFIX}{path}{suffix}": (path, part) for path in paths for part, suffix in cls.parts.items()}
        unknown = [n for n in names if n not in tensors] + [
            n for n in tensors if n not in names or tensors[n].dim() != 2
        ]
        unknown += [p for p in paths if not _MODULE_PATH.fullmatch(p) or places[p][0] >= layers or at[places[p]] != p]
        if unknown or not paths:
            raise InputError(
                f"The tensors of this adapter do not belong to modules in {layers} layers "
                f"({(unknown or ['none'])[0][:100]!r}); the adapter is damaged."
            )
        edits = cls({}, paths, layers)
        for name, (path, part) in names.items():
            edits.values[_key(path, part)] = nn.Parameter(tensors[name].float())
        return edits

    @classmethod
    def _layers_in(cls, base: nn.Module, adapter: str) -> dict[str, Any]:
        """peft layers that contain an adapter, by the path of their frozen module."""
        found = {name: m for name, m in base.named_modules() if adapter in getattr(m, cls.attributes[0], ())}
        return {name.replace(".base_layer", ""): module for name, module in found.items()}

    @classmethod
    def _remove(cls, base: nn.Module, modules: Mapping[str, Any], adapter: str) -> None:
        """Remove an adapter from peft layers, and remove the layers without an adapter from the model."""
        for path, module in modules.items():
            for attribute in cls.attributes:
                del getattr(module, attribute)[adapter]
            if len(getattr(module, cls.attributes[0])):
                continue
            parent, _, name = path.rpartition(".")
            holder = base.get_submodule(parent)
            while getattr(holder, name) is not module:  # inside a layer that another method put around it
                holder, name = getattr(holder, name), "base_layer"
            setattr(holder, name, module.base_layer)


def frozen_module(module: nn.Module) -> nn.Module:
    """The module of the frozen model inside layers added by `WeightEdits`; other modules are returned unchanged."""
    while _is_resting(module):
        module = module.get_submodule("base_layer")
    return module


def frozen_state(base: nn.Module) -> dict[str, Tensor]:
    """``state_dict`` of a frozen model by the names in its checkpoint, without the layers added by `WeightEdits`."""
    resting = {name for name, module in base.named_modules() if _is_resting(module)}
    return _without_layers(base.state_dict().items(), resting)


def frozen_names(base: nn.Module) -> dict[str, str]:
    """Parameters of a frozen model: names in its checkpoint → names in the model with peft layers.

    Parameters of the peft layers, active or not, are left out.
    """
    layers = {name for name, module in base.named_modules() if hasattr(module, "_active_adapter")}
    return _without_layers(((name, name) for name, _ in base.named_parameters()), layers)


def _without_layers(named: "Iterable[tuple[str, _T]]", layers: Container[str]) -> "dict[str, _T]":
    """The tensors of frozen modules, by names without the peft layers around them."""
    result = {}
    for name, tensor in named:
        steps, kept = name.split("."), []
        for position, step in enumerate(steps):
            if ".".join(steps[:position]) not in layers:
                kept.append(step)
            elif step != "base_layer":
                break  # a tensor of the peft layer itself
        else:
            result[".".join(kept)] = tensor
    return result


def _is_resting(module: nn.Module) -> bool:
    """Whether this is an inactive peft layer, which returns the output of its frozen module."""
    return hasattr(module, "base_layer") and getattr(module, "_active_adapter", None) == []


def _key(path: str, part: str) -> str:
    """Name of a parameter, which must not contain dots."""
    return f"{path.replace('.', '/')}/{part}"


def _column_order(name: str) -> tuple[bool, int, str]:
    """Sort key: attention before the MLP, and in each the order in which a pass reaches the modules, if known."""
    parent, _, leaf = name.rpartition(".")
    known = _REACHED.index(leaf) if leaf in _REACHED else len(_REACHED)
    return parent.endswith(("mlp", "feed_forward")) or leaf in _IN_MLP, known, name


def _inside(path: str) -> tuple[int, str] | None:
    """Layer of a module and its path in the layer; None if it is outside the layers."""
    parts = path.split(".")
    found = (position for position, part in enumerate(parts[:-1]) if _NUMBER.fullmatch(part))
    position = next(found, None)
    return None if position is None else (int(parts[position]), ".".join(parts[position + 1 :]))


def _places(paths: Sequence[str]) -> tuple[dict[str, Place], tuple[str, ...]]:
    """Place of each module on the map, and the names of the columns: the shortest unique ones."""
    inside = {path: place for path in paths if (place := _inside(path))}
    names = sorted({name for _, name in inside.values()}, key=_column_order)
    short = [name.rpartition(".")[2] for name in names]
    columns = tuple(short if len(set(short)) == len(short) else names)
    return {path: (layer, names.index(name)) for path, (layer, name) in inside.items()}, columns
