"""`WeightEdits`: edits of the weights of modules, put into the frozen model by peft; and the model without them."""

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
_NUMBER = re.compile(r"[0-9]{1,5}")
_numbers = itertools.count()

Place = tuple[int, int]
"""(layer, unit)."""
_T = TypeVar("_T")


class WeightEdits(Intervention):
    """Changes of modules of every layer, made by layers of peft inside the frozen model.

    The parameters are those of peft's layers, in float32, registered here under the same names, so that optimisers,
    checkpoints and distributed training see them. Outside of `applied` the layers in the model pass on what their
    frozen module gives: several of these may be in one model, and each pass uses those that it names.

    Args:
        modules: peft's layers by their path in the model; empty for edits without a model, see `of_tensors`.
        paths: Paths of all changed modules.
        layers: Layers of the model.
        adapter: Name of this adapter in peft's layers.
    """

    site = Site.WEIGHTS
    parts: ClassVar[Mapping[str, str]]
    """The tensors of one module: a name → what peft appends to the path of the module in a file."""
    attributes: ClassVar[tuple[str, ...]]
    """Attributes of peft's layer that hold something for each adapter; it has an adapter if the first holds it."""

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
        """The parameters in a layer of peft, by the names of `parts`."""
        raise NotImplementedError

    def _scale(self, place: Place, module: Any, factor: float) -> None:
        """Multiply what a layer of peft does by a factor; 1 is as trained."""
        raise NotImplementedError

    def _config(self) -> Any:
        """A configuration of peft that makes the same layers in another copy of the model."""
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
        """Inside the block passes of the model use the edited weights; hold the lock of the model.

        Raises:
            ValueError: The mask has another shape, or differs by row: the rows of a batch share the weights.
        """
        factors = self._factors(mask) * strength
        used = [(place, module) for place, module in self._modules_of.items() if factors[place] != 0]
        for place, module in used:
            self._scale(place, module, float(factors[place]))
            # `set_adapter` of peft would switch gradients off when the adapter is taken out again, before `backward`.
            module._active_adapter = [*module._active_adapter, self.adapter]
        try:
            yield
        finally:
            for place, module in used:
                module._active_adapter = [name for name in module._active_adapter if name != self.adapter]
                self._scale(place, module, 1.0)

    def record(self) -> dict[str, Tensor]:
        """The norm of each change; NaN where a layer has no such module."""
        missing = torch.ones(self.layers, self.units, dtype=torch.bool)
        for place in self.path_of:
            missing[place] = False
        return {f"{channel}_norm": norms.masked_fill(missing, math.nan) for channel, norms in self.norms().items()}

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by the names that peft gives them in a file."""
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
        """The factor from mask and strength on each module that is changed, by path.

        Raises:
            ValueError: The mask does not fit.
        """
        factors = self._factors(mask) * strength
        return {path: float(factors[place]) for place, path in self.path_of.items() if factors[place] != 0}

    def _factors(self, mask: EditMask | None) -> Tensor:
        if mask is None:
            return torch.ones(self.layers, self.units)
        given = mask[self.channels[0]].float().cpu()
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
        """(layers, units): a number computed from the parts of each module, 0 where there is none."""
        result = torch.zeros(self.layers, self.units)
        for place, path in self.path_of.items():
            result[place] = number(*(self.value(path, part).detach().cpu() for part in self.parts))
        return result

    @classmethod
    def inject(cls, base: nn.Module, layers: int, config: Any) -> Self:
        """Put new peft layers into a model at rest. The caller holds the lock and notifies nnsight afterwards.

        Args:
            config: Of peft.

        Raises:
            InputError: It names modules outside the layers.
            ValueError: It names no module of the model.
            TypeError: It names modules that peft cannot change in this way.
        """
        from peft import inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapter = f"jola{next(_numbers)}"
        trains = {id(p): p.requires_grad for p in base.parameters()}
        active = {id(m): m._active_adapter for m in base.modules() if isinstance(m, BaseTunerLayer)}
        # peft keeps a record of adapters in the model, and would treat those of other methods as its own.
        record = base.__dict__.pop("peft_config", None)
        modules: dict[str, Any] = {}
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*cannot merge the BEFT adapter.*")
                inject_adapter_in_model(config, base, adapter)
            modules = cls._layers_in(base, adapter)
            if outside := [name for name in modules if _layer_of(name) is None]:
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
            # Weights that wait elsewhere, where peft's have no numbers yet, are on this device when their module runs.
            hook = getattr(module.get_base_layer(), "_hf_hook", None)
            for parameter in edits._parameters_of(module).values():
                if parameter.is_meta and hook is not None:
                    values = torch.zeros_like(parameter, device=hook.execution_device)
                    torch.utils.swap_tensors(parameter, nn.Parameter(values))
                parameter.data = parameter.data.float()
        return edits

    def copied_to(self, base: nn.Module) -> Self:
        """The same edits in a copy of the frozen model, for passes without gradients."""
        copy = type(self).inject(base, self.layers, self._config())
        for name, value in copy.values.items():
            value.data.copy_(self.values[name].detach())
        return copy.eval().requires_grad_(False)

    def detach_from(self, base: nn.Module) -> None:
        """Take the layers out of the model again. The caller holds the model's lock and notifies nnsight afterwards."""
        self._remove(base, {self.path_of[place]: module for place, module in self._modules_of.items()}, self.adapter)
        self._modules_of.clear()

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], layers: int) -> Self:
        """Edits that are looked at without their model, from the tensors of a file.

        Raises:
            InputError: A tensor is missing, or is not one of a module of these layers.
        """
        first = next(iter(cls.parts.values()))
        paths = [n.removeprefix(_PREFIX).removesuffix(first) for n in tensors if n.endswith(first)]
        paths.sort(key=lambda path: (_layer_of(path) or 0, _column_order(path)))
        names = {f"{_PREFIX}{path}{suffix}": (path, part) for path in paths for part, suffix in cls.parts.items()}
        unknown = [n for n in names if n not in tensors] + [
            n for n in tensors if n not in names or tensors[n].dim() != 2
        ]
        unknown += [p for p in paths if not _MODULE_PATH.fullmatch(p) or not 0 <= (_layer_of(p) or 0) < layers]
        unknown += [p for p in paths if _layer_of(p) is None]
        if unknown or not paths:
            raise InputError(
                f"The tensors of this adapter are not those of modules in {layers} layers "
                f"({(unknown or ['none'])[0][:100]!r}); the adapter is damaged."
            )
        edits = cls({}, paths, layers)
        for name, (path, part) in names.items():
            edits.values[_key(path, part)] = nn.Parameter(tensors[name].float())
        return edits

    @classmethod
    def _layers_in(cls, base: nn.Module, adapter: str) -> dict[str, Any]:
        """peft's layers that hold an adapter, by the path of their frozen module."""
        found = {name: m for name, m in base.named_modules() if adapter in getattr(m, cls.attributes[0], ())}
        return {name.replace(".base_layer", ""): module for name, module in found.items()}

    @classmethod
    def _remove(cls, base: nn.Module, modules: Mapping[str, Any], adapter: str) -> None:
        """Take an adapter out of peft's layers, and the layers without one out of the model."""
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
    """The module of the frozen model inside layers that `WeightEdits` put there; any other module as it is."""
    while _is_resting(module):
        module = module.get_submodule("base_layer")
    return module


