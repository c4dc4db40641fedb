"""The map on which edits are switched on and off: both halves, layers × units, on one canvas, and a table.

The browser draws the value of `edit_map_value` and sends one event per gesture. `apply_edits` computes the new mask on
the server. The browser shows a change immediately, before the server responds; the response is authoritative.
"""

import json
from pathlib import Path
from typing import Any

import gradio as gr

from workbench.figures.style import DARK, LIGHT
from workbench.playground.edit_map.gestures import apply_edits, card_cell
from workbench.playground.edit_map.value import Effects, edit_map_mask, edit_map_value
from workbench.ui import maps

__all__ = [
    "MARKUP",
    "SCRIPT",
    "STYLE",
    "Effects",
    "apply_edits",
    "card_cell",
    "edit_map",
    "edit_map_mask",
    "edit_map_value",
]

_HERE = Path(__file__).parent

MARKUP = (_HERE / "edit_map.html").read_text(encoding="utf-8")
STYLE = (_HERE / "edit_map.css").read_text(encoding="utf-8")
"""Style of the map, in addition to `workbench.ui.maps.STYLE`."""
SCRIPT = "\n".join(
    (
        maps.SCRIPT,
        f"const DIVERGING = {json.dumps({'light': LIGHT.diverging, 'dark': DARK.diverging})};",
        *(
            (_HERE / name).read_text(encoding="utf-8")
            for name in ("colours.js", "marks.js", "drawing.js", "map.js", "table.js", "edit_map.js")
        ),
    )
)


def edit_map(value: dict[str, Any] | None = None, *, elem_id: str = "edit-map", **more: Any) -> gr.HTML:
    """Create the component; ``more`` is passed to `gr.HTML`. A page may have several, each with its own ``elem_id``.

    Its value comes from `edit_map_value`; a listener that returns ``gr.HTML(mask=edit_map_mask(…))`` changes only the
    mask. Its events, whose payloads are in ``evt._data`` of a `gr.EventData`:

    ``edit``         ``{key, gesture, half, cells, action, earlier}``, for `apply_edits`
    ``card``         ``{key, layer, unit, half}``, for `card_cell`: open the card of a head
    ``undo, redo``   ``{key}``: Ctrl+Z and Ctrl+Shift+Z on the map
    ``differs``      ``{key}``: the page shows another ``text`` than that of the mask (after ``editMap.compare``), or
                     received an earlier value with another key

    Listeners of ``edit`` need ``trigger_mode="multiple"`` and ``concurrency_limit=1``, so that none is dropped and each
    sees the result of the previous one. Requests can still overtake each other, which `apply_edits` corrects.
    """
    return gr.HTML(
        value,
        html_template=MARKUP,
        js_on_load=SCRIPT,
        apply_default_css=False,
        elem_id=elem_id,
        mask=None,
        **more,
    )
