"""Values sent to the map of edits, and events accepted from it."""

import base64
import itertools
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jola.config import EditConfig
from jola.edits.masks import HeadMask
from jola.edits.names import HALVES
from jola.errors import InputError
from jola.jola_model import JoLAModel
from workbench.playground import edit_map as component
from workbench.playground.edit_map import apply_edits, card_cell, edit_map, edit_map_mask, edit_map_value

GATES = {
    "offset_gate": np.array([[0.0, 0.5, 1.0], [0.001, np.nan, 0.25]]),
    "scale_gate": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.75]]),
    "offset_norm": np.arange(6.0).reshape(2, 3) / 8,
    "scale_norm": np.arange(6.0, 12.0).reshape(2, 3) / 8,
}
ALL = HeadMask.all(2, 3)


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").reshape(2, 3)


def flags(value: dict[str, Any]) -> np.ndarray:
    return np.unpackbits(np.frombuffer(base64.b64decode(value["on"]), dtype=np.uint8), count=12).reshape(2, 2, 3)


# The value


def test_gates_cross_as_bytes_and_norms_as_numbers() -> None:
    value = edit_map_value(GATES, ALL, key="a", seen=7)
    codes = [np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(2, 3).tolist() for text in value["gate"]]
    assert codes == [[[0, 127, 254], [1, 255, 64]], [[254, 0, 0], [0, 0, 190]]]
    for half, text in zip(HALVES, value["norm"], strict=True):
        np.testing.assert_allclose(floats(text), GATES[f"{half}_norm"])
    assert (value["layers"], value["units"], value["site"], value["key"], value["seen"]) == (2, 3, "heads", "a", 7)
    assert value["effect"] is None and value["strength"] is None and flags(value).all()
    json.dumps(value, allow_nan=False)


def test_the_mask_crosses_with_the_strengths_of_what_is_off() -> None:
    mask = ALL.toggled([(0, 1)], "offset").with_strength([(1, 2)], "scale", -0.5).toggled([(1, 2)], "scale")
    value = edit_map_mask(mask)
    wanted = np.ones((2, 2, 3))
    wanted[0, 0, 1] = wanted[1, 1, 2] = 0
    np.testing.assert_array_equal(flags(value), wanted)
    strength = np.frombuffer(base64.b64decode(value["strength"]), dtype="<f4").reshape(2, 2, 3)
    assert strength[1, 1, 2] == np.float32(-0.5) and (strength == 1).sum() == 11


def test_each_answer_is_newer_than_the_one_before() -> None:
    revisions = [edit_map_mask(ALL)["revision"] for _ in range(5)] + [edit_map_value(GATES, ALL)["revision"]]
    assert all(before < after for before, after in itertools.pairwise(revisions))
    assert revisions[-1] < 2**53, "exact in JavaScript"


def test_an_answer_to_a_gesture_is_small() -> None:
    assert len(json.dumps(edit_map_mask(HeadMask.none(80, 64)))) < 2000


def test_it_is_made_from_the_edits_of_a_model(tiny: Callable[..., JoLAModel]) -> None:
    (edits,) = tiny("llama", EditConfig(operation="offset")).gated_edits()
    value = edit_map_value(edits, HeadMask.for_edits(edits))
    codes = [np.frombuffer(base64.b64decode(text), dtype=np.uint8) for text in value["gate"]]
    gates = edits.gate_values()["offset"].flatten().numpy()
    np.testing.assert_array_equal(codes[0] > 0, gates > 0)
    assert (codes[1] == 255).all(), "a half that is not trained"
    norm = np.frombuffer(base64.b64decode(value["norm"][0]), dtype="<f4")
    np.testing.assert_allclose(norm, edits.norms()["offset"].flatten().numpy(), rtol=1e-6)


def test_effects_are_put_in_their_places() -> None:
    edits = [
        SimpleNamespace(site="heads", layer=0, unit=2, half="offset"),
        SimpleNamespace(site="mlp", layer=0, unit=0, half="offset"),
        SimpleNamespace(site="heads", layer=1, unit=2, half="scale"),
    ]
    measured = SimpleNamespace(
        edits=edits, effect=[0.5, 9.0, -0.25], low=[0.4, 8.0, -0.5], high=None, n=20, measure="kl"
    )
    shown = edit_map_value(GATES, ALL, effects=measured)
    effect = shown["effect"]
    assert effect is not None and shown["effect_has_sign"] is False
    value, low, high, n = ([floats(text) for text in effect[name]] for name in ("value", "low", "high", "n"))
    assert value[0][0, 2] == 0.5 and value[1][1, 2] == -0.25
    assert np.isnan(value[0]).sum() == 5 and np.isnan(value[1]).sum() == 5
    assert low[1][1, 2] == -0.5 and np.isnan(high).all() and n[0][0, 2] == 20


