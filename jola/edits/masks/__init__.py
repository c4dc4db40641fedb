"""Masks: which edits are on and how strongly. They are saved and shared without changing the model."""

from jola.edits.masks.head_mask import STRENGTH_LIMIT, Cells, Half, HeadMask, MaskCounts
from jola.edits.masks.history import History
from jola.edits.masks.saved import SavedMask, SavedMasks

__all__ = ["STRENGTH_LIMIT", "Cells", "Half", "HeadMask", "History", "MaskCounts", "SavedMask", "SavedMasks"]
