"""`History`: undo and redo over masks."""

from dataclasses import dataclass
from typing import Self

from jola.edits.masks.head_mask import HeadMask


@dataclass(frozen=True)
class History:
    """A mask with the masks before it and the undone masks, at most ``limit`` of each; immutable."""

    mask: HeadMask
    past: tuple[HeadMask, ...] = ()
    future: tuple[HeadMask, ...] = ()
    limit: int = 100

    def done(self, mask: HeadMask) -> Self:
        """Add a new mask and forget the undone ones. Adding the current mask again changes nothing."""
        if mask == self.mask:
            return self
        return type(self)(mask, (*self.past, self.mask)[-self.limit :], (), self.limit)

    def undone(self) -> Self:
        """Go one mask back, if possible."""
        if not self.can_undo:
            return self
        return type(self)(self.past[-1], self.past[:-1], (self.mask, *self.future)[: self.limit], self.limit)

    def redone(self) -> Self:
        """Go one mask forward, if possible."""
        if not self.can_redo:
            return self
        return type(self)(self.future[0], (*self.past, self.mask)[-self.limit :], self.future[1:], self.limit)

    @property
    def can_undo(self) -> bool:
        return bool(self.past)

    @property
    def can_redo(self) -> bool:
        return bool(self.future)
