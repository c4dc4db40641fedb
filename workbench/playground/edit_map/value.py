"""Values sent to the page: gates, norms and effects of the edits once, and the mask after each change."""

import base64
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jola.edits.masks import HeadMask
from workbench.service.page_state import gates_of_edits
from workbench.service.run_frames import encode_gates

if TYPE_CHECKING:
    from jola.edits.intervention import Intervention

# Microseconds, so that revisions also grow across restarts of the app.
_revisions = itertools.count(time.time_ns() // 1000)


def new_revision() -> int:
    """Return a number larger than all earlier ones, for the ``revision`` of a mask."""
    return next(_revisions)


class Effects(Protocol):
    """Effects of switching off single halves, such as `jola.insight.EditEffects`: one entry per measured edit.

    Each of ``edits`` has ``site``, ``layer``, ``unit`` and ``half``; ``low`` and ``high`` bound the interval and may be
    NaN or None without one; ``n`` is the number of examples of an effect, a single number or one each. With the
    ``measure`` ``kl``, effects have no sign.
    """

    @property
    def edits(self) -> Sequence[Any]: ...
    @property
    def effect(self) -> ArrayLike: ...
    @property
    def low(self) -> ArrayLike | None: ...
    @property
    def high(self) -> ArrayLike | None: ...
    @property
    def n(self) -> ArrayLike: ...
    @property
    def measure(self) -> str: ...


def edit_map_value(
    edits: "Intervention | Mapping[str, ArrayLike]",
    mask: HeadMask,
    *,
    key: str = "",
    site: str | None = None,
    seen: int = 0,
    revision: int | None = None,
    text: str = "",
    effects: Effects | None = None,
) -> dict[str, Any]:
    """Return the value of the component.

    ``edits`` are the edits of a model, or the last record of a run's gates (``offset_gate``, ``scale_gate``,
    ``offset_norm``, ``scale_norm``, each (layers, units)); NaN means not trained. ``key`` identifies these edits: if it
    changes, the page resets the cursor and drops unanswered gestures. ``seen`` is the number of the last gesture in the
    mask, from `apply_edits`. The page ignores a mask whose ``revision`` is not larger than the last one; by default, it
    is a new one. ``text`` describes the mask to a page that compares it with what it shows elsewhere. Raises
    `ValueError` if edits and mask differ in shape.
    """
    from jola.edits.intervention import Intervention  # imports PyTorch, which is not needed before a map is shown

    names, gated = None, True
    if isinstance(edits, Intervention):
        site, gated = site or str(edits.site), gates_of_edits(edits) is not None
        names = None if edits.site == "heads" else list(edits.unit_names)
        edits = _fields(edits)
    gates, norms = (
        [np.asarray(edits[f"{channel}_{what}"], dtype=np.float32) for channel in mask.channels]
        for what in ("gate", "norm")
    )
    for values in (*gates, *norms):
        if values.shape != mask.shape:
            raise ValueError(f"The edits have shape {values.shape} and the mask {mask.shape}.")
    site = site or "heads"
    return {
        "site": site,
        "layers": mask.layers,
        "units": mask.units,
        "unit_names": names,
        "channels": list(mask.channels),
        "has_gates": gated,
        "gate": [_bytes(encode_gates(values)) for values in gates],
        "norm": [_floats(values) for values in norms],
        "effect": None if effects is None else _effects(effects, site, mask),
        "effect_has_sign": effects is None or effects.measure != "kl",
        **edit_map_mask(mask, key=key, seen=seen, revision=revision, text=text),
    }


def edit_map_mask(
    mask: HeadMask, *, key: str = "", seen: int = 0, revision: int | None = None, text: str = ""
) -> dict[str, Any]:
    """Return the part of the value that a gesture changes; arguments as those of `edit_map_value`."""
    on = np.stack(list(mask.on.values()))
    strength = np.stack(list(mask.strength.values()))
    return {
        "key": key,
        "revision": new_revision() if revision is None else revision,
        "seen": seen,
        "text": text,
        "on": _bytes(np.packbits(on)),
        "strength": None if (strength == 1).all() else _floats(strength),
    }


def _fields(edits: "Intervention") -> dict[str, Any]:
    """Return norm and gate of each cell; without gates, 1 if it is edited. The gate is NaN if it is not trained."""
    gates, recorded = gates_of_edits(edits) or edits.on(), edits.record()
    fields = {}
    for channel, norm in edits.norms().items():
        untrained = recorded[f"{channel}_norm"].isnan()
        fields[f"{channel}_gate"] = gates[channel].float().masked_fill(untrained, np.nan).cpu().numpy()
        fields[f"{channel}_norm"] = norm.cpu().numpy()
    return fields


def _effects(effects: Effects, site: str, mask: HeadMask) -> dict[str, Any]:
    count = len(effects.edits)
    given = [effects.effect, effects.low, effects.high, effects.n]
    columns = [np.broadcast_to(np.asarray(np.nan if v is None else v, dtype=np.float32), count) for v in given]
    arrays = np.full((len(columns), len(mask.channels), *mask.shape), np.nan, dtype=np.float32)
    for index, edit in enumerate(effects.edits):
        if str(edit.site) == site:
            arrays[:, mask.channels.index(str(edit.half)), edit.layer, edit.unit] = [
                column[index] for column in columns
            ]
    names = ("value", "low", "high", "n")
    return {name: [_floats(half) for half in halves] for name, halves in zip(names, arrays, strict=True)}


def _floats(values: NDArray[Any]) -> str:
    return _bytes(values.astype("<f4"))


def _bytes(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
