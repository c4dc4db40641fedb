"""Figures of the effects of edits: values of the traces, n and intervals."""

import html
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.workbench.figures import examples
from tests.workbench.figures.reading import heatmaps, traces, words
from workbench import figures
from workbench.figures import frames, style


def test_next_tokens_show_both_probabilities_and_the_change() -> None:
    found = examples.next_tokens()
    figure = figures.next_tokens(found)
    base, edited = (next(trace for trace in figure.data if trace.name == name) for name in ("base", "edited"))
    np.testing.assert_allclose(base.x, [100 * change.base for change in found.tokens])
    np.testing.assert_allclose(edited.x, [100 * change.edited for change in found.tokens])
    assert base.marker.symbol != edited.marker.symbol
    assert list(figure.layout.yaxis.ticktext)[:3] == ["The", "␣film", "␣is"]
    assert "−17.0" in words(figure) and "+17.0" in words(figure)
    assert "KL(edited ‖ base) 0.412 nats" in words(figure)


def test_the_same_token_twice_has_two_rows() -> None:
    figure = figures.next_tokens(examples.next_tokens(("a", "a", "a")))
    np.testing.assert_array_equal(figure.data[1].y, [0, 1, 2])


def test_answers_share_all_probability() -> None:
    found = examples.answer_scores()
    figure = figures.answer_shares(found)
    by_name = {trace.name: np.asarray(trace.x) for trace in figure.data if trace.name}
    np.testing.assert_allclose(by_name["base"], 100 * found.shares()[0])
    assert by_name["edited"].sum() == pytest.approx(100)
    assert "most likely: negative (base), positive (edited)" in words(figure)


def test_each_token_of_a_text_has_its_scores() -> None:
    found = examples.token_scores()
    figure = figures.token_scores(found)
    by_name = {trace.name: trace for trace in figure.data if trace.name}
    np.testing.assert_array_equal(by_name["base"].y, found.base)
    np.testing.assert_array_equal(by_name["edited"].y, found.edited)
    np.testing.assert_array_equal(traces(figure, "bar")[0].y, found.kl)
    assert by_name["base"].line.dash != by_name["edited"].line.dash
    assert f"{len(found.tokens) - 1} scored tokens" in words(figure)


def test_effects_are_ranked_with_their_intervals_and_n() -> None:
    found = examples.edit_effects(60)
    figure = figures.edit_effects(found, count=10)
    order = np.argsort(-np.abs(found.effect))[:10]
    shown = {row: (value, bar.name) for bar in traces(figure, "bar") for row, value in zip(bar.y, bar.x, strict=True)}
    for row, index in enumerate(order):
        assert shown[row] == (found.effect[index], found.edits[index].half)
    for bar in traces(figure, "bar"):
        for row, value, up, down in zip(bar.y, bar.x, bar.error_x.array, bar.error_x.arrayminus, strict=True):
            assert value + up == pytest.approx(found.high[order[row]])
            assert value - down == pytest.approx(found.low[order[row]])
    assert {bar.marker.pattern.shape for bar in traces(figure, "bar")} == {"", "/"}
    assert "mean over 100 examples; the 10 largest of 60 open edits, with 95 % intervals" in words(figure)


@pytest.mark.parametrize(
    ("measure", "axis", "ends"),
    [
        (
            "log_probability",
            "log p(answer), all edits on − this one off, nats",
            "log p(answer): −1.9 base, −0.3 edited",
        ),
        ("logit_difference", "logit(right) − logit(wrong)", "logit difference: −1.9 base, −0.3 edited"),
        ("kl", "KL(all edits on ‖ this one off), nats", "KL(all edits on ‖ base): −1.9"),
    ],
)
def test_effects_name_their_measure(measure: Any, axis: str, ends: str) -> None:
    figure = figures.edit_effects(replace(examples.edit_effects(8), measure=measure))
    assert axis in figure.layout.xaxis.title.text and ends in words(figure)


def test_an_effect_of_one_prompt_has_no_interval_but_the_rounding_of_its_format() -> None:
    exact = figures.edit_effects(examples.edit_effects(8, n=1))
    assert traces(exact, "bar")[0].error_x.array is None
    assert "1 prompt; 8 open edits; log p" in words(exact) and not exact.layout.shapes
    rounded = figures.edit_effects(examples.edit_effects(8, n=1, rounding=0.03))
    assert "within ±0.06 nats (gray), effects may be rounding errors" in words(rounded)
    assert (rounded.layout.shapes[0].x0, rounded.layout.shapes[0].x1) == (-0.06, 0.06)


