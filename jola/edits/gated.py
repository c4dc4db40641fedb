r"""`GatedEdits`: offsets and scales with Hard-Concrete gates.

JoLA is `GatedEdits` at `Site.HEADS` (paper, equation 2): for the output z of head i in layer l, at every position,

    z' = (1 + g_m·m) ⊙ z + g_a·a        m, a ∈ R^head_dim;  g_m, g_a ∈ [0, 1]

With other arguments, the same class implements the ablations of the paper: one shared gate or none, only offsets or
only scales, MLP outputs instead of heads.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from jola.edits.gates import HardConcrete, probability_open
from jola.edits.intervention import Edit, EditMask, Intervention
from jola.edits.names import HALVES
from jola.edits.sites import Geometry, Site, sites_of, unit_names
from jola.errors import InputError
from jola.settings import EditConfig, parse_heads, parse_layers

INITIAL_STD = 1e-3
"""Standard deviation of the initial offsets and scales, as in the reference code."""


class GatedEdits(Intervention):
    """Offsets and scales with Hard-Concrete gates at one site of every layer.

    Parameters, float32 on the device of the model: ``offset`` a and ``scale`` m of shape (layers, units, width) and
    ``gates.offset.log_alpha``, ``gates.scale.log_alpha`` of shape (layers, units). With ``gates="shared"`` both
    halves share ``gates.shared``; with ``"none"`` every gate is 1. `editable` (layers, units) marks the units that may
    be edited; the others are never changed and never penalized. Offsets and scales are initialized from
    N(0, `initial_std`²).
    """

    channels = HALVES

    def __init__(
        self,
        site: Site,
        layers: int,
        units: int,
        width: int,
        *,
        gates: Literal["two", "shared", "none"] = "two",
        operation: Literal["both", "offset", "scale"] = "both",
        editable: Tensor | None = None,
        gate_estimator: str = "test_time",
        gate_threshold: float = 0.0,
        gate_start: float = 0.0,
        initial_std: float = INITIAL_STD,
    ) -> None:
        super().__init__()
        self.gate_start, self.initial_std = gate_start, initial_std
        self.site, self.layers, self.width = site, layers, width
        self.unit_names = unit_names(site, units)
        self.halves = HALVES if operation == "both" else (operation,)
        if editable is None:
            editable = torch.ones(layers, units, dtype=torch.bool)
        self.register_buffer("editable", editable, persistent=False)
        self.editable: Tensor
        self._allowed: list[bool] = editable.any(-1).tolist()
        for half in self.halves:
            self.register_parameter(half, nn.Parameter(torch.zeros(layers, units, width)))
        names = {"two": self.halves, "shared": ("shared",), "none": ()}[gates]
        self.gates = nn.ModuleDict(
            {name: HardConcrete(layers, units, gate_estimator, gate_threshold) for name in names}
        )
        self.noise = torch.Generator()
        """Source of the gate noise in training; seeded by the trainer for every step."""

    @property
    def uniform(self) -> bool:
        """True: a vector is the same at all positions."""
        return True

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize offsets, scales and gates."""
        with torch.no_grad():
            for half in self.halves:
                edit = self.get_parameter(half)
                edit.copy_(torch.randn(edit.shape, generator=generator) * self.initial_std)
        for gate in self._gate_modules().values():
            gate.reset(generator, self.gate_start)

    def seed(self, seed: int) -> None:
        """Seed the gate noise of the next training pass."""
        self.noise.manual_seed(seed)

    def prepare(self, mask: EditMask | None = None, strength: float = 1.0) -> Mapping[int, Edit]:
        """The edits of one pass by layer. Gates are drawn in training and have their evaluation values otherwise."""
        drawn = {name: gate(self.noise) for name, gate in self._gate_modules().items()}
        factors = {half: self._factor(half, drawn, mask, strength) for half in self.halves}
        on = torch.stack([self._by_layer(factor) for factor in factors.values()]).any(0)
        # In training, skipping layers whose gates are drawn closed would change no number, but the set of edited layers
        # would vary from step to step.
        layers = range(self.layers) if self.training else torch.nonzero(on).flatten().tolist()
        layers = [layer for layer in layers if self._allowed[layer]]
        scale = offset = None
        if "scale" in factors:
            scale = self._per_layer(1 + factors["scale"].unsqueeze(-1) * self.get_parameter("scale"))
        if "offset" in factors:
            offset = self._per_layer(factors["offset"].unsqueeze(-1) * self.get_parameter("offset"))
        return {layer: _affine(scale[layer] if scale else None, offset[layer] if offset else None) for layer in layers}

    def gate_values(self) -> dict[str, Tensor]:
        """Evaluation value of the gate of each half, (layers, units), detached; 0 for units that are not editable."""
        return self._for_each_half(lambda gate: gate.value(), 1.0)

    def open_probability(self) -> dict[str, Tensor]:
        """P(g ≠ 0) of each half, (layers, units), detached."""
        return self._for_each_half(lambda gate: probability_open(gate.log_alpha), 1.0)

    def norms(self) -> dict[str, Tensor]:
        """L2 norm of the offset a and of the scale m of each unit, (layers, units), detached."""
        return {
            half: self.get_parameter(half).detach().norm(dim=-1) * self.editable
            if half in self.halves
            else torch.zeros_like(self.editable, dtype=torch.float32)
            for half in HALVES
        }

    def on(self) -> dict[str, Tensor]:
        """Which gates of each half are not closed."""
        return {half: gate != 0 for half, gate in self.gate_values().items()}

    def record(self) -> dict[str, Tensor]:
        """Gate value, probability that the gate is open in training, and norm of each half."""
        kinds = {"gate": self.gate_values(), "open": self.open_probability(), "norm": self.norms()}
        untrained = ~self.editable
        return {
            f"{half}_{kind}": values[half].masked_fill(
                untrained if half in self.halves else torch.ones_like(untrained), math.nan
            )
            for kind, values in kinds.items()
            for half in HALVES
        }

    def edited_layers(self) -> list[int]:
        """Layers with at least one editable unit."""
        return self.editable.any(-1).nonzero().flatten().tolist()

    def trainable_count(self) -> int:
        """Number of trainable parameters of the editable units."""
        return int(self.editable.sum()) * (self.width * len(self.halves) + len(self.gate_parameters()))

    def states(self) -> Tensor:
        """Which halves of each unit are on, (layers, units), as an index into `STATES`."""
        values = self.gate_values()
        return (values["offset"] > 0).long() + 2 * (values["scale"] > 0).long()

    def log_alphas(self) -> dict[str, Tensor]:
        """φ of each distinct set of gates, by name, restricted to the editable units: shape (editable units,).

        Detached for gates that are settled.
        """
        gates = self._gate_modules().items()
        return {n: (gate.log_alpha.detach() if gate.settled else gate.log_alpha)[self.editable] for n, gate in gates}

    def settle(self, settled: bool = True) -> None:
        """Keep gates at their evaluation values in training, without noise and gradient, or let them train again."""
        for gate in self._gate_modules().values():
            gate.settled = settled

    def edit_parameters(self) -> list[nn.Parameter]:
        """The offsets and scales."""
        return [self.get_parameter(half) for half in self.halves]

    def gate_parameters(self) -> list[nn.Parameter]:
        """The φ of all gates."""
        return [gate.log_alpha for gate in self._gate_modules().values()]

    def _gate_modules(self) -> dict[str, HardConcrete]:
        return {name: gate for name, gate in self.gates.items() if isinstance(gate, HardConcrete)}

    def _gate_name(self, half: str) -> str | None:
        return next((name for name in (half, "shared") if name in self.gates), None)

    def _for_each_half(self, read: Callable[[HardConcrete], Tensor], ungated: float) -> dict[str, Tensor]:
        gates, result = self._gate_modules(), {}
        for half in HALVES:
            name = self._gate_name(half)
            if half not in self.halves:
                value = torch.zeros_like(self.editable, dtype=torch.float32)
            elif name is None:
                value = torch.full_like(self.editable, ungated, dtype=torch.float32)
            else:
                value = read(gates[name]).detach()
            result[half] = value * self.editable
        return result

    def _factor(self, half: str, drawn: dict[str, Tensor], mask: EditMask | None, strength: float) -> Tensor:
        """Factor on one half of every edit: gate · mask · strength, ((batch,) layers, units)."""
        name = self._gate_name(half)
        factor = self.editable.float() if name is None else drawn[name] * self.editable
        if mask is not None:
            given = mask.factor(half).to(factor)
            if given.dim() > 3 or given.shape[-2:] != factor.shape:
                raise ValueError(
                    f"The mask has shape {tuple(given.shape)}; the edits at {self.site} need (…, {self.layers}, "
                    f"{self.units})."
                )
            factor = factor * given
        return factor if strength == 1.0 else factor * strength

    @staticmethod
    def _by_layer(factor: Tensor) -> Tensor:
        on = (factor != 0).any(-1)
        return on.any(0) if on.dim() == 2 else on

    def _per_layer(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """((batch,) layers, units, width) → for each layer (units · width), or (batch, 1, units · width)."""
        flat = vectors.flatten(-2)
        return flat.unbind(0) if flat.dim() == 2 else flat.unsqueeze(1).unbind(2)


def _affine(scale: Tensor | None, offset: Tensor | None) -> Edit:
    """z ↦ scale ⊙ z + offset, computed in float32 and returned in the precision of z.

    bfloat16 cannot represent scales within 0.4 % of 1, where training starts. With vectors of shape (batch, 1, width),
    each row of the batch has its own edit.
    """

    def edit(z: Tensor) -> Tensor:
        # The layer may be on another device than the edits.
        m, a = (None if vector is None else vector.to(z.device) for vector in (scale, offset))
        if m is not None and a is not None:
            edited = torch.addcmul(a, z, m)
        elif m is not None:
            edited = z * m
        else:
            edited = z if a is None else z + a
        return edited.to(z.dtype)

    rows = max(len(v) if v is not None and v.dim() == 3 else 0 for v in (scale, offset))

    def edit_rows(z: Tensor) -> Tensor:
        # The values of one row are contiguous in every shape of z: in the MLP of OPT it is (batch · tokens, width), and
        # in beam search (batch · beams, tokens, width).
        return edit(z.reshape(rows, -1, z.shape[-1])).reshape(z.shape)

    return edit_rows if rows else edit


def build_edits(config: EditConfig, geometry: Geometry, *, initial_std: float = INITIAL_STD) -> list[GatedEdits]:
    """Create the gated edits of a configuration for a model of a given geometry."""
    layers = parse_layers(config.layers, geometry.num_layers)
    pairs = parse_heads(config.heads, geometry.num_layers, geometry.num_heads)
    result = []
    for site in sites_of(config):
        units, width = geometry.units(site)
        editable = torch.zeros(geometry.num_layers, units, dtype=torch.bool)
        editable[layers] = True
        if site is Site.HEADS and pairs is not None:
            chosen = torch.zeros_like(editable)
            chosen[tuple(zip(*pairs, strict=True))] = True
            editable &= chosen
        if not bool(editable.any()):
            raise InputError("--layers and --heads have no head in common; widen one of them.")
        result.append(
            GatedEdits(
                site,
                geometry.num_layers,
                units,
                width,
                gates=config.gates,
                operation=config.operation,
                editable=editable,
                gate_estimator=config.gate_estimator,
                gate_threshold=config.gate_threshold,
                gate_start=config.gate_start,
                initial_std=initial_std,
            )
        )
    return result
