"""Checks the requests of the page, because anyone can send anything to the address of an event."""

from collections.abc import Mapping
from typing import Any

from jola.edits.masks import HeadMask
from jola.errors import InputError

_MAX_EARLIER = 1000
_DAMAGED = "The map sent an invalid change of edits; reload the page."


def apply_edits(mask: HeadMask, payload: Any, seen: int = 0) -> tuple[HeadMask, int]:
    """Apply the gestures of an ``edit`` event; return the new mask and the number of the last one, the next ``seen``.

    Each gesture is applied once, in order: gestures up to ``seen`` are skipped, and those that the page repeats in
    ``earlier``, because they are still unanswered, come first. A request that was lost or overtaken by the next one
    therefore does not change the result. Numbers are those of one page: store ``seen`` with the session, not with the
    run. Raises `InputError` if the payload is not one of the map.
    """
    _require(isinstance(payload, Mapping))
    earlier = payload.get("earlier", [])
    _require(isinstance(earlier, list) and len(earlier) <= _MAX_EARLIER)
    for gesture in (*earlier, payload):
        _require(isinstance(gesture, Mapping))
        number, cells = gesture.get("gesture"), gesture.get("cells")
        half, action = gesture.get("half"), gesture.get("action")
        _require(_is_count(number) and half in (*mask.channels, "both") and action in ("on", "off"))
        _require(isinstance(cells, list) and len(cells) <= mask.layers * mask.units)
        if number > seen:
            mask = mask.switched([_cell(cell, *mask.shape) for cell in cells], half, action == "on")
            seen = number
    return mask, seen


def card_cell(payload: Any, layers: int, units: int) -> tuple[int, int]:
    """Return layer and unit of a ``card`` event. Raises `InputError` if the payload is invalid."""
    _require(isinstance(payload, Mapping))
    return _cell([payload.get("layer"), payload.get("unit")], layers, units)


def _cell(cell: Any, layers: int, units: int) -> tuple[int, int]:
    _require(isinstance(cell, list) and len(cell) == 2 and _is_count(cell[0]) and _is_count(cell[1]))
    layer, unit = cell
    _require(layer < layers and unit < units)
    return layer, unit


def _is_count(number: Any) -> bool:
    return type(number) is int and 0 <= number < 2**53


def _require(condition: bool) -> None:
    if not condition:
        raise InputError(_DAMAGED)