def test_edits_of_another_shape_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="have shape"):
        edit_map_value(GATES, HeadMask.all(3, 3))


# Gestures


def gesture(number: int, *cells: tuple[int, int], half: str = "offset", action: str = "off") -> dict[str, Any]:
    return {"gesture": number, "half": half, "cells": [list(cell) for cell in cells], "action": action}


def event(last: dict[str, Any], *earlier: dict[str, Any]) -> dict[str, Any]:
    return {"key": "a", **last, "earlier": list(earlier)}


def test_a_gesture_switches_what_it_names() -> None:
    mask, seen = apply_edits(ALL, event(gesture(5, (0, 1), (1, 2), half="both")))
    assert mask == ALL.toggled([(0, 1), (1, 2)]) and seen == 5
    mask, seen = apply_edits(mask, event(gesture(6, (0, 1), half="scale", action="on")), seen)
    assert mask == ALL.toggled([(0, 1), (1, 2)]).toggled([(0, 1)], "scale") and seen == 6


def test_a_gesture_counts_once() -> None:
    mask, seen = apply_edits(ALL, event(gesture(5, (0, 1))))
    later, seen = apply_edits(mask, event(gesture(6, (0, 1), action="on"), gesture(5, (0, 1))), seen)
    assert later == ALL
    assert apply_edits(later, event(gesture(5, (0, 1))), seen) == (later, 6)


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 2), st.sampled_from(HALVES), st.sampled_from(["on", "off"])),
        min_size=1,
        max_size=8,
    ),
    st.data(),
)
def test_requests_may_be_lost_and_overtake_each_other(
    made: list[tuple[int, int, str, str]], data: st.DataObject
) -> None:
    gestures = [gesture(10 + n, (a, b), half=half, action=action) for n, (a, b, half, action) in enumerate(made)]
    wanted = ALL
    for layer, unit, half, action in made:
        wanted = wanted.switched([(layer, unit)], half, action == "on")
    events = [event(last, *gestures[:n]) for n, last in enumerate(gestures)]
    arriving = data.draw(st.permutations(events).map(lambda order: order[data.draw(st.integers(0, len(order) - 1)) :]))
    mask, seen = ALL, 0
    for payload in [*arriving, events[-1]]:  # the last event is sent again until it is answered
        mask, seen = apply_edits(mask, payload, seen)
    assert (mask, seen) == (wanted, gestures[-1]["gesture"])


GOOD = event(gesture(5, (0, 1)))


@pytest.mark.parametrize(
    "payload",
    [
        None, [], "x", {}, *(GOOD | change for change in (
            {"gesture": "5"}, {"gesture": True}, {"gesture": 5.5}, {"gesture": -1}, {"gesture": 2**60},
            {"half": "all"}, {"half": ["offset"]}, {"action": "toggle"}, {"cells": None}, {"cells": [[0]]},
            {"cells": [[0, 1, 2]]}, {"cells": [[0, 3]]}, {"cells": [[2, 0]]}, {"cells": [[-1, 0]]},
            {"cells": [["0", 1]]}, {"cells": [[0.0, 1]]}, {"cells": [[0, 0]] * 7}, {"cells": [{"0": 1}]},
            {"earlier": {}}, {"earlier": [None]}, {"earlier": [gesture(1)] * 1001},
            {"earlier": [gesture(4, (9, 9))]},
        )),
    ],
)  # fmt: skip
def test_nonsense_is_refused(payload: Any) -> None:
    with pytest.raises(InputError, match="reload the page"):
        apply_edits(ALL, payload)


def test_a_card_names_a_head() -> None:
    assert card_cell({"key": "a", "layer": 1, "unit": 2, "half": "scale"}, 2, 3) == (1, 2)
    for wrong in (
        None,
        {},
        {"layer": 1},
        {"layer": 2, "unit": 0},
        {"layer": "1", "unit": 0},
        {"layer": True, "unit": 0},
    ):
        with pytest.raises(InputError, match="reload the page"):
            card_cell(wrong, 2, 3)


# The component


def test_events_reach_python_and_several_maps_fit_on_a_page() -> None:
    with gr.Blocks() as page:
        for name in ("one", "two"):
            shown = edit_map(edit_map_value(GATES, ALL), elem_id=name)
            for listen in ("edit", "card", "undo", "redo"):
                getattr(shown, listen)(lambda: None, None, None)
    targets = [target[1] for function in page.fns.values() for target in function.targets]
    assert targets == ["edit", "card", "undo", "redo"] * 2


def test_the_markup_is_no_template() -> None:
    assert "${" not in component.MARKUP and "{{" not in component.MARKUP and "`" not in component.MARKUP
