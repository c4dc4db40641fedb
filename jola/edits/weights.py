"""`LowRankEdits`: low-rank changes of the weights of linear modules, put into the frozen model by peft."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

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
_numbers = itertools.count()

Place = tuple[int, int]
"""(layer, unit)."""


class LowRankEdits(Intervention):
    """W + (α/r)·B·A for linear modules W of every layer, with A (r, inputs) and B (outputs, r) in float32.

    The parameters are those of peft's layers inside the frozen model, registered here under the same names, so that
    optimisers, checkpoints and distributed training see them. Outside of `applied` the layers in the model pass on what
    their frozen module gives: several of these may be in one model, and each pass uses those that it names.

    Args:
        modules: peft's layers by their path in the model; empty for edits without a model, see `of_tensors`.
        paths: Paths of all changed modules.
        layers: Layers of the model.
        adapter: Name of this adapter in peft's layers.
    """

    site = Site.WEIGHTS
    channels = ("update",)

    def __init__(self, modules: Mapping[str, Any], paths: Sequence[str], layers: int, adapter: str = "") -> None:
        super().__init__()
        self.layers, self.adapter = layers, adapter
        self._modules_of: dict[Place, Any] = {}
        places, self.unit_names = _places(paths)
        self.path_of: dict[Place, str] = {place: path for path, place in places.items()}
        """Path in the model of the module at each place."""
        self.values = nn.ParameterDict()
        self.dropouts = nn.ModuleList()
        for path, module in modules.items():
            self._modules_of[places[path]] = module
            self.values[_key(path, "A")] = module.lora_A[adapter].weight
            self.values[_key(path, "B")] = module.lora_B[adapter].weight
            # In the model they would follow the mode of the frozen model, which never trains.
            self.dropouts.append(module.lora_dropout[adapter])
        self._scaling = {place: module.scaling[adapter] for place, module in self._modules_of.items()}

    @property
    def uniform(self) -> bool:
        """True: a weight is the same at all positions."""
        return True

    def reset(self, generator: torch.Generator | None = None) -> None:
        """A uniform as in peft, B zero: the edited model is the frozen one."""
        with torch.no_grad():
            for name, value in self.values.items():
                if name.endswith("A"):
                    fresh = torch.empty(value.shape)
                    nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
                    value.copy_(fresh)
                else:
                    value.zero_()

    def seed(self, seed: int) -> None:
        """Seed dropout, which draws from PyTorch's own generators, so that a resumed training repeats it."""
        if any(isinstance(dropout, nn.Dropout) for dropout in self.dropouts):
            torch.manual_seed(seed)

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
            module.scaling[self.adapter] = self._scaling[place] * float(factors[place])
            # `set_adapter` of peft would switch gradients off when the adapter is taken out again, before `backward`.
            module._active_adapter = [*module._active_adapter, self.adapter]
        try:
            yield
        finally:
            for place, module in used:
                module._active_adapter = [name for name in module._active_adapter if name != self.adapter]
                module.scaling[self.adapter] = self._scaling[place]

    def on(self) -> dict[str, Tensor]:
        """Modules that are changed."""
        return {"update": self._map(lambda a, b: float((b != 0).any() and (a != 0).any())) != 0}

    def norms(self) -> dict[str, Tensor]:
        """Frobenius norm of (α/r)·B·A of each module, (layers, units), detached; 0 where there is none."""
        # ‖BA‖² = tr(AᵀBᵀBA) = Σ (BᵀB) ⊙ (AAᵀ): the full matrix is never made.
        norms = self._map(lambda a, b: float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt()))
        scaling = torch.zeros_like(norms)
        for place, value in self._scaling.items():
            scaling[place] = value
        return {"update": norms * scaling}

    def record(self) -> dict[str, Tensor]:
        """The norm of each change; NaN where a layer has no such module."""
        missing = torch.ones(self.layers, self.units, dtype=torch.bool)
        for place in self.path_of:
            missing[place] = False
        return {"update_norm": self.norms()["update"].masked_fill(missing, math.nan)}

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by the names that peft gives them in a file."""
        return {
            f"{_PREFIX}{path}.lora_{part}.weight": self.values[_key(path, part)]
            for path in self.path_of.values()
            for part in ("A", "B")
        }

    def change(self, path: str) -> Tensor:
        """(α/r)·B·A of one module, (outputs, inputs), detached."""
        place = next(place for place, own in self.path_of.items() if own == path)
        a, b = (self.values[_key(path, part)].detach() for part in ("A", "B"))
        return self._scaling[place] * (b @ a)

    def factorised(
        self, mask: EditMask | None = None, strength: float = 1.0
    ) -> dict[str, tuple[Tensor, Tensor, float]]:
        """(A, B, factor) of each module that is changed, by path: the change is factor · B·A.

        Raises:
            ValueError: The mask does not fit.
        """
        factors = self._factors(mask) * strength
        return {
            path: (
                self.values[_key(path, "A")],
                self.values[_key(path, "B")],
                self._scaling[place] * float(factors[place]),
            )
            for place, path in self.path_of.items()
            if factors[place] != 0
        }

    def scaled(self, mask: EditMask | None = None, strength: float = 1.0) -> dict[str, Tensor]:
        """`tensors`, detached, in which B is multiplied by mask and strength.

        Raises:
            ValueError: The mask does not fit.
        """
        factors, result = self._factors(mask) * strength, {n: t.detach() for n, t in self.tensors().items()}
        for place, path in self.path_of.items():
            result[f"{_PREFIX}{path}.lora_B.weight"] = result[f"{_PREFIX}{path}.lora_B.weight"] * float(factors[place])
        return result

    def _factors(self, mask: EditMask | None) -> Tensor:
        if mask is None:
            return torch.ones(self.layers, self.units)
        given = mask["update"].float().cpu()
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
        result = torch.zeros(self.layers, self.units)
        for place, path in self.path_of.items():
            result[place] = number(*(self.values[_key(path, part)].detach().cpu() for part in ("A", "B")))
        return result

    @classmethod
    def inject(cls, base: nn.Module, layers: int, config: Any) -> "LowRankEdits":
        """Put fresh peft layers into a model, at rest. The caller holds the model's lock and tells nnsight afterwards.

        Args:
            config: A ``LoraConfig`` of peft.
        """
        from peft import inject_adapter_in_model

        adapter = f"jola{next(_numbers)}"
        before = {name: p.requires_grad for name, p in base.named_parameters()}
        inject_adapter_in_model(config, base, adapter)
        modules: dict[str, Any] = {name: m for name, m in base.named_modules() if adapter in getattr(m, "lora_A", ())}
        if outside := [name for name in modules if _layer_of(name) is None]:
            _remove(base, modules, adapter)
            raise InputError(
                f"--target-modules names {outside[0]}, which is outside the layers; name modules of layers."
            )
        for module in modules.values():
            module._active_adapter = []
            for part in (module.lora_A, module.lora_B):
                part[adapter].float()
        for name, parameter in base.named_parameters():
            parameter.requires_grad_(before.get(name, f".{adapter}." in name))
        return cls(modules, list(modules), layers, adapter)

    def copied_to(self, base: nn.Module) -> "LowRankEdits":
        """The same edits in a copy of the frozen model, for passes without gradients."""
        from peft import LoraConfig

        paths = list(self.path_of.values())
        rank = len(self.values[_key(paths[0], "A")])
        alpha = rank * next(iter(self._scaling.values()))
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=paths, bias="none", task_type="CAUSAL_LM")
        copy = type(self).inject(base, self.layers, config)
        for name, value in copy.values.items():
            value.data.copy_(self.values[name].detach())
        return copy.eval().requires_grad_(False)

    def detach_from(self, base: nn.Module) -> None:
        """Take the layers out of the model again. The caller holds the model's lock and tells nnsight afterwards."""
        _remove(base, {self.path_of[place]: module for place, module in self._modules_of.items()}, self.adapter)
        self._modules_of.clear()

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], layers: int, scaling: float) -> "LowRankEdits":
        """Edits that are looked at without their model, from the tensors of a file."""
        paths = [
            n.removeprefix(_PREFIX).removesuffix(".lora_A.weight") for n in tensors if n.endswith(".lora_A.weight")
        ]
        paths.sort(key=lambda path: (_layer_of(path) or 0, _column_order(path)))
        edits = cls({}, paths, layers)
        for path in paths:
            for part in ("A", "B"):
                edits.values[_key(path, part)] = nn.Parameter(tensors[f"{_PREFIX}{path}.lora_{part}.weight"].float())
        edits._scaling = dict.fromkeys(edits.path_of, scaling)
        return edits


