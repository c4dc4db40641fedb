"""Masks of edits: operations, text, history, and masks saved with a run."""

import base64
import contextlib
import copy
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from jola.config import EditConfig
from jola.edits.masks import HeadMask, History, SavedMasks
from jola.edits.masks.saved import MAX_MASKS, MAX_NAME
from jola.edits.names import HALVES
from jola.errors import InputError
from jola.jola_model import JoLAModel

SHAPE = 3, 4


def factors(values: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return npst.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
        lambda shape: npst.arrays(np.float64, (2, *shape), elements=values)
    )


PLAIN = factors(st.sampled_from([0.0, 1.0]))
ANY = factors(st.one_of(st.sampled_from([0.0, 1.0]), st.integers(-200, 200).map(lambda n: n / 100)))


def random_mask(layers: int, units: int, share_off: float, seed: int = 0) -> HeadMask:
    on = np.random.default_rng(seed).random((2, layers, units)) >= share_off
    return HeadMask(*on.astype(float))


# Construction and comparison


def test_a_mask_holds_the_factors_it_was_given() -> None:
    mask = HeadMask([[1, 0], [0.5, -1.25]], [[2, 1], [1, 0.004]])
    assert mask.shape == (2, 2)
    np.testing.assert_allclose(mask.offset, [[1, 0], [0.5, -1.25]])
    np.testing.assert_allclose(mask.scale, [[2, 1], [1, 0]])
    assert mask.on["scale"].tolist() == [[True, True], [True, False]]
    assert mask.strength["scale"][1, 1] == 1
    assert mask.changed == 5


def test_a_mask_cannot_be_changed() -> None:
    mask = HeadMask.all(*SHAPE)
    for values in (mask.offset, mask.scale, mask.on["offset"], mask.strength["scale"]):
        with pytest.raises(ValueError, match="read-only"):
            values[0, 0] = 0
    with pytest.raises(AttributeError):
        mask.layers = 7


def test_equal_masks_are_equal_and_hash_alike() -> None:
    one, other = (
        HeadMask.all(*SHAPE).switched([(1, 2)], "offset", False),
        HeadMask.all(*SHAPE).toggled([(1, 2)], "offset"),
    )
    assert one == other and hash(one) == hash(other)
    assert one != HeadMask.all(*SHAPE)
    assert HeadMask.all(3, 4) != HeadMask.all(4, 3)
    assert len({one, other, HeadMask.none(*SHAPE)}) == 2
    assert copy.deepcopy(one) == one


@pytest.mark.parametrize("wrong", [2.1, -3, np.nan, np.inf])
def test_strengths_out_of_range_are_refused(wrong: float) -> None:
    with pytest.raises(InputError, match="from −2 to 2"):
        HeadMask([[wrong]], [[1]])
    with pytest.raises(InputError, match="from −2 to 2"):
        HeadMask.all(1, 1).with_strength([(0, 0)], "both", wrong)


def test_halves_must_have_one_shape() -> None:
    with pytest.raises(ValueError, match="the same shape"):
        HeadMask(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="the same shape"):
        HeadMask(np.ones(3), np.ones(3))


