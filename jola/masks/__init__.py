"""Which edits are on, and how strongly: masks that are made, kept and shared without touching the model."""

from jola.masks.head_mask import STRENGTH_LIMIT, Cells, Half, HeadMask, MaskCounts
from jola.masks.history import History
from jola.masks.saved import SavedMask, SavedMasks

__all__ = ["STRENGTH_LIMIT", "Cells", "Half", "HeadMask", "History", "MaskCounts", "SavedMask", "SavedMasks"]
