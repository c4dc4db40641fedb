r"""Trained functions of hidden states, with one unit and one channel, ``update``, in each layer.

    SubspaceEdits     h' = h + Rᵀ(W h + b − R h)              R ∈ R^(r × hidden) with orthonormal rows
    BottleneckEdits   h' = h + W_up σ(W_down h + b_down) + b_up                  σ(x) = x · sigmoid(x)

Both are computed in float32 and returned in the precision of h. Masks and strengths multiply the term added to h.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jola.edits.intervention import Edit, EditMask, Intervention
from jola.edits.sites import Site, unit_names
from jola.errors import InputError

CHANNEL = "update"
INITIAL_STD = 1e-2
"""Standard deviation of the initial down-projection of `BottleneckEdits` (Houlsby et al., 2019, section 3.6)."""
ROUNDING = 1e-3
"""Tolerance of R·Rᵀ = I for tensors read from a file."""


def without_memory() -> AbstractContextManager[Any]:
    """Create edits on the meta device inside the block: they have shapes but no values."""
    return torch.device("meta")


Added = Callable[[Tensor], Tensor]
"""Computes the term that is added to hidden states (…, hidden), in float32."""


class HiddenEdits(Intervention):
    """Base class of edits of whole hidden states in some of the layers.

    Args:
        site: A site whose width is the hidden size.
        layers: Number of layers of the model.
        chosen: Layers that are edited, ascending.
    """

    channels = (CHANNEL,)

    def __init__(self, site: Site, layers: int, chosen: Sequence[int]) -> None:
        super().__init__()
        self.site, self.layers, self.chosen = site, layers, tuple(chosen)
        self.unit_names = unit_names(site, 1)

    def sizes(self) -> Tensor:
        """Size of the edit in each chosen layer, (chosen layers,), detached; 0 exactly if it changes nothing."""
        raise NotImplementedError

    def edited_layers(self) -> list[int]:
        """The chosen layers."""
        return list(self.chosen)

    def on(self) -> dict[str, Tensor]:
        """Layers whose edit changes anything."""
        return {CHANNEL: self.norms()[CHANNEL] > 0}

    def norms(self) -> dict[str, Tensor]:
        """`sizes` for all layers, (layers, 1); 0 in layers that are not edited."""
        return {CHANNEL: self._on_map(0.0)}

    def record(self) -> dict[str, Tensor]:
        """`norms`; NaN in layers that are not edited."""
        return {f"{CHANNEL}_norm": self._on_map(math.nan)}

    def _on_map(self, elsewhere: float) -> Tensor:
        sizes = self.sizes()
        values = torch.full((self.layers, 1), elsewhere, device=sizes.device)
        values[list(self.chosen), 0] = sizes
        return values

    def factors(self, mask: EditMask | None, strength: float) -> Tensor:
        """Factor on the edits: mask · strength, ((batch,) layers, 1).

        Raises:
            ValueError: The mask does not fit.
        """
        if mask is None:
            return torch.full((self.layers, 1), float(strength))
        given = mask.factor(CHANNEL).float()
        if given.dim() > 3 or given.shape[-2:] != (self.layers, 1):
            raise ValueError(
                f"The mask has shape {tuple(given.shape)}; the edits at {self.site} need (…, {self.layers}, 1)."
            )
        return given * strength

    def scaled(self, mask: EditMask | None, strength: float) -> dict[str, Tensor]:
        """The tensors of an adapter file that change when mask and strength are folded into the edits.

        Raises:
            ValueError: The mask does not fit, or differs by row.
        """
        raise NotImplementedError

    def _chosen_factors(self, mask: EditMask | None, strength: float) -> Tensor:
        """The factors of the chosen layers, ((batch,) chosen layers), on the device of the parameters."""
        return self.factors(mask, strength).to(next(self.parameters()))[..., list(self.chosen), 0]

    def _shared_factors(self, mask: EditMask | None, strength: float) -> Tensor:
        factors = self._chosen_factors(mask, strength)
        if factors.dim() == 2:
            raise ValueError("An adapter has one strength for each edit; give a mask that all rows share.")
        return factors

    def _working(self, mask: EditMask | None, strength: float) -> dict[int, Tensor | float]:
        """Factors, a number or (batch,), that are not 0 for all rows, by index into `chosen`."""
        factors = self._chosen_factors(mask, strength)
        if factors.dim() == 1:
            return {i: factor for i, factor in enumerate(factors.tolist()) if factor}
        return {i: factor for i, factor in enumerate(factors.unbind(1)) if bool((factor != 0).any())}


class BottleneckEdits(HiddenEdits):
    """Adapters after a sub-layer: h + W_up σ(W_down h + b_down) + b_up with σ = swish.

    Parameters in float32: ``down`` (chosen layers, r, hidden), ``down_bias`` (chosen layers, r), ``up`` (chosen layers,
    hidden, r), ``up_bias`` (chosen layers, hidden). Initially, W_down ~ N(0, `INITIAL_STD`²) and all others are 0, so
    the edited model equals the frozen one.

    Args:
        site: `Site.ATTENTION` or `Site.MLP`.
        width: Hidden size.
        bottleneck: r.
    """

    def __init__(self, site: Site, layers: int, width: int, bottleneck: int, chosen: Sequence[int]) -> None:
        super().__init__(site, layers, chosen)
        count = len(self.chosen)
        self.down = nn.Parameter(torch.zeros(count, bottleneck, width))
        self.down_bias = nn.Parameter(torch.zeros(count, bottleneck))
        self.up = nn.Parameter(torch.zeros(count, width, bottleneck))
        self.up_bias = nn.Parameter(torch.zeros(count, width))

    @property
    def uniform(self) -> bool:
        """True: the function is the same at all positions."""
        return True

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw W_down from a normal distribution and set the other parameters to 0."""
        with torch.no_grad():
            self.down.copy_(torch.randn(self.down.shape, generator=generator) * INITIAL_STD)
            for parameter in (self.down_bias, self.up, self.up_bias):
                parameter.zero_()

    def prepare(self, mask: EditMask | None = None, strength: float = 1.0) -> Mapping[int, Edit]:
        """An edit for each chosen layer that is on."""
        return {
            self.chosen[i]: _everywhere(self._added(i), factor) for i, factor in self._working(mask, strength).items()
        }

    def sizes(self) -> Tensor:
        """Frobenius norm of (W_up, b_up)."""
        up, bias = self.up.detach(), self.up_bias.detach()
        return (up.square().sum((-2, -1)) + bias.square().sum(-1)).sqrt()

    def scaled(self, mask: EditMask | None, strength: float) -> dict[str, Tensor]:
        """W_up and b_up, multiplied by mask and strength."""
        factors = self._shared_factors(mask, strength)
        return {
            f"{self.site}.up": self.up.detach() * factors[:, None, None],
            f"{self.site}.up_bias": self.up_bias.detach() * factors[:, None],
        }

    def _added(self, index: int) -> Added:
        down, up = (self.down[index], self.down_bias[index]), (self.up[index], self.up_bias[index])
        return lambda h: F.linear(F.silu(F.linear(h, *_beside(h, down))), *_beside(h, up))


