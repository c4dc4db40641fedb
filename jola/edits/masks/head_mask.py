"""`HeadMask`: an immutable value that says which channels of which edits are on, and how strongly.

The channels are those of a `jola.edits.intervention.Intervention`: the halves ``offset`` and ``scale`` of JoLA's
edits, ``update`` for a change of weights. The model takes one factor per channel,
`jola.edits.intervention.EditMask`: 1 is the trained edit, 0 switches it off. A `HeadMask` also remembers the strength
of an edit that is off, so that switching it on again restores it. Every operation returns a new mask, so that masks can
be compared, undone and shared.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jola.edits.masks.text import TRAINED, decode, encode
from jola.edits.names import HALVES
from jola.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from jola.edits.intervention import EditMask, Intervention

Half = Literal["offset", "scale", "both"] | str
"""A channel; ``both`` means all channels."""
Cells = Iterable[tuple[int, int]]
"""Units by (layer, unit)."""
Flags = NDArray[np.bool_]

STRENGTH_LIMIT = 2.0
"""Maximum absolute strength of an edit; strengths are multiples of 0.01."""


@dataclass(frozen=True)
class MaskCounts:
    """The number of edit halves that are on and off, and of those on whose strength differs from 1."""

    on: int
    off: int
    strength: int

    @property
    def total(self) -> int:
        return self.on + self.off


@dataclass(frozen=True, init=False, repr=False)
class HeadMask:
    """The edits of one site, each channel on or off at some strength; immutable, comparable and hashable.

    ``offset``, ``scale`` and the factors of other channels by name have shape (layers, units); they are from −2 to 2,
    rounded to 0.01; 0 is off. Two masks are equal if every channel has the same state and the same strength, including
    the remembered strength of what is off. Raises `InputError` for factors that are out of range or not finite, and
    `ValueError` for channels of unequal shape.
    """

    layers: int
    units: int
    channels: tuple[str, ...]
    # Bytes instead of arrays, because they are immutable and support comparison, hashing and copying.
    _on: bytes
    _strength: bytes

    def __init__(self, offset: ArrayLike | None = None, scale: ArrayLike | None = None, **others: ArrayLike) -> None:
        given = {"offset": offset, "scale": scale, **others}
        factors = {
            channel: np.asarray(values, dtype=np.float64) for channel, values in given.items() if values is not None
        }
        shapes = {values.shape for values in factors.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            listed = " and ".join(str(values.shape) for values in factors.values())
            raise ValueError(
                f"All channels of a mask must have the same shape (layers, units); these have {listed or 'none'}."
            )
        hundredths = _hundredths(np.stack(list(factors.values())))
        on = hundredths != 0
        self._set(on, np.where(on, hundredths, TRAINED), tuple(factors))

    def _set(self, on: NDArray[Any], strength: NDArray[Any], channels: tuple[str, ...]) -> None:
        """Set the fields from flags and hundredths (never 0), both of shape (channels, layers, units)."""
        for name, value in {
            "layers": int(on.shape[1]),
            "units": int(on.shape[2]),
            "channels": channels,
            "_on": on.astype(np.bool_).tobytes(),
            "_strength": strength.astype("<i2").tobytes(),
        }.items():
            object.__setattr__(self, name, value)

    @classmethod
    def _of(cls, on: NDArray[Any], strength: NDArray[Any], channels: tuple[str, ...]) -> Self:
        mask = cls.__new__(cls)
        mask._set(on, strength, channels)
        return mask

    def _make(self, on: NDArray[Any], strength: NDArray[Any]) -> Self:
        return self._of(on, strength, self.channels)

    @classmethod
    def all(cls, layers: int, units: int, channels: Sequence[str] = HALVES) -> Self:
        """All edits on, as trained."""
        return cls(**{channel: np.ones((layers, units)) for channel in channels})

    @classmethod
    def none(cls, layers: int, units: int, channels: Sequence[str] = HALVES) -> Self:
        """All edits off."""
        return cls(**{channel: np.zeros((layers, units)) for channel in channels})

    @classmethod
    def for_edits(cls, edits: "Intervention") -> Self:
        """All of these edits on, as trained."""
        return cls.all(edits.layers, edits.units, edits.channels)

    def __repr__(self) -> str:
        return f"<HeadMask {self.layers} × {self.units}: {self.describe()}>"

    # Queries

    @property
    def shape(self) -> tuple[int, int]:
        """(layers, units)."""
        return self.layers, self.units

    @property
    def on(self) -> dict[str, Flags]:
        """Which edits are on, by channel, (layers, units), read-only."""
        return dict(zip(self.channels, self._flags, strict=True))

    @property
    def strength(self) -> dict[str, NDArray[np.float32]]:
        """Strength of each edit when it is on, by channel, (layers, units), read-only; never 0."""
        return dict(zip(self.channels, self._read_only(self._hundredths / np.float32(TRAINED)), strict=True))

    @property
    def factors(self) -> dict[str, NDArray[np.float32]]:
        """Factors by channel, (layers, units), read-only; 0 is off."""
        return dict(zip(self.channels, self._factors, strict=True))

    @property
    def offset(self) -> NDArray[np.float32]:
        """Factors of the offsets, (layers, units), read-only; 0 is off."""
        return self.factors["offset"]

    @property
    def scale(self) -> NDArray[np.float32]:
        """Factors of the scales, (layers, units), read-only; 0 is off."""
        return self.factors["scale"]

    def edit_mask(self) -> "EditMask":
        """Convert to the `EditMask` that `JoLAModel.forward` takes."""
        import torch  # takes seconds to import, and most uses of masks do not need it

        from jola.edits.intervention import EditMask

        return EditMask(**{channel: torch.tensor(values) for channel, values in self.factors.items()})

    @property
    def changed(self) -> int:
        """Number of channels of units that are off or have a strength other than 1."""
        return int((~self._flags | (self._hundredths != TRAINED)).sum())

    def counts(self, among: Mapping[str, ArrayLike] | None = None) -> MaskCounts:
        """Count halves that are on and off, only those marked in ``among`` (half → flags (layers, units)) if given."""
        counted = self._marked(among)
        on = self._flags & counted
        return MaskCounts(
            on=int(on.sum()),
            off=int((~self._flags & counted).sum()),
            strength=int((on & (self._hundredths != TRAINED)).sum()),
        )

    def describe(self, among: Mapping[str, ArrayLike] | None = None) -> str:
        """The mask in one sentence; ``among`` as in `counts`, for example the gates that are not closed."""
        counts = self.counts(among)
        if not counts.total:
            return "There are no edits to switch."
        strength = f", {counts.strength} at another strength" if counts.strength else ""
        if not counts.off:
            return f"All {counts.total} edits are on{strength or ', as trained'}."
        if not counts.on:
            return f"All {counts.total} edits are off."
        off = ~self._flags & self._marked(among)
        numbers = zip(self.channels, off.sum((1, 2)).tolist(), strict=True)
        halves = " and ".join(f"{n} {half}{'s' if n > 1 else ''}" for half, n in numbers if n)
        return (
            f"{counts.on} of {counts.total} edits are on{strength}; {halves} {'is' if counts.off == 1 else 'are'} off."
        )

    def to_text(self) -> str:
        """The mask as short text for URLs: letters, digits, ``-`` and ``_``; "1" if all edits are as trained.

        Equal masks have equal texts. The flags of n halves take at most n/6 characters, and a few dozen characters if
        only whole layers or a few heads are switched.
        """
        return encode(self._flags.ravel(), self._hundredths.ravel())

    @classmethod
    def from_text(cls, text: str, layers: int, units: int, channels: Sequence[str] = HALVES) -> Self:
        """Inverse of `to_text`. Raises `InputError` if the text is damaged or belongs to another shape."""
        shape = len(channels), layers, units
        flags, hundredths = decode(text, math.prod(shape), round(STRENGTH_LIMIT * TRAINED))
        mask = cls._of(flags.reshape(shape), hundredths.reshape(shape), tuple(channels))
        if mask.to_text() != text:
            raise InputError("The text of the mask is damaged; copy the whole link again.")
        return mask

    def to_frame(self) -> "pd.DataFrame":
        """One row per channel (``half``) of each edit: ``layer, unit, half, on, strength, factor``."""
        import pandas as pd  # takes longer to import than the rest of this module

        half, layer, unit = (axis.ravel() for axis in np.indices(self._flags.shape))
        return pd.DataFrame(
            {
                "layer": layer,
                "unit": unit,
                "half": np.array(self.channels)[half],
                "on": self._flags.ravel(),
                "strength": self._hundredths.ravel() / TRAINED,
                "factor": self._factors.ravel(),
            }
        )

    # Operations that return a new mask

    def switched(self, cells: Cells, half: Half = "both", on: bool = True) -> Self:
        """Switch these halves on or off. Like the methods below, raises `InputError` for an unknown cell."""
        return self._with_flags(self._at(cells, half), on)

    def toggled(self, cells: Cells, half: Half = "both") -> Self:
        """Toggle each of these halves."""
        chosen = self._at(cells, half)
        return self._make(self._flags ^ chosen, self._hundredths)

    def with_layer(self, layer: int, half: Half = "both", on: bool | None = None) -> Self:
        """Switch a layer on or off; None switches it off if any of these halves is on, and on otherwise."""
        chosen = self._at([(layer, unit) for unit in range(self.units)], half)
        if on is None:
            on = not bool((self._flags & chosen).any())
        return self._with_flags(chosen, on)

    def inverted(self, half: Half = "both") -> Self:
        """Toggle all halves; strengths are kept, so inverting twice returns the same mask."""
        return self._make(self._flags ^ self._rows(half), self._hundredths)

    def strongest(
        self, k: int, strength_of: Mapping[str, ArrayLike], among: Mapping[str, ArrayLike] | None = None
    ) -> Self:
        """Keep only the ``k`` halves with the largest absolute value in ``strength_of`` (half → (layers, units)).

        Halves whose value is NaN are off. Ties are broken by position, offsets before scales. With ``among`` (half →
        flags), only the marked halves compete and change.
        """
        if k < 0:
            raise InputError(f"The number of edits to keep is {k}; it must be 0 or more.")
        values = np.abs(self._both(strength_of, "strength_of").astype(np.float64))
        counted = self._marked(among)
        values = np.where(counted & ~np.isnan(values), values, -1.0).ravel()
        best = np.argsort(-values, kind="stable")[:k]
        chosen = np.zeros(values.size, dtype=bool)
        chosen[best] = values[best] >= 0
        return self._make(np.where(counted, chosen.reshape(counted.shape), self._flags), self._hundredths)

    def threshold(self, gates: Mapping[str, ArrayLike], value: float) -> Self:
        """Switch on halves whose gate (half → (layers, units)) is at least ``value``; all others, and NaN, are off."""
        return self._make(self._both(gates, "gates") >= value, self._hundredths)

    def with_strength(self, cells: Cells, half: Half, factor: float) -> Self:
        """Switch these halves on with a strength from −2 to 2; 0 switches them off."""
        chosen, hundredths = self._at(cells, half), int(_hundredths(np.asarray(factor)))
        if hundredths == 0:
            return self._with_flags(chosen, False)
        return self._make(self._flags | chosen, np.where(chosen, hundredths, self._hundredths))

    def __and__(self, other: "HeadMask") -> Self:
        """On where both masks are on; strengths are those of the first."""
        self._check_shape(other)
        return self._make(self._flags & other._flags, self._hundredths)

    def __or__(self, other: "HeadMask") -> Self:
        """On where either mask is on; strengths are those of the first where it is on, else of the second."""
        self._check_shape(other)
        return self._make(self._flags | other._flags, np.where(self._flags, self._hundredths, other._hundredths))

    # Helpers

    @property
    def _shape(self) -> tuple[int, int, int]:
        return len(self.channels), *self.shape

    @property
    def _flags(self) -> Flags:
        return np.frombuffer(self._on, dtype=np.bool_).reshape(self._shape)

    @property
    def _hundredths(self) -> NDArray[np.int16]:
        return np.frombuffer(self._strength, dtype="<i2").reshape(self._shape)

    @property
    def _factors(self) -> NDArray[np.float32]:
        return self._read_only(np.where(self._flags, self._hundredths, 0) / np.float32(TRAINED))

    @staticmethod
    def _read_only(values: NDArray[Any]) -> NDArray[np.float32]:
        values = values.astype(np.float32)
        values.flags.writeable = False
        return values

    def _with_flags(self, chosen: Flags, on: bool) -> Self:
        return self._make(np.where(chosen, on, self._flags), self._hundredths)

    def _rows(self, half: str) -> Flags:
        """(channels, 1, 1): true for the selected channels."""
        if half not in (*self.channels, "both"):
            raise InputError(f"'{half}' is not a half of an edit; use {', '.join(self.channels)} or both.")
        return np.array([half in (name, "both") for name in self.channels]).reshape(-1, 1, 1)

    def _at(self, cells: Cells, half: str) -> Flags:
        """(channels, layers, units): true at these cells of this channel."""
        at = np.zeros(self.shape, dtype=bool)
        for layer, unit in cells:
            if not (0 <= layer < self.layers and 0 <= unit < self.units):
                raise InputError(
                    f"There is no head {unit} in layer {layer}; there are {self.layers} layers of {self.units}, "
                    "counted from 0."
                )
            at[layer, unit] = True
        return self._rows(half) & at

    def _both(self, values: Mapping[str, ArrayLike], what: str) -> NDArray[Any]:
        """(channels, layers, units) of a mapping from channel to (layers, units)."""
        stacked = np.stack([np.asarray(values[channel]) for channel in self.channels])
        if stacked.shape != self._shape:
            raise ValueError(f"{what} has shape {stacked.shape[1:]}; it must be {self.shape}.")
        return stacked

    def _marked(self, among: Mapping[str, ArrayLike] | None) -> Flags:
        if among is None:
            return np.ones(self._shape, dtype=bool)
        return self._both(among, "among").astype(bool)

    def _check_shape(self, other: "HeadMask") -> None:
        if other._shape != self._shape or other.channels != self.channels:
            raise InputError(
                f"A mask of shape {self.shape} cannot be combined with one of {other.shape}; use masks of the same "
                "model."
            )


def _hundredths(factors: NDArray[np.float64]) -> NDArray[np.int16]:
    if not np.isfinite(factors).all() or (np.abs(factors) > STRENGTH_LIMIT).any():
        raise InputError(f"The strength of an edit must be a number from −{STRENGTH_LIMIT:g} to {STRENGTH_LIMIT:g}.")
    return np.rint(factors * TRAINED).astype(np.int16)
