"""`History`: undo and redo over masks."""

from dataclasses import dataclass
from typing import Self

from jola.edits.masks.head_mask import HeadMask


@dataclass(frozen=True)
class History:
    """A mask, those before it and those that were undone; immutable like the masks, at most ``limit`` of each."""

    mask: HeadMask
    past: tuple[HeadMask, ...] = ()
    future: tuple[HeadMask, ...] = ()
    limit: int = 100

    def done(self, mask: HeadMask) -> Self:
        """With a new mask; what was undone is forgotten. The same mask again changes nothing."""
        if mask == self.mask:
            return self
        return type(self)(mask, (*self.past, self.mask)[-self.limit :], (), self.limit)

    def undone(self) -> Self:
        """One mask back, if there is one."""
        if not self.can_undo:
            return self
        return type(self)(self.past[-1], self.past[:-1], (self.mask, *self.future)[: self.limit], self.limit)

    def redone(self) -> Self:
        """One mask forward, if there is one."""
        if not self.can_redo:
            return self
        return type(self)(self.future[0], (*self.past, self.mask)[-self.limit :], self.future[1:], self.limit)

    @property
    def can_undo(self) -> bool:
        return bool(self.past)

    @property
    def can_redo(self) -> bool:
        return bool(self.future)