def frozen_module(module: nn.Module) -> nn.Module:
    """The module of the frozen model inside a layer that `LowRankEdits` put there; any other module as it is."""
    return module.get_submodule("base_layer") if _is_resting(module) else module


def frozen_state(base: nn.Module) -> dict[str, Tensor]:
    """``state_dict`` of a frozen model, by the names in its checkpoint and without what `LowRankEdits` put into it."""
    resting = {name for name, module in base.named_modules() if _is_resting(module)}
    state: dict[str, Tensor] = {}
    for name, tensor in base.state_dict().items():
        layer, inside, rest = name.partition(".base_layer.")
        if inside and layer in resting:
            state[f"{layer}.{rest}"] = tensor
        elif name.partition(".lora_")[0] not in resting:
            state[name] = tensor
    return state


def _is_resting(module: nn.Module) -> bool:
    """Whether this is a layer of peft that passes on what its frozen module gives, as those of `LowRankEdits` do."""
    return hasattr(module, "base_layer") and getattr(module, "_active_adapter", None) == []


def _remove(base: nn.Module, modules: Mapping[str, Any], adapter: str) -> None:
    """Take an adapter out of peft's layers, and the layers without one out of the model."""
    for path, module in modules.items():
        for part in (module.lora_A, module.lora_B, module.lora_dropout):
            del part[adapter]
        if not len(module.lora_A):
            parent, _, name = path.rpartition(".")
            setattr(base.get_submodule(parent), name, module.base_layer)
    # peft's own record, which would make it warn of an adapter that is not there any more.
    configs = getattr(base, "peft_config", {})
    configs.pop(adapter, None)
    if not configs and hasattr(base, "peft_config"):
        del base.peft_config


def _key(path: str, part: str) -> str:
    """Parameters cannot have dots in their names."""
    return f"{path.replace('.', '/')}/{part}"


def _column_order(name: str) -> tuple[bool, int, str]:
    """Attention before the MLP, and in each the order in which a pass reaches the modules, as far as it is known."""
    parent, _, leaf = name.rpartition(".")
    known = _REACHED.index(leaf) if leaf in _REACHED else len(_REACHED)
    return parent.endswith(("mlp", "feed_forward")) or leaf in _IN_MLP, known, name


def _layer_of(path: str) -> int | None:
    return next((int(part) for part in path.split(".") if part.isdigit()), None)


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
