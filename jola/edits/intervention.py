"""Interventions: small modules that define a site in a model and the edits there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from jola.edits.sites import Site

Edit = Callable[[Tensor], Tensor]


class EditMask(Mapping[str, Tensor]):
    """A factor for each channel of each unit in one call; the model is not changed.

    Factors have shape (layers, units), or (batch, layers, units) to give each row of a batch (and all its beams) its
    own mask. 1 leaves an edit as trained, 0 switches it off, other values set its strength.

    Args:
        offset, scale: Factors of the channels of `GatedEdits`.
        others: Factors of other channels, by name.

    Raises:
        ValueError: No factors are given, or their shapes differ.
    """

    def __init__(self, offset: Tensor | None = None, scale: Tensor | None = None, **others: Tensor) -> None:
        given = {"offset": offset, "scale": scale, **others}
        self._factors = {channel: factor for channel, factor in given.items() if factor is not None}
        shapes = {tuple(factor.shape) for factor in self._factors.values()}
        if len(shapes) != 1:
            listed = ", ".join(f"{channel} {tuple(factor.shape)}" for channel, factor in self._factors.items())
            raise ValueError(f"All channels of a mask must have the same shape; these have {listed or 'none'}.")

    def __getitem__(self, channel: str) -> Tensor:
        return self._factors[channel]

    def __iter__(self) -> Iterator[str]:
        return iter(self._factors)

    def __len__(self) -> int:
        return len(self._factors)

    def __repr__(self) -> str:
        return f"EditMask({', '.join(self._factors)}: {tuple(self._any.shape)})"

    def factor(self, channel: str) -> Tensor:
        """Factors of a channel. `ValueError` if the mask has none."""
        if channel not in self._factors:
            raise ValueError(f"The mask has factors of {', '.join(self)}, but the edits also need those of {channel}.")
        return self._factors[channel]

    @property
    def offset(self) -> Tensor:
        """Factors of the offsets."""
        return self._factors["offset"]

    @property
    def scale(self) -> Tensor:
        """Factors of the scales."""
        return self._factors["scale"]

    @property
    def by_row(self) -> bool:
        """Whether each row of a batch has its own mask."""
        return self._any.dim() == 3

    @property
    def rows(self) -> int:
        """Number of rows with separate masks; 1 for a mask that all rows share."""
        return len(self._any) if self.by_row else 1

    def map(self, change: Callable[[Tensor], Tensor]) -> "EditMask":
        """A mask with ``change`` applied to every factor."""
        return EditMask(**{channel: change(factor) for channel, factor in self._factors.items()})

    @property
    def _any(self) -> Tensor:
        return next(iter(self._factors.values()))

    @classmethod
    def all(cls, edits: "Intervention") -> "EditMask":
        """A mask with every edit on."""
        return cls(**{channel: torch.ones(edits.layers, edits.units) for channel in edits.channels})

    @classmethod
    def none(cls, edits: "Intervention") -> "EditMask":
        """A mask with every edit off."""
        return cls.all(edits).map(torch.zeros_like)


class Intervention(nn.Module):
    """Base class of the modules that methods attach to a model.

    Every intervention has a map of layers × units, with one or more channels in each cell, that can be switched,
    weakened, recorded and shown. An intervention edits activations (`prepare`) or the weights of the frozen model
    (`applied`).
    """

    site: Site
    layers: int = 0
    unit_names: tuple[str, ...] = ()
    """Name of each column of the map: the number of a head, ``mlp``, ``q_proj``, …"""
    channels: tuple[str, ...] = ()
    """Names of the channels of a cell: ``offset`` and ``scale``, or only one."""

    @property
    def units(self) -> int:
        """Number of columns of the map."""
        return len(self.unit_names)

    @property
    def uniform(self) -> bool:
        """Whether all positions of all rows are edited in the same way, without a mask by row.

        If not, generation does not share the common beginning of prompts, and `alike` limits the packing of training.
        """
        return False

    def alike(self, prompt: Tensor) -> Tensor | None:
        """Columns of a batch in which all rows are edited in the same way, without a mask by row.

        Where the rows begin with the same tokens, a packed pass computes these columns only once.

        Args:
            prompt: (batch, tokens) of bool, as for `prepare_at`.

        Returns:
            (tokens,) of bool; None for edits that do not support packed passes.
        """
        return prompt.new_ones(prompt.shape[1]) if self.uniform else None

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Initialize the parameters; the same generator gives the same numbers."""
        raise NotImplementedError

    def seed(self, seed: int) -> None:
        """Seed the random numbers of the next training pass."""

    def prepare(self, mask: EditMask | None = None, strength: float = 1.0) -> Mapping[int, Edit]:
        """The edits of activations of one forward pass, by layer; other layers are not edited.

        This is called once per pass, so that random numbers are drawn once and shared by all positions. An edit may get
        activations on another device than that of the parameters, and returns them on the device of the activations.
        """
        raise NotImplementedError

    def prepare_at(
        self,
        prompt: Tensor | None,
        mask: EditMask | None = None,
        strength: float = 1.0,
        packed: Tensor | None = None,
    ) -> Mapping[int, Edit]:
        """`prepare` for edits that depend on positions; other edits ignore the positions.

        Args:
            prompt: (batch, tokens) of bool, or (1, tokens) for all rows: true at the tokens of the pass that belong to
                a prompt and are not padding. All false in a decoding step. In beam search, the activations of the pass
                have more rows, each row of `prompt` repeated for its beams. None if the positions are unknown.
            packed: (packed tokens,), in a packed pass, whose activations are (1, packed tokens, …): the index of each
                token in the flattened `prompt`. None in other passes.

        Raises:
            ValueError: The mask does not fit, or the edits depend on positions and `prompt` is None.
        """
        return self.prepare(mask, strength)

    def applied(self, mask: EditMask | None = None, strength: float = 1.0) -> AbstractContextManager[Any]:
        """Edit the weights of the frozen model inside the block; hold the lock of the model.

        Raises:
            ValueError: The mask does not fit.
        """
        return nullcontext()

    def on(self) -> dict[str, Tensor]:
        """Cells of each channel whose edit changes anything, (layers, units) of bool, detached."""
        return {}

    def norms(self) -> dict[str, Tensor]:
        """Size of the edit in each cell of each channel, (layers, units), detached."""
        return {}

    def record(self) -> dict[str, Tensor]:
        """Values of each cell for the history of a training, (layers, units) by name; NaN where nothing trains."""
        return {}

    def copied_to(self, base: nn.Module) -> "Intervention":
        """The same edits for a copy of the frozen model; `self` if they add no layers to the model."""
        return self

    def detach_from(self, base: nn.Module) -> None:
        """Remove the layers that this added to the frozen model. The caller must hold the lock of the model."""

    def edited_layers(self) -> list[int]:
        """Layers that may be edited."""
        return list(range(self.layers))

    def trainable_count(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters())


@contextmanager
def edited_weights(
    interventions: Sequence[Intervention], masks: Sequence[EditMask | None], strength: float
) -> Iterator[None]:
    """Apply the weight edits of all interventions inside the block, each with its mask; hold the lock of the model."""
    with ExitStack() as stack:
        for intervention, mask in zip(interventions, masks, strict=True):
            stack.enter_context(intervention.applied(mask, strength))
        yield