def frozen_state(base: nn.Module) -> dict[str, Tensor]:
    """``state_dict`` of a frozen model, by the names in its checkpoint and without what `WeightEdits` put into it."""
    resting = {name for name, module in base.named_modules() if _is_resting(module)}
    return _without_layers(base.state_dict().items(), resting)


def frozen_names(base: nn.Module) -> dict[str, str]:
    """The parameters of a frozen model: their names in its checkpoint → their names in the model with layers of peft.

    Parameters of those layers, at rest or not, are left out.
    """
    layers = {name for name, module in base.named_modules() if hasattr(module, "_active_adapter")}
    return _without_layers(((name, name) for name, _ in base.named_parameters()), layers)


def _without_layers(named: "Iterable[tuple[str, _T]]", layers: Container[str]) -> "dict[str, _T]":
    """What belongs to frozen modules, by names without the layers of peft around them."""
    result = {}
    for name, tensor in named:
        steps, kept = name.split("."), []
        for position, step in enumerate(steps):
            if ".".join(steps[:position]) not in layers:
                kept.append(step)
            elif step != "base_layer":
                break  # belongs to the layer itself
        else:
            result[".".join(kept)] = tensor
    return result


def _is_resting(module: nn.Module) -> bool:
    """Whether this is a layer of peft that passes on what its frozen module gives, as those of `WeightEdits` do."""
    return hasattr(module, "base_layer") and getattr(module, "_active_adapter", None) == []


def _key(path: str, part: str) -> str:
    """Parameters cannot have dots in their names."""
    return f"{path.replace('.', '/')}/{part}"


def _column_order(name: str) -> tuple[bool, int, str]:
    """Attention before the MLP, and in each the order in which a pass reaches the modules, as far as it is known."""
    parent, _, leaf = name.rpartition(".")
    known = _REACHED.index(leaf) if leaf in _REACHED else len(_REACHED)
    return parent.endswith(("mlp", "feed_forward")) or leaf in _IN_MLP, known, name


def _layer_of(path: str) -> int | None:
    return next((int(part) for part in path.split(".") if _NUMBER.fullmatch(part)), None)


def _places(paths: Sequence[str]) -> tuple[dict[str, Place], tuple[str, ...]]:
    """Where each module is on the map, and the names of the columns: the shortest that tell modules apart."""
    inside = {}
    for path in paths:
        layer = _layer_of(path)
        if layer is not None:
            inside[path] = layer, path.split(f".{layer}.", 1)[1]
    names = sorted({name for _, name in inside.values()}, key=_column_order)
    short = [name.rpartition(".")[2] for name in names]
    columns = tuple(short if len(set(short)) == len(short) else names)
    return {path: (layer, names.index(name)) for path, (layer, name) in inside.items()}, columns
