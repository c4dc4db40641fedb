"""Which edits are on, and how strongly: masks that are made, kept and shared without touching the model."""

from jola.edits.masks.head_mask import STRENGTH_LIMIT, Cells, Half, HeadMask, MaskCounts
from jola.edits.masks.history import History
from jola.edits.masks.saved import SavedMask, SavedMasks

__all__ = ["STRENGTH_LIMIT", "Cells", "Half", "HeadMask", "History", "MaskCounts", "SavedMask", "SavedMasks"]