class SubspaceEdits(HiddenEdits):
    """Edits of a linear subspace of the residual stream after a block: h + Rᵀ(W h + b − R h).

    R (r, hidden) has orthonormal rows throughout training, because it is the product of r reflections. Parameters in
    float32: ``reflections`` (ends, chosen layers, hidden, r), from which `rotations` computes R, ``weight`` W (ends,
    chosen layers, r, hidden) and ``bias`` b (ends, chosen layers, r).

    Args:
        width: Hidden size.
        rank: r.
        positions: (first, last), the number of tokens edited at each end of a prompt; for a prompt of n tokens, these
            are min(first, n // 2) and min(last, n // 2). None edits every token of prompts and answers.
        separate: Whether the first and the last tokens have separate edits.
        identity: Whether the edits are initialized to W = R and b = 0, so that they change nothing. Otherwise, W and b
            are initialized like those of ``nn.Linear``, as published.
    """

    def __init__(
        self,
        layers: int,
        width: int,
        rank: int,
        chosen: Sequence[int],
        positions: tuple[int, int] | None,
        *,
        separate: bool = False,
        identity: bool = True,
    ) -> None:
        super().__init__(Site.BLOCK, layers, chosen)
        self.positions, self.identity = positions, identity
        ends = 2 if separate and positions and all(positions) else 1
        self.reflections = nn.Parameter(torch.zeros(ends, len(self.chosen), width, rank))
        self.weight = nn.Parameter(torch.zeros(ends, len(self.chosen), rank, width))
        self.bias = nn.Parameter(torch.zeros(ends, len(self.chosen), rank))

    @property
    def uniform(self) -> bool:
        """Whether every token is edited."""
        return self.positions is None

    @property
    def rotations(self) -> Tensor:
        r"""R, (ends, chosen layers, r, hidden); differentiable. Assigning a value sets R, up to rounding.

        Column i of `reflections` contains the vector v_i of a Householder reflection I − τ_i v_i v_iᵀ below the
        diagonal, and a sign on the diagonal, as in `torch.nn.utils.parametrizations.orthogonal` without a
        trivialization. The columns of Rᵀ are the first r columns of the product of the reflections, times these signs.
        The product is I − V T Vᵀ with T⁻¹ = striu(VᵀV) + diag(VᵀV) / 2. The gradient of
        `torch.linalg.householder_product` would take longer than the rest of a training step.

        Raises:
            InputError: The rows of the assigned value are not orthonormal.
        """
        start = torch.eye(*self.reflections.shape[-2:], device=self.reflections.device)
        vectors = self.reflections.tril(-1) + start
        products = vectors.mT @ vectors
        inverse = products.triu(1) + torch.diag_embed(products.diagonal(dim1=-2, dim2=-1) / 2)
        top = vectors[..., : vectors.shape[-1], :].mT
        columns = start - vectors @ torch.linalg.solve_triangular(inverse, top, upper=True)
        return (columns * self._signs.unsqueeze(-2)).mT

    @rotations.setter
    def rotations(self, values: Tensor) -> None:
        values = values.detach().to(self.reflections)
        products = values @ values.mT
        identity = torch.eye(products.shape[-1], device=products.device)
        if not torch.allclose(products, identity.expand_as(products), atol=ROUNDING):
            raise InputError("The rows of a rotation are not orthonormal; the adapter is damaged.")
        reflections, scales = torch.geqrf(values.mT)
        # A scale of 0 means that LAPACK did not reflect; here, that is a reflection with the opposite sign.
        signs = reflections.diagonal(dim1=-2, dim2=-1).sign() * torch.where(scales == 0, -1.0, 1.0)
        self.reflections.data.copy_(reflections.tril(-1))
        self.reflections.data.diagonal(dim1=-2, dim2=-1).copy_(signs)

    @property
    def _signs(self) -> Tensor:
        return self.reflections.detach().diagonal(dim1=-2, dim2=-1).sign()

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw R uniformly from the matrices with orthonormal rows, and initialize W and b as `identity` says."""
        ends, count, rank, width = self.weight.shape
        with torch.no_grad():
            columns, upper = torch.linalg.qr(torch.randn(ends, count, width, rank, generator=generator))
            self.rotations = (columns * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)).mT
            if self.identity:
                self.weight.copy_(self.rotations)
                self.bias.zero_()
            else:
                bound = 1 / math.sqrt(width)
                for parameter in (self.weight, self.bias):
                    parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)

    def alike(self, prompt: Tensor) -> Tensor | None:
        """All columns if `positions` is None; else those in which each end is edited in all prompts or in none."""
        if self.positions is None:
            return super().alike(prompt)
        return torch.stack([(end == end[:1]).all(0) for end in _ends(prompt, self.positions)]).all(0)

    def prepare(self, mask: EditMask | None = None, strength: float = 1.0) -> Mapping[int, Edit]:
        """`prepare_at` without positions."""
        return self.prepare_at(None, mask, strength)

    def prepare_at(
        self,
        prompt: Tensor | None,
        mask: EditMask | None = None,
        strength: float = 1.0,
        packed: Tensor | None = None,
    ) -> Mapping[int, Edit]:
        """An edit for each chosen layer that is on; empty if the pass has no position to edit."""
        factors = self._working(mask, strength)
        places: list[_Places] = []
        if self.positions is not None:
            if prompt is None:
                raise ValueError("These edits depend on positions; pass a mask of the tokens of the prompt.")
            first, last = _ends(prompt.to(self.weight.device), self.positions)
            ends = [first, last] if len(self.weight) == 2 else [first | last]
            if packed is not None:
                ends = [end.flatten()[packed].unsqueeze(0) for end in ends]
            places = [_Places(end) for end in ends]
            # In training, parameters get a gradient even if a batch has no position to edit.
            if not self.training and not any(place.any for place in places):
                return {}
        rotations = self.rotations
        # W − R is computed first, because it is exactly 0 initially if W = R.
        inward = self.weight - rotations

        def added(end: int, index: int) -> Added:
            into, back = (inward[end, index], self.bias[end, index]), (rotations[end, index].mT,)
            return lambda h: F.linear(F.linear(h, *_beside(h, into)), *_beside(h, back))

        edits: dict[int, Edit] = {}
        for i, factor in factors.items():
            functions = [added(end, i) for end in range(len(self.weight))]
            edits[self.chosen[i]] = (
                _at_places(places, functions, factor) if places else _everywhere(functions[0], factor)
            )
        return edits

    def sizes(self) -> Tensor:
        """√(‖W − R‖² + ‖b‖²), the Frobenius norm of the map from (h, 1) to the added term, over both ends."""
        inward, bias = (self.weight - self.rotations).detach(), self.bias.detach()
        return (inward.square().sum((0, -2, -1)) + bias.square().sum((0, -1))).sqrt()

    def scaled(self, mask: EditMask | None, strength: float) -> dict[str, Tensor]:
        """W and b with W − R and b multiplied by mask and strength."""
        factors, rotations = self._shared_factors(mask, strength)[:, None], self.rotations.detach()
        return {
            f"{self.site}.weight": rotations + (self.weight.detach() - rotations) * factors[..., None],
            f"{self.site}.bias": self.bias.detach() * factors,
        }


class _Places:
    """Edited positions of a pass, cached for each number of rows of its activations."""

    def __init__(self, where: Tensor) -> None:
        self._where = where
        self._found: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def any(self) -> bool:
        return bool(self._where.any())

    def of(self, activation: Tensor) -> tuple[Tensor, ...]:
        """Indices (rows, tokens) of the edited positions in an activation (rows, tokens, hidden)."""
        rows = len(activation)
        if rows not in self._found:
            where = self._where.repeat_interleave(rows // len(self._where), 0)
            row, token = where.nonzero(as_tuple=True)
            self._found[rows] = row, token
        return _beside(activation, self._found[rows])


def _ends(prompt: Tensor, positions: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Masks, (batch, tokens), of the first and of the last tokens of prompts."""
    count, rank = prompt.sum(1, keepdim=True), prompt.cumsum(1)
    first, last = ((count // 2).clamp(max=most) for most in positions)
    return prompt & (rank <= first), prompt & (rank > count - last)


def _at_places(places: Sequence[_Places], functions: Sequence[Added], factor: Tensor | float) -> Edit:
    """Return an edit that applies each function at its own positions."""

    def edit(h: Tensor) -> Tensor:
        for place, added in zip(places, functions, strict=True):
            rows, tokens = place.of(h)
            chosen = h[rows, tokens].float()
            change = added(chosen)
            if isinstance(factor, Tensor):
                change = change * factor.to(h.device)[rows // (len(h) // len(factor))].unsqueeze(-1)
            elif factor != 1.0:
                change = change * factor
            h = h.index_put((rows, tokens), (chosen + change).to(h.dtype))
        return h

    return edit


def _beside(activation: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Tensors on the device of an activation; the layer may be on another device than the edits."""
    return tuple(tensor.to(activation.device) for tensor in tensors)


def _everywhere(added: Added, factor: Tensor | float) -> Edit:
    """Return an edit that applies a function at all positions; a factor (batch,) has one number for each row.

    All beams of a row share its factor.
    """

    def edit(h: Tensor) -> Tensor:
        wide = h.float()
        change = added(wide)
        if isinstance(factor, Tensor):
            # The values of one row are contiguous in every shape: the MLP of OPT works on (batch · tokens, hidden).
            by_row = factor.to(h.device)[:, None, None]
            change = (change.reshape(len(factor), -1, h.shape[-1]) * by_row).reshape(h.shape)
        elif factor != 1.0:
            change = change * factor
        return (wide + change).to(h.dtype)

    return edit
