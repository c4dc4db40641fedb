"""Interventions: small modules that say where they act on a model and what they do there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from jola.edits.sites import Site

Edit = Callable[[Tensor], Tensor]


class EditMask(Mapping[str, Tensor]):
    """A factor for each channel of each unit in one call, without touching the model.

    Factors have shape (layers, units), or (batch, layers, units) to give each row of a batch (and all beams that are
    made of it) its own mask. 1 leaves an edit as it was trained, 0 switches it off, other values set its strength.

    Args:
        offset, scale: Factors of the channels of `GatedEdits`.
        others: Factors of other channels, by name.

    Raises:
        ValueError: There are no factors, or they differ in shape.
    """

    def __init__(self, offset: Tensor | None = None, scale: Tensor | None = None, **others: Tensor) -> None:
        given = {"offset": offset, "scale": scale, **others}
        self._factors = {channel: factor for channel, factor in given.items() if factor is not None}
        shapes = {tuple(factor.shape) for factor in self._factors.values()}
        if len(shapes) != 1:
            listed = ", ".join(f"{channel} {tuple(factor.shape)}" for channel, factor in self._factors.items())
            raise ValueError(f"The channels of a mask need one shape; these have {listed or 'none'}.")

    def __getitem__(self, channel: str) -> Tensor:
        return self._factors[channel]

    def __iter__(self) -> Iterator[str]:
        return iter(self._factors)

    def __len__(self) -> int:
        return len(self._factors)

    def __repr__(self) -> str:
        return f"EditMask({', '.join(self._factors)}: {tuple(self._any.shape)})"

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
        """How many rows have a mask of their own; 1 for a mask that all rows share."""
        return len(self._any) if self.by_row else 1

    def map(self, change: Callable[[Tensor], Tensor]) -> "EditMask":
        """A mask with every factor changed in the same way."""
        return EditMask(**{channel: change(factor) for channel, factor in self._factors.items()})

    @property
    def _any(self) -> Tensor:
        return next(iter(self._factors.values()))

    @classmethod
    def all(cls, edits: "Intervention") -> "EditMask":
        """Every edit on."""
        return cls(**{channel: torch.ones(edits.layers, edits.units) for channel in edits.channels})

    @classmethod
    def none(cls, edits: "Intervention") -> "EditMask":
        """Every edit off."""
        return cls.all(edits).map(torch.zeros_like)


class Intervention(nn.Module):
    """Base of what methods attach to a model: where it acts, what can be switched there, and what it does.

    What can be switched, weakened, recorded and shown is the same for all: a map of layers × units, with one or more
    channels in each cell. An intervention edits activations (`prepare`) or the weights of the frozen model (`applied`).
    """

    site: Site
    layers: int = 0
    unit_names: tuple[str, ...] = ()
    """A name for each column of the map: the number of a head, ``mlp``, ``q_proj`` …"""
    channels: tuple[str, ...] = ()
    """What a cell of the map consists of: ``offset`` and ``scale``, or one channel only."""

    @property
    def units(self) -> int:
        """Columns of the map."""
        return len(self.unit_names)

    @property
    def uniform(self) -> bool:
        """Whether, without a mask by row, every position of every row is edited in the same way.

        If not, generation does not share what prompts begin with, and training is packed only as far as `alike` says.
        """
        return False

    def alike(self, prompt: Tensor) -> Tensor | None:
        """Columns of a batch in which all rows are edited in the same way, without a mask by row.

        A packed pass computes such columns only once where the rows begin with the same tokens.

        Args:
            prompt: (batch, tokens) of bool, as for `prepare_at`.

        Returns:
            (tokens,) of bool; None for edits that do not work in packed passes.
        """
        return prompt.new_ones(prompt.shape[1]) if self.uniform else None

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Give the parameters their first values; the same generator gives the same numbers."""
        raise NotImplementedError

    def seed(self, seed: int) -> None:
        """Seed what is random in the next training pass."""

    def prepare(self, mask: EditMask | None = None, strength: float = 1.0) -> Mapping[int, Edit]:
        """The edits of activations of one forward pass, by layer; layers that are not named stay untouched.

        It is called once a pass, so that what is random is drawn once and shared by all layers and positions. An edit
        may get activations on another device than that of the parameters, and gives them back on theirs.
        """
        raise NotImplementedError

    def prepare_at(
        self,
        prompt: Tensor | None,
        mask: EditMask | None = None,
        strength: float = 1.0,
        packed: Tensor | None = None,
    ) -> Mapping[int, Edit]:
        """`prepare` for edits that depend on positions; the edits of all others are those of `prepare`.

        Args:
            prompt: (batch, tokens) of bool, or (1, tokens) for all rows: true at the tokens of the pass that belong to
                a prompt and are not padding. All false in a decoding step. The activations of the pass may have more
                rows, each repeated in place: one for each beam. None where the caller does not know the positions.
            packed: (packed tokens,): for each token of a packed pass, whose activations are (1, packed tokens, …), its
                place in the flattened `prompt`. None in other passes.

        Raises:
            ValueError: The mask does not fit, or the edits depend on positions and there are none.
        """
        return self.prepare(mask, strength)

    def applied(self, mask: EditMask | None = None, strength: float = 1.0) -> AbstractContextManager[Any]:
        """Inside the block the weights of the frozen model are the edited ones; hold the lock of the model.

        Raises:
            ValueError: The mask does not fit.
        """
        return nullcontext()

    def on(self) -> dict[str, Tensor]:
        """For each channel which cells edit anything, (layers, units) of bool, detached."""
        return {}

    def norms(self) -> dict[str, Tensor]:
        """Size of the edit in each cell, for each channel, (layers, units), detached."""
        return {}

    def record(self) -> dict[str, Tensor]:
        """What the history of a training keeps of each cell, (layers, units) by name; NaN where nothing trains."""
        return {}

    def copied_to(self, base: nn.Module) -> "Intervention":
        """The same edits for a copy of the frozen model; themselves where they put nothing into it."""
        return self

    def detach_from(self, base: nn.Module) -> None:
        """Take out of the frozen model what this put into it. The caller holds the model's lock."""

    def edited_layers(self) -> list[int]:
        """Layers in which anything may be edited."""
        return list(range(self.layers))

    def trainable_count(self) -> int:
        """How many numbers train."""
        return sum(p.numel() for p in self.parameters())


@contextmanager
def edited_weights(
    interventions: Sequence[Intervention], masks: Sequence[EditMask | None], strength: float
) -> Iterator[None]:
    """Inside the block all of these are `Intervention.applied`, each with its mask; hold the lock of the model."""
    with ExitStack() as stack:
        for intervention, mask in zip(interventions, masks, strict=True):
            stack.enter_context(intervention.applied(mask, strength))
        yield