def test_the_model_takes_it(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("llama", EditConfig())
    (edits,) = model.gated_edits()
    ids = torch.tensor([[5, 6, 7, 8]])
    none = HeadMask.none(edits.layers, edits.units)
    with torch.no_grad():
        plain = model.forward(ids, mask=none.edit_mask()).logits
        edited = model.forward(ids, mask=HeadMask.for_edits(edits).edit_mask()).logits
        without_mask = model.forward(ids).logits
        half = model.forward(ids, mask=HeadMask.for_edits(edits).inverted("scale").edit_mask()).logits
    assert torch.equal(edited, without_mask)
    assert not torch.allclose(plain, edited) and not torch.allclose(half, edited) and not torch.allclose(half, plain)
    assert HeadMask.for_edits(edits).edit_mask().offset.dtype == torch.float32


# Operations


def test_toggling_and_switching() -> None:
    mask = HeadMask.all(*SHAPE).toggled([(0, 1), (2, 3)], "offset")
    assert mask.offset[0, 1] == mask.offset[2, 3] == 0 and mask.changed == 2
    assert mask.toggled([(0, 1)]).offset[0, 1] == 1
    assert mask.toggled([(0, 1)]).scale[0, 1] == 0
    assert mask.switched([(0, 1), (1, 1)], "both", False).changed == 5
    assert mask.switched([(0, 1), (2, 3)], "both", True) == HeadMask.all(*SHAPE)
    assert mask.switched([], "both", False) == mask


def test_the_mask_before_stays_as_it_was() -> None:
    before = HeadMask.all(*SHAPE)
    text = before.to_text()
    before.toggled([(0, 0)]).with_layer(1).inverted().with_strength([(0, 0)], "both", 2)
    assert before.to_text() == text and before.changed == 0


@pytest.mark.parametrize("cell", [(3, 0), (0, 4), (-1, 0), (0, -1)])
def test_a_cell_that_does_not_exist_is_refused(cell: tuple[int, int]) -> None:
    for change in ("toggled", "switched"):
        with pytest.raises(InputError, match="There is no head"):
            getattr(HeadMask.all(*SHAPE), change)([cell])
    with pytest.raises(InputError, match="is not a half"):
        HeadMask.all(*SHAPE).toggled([(0, 0)], "a")


def test_a_layer_goes_off_while_any_of_it_is_on() -> None:
    mask = HeadMask.all(*SHAPE).toggled([(1, 0)], "offset")
    off = mask.with_layer(1, "offset")
    assert (off.offset[1] == 0).all() and (off.scale == 1).all() and (off.offset[[0, 2]] == 1).all()
    assert (off.with_layer(1, "offset").offset == 1).all()
    assert off.with_layer(1, "offset", on=False) == off
    assert HeadMask.none(*SHAPE).with_layer(2).counts().on == 8


def test_a_strength_comes_back_when_an_edit_is_switched_on_again() -> None:
    mask = HeadMask.all(*SHAPE).with_strength([(0, 0)], "scale", -0.5)
    off = mask.toggled([(0, 0)], "scale")
    assert off.scale[0, 0] == 0 and off.strength["scale"][0, 0] == np.float32(-0.5)
    assert off.toggled([(0, 0)], "scale") == mask
    assert HeadMask.from_text(off.to_text(), *SHAPE).toggled([(0, 0)], "scale") == mask
    assert mask.with_strength([(0, 0)], "scale", 0).toggled([(0, 0)], "scale") == mask
    assert off.with_strength([(0, 0)], "scale", 1) == HeadMask.all(*SHAPE)


@given(ANY)
def test_inverting_twice_changes_nothing(values: np.ndarray) -> None:
    mask = HeadMask(*values)
    for half in ("offset", "scale", "both"):
        assert mask.inverted(half).inverted(half) == mask
    assert mask.inverted().counts().on == mask.counts().off
    np.testing.assert_array_equal(mask.inverted("offset").scale, mask.scale)


@given(ANY, st.integers(0, 200), st.integers(0, 2**32 - 1))
def test_the_strongest_are_kept(values: np.ndarray, k: int, seed: int) -> None:
    mask = HeadMask(*values)
    effect = dict(zip(HALVES, np.random.default_rng(seed).integers(-5, 6, values.shape).astype(float), strict=True))
    effect["scale"][0, 0] = np.nan
    kept = mask.strongest(k, effect)
    sizes = np.abs(np.stack([effect[half] for half in HALVES]))
    on = np.stack([kept.on[half] for half in HALVES])
    assert on.sum() == min(k, sizes.size - 1)
    if 0 < on.sum() < sizes.size - 1:
        assert sizes[on].min() >= np.nanmax(sizes[~on])
    np.testing.assert_array_equal(kept.strength["offset"], mask.strength["offset"])
    assert not kept.on["scale"][0, 0]


def test_the_strongest_compete_among_those_that_are_given() -> None:
    size = {"offset": np.array([[9.0, 3.0, 2.0]]), "scale": np.array([[0.0, -4.0, 1.0]])}
    opened = {"offset": [[False, True, True]], "scale": [[False, True, True]]}
    kept = HeadMask.all(1, 3).strongest(2, size, opened)
    assert kept.offset.tolist() == [[1, 1, 0]] and kept.scale.tolist() == [[1, 1, 0]]
    assert kept.counts(opened).on == 2
    assert HeadMask.none(1, 3).strongest(0, size, opened) == HeadMask.none(1, 3)
    with pytest.raises(InputError, match="0 or more"):
        kept.strongest(-1, size)
    with pytest.raises(ValueError, match="it must be"):
        kept.strongest(1, {"offset": np.ones((2, 2)), "scale": np.ones((2, 2))})


def test_a_threshold_on_the_gates() -> None:
    gates = {"offset": [[0.0, 0.4, 0.5]], "scale": [[1.0, 0.51, np.nan]]}
    mask = HeadMask.all(1, 3).with_strength([(0, 2)], "offset", 0.3).threshold(gates, 0.5)
    assert mask.offset.tolist() == [[0, 0, np.float32(0.3)]] and mask.scale.tolist() == [[1, 1, 0]]


def test_masks_combine() -> None:
    one = HeadMask([[1, 0, 0.5]], [[1, 1, 1]])
    other = HeadMask([[0, 0, 2]], [[1, 0, -1]])
    assert (one & other).offset.tolist() == [[0, 0, 0.5]]
    assert (one & other).scale.tolist() == [[1, 0, 1]]
    assert (one | other).offset.tolist() == [[1, 0, 0.5]]
    assert (HeadMask.none(1, 3) | other).offset.tolist() == [[0, 0, 2]]
    with pytest.raises(InputError, match="cannot be combined"):
        _ = one & HeadMask.all(3, 1)


# Words and tables


def test_it_is_described_in_a_sentence() -> None:
    mask = HeadMask.all(*SHAPE)
    assert mask.describe() == "All 24 edits are on, as trained."
    assert HeadMask.none(*SHAPE).describe() == "All 24 edits are off."
    assert mask.with_strength([(0, 0)], "both", 0.5).describe() == "All 24 edits are on, 2 at another strength."
    mixed = mask.toggled([(0, 0), (0, 1)], "offset").with_strength([(1, 1)], "scale", 2).toggled([(2, 2)], "scale")
    assert mixed.describe() == "21 of 24 edits are on, 1 at another strength; 2 offsets and 1 scale are off."
    among = {"offset": mixed.offset > 0, "scale": np.zeros(SHAPE)}
    assert mixed.describe(among) == "All 10 edits are on, as trained."
    assert mask.describe({"offset": np.zeros(SHAPE), "scale": np.zeros(SHAPE)}) == "There are no edits to switch."


def test_the_table_holds_every_half() -> None:
    mask = HeadMask.all(*SHAPE).with_strength([(1, 2)], "offset", 0.5).toggled([(1, 2)], "scale")
    frame = mask.to_frame()
    assert len(frame) == 24 and list(frame) == ["layer", "unit", "half", "on", "strength", "factor"]
    chosen = frame[(frame.layer == 1) & (frame.unit == 2)].set_index("half")
    assert chosen.factor.to_dict() == {"offset": 0.5, "scale": 0.0} and not chosen.on["scale"]
    back = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
    again = HeadMask(*(back[back.half == half].factor.to_numpy().reshape(SHAPE) for half in HALVES))
    np.testing.assert_array_equal(again.offset, mask.offset)
    assert json.loads(frame.to_json(orient="records"))[0] == {
        "layer": 0, "unit": 0, "half": "offset", "on": True, "strength": 1.0, "factor": 1.0,
    }  # fmt: skip


# Text


@given(ANY)
def test_text_brings_the_mask_back(values: np.ndarray) -> None:
    for mask in (HeadMask(*values), HeadMask(*values).inverted(), HeadMask(*values).inverted("scale")):
        text = mask.to_text()
        assert HeadMask.from_text(text, *mask.shape) == mask
        assert all(c.isascii() and (c.isalnum() or c in "-_") for c in text)


@given(PLAIN, PLAIN)
def test_text_is_canonical(one: np.ndarray, other: np.ndarray) -> None:
    if one.shape == other.shape:
        assert (HeadMask(*one) == HeadMask(*other)) == (HeadMask(*one).to_text() == HeadMask(*other).to_text())


@given(st.text(alphabet="01ABCabc_-=é\x00 ", max_size=40))
def test_any_other_text_is_refused(text: str) -> None:
    try:
        mask = HeadMask.from_text(text, *SHAPE)
    except InputError as error:
        assert "damaged" in str(error)
    else:
        assert mask.to_text() == text


@given(st.binary(max_size=60))
def test_any_other_bytes_are_refused(data: bytes) -> None:
    text = "1" + base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    with contextlib.suppress(InputError):
        assert HeadMask.from_text(text, *SHAPE).to_text() == text


@pytest.mark.parametrize(
    "text", ["", "2", "1" + "A" * 10_000, "1AP____8", None, 5, "1\N{ARABIC-INDIC DIGIT ONE}", "1" + "gICA" * 6]
)
def test_hostile_texts_are_refused(text: Any) -> None:
    with pytest.raises(InputError, match="damaged"):
        HeadMask.from_text(text, *SHAPE)


def test_a_text_of_another_shape_is_refused() -> None:
    for mask in (HeadMask.none(3, 4), random_mask(3, 4, 0.5), HeadMask.all(3, 4).with_strength([(0, 0)], "both", 0.5)):
        with pytest.raises(InputError, match="another model"):
            HeadMask.from_text(mask.to_text(), 5, 9)


def test_texts_are_short() -> None:
    large = HeadMask.all(80, 64)
    assert large.to_text() == "1"
    assert len(HeadMask.none(80, 64).to_text()) <= 8
    assert len(large.with_layer(40).to_text()) <= 16
    assert (
        len(large.switched([(layer, unit) for layer in range(20, 50) for unit in range(64)], "scale", False).to_text())
        <= 12
    )
    assert len(large.with_strength([(layer, 3) for layer in range(80)], "both", 0.5).to_text()) < 1400
    effect = dict(zip(HALVES, np.random.default_rng(0).standard_normal((2, 80, 64)), strict=True))
    assert len(large.strongest(50, effect).to_text()) < 220
    assert len(random_mask(80, 64, 0.03).to_text()) < 900
    assert len(random_mask(80, 64, 0.5).to_text()) <= 1710
    every = np.random.default_rng(1).integers(-200, 201, (2, 80, 64)) / 100
    assert HeadMask.from_text(HeadMask(*every).to_text(), 80, 64) == HeadMask(*every)


# History


def test_undo_and_redo() -> None:
    a, b, c = (HeadMask.all(*SHAPE).toggled([(0, unit)]) for unit in range(3))
    history = History(a).done(b).done(c)
    assert history.mask == c and history.can_undo and not history.can_redo
    assert history.undone().mask == b and history.undone().undone().mask == a
    assert history.undone().undone().undone() == history.undone().undone()
    assert history.undone().undone().redone().redone() == history
    assert history.redone() is history
    assert history.undone().done(a).redone().mask == a  # a new step discards undone ones
    assert history.done(c) is history


def test_the_history_is_bounded() -> None:
    history = History(HeadMask.all(1, 1), limit=5)
    for step in range(20):
        history = history.done(HeadMask([[step / 100]], [[1]]))
    assert len(history.past) == 5
    for _ in range(9):
        history = history.undone()
    assert history.mask.offset[0, 0] == np.float32(0.14) and len(history.future) == 5


@given(st.lists(st.sampled_from(["do", "undo", "redo"]), max_size=60))
def test_the_history_does_what_a_list_does(steps: list[str]) -> None:
    masks, at, number = [HeadMask.all(1, 1)], 0, 0
    history = History(masks[0], limit=100)
    for step in steps:
        if step == "do":
            number += 1
            masks = [*masks[: at + 1], HeadMask([[number / 100]], [[1]])]
            at, history = at + 1, history.done(masks[-1])
        elif step == "undo":
            at, history = max(0, at - 1), history.undone()
        else:
            at, history = min(len(masks) - 1, at + 1), history.redone()
        assert history.mask == masks[at]
        assert (history.can_undo, history.can_redo) == (at > 0, at < len(masks) - 1)


# Masks saved with a run


def test_masks_are_saved_by_name(tmp_path: Path) -> None:
    saved = SavedMasks(tmp_path)
    assert saved.list() == ()
    one = random_mask(3, 4, 0.4).with_strength([(0, 0)], "both", -1.5)
    saved.save("  only layer 3 ", one)
    saved.save("ünïcode – <b>&'\"/../x</b>", HeadMask.none(3, 4))
    assert [entry.name for entry in SavedMasks(tmp_path).list()] == ["only layer 3", "ünïcode – <b>&'\"/../x</b>"]
    assert SavedMasks(tmp_path).get("only layer 3") == one
    assert [path.name for path in tmp_path.iterdir()] == ["masks.json"]
    saved.rename("only layer 3", "three")
    saved.remove("ünïcode – <b>&'\"/../x</b>")
    assert [entry.name for entry in saved.list()] == ["three"] and saved.get("three") == one
    with pytest.raises(InputError, match="no mask named 'only layer 3'"):
        saved.get("only layer 3")


def test_sites_have_masks_of_their_own(tmp_path: Path) -> None:
    SavedMasks(tmp_path).save("a", HeadMask.none(3, 4))
    SavedMasks(tmp_path, "mlp").save("a", HeadMask.all(3, 1))
    assert SavedMasks(tmp_path).get("a") == HeadMask.none(3, 4)
    assert SavedMasks(tmp_path, "mlp").get("a") == HeadMask.all(3, 1)
    SavedMasks(tmp_path, "mlp").remove("a")
    assert len(SavedMasks(tmp_path).list()) == 1


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    saved = SavedMasks(tmp_path)
    saved.save("café", HeadMask.none(3, 4))
    with pytest.raises(InputError, match="already"):
        saved.save("cafe\N{COMBINING ACUTE ACCENT}", HeadMask.all(3, 4))
    saved.save("café", HeadMask.all(3, 4), replace=True)
    assert saved.get("café") == HeadMask.all(3, 4) and len(saved.list()) == 1
    saved.save("other", HeadMask.all(3, 4))
    with pytest.raises(InputError, match="already"):
        saved.rename("other", "café")
    saved.rename("other", "other")


@pytest.mark.parametrize("name", ["", "  ", "x" * (MAX_NAME + 1), "a\nb", "a\x00b", "\N{RIGHT-TO-LEFT OVERRIDE}a"])
def test_names_that_cannot_be_shown_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        SavedMasks(tmp_path).save(name, HeadMask.all(3, 4))
    assert not list(tmp_path.iterdir())


def test_a_run_holds_a_bounded_number(tmp_path: Path) -> None:
    saved = SavedMasks(tmp_path)
    entries = [
        {"name": f"m{n}", "site": "heads", "layers": 3, "units": 4, "mask": "1", "saved": 1.0} for n in range(MAX_MASKS)
    ]
    saved.path.write_text(json.dumps({"version": 1, "masks": entries}))
    with pytest.raises(InputError, match="the maximum"):
        saved.save("one more", HeadMask.all(3, 4))
    saved.remove("m7")
    saved.save("one more", HeadMask.all(3, 4))
    assert len(saved.list()) == MAX_MASKS


GOOD = {"name": "a", "site": "heads", "layers": 3, "units": 4, "mask": "1", "saved": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{", "null", '{"version": 2, "masks": []}', '{"version": 1}', '{"version": 1, "masks": [5]}',
        *(
            json.dumps({"version": 1, "masks": [GOOD | change]})
            for change in (
                {"name": 5}, {"name": "a\nb"}, {"layers": 0}, {"layers": 10**9}, {"units": "4"}, {"mask": "1zz"},
                {"mask": None}, {"saved": "now"}, {"saved": float("nan")}, {"site": None}, {"more": 1},
            )
        ),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_kept(tmp_path: Path, content: str) -> None:
    saved = SavedMasks(tmp_path)
    saved.path.write_text(content)
    for use in (saved.list, lambda: saved.get("a"), lambda: saved.save("b", HeadMask.all(3, 4))):
        with pytest.raises(InputError, match=r"masks\.json is damaged"):
            use()
    assert saved.path.read_text() == content


def test_saving_into_a_removed_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no longer exists"):
        SavedMasks(tmp_path / "gone").save("a", HeadMask.all(3, 4))


def test_threads_save_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: SavedMasks(tmp_path).save(f"m{n}", HeadMask.all(3, 4)), range(24)))
    assert {entry.name for entry in SavedMasks(tmp_path).list()} == {f"m{n}" for n in range(24)}


# Channels of other methods


def test_a_mask_of_one_channel_is_switched_described_and_shared_like_one_of_two() -> None:
    mask = HeadMask.all(2, 3, ("update",))
    off = mask.switched([(0, 1), (1, 2)], "update", False).with_strength([(1, 0)], "both", 0.5)
    assert off.channels == ("update",)
    assert off.factors["update"].tolist() == [[1, 0, 1], [0.5, 1, 0]]
    assert off.describe() == "4 of 6 edits are on, 1 at another strength; 2 updates are off."
    assert HeadMask.from_text(off.to_text(), 2, 3, ("update",)) == off
    assert off.inverted().inverted() == off != mask
    assert off.to_frame()["half"].unique().tolist() == ["update"]
    assert list(off.edit_mask()) == ["update"] and off.edit_mask()["update"].tolist() == off.factors["update"].tolist()
    with pytest.raises(InputError, match="'scale' is not a half of an edit; use update or both"):
        off.toggled([(0, 0)], "scale")


def test_masks_of_different_channels_are_neither_equal_nor_combined() -> None:
    one, two = HeadMask.all(2, 3, ("update",)), HeadMask.all(2, 3)
    assert one != two
    with pytest.raises(InputError, match="cannot be combined"):
        _ = one & two


def test_saved_masks_keep_their_channels_and_those_of_jola_their_form(tmp_path: Path) -> None:
    weights, heads = SavedMasks(tmp_path, "weights"), SavedMasks(tmp_path, "heads")
    mask = HeadMask.all(2, 3, ("update",)).toggled([(0, 1)])
    weights.save("a", mask)
    heads.save("b", HeadMask.none(2, 3))
    assert (weights.get("a"), heads.get("b")) == (mask, HeadMask.none(2, 3))
    first, second = json.loads((tmp_path / "masks.json").read_text())["masks"]
    assert first["channels"] == ["update"] and "channels" not in second