def test_edits_of_several_adapters_are_told_apart() -> None:
    found = examples.edit_effects(4)
    stacked = replace(
        found, edits=tuple(replace(edit, intervention=index % 2) for index, edit in enumerate(found.edits))
    )
    labels = figures.edit_effects(stacked).layout.yaxis.ticktext
    assert sorted(label.rsplit(" · ", 1)[1] for label in labels) == ["adapter 1", "adapter 1", "adapter 2", "adapter 2"]
    second = [edit for edit in stacked.edits if edit.intervention == 1]
    shown = heatmaps(figures.effect_map(stacked, (30, 9), intervention=1))
    assert sum(int(np.isfinite(values).sum()) for values in shown) == len(second)


def test_the_map_of_effects_leaves_closed_edits_blank() -> None:
    found = examples.edit_effects(60)
    figure = figures.effect_map(found, (30, 9))
    shown = dict(zip(frames.HALVES, heatmaps(figure), strict=True))
    for edit, effect in zip(found.edits, found.effect, strict=True):
        assert shown[edit.half][edit.layer, edit.unit] == effect
    assert sum(int(np.isfinite(values).sum()) for values in shown.values()) == 60
    axis = figure.layout.coloraxis
    assert axis.cmin == -axis.cmax and axis.cmax >= np.abs(found.effect).max()


def test_direct_effects_name_the_token_and_add_up() -> None:
    found = examples.direct_effects()
    figure = figures.direct_effects(found, count=100)
    assert sum(len(bar.x) for bar in traces(figure, "bar")) == 60
    assert sum(float(np.sum(bar.x)) for bar in traces(figure, "bar")) == pytest.approx(found.effect.sum())
    assert "of its 12.5" in words(figure)


def test_promoted_and_suppressed_tokens_are_on_two_sides() -> None:
    found = examples.promoted_tokens()
    up, down = traces(figures.promoted_tokens(found, 3, 4), "bar")
    np.testing.assert_allclose(up.x, [logit for _, logit in found.promoted])
    np.testing.assert_allclose(down.x, [logit for _, logit in found.suppressed])


def test_attention_is_shown_as_far_as_a_token_can_look() -> None:
    found = examples.attention()
    figure = figures.attention_pattern(found)
    base, edited, change = heatmaps(figure)
    below = np.tri(len(found.tokens), dtype=bool)
    np.testing.assert_allclose(base[below], found.base[below])
    np.testing.assert_allclose(change[below], (found.edited - found.base)[below], atol=1e-7)
    for values in (base, edited, change):
        assert np.isnan(values[~below]).all()
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert figure.layout.coloraxis2.cmin == -figure.layout.coloraxis2.cmax
    assert "Attention of layer 3, head 4" in words(figure)


def test_the_lens_shows_the_likeliest_token_of_each_layer_and_position() -> None:
    found = examples.lens(layers=4, positions=3)
    figure = figures.logit_lens(found)
    base, edited, kl = heatmaps(figure)
    np.testing.assert_allclose(base, [[at[0].probability for at in layer] for layer in found.base])
    np.testing.assert_allclose(edited, [[at[0].probability for at in layer] for layer in found.edited])
    np.testing.assert_array_equal(kl, found.kl)
    written = {
        (trace.xaxis, y, x): text
        for trace in traces(figure, "scatter")
        for y, x, text in zip(trace.y, trace.x, trace.text, strict=True)
    }
    for y, layer in enumerate(found.edited):
        for x, at in enumerate(layer):
            cell = written["x2", y, x]
            assert style.token(at[0].token, 13) in cell
            assert cell.startswith("<b>") == (at[0].id != found.base[y][x][0].id)


def test_the_lens_shows_the_ranks_at_one_position() -> None:
    found = examples.lens(layers=4, positions=3)
    figure = figures.logit_lens(found, -1)
    base, edited = heatmaps(figure)
    np.testing.assert_allclose(base, [[entry.probability for entry in layer[-1]] for layer in found.base])
    np.testing.assert_allclose(edited, [[entry.probability for entry in layer[-1]] for layer in found.edited])
    np.testing.assert_array_equal(traces(figure, "bar")[0].x, found.kl[:, -1])
    assert "its token 23" in words(figure)


def test_changes_of_layers_are_cells_with_methods_down() -> None:
    found = examples.layer_changes(6)
    figure = figures.layer_changes(found, prompts=16)
    (cells,) = heatmaps(figure)
    assert np.allclose(cells, list(found.values()))
    assert [html.unescape(name) for name in figure.layout.yaxis.ticktext][:3] == ["jola", "red", "lora:rank=4"]
    with pytest.raises(ValueError, match="different numbers of layers"):
        figures.layer_changes({"a": [0.1], "b": [0.1, 0.2]})
