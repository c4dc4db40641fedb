"""Figures of a run: what the traces hold, that ranges stay fixed, and that nothing written by others becomes markup."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jola.errors import InputError
from jola.gate_history import FIELDS, STATES, GateHistory
from jola.insight import AnswerScores, EditRef, NextTokens, PromotedTokens, TokenScores
from tests.workbench import figure_examples as examples
from tests.workbench.figure_examples import HOSTILE, history, metrics
from workbench import figures
from workbench.figures import Figure, frames, style
from workbench.theme import STYLE

STEPS = 40

EMPTY = GateHistory("heads", np.arange(0), {name: np.empty((0, 6, 4), dtype=np.float32) for name in FIELDS})


def traces(figure: Figure, kind: str) -> list[Any]:
    return [trace for trace in figure.data if trace.type == kind]


def heatmaps(figure: Figure) -> list[np.ndarray]:
    """The maps in the order of their panels, without the frames of empty ones."""
    return [np.asarray(trace.z, dtype=float) for trace in traces(figure, "heatmap") if trace.hoverinfo != "skip"]


def words(figure: Figure) -> str:
    """Everything that can be read in a figure without pointing at it, tags taken out."""
    found = [figure.layout.title.text or "", *(entry.text or "" for entry in figure.layout.annotations)]
    found += [trace.name or "" for trace in figure.data]
    return " ".join(re.sub(r"<[^<>]*>", " ", " | ".join(found)).split())


def strings(value: Any) -> Iterator[str]:
    """Every string of a figure, wherever it stands."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list | tuple | np.ndarray):
        for part in value:
            yield from strings(part)


# The map


def test_the_map_shows_the_gates_of_the_step_and_counts_the_open_ones() -> None:
    run = history()
    figure = figures.gate_map(run, 25)
    record = run.at(25)
    for shown, half in zip(heatmaps(figure), ("offset", "scale"), strict=True):
        np.testing.assert_array_equal(shown, record[f"{half}_gate"])
    for bars, half in zip(traces(figure, "bar"), ("offset", "scale"), strict=True):
        np.testing.assert_array_equal(bars.x, (record[f"{half}_gate"] > 0).sum(axis=1))
    assert "at step 25" in words(figure)
    assert f"{(record['scale_gate'] > 0).sum()} of 24 open" in words(figure)


@pytest.mark.parametrize("colour", ["gate", "open"])
def test_colours_have_the_same_range_at_every_step(colour: Any) -> None:
    for step in (0, 25, STEPS):
        axis = figures.gate_map(history(), step, colour=colour).layout.coloraxis
        assert (axis.cmin, axis.cmax) == (0, 1)


def test_norms_range_over_the_whole_history_unless_a_top_is_given() -> None:
    run = history()
    run.fields["offset_norm"][7, 2, 1] = 3.7
    tops = {figures.gate_map(run, step, colour="norm").layout.coloraxis.cmax for step in (0, 7, STEPS)}
    assert len(tops) == 1 and 3.7 <= tops.pop() <= 4
    assert figures.gate_map(run, 0, colour="norm", top=9).layout.coloraxis.cmax == 9
    np.testing.assert_array_equal(heatmaps(figures.gate_map(run, 7, colour="norm"))[0], run.fields["offset_norm"][7])


def test_states_are_shown_by_colour_and_by_sign() -> None:
    run = history()
    figure = figures.gate_map(run, 25, colour="state")
    record = run.at(25)
    expected = (record["offset_gate"] > 0) + 2 * (record["scale_gate"] > 0)
    np.testing.assert_array_equal(heatmaps(figure)[0], expected)
    signs = {trace.text[0]: trace for trace in traces(figure, "scatter") if trace.text is not None}
    for sign, state in (("+", 1), ("×", 2), ("+×", 3)):
        cells = {tuple(cell) for cell in np.argwhere(expected == state).tolist()}
        assert cells == (set(zip(signs[sign].y, signs[sign].x, strict=True)) if cells else set())
    names = [trace.name for trace in traces(figure, "scatter") if trace.name]
    counts = [int(name.split()[-1]) for name in names]
    assert counts == [int((expected == state).sum()) for state in range(len(STATES))]


def test_arrays_do_as_well_as_a_history() -> None:
    gates = {"offset": np.eye(3), "scale": np.zeros((3, 3))}
    figure = figures.gate_map(gates)
    np.testing.assert_array_equal(heatmaps(figure)[0], np.eye(3))
    np.testing.assert_array_equal(traces(figure, "bar")[0].x, [1, 1, 1])
    assert "step" not in words(figure)
    assert "0 of 9 open" in words(figure)


def test_a_step_between_records_shows_the_one_before_and_a_step_before_all_the_first() -> None:
    run = history()
    thin = GateHistory("heads", run.steps[10::10], {name: values[10::10] for name, values in run.fields.items()})
    assert "at step 20" in words(figures.gate_map(thin, 29))
    assert "at step 10" in words(figures.gate_map(thin, 0))


def test_unknown_colours_and_wrong_shapes_are_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match="gate, open, norm, state"):
        figures.gate_map(history(), colour="hue")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one value for each layer and unit"):
        figures.gate_map({"offset": np.zeros(3)})


# Figure 7


def test_p_closed_is_shown_at_the_chosen_steps_darker_where_closed() -> None:
    run = history()
    figure = figures.closed_map(run, [1, 10, 40])
    shown = heatmaps(figure)
    assert len(shown) == 6
    for index, (half, step) in enumerate((half, step) for half in ("offset", "scale") for step in (1, 10, 40)):
        np.testing.assert_allclose(shown[index], 1 - run.at(step)[f"{half}_open"], atol=1e-6)
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (0, 1)
    assert axis.colorscale[0][1] == style.CIVIDIS[-1] and axis.colorscale[-1][1] == style.CIVIDIS[0]
    closed = run.closed(40)
    assert f"{100 * closed['scale']:.0f} % of scale gates" in words(figure)


def test_five_steps_from_the_first_to_the_last_are_taken_by_themselves() -> None:
    assert frames.spread_steps(history()) == [0, 10, 20, 30, 40]
    assert frames.spread_steps(history(steps=0)) == [0]
    table = frames.closed_map(history())
    assert sorted(table["step"].unique()) == [0, 10, 20, 30, 40]
    assert len(table) == 5 * 2 * 24


# Curves


def test_losses_are_those_of_the_metrics() -> None:
    figure = figures.losses(metrics(), n_validation=100)
    by_name = {trace.name: trace for trace in figure.data}
    entries = [entry for entry in metrics() if "cross_entropy" in entry]
    np.testing.assert_allclose(by_name["training, each step"].y, [entry["cross_entropy"] for entry in entries])
    np.testing.assert_allclose(by_name["validation"].y, [0.3, 0.15, 0.1, 0.075])
    np.testing.assert_array_equal(by_name["validation"].x, [10, 20, 30, 40])
    np.testing.assert_allclose(by_name["penalty"].y, [entry["penalty"] for entry in entries])
    assert "40 training steps" in words(figure) and "4 validations of 100 examples" in words(figure)
    assert "lowest 0.075 nats at step 40" in words(figure)


def test_smoothing_is_a_centred_mean_that_leaves_the_ends_alone() -> None:
    values = np.random.default_rng(0).normal(size=30)
    smooth = frames.smooth(values, reach=3)
    assert smooth[0] == pytest.approx(values[0]) and smooth[-1] == pytest.approx(values[-1])
    assert smooth[1] == pytest.approx(values[:3].mean())
    assert smooth[15] == pytest.approx(values[12:19].mean())
    np.testing.assert_allclose(frames.smooth(np.full(9, 2.5)), 2.5)


def test_counts_of_states_fill_the_stack() -> None:
    run = history()
    figure = figures.state_counts(run)
    counts = run.counts()
    for trace, state in zip(figure.data, STATES, strict=True):
        np.testing.assert_array_equal(trace.y, counts[state])
    assert tuple(figure.layout.yaxis.range) == (0, 24)
    # Stripes, where two states next to each other differ in hue alone.
    assert figure.data[2].fillpattern.shape == "/"


def test_rates_have_an_axis_each() -> None:
    figure = figures.rates(metrics())
    assert len({trace.yaxis for trace in figure.data}) == 3
    np.testing.assert_allclose(figure.data[1].y, [0.15 * step / STEPS for step in range(1, STEPS + 1)])
    assert "last 0.002" in words(figure)


def test_runs_on_the_same_axes_differ_in_more_than_colour() -> None:
    runs = {f"run {index}": metrics(drop=0.01 * index) for index in range(12)}
    figure = figures.compare_curves(runs)
    assert len(figure.data) == 12
    looks = {(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in figure.data}
    assert len(looks) == 12
    assert len({trace.line.dash for trace in figure.data[:6]}) == 6
    np.testing.assert_allclose(figure.data[3].y, [0.3 - 0.03, 0.15 - 0.03, 0.1 - 0.03, 0.075 - 0.03])
    assert "not recorded by nothing" in words(figures.compare_curves({"one": metrics(), "nothing": []}))


def test_training_curves_of_several_runs_are_smoothed_and_say_so() -> None:
    figure = figures.compare_curves({"one": metrics()}, "cross_entropy")
    raw = np.array([entry["cross_entropy"] for entry in metrics() if "cross_entropy" in entry])
    np.testing.assert_allclose(figure.data[0].y, frames.smooth(raw))
    assert "means over 13 steps" in words(figure)


def test_the_history_of_a_head_has_its_numbers() -> None:
    run = history()
    figure = figures.head_history(run, 2, 3)
    shown = [np.asarray(trace.y) for trace in figure.data]
    expected = [run.fields[f"{half}_{what}"][:, 2, 3] for what in ("gate", "open", "norm") for half in frames.HALVES]
    for values, numbers in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(values, numbers)
    assert {trace.line.dash for trace in figure.data} == {"solid", "dash"}
    with pytest.raises(InputError, match="layers run from 0 to 5, units from 0 to 3"):
        figures.head_history(run, 6, 0)


def test_open_edits_are_counted_by_layer() -> None:
    run = history()
    figure = figures.open_by_layer(run, 25)
    for trace, half in zip(figure.data, frames.HALVES, strict=True):
        np.testing.assert_array_equal(trace.y, (run.at(25)[f"{half}_gate"] > 0).sum(axis=1))
    assert figure.data[0].line.dash != figure.data[1].line.dash
    assert figure.data[0].marker.symbol != figure.data[1].marker.symbol


# Two runs


def test_two_runs_are_compared_cell_by_cell() -> None:
    first, second = history(), history()
    second.fields["offset_gate"][-1, 0, 0] = 0.0
    first.fields["offset_gate"][-1, 0, 0] = 0.75
    figure = figures.compare_gates(first, second, ("one", "two"))
    shown = heatmaps(figure)
    np.testing.assert_allclose(shown[2], shown[1] - shown[0])
    assert shown[2][0, 0] == -0.75
    assert (figure.layout.coloraxis2.cmin, figure.layout.coloraxis2.cmax) == (-1, 1)
    assert "1 of 48 gates are open in one run alone" in words(figure)
    minus = next(trace for trace in traces(figure, "scatter") if trace.text is not None and len(trace.text))
    assert (minus.text[0], minus.y[0], minus.x[0]) == ("−", 0, 0)


def test_runs_of_different_shapes_stand_side_by_side_without_a_difference() -> None:
    figure = figures.compare_gates(history(), history(3, 2))
    assert len(heatmaps(figure)) == 4
    assert "Maps of 6 × 4 and 3 × 2 have no difference." in words(figure)
    assert frames.compare_gates(history(), history(3, 2)).empty


# What the edits do


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
    assert "likeliest: negative (base), positive (edited)" in words(figure)


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


def test_an_effect_of_one_prompt_has_no_interval_but_the_rounding_of_its_format() -> None:
    exact = figures.edit_effects(examples.edit_effects(8, n=1))
    assert traces(exact, "bar")[0].error_x.array is None
    assert "1 prompt; 8 open edits; log p" in words(exact) and not exact.layout.shapes
    rounded = figures.edit_effects(examples.edit_effects(8, n=1, rounding=0.03))
    assert "within ±0.06 nats (grey) it may be nothing but rounding" in words(rounded)
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


# What is not there

DEGENERATE: dict[str, tuple[Callable[..., Figure], str]] = {
    "no records, map": (lambda **k: figures.gate_map(EMPTY, **k), "No gates have been recorded yet."),
    "no records, states": (lambda **k: figures.state_counts(EMPTY, **k), "No gates have been recorded yet."),
    "no records, figure 7": (lambda **k: figures.closed_map(EMPTY, **k), "No gates have been recorded yet."),
    "no records, layers": (lambda **k: figures.open_by_layer(EMPTY, **k), "No gates have been recorded yet."),
    "no records, head": (lambda **k: figures.head_history(EMPTY, 0, 0, **k), "No gates have been recorded yet."),
    "no records, two runs": (lambda **k: figures.compare_gates(EMPTY, EMPTY, **k), "No gates have been recorded by"),
    "no metrics, losses": (lambda **k: figures.losses([], **k), "No training step has been recorded yet."),
    "no metrics, rates": (lambda **k: figures.rates([], **k), "No training step has been recorded yet."),
    "no runs": (lambda **k: figures.compare_curves({}, **k), "No run was chosen."),
    "runs without it": (lambda **k: figures.compare_curves({"a": []}, **k), "No chosen run recorded this."),
    "one metric": (lambda **k: figures.losses(metrics(1), **k), "1 training step · 0 validations"),
    "a validation alone": (
        lambda **k: figures.losses([{"step": 3, "validation_cross_entropy": 1.0}], **k),
        "0 training steps · 1 validation",
    ),
    "odd metrics": (
        lambda **k: figures.rates([{"step": 1}, {"step": None}, {"learning_rate": None, "step": 2}], **k),
        "No training step has been recorded yet.",
    ),
    "one record": (lambda **k: figures.state_counts(history(steps=0), **k), "24 heads, 1 record"),
    "one record, head": (lambda **k: figures.head_history(history(steps=0), 0, 0, **k), "1 record"),
    "one layer": (lambda **k: figures.gate_map(history(1, 9), **k), "1 layer × 9 heads"),
    "one head": (lambda **k: figures.gate_map(history(9, 1), colour="state", **k), "9 layers × 1 head"),
    "one gate, figure 7": (lambda **k: figures.closed_map(history(1, 1), **k), "1 gate in each half"),
    "80 × 64": (lambda **k: figures.gate_map(history(80, 64, 1), **k), "of 5,120 open"),
    "80 × 64, states": (lambda **k: figures.gate_map(history(80, 64, 1), colour="state", **k), "80 layers × 64 heads"),
    "80 × 64, figure 7": (lambda **k: figures.closed_map(history(80, 64, 1), **k), "5,120 gates in each half"),
    "all closed": (
        lambda **k: figures.gate_map({"offset": np.zeros((6, 4)), "scale": np.zeros((6, 4))}, **k), "0 of 24 open",
    ),
    "all closed, layers": (
        lambda **k: figures.open_by_layer({"offset": np.zeros((6, 4)), "scale": np.zeros((6, 4))}, **k),
        "0 of 24 offset gates open",
    ),
    "not trained": (lambda **k: figures.gate_map(history(untrained="scale"), **k), "not trained"),
    "not trained, norm": (lambda **k: figures.gate_map(history(untrained="scale"), colour="norm", **k), "not trained"),
    "not trained, states": (
        lambda **k: figures.gate_map(history(untrained="scale"), colour="state", **k), "the scale half was not trained",
    ),
    "not trained, figure 7": (lambda **k: figures.closed_map(history(untrained="offset"), **k), "not trained"),
    "not trained, two runs": (
        lambda **k: figures.compare_gates(history(untrained="offset"), history(), **k), "Not trained by both runs.",
    ),
    "not trained, layers": (
        lambda **k: figures.open_by_layer(history(untrained="offset"), **k), "the offset half was not trained",
    ),
    "not trained, head": (
        lambda **k: figures.head_history(history(untrained="offset"), 0, 0, **k), "the offset half was not trained",
    ),
    "no tokens": (lambda **k: figures.next_tokens(NextTokens((), 0.0), **k), "No next token was asked for."),
    "no answers": (
        lambda **k: figures.answer_shares(AnswerScores((), np.empty(0), np.empty(0)), **k), "No answers were given.",
    ),
    "one answer": (lambda **k: figures.answer_shares(examples.answer_scores(("yes",)), **k), "1 answer"),
    "no text": (
        lambda **k: figures.token_scores(TokenScores((), (), np.empty(0), np.empty(0), np.empty(0)), **k),
        "The text is empty.",
    ),
    "one token": (lambda **k: figures.token_scores(examples.token_scores(1), **k), "A single token has nothing before"),
    "a long text": (lambda **k: figures.token_scores(examples.token_scores(500), **k), "499 scored tokens"),
    "no open edit": (lambda **k: figures.edit_effects(examples.edit_effects(0), **k), "No edit is open"),
    "no open edit, map": (lambda **k: figures.effect_map(examples.edit_effects(0), **k), "No edit is open"),
    "no edit at the site": (
        lambda **k: figures.effect_map(examples.edit_effects(), site="mlp", **k), "No edit is open",
    ),
    "one open edit": (lambda **k: figures.edit_effects(examples.edit_effects(1, n=1), **k), "1 prompt; 1 open edit"),
    "one open edit, map": (lambda **k: figures.effect_map(examples.edit_effects(1, n=1), **k), "none open"),
    "no open edit, direct": (lambda **k: figures.direct_effects(examples.direct_effects(0), **k), "No edit is open"),
    "no offset": (lambda **k: figures.promoted_tokens(PromotedTokens((), ()), 0, 0, **k), "This unit has no offset"),
    "one token's attention": (lambda **k: figures.attention_pattern(examples.attention(1), **k), "1 text of 1 token"),
    "much attention": (lambda **k: figures.attention_pattern(examples.attention(256), **k), "1 text of 256 tokens"),
    "one position": (lambda **k: figures.logit_lens(examples.lens(2, 1), **k), "1 position; 3 readings"),
    "many positions": (lambda **k: figures.logit_lens(examples.lens(80, 60, 1), **k), "60 positions; 81 readings"),
    "no ranks": (lambda **k: figures.logit_lens(examples.lens(2, 2, 0), **k), "No tokens were asked for."),
    "no ranks there": (lambda **k: figures.logit_lens(examples.lens(2, 2, 0), 0, **k), "No tokens were asked for."),
    "zeros of an untrained half": (
        lambda **k: figures.gate_map(history(untrained="scale", as_zero=True), **k), "not trained",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("dark", [False, True])
def test_what_is_missing_is_said_in_the_figure(name: str, dark: bool) -> None:
    make, sentence = DEGENERATE[name]
    figure = make(dark=dark)
    assert sentence in words(figure)
    # The page reads it as strict JSON.
    read = json.loads(figure.to_json(), parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert read["layout"]["height"] >= 180


# Looks


def test_colours_are_those_of_the_page() -> None:
    for colours, block in ((style.LIGHT, r":root \{(.*?)\}"), (style.DARK, r"\.dark \{(.*?)\}")):
        found = re.search(block, STYLE, re.DOTALL)
        assert found is not None
        named = dict(re.findall(r"--jw-([a-z-]+): (#[0-9a-f]{6})", found[1]))
        for colour in fields(colours):
            if colour.name not in ("diverging", "categories"):
                assert getattr(colours, colour.name) == named[colour.name.replace("_", "-")], colour.name


def test_dark_figures_differ_in_colours_alone() -> None:
    light, dark = (figures.gate_map(history(), dark=dark) for dark in (False, True))
    grounds = [figure.layout.template.layout.paper_bgcolor for figure in (light, dark)]
    assert grounds == [style.LIGHT.surface, style.DARK.surface]
    for one, other in zip(heatmaps(light), heatmaps(dark), strict=True):
        np.testing.assert_array_equal(one, other)
    assert words(light) == words(dark)


def test_a_signed_scale_is_balanced_and_gates_are_cividis() -> None:
    assert style.CIVIDIS[0] == "#00224e" and style.CIVIDIS[-1] == "#fee838"
    for colours in (style.LIGHT, style.DARK):
        assert len(colours.diverging) % 2 == 1
        middle = colours.diverging[len(colours.diverging) // 2]
        channels = [int(middle[at : at + 2], 16) for at in (1, 3, 5)]
        assert max(channels) - min(channels) < 24  # zero has no hue


def test_figures_bring_their_tool_bar_along() -> None:
    config = json.loads(figures.gate_map(history()).to_json())["config"]
    assert config == figures.CONFIG
    assert config["displaylogo"] is False


# Text of others


@pytest.mark.parametrize("dark", [False, True])
def test_names_of_runs_and_sites_never_become_markup(dark: bool) -> None:
    gates = {"offset": np.eye(3), "scale": np.eye(3)}
    made = [
        figures.compare_curves({HOSTILE: metrics(), "empty" + HOSTILE: []}, dark=dark),
        figures.compare_curves({"run": metrics()}, HOSTILE, dark=dark),
        figures.compare_gates(history(), history(), (HOSTILE, HOSTILE), dark=dark),
        figures.gate_map(gates, site=HOSTILE, dark=dark),
        figures.gate_map(gates, site=HOSTILE, colour="state", dark=dark),
        figures.state_counts(GateHistory(HOSTILE, history().steps, history().fields), dark=dark),
        figures.head_history(GateHistory(HOSTILE, history().steps, history().fields), 0, 0, dark=dark),
        figures.next_tokens(examples.next_tokens(), dark=dark),
        figures.answer_shares(examples.answer_scores(), dark=dark),
        figures.token_scores(examples.token_scores(), dark=dark),
        figures.promoted_tokens(examples.promoted_tokens(), 0, 0, site=HOSTILE, dark=dark),
        figures.direct_effects(replace(examples.direct_effects(), token="onerror" + HOSTILE), dark=dark),
        figures.edit_effects(replace(examples.edit_effects(1), edits=(EditRef(HOSTILE, 0, 0, "offset"),)), dark=dark),
        figures.attention_pattern(examples.attention(), dark=dark),
        figures.logit_lens(examples.lens(), dark=dark),
        figures.logit_lens(examples.lens(), 0, dark=dark),
    ]
    for figure in made:
        found = [entry for entry in strings(figure.to_dict()) if "img" in entry]
        assert found
        for entry in found:
            assert "<img" not in entry and "&lt;img" in entry
            assert "$" not in entry


def test_text_keeps_its_meaning_and_loses_its_power() -> None:
    assert style.text("a<b>c & $d$") == "a&lt;b&gt;c &amp; &#36;d&#36;"
    assert style.text("%{x}") == "&#37;{x}"
    assert style.text("two\nlines\tand  blanks") == "two lines and blanks"
    assert style.text("abcdefghijklmnop", 7) == "abcd…op"
    assert style.token(" a\n") == "␣a⏎"
    assert style.token("\u202e") == "\\u202e"
    assert style.token("") == "∅"
    assert style.token(" positive", 5) == "␣pos…"


# Tables


def test_tables_hold_the_numbers_of_their_figures() -> None:
    run = history()
    table = frames.gate_map(run, 25)
    assert list(table.columns) == ["step", "layer", "unit", *FIELDS, "state"]
    row = table[(table["layer"] == 3) & (table["unit"] == 2)].iloc[0]
    assert row["offset_gate"] == pytest.approx(run.at(25)["offset_gate"][3, 2])
    assert frames.state_counts(run).iloc[-1].tolist() == [STEPS, *(int(run.counts()[name][-1]) for name in STATES)]
    losses = frames.losses(metrics())
    assert list(losses["step"]) == list(range(1, STEPS + 1))
    assert losses["validation_cross_entropy"].notna().sum() == 4
    by_layer = frames.open_by_layer(history(untrained="scale"), 25)
    assert by_layer["scale"].isna().all() and (by_layer["units"] == 4).all()
    curves = frames.compare_curves({"a": metrics(), "b": metrics(10)})
    assert curves.groupby("run").size().to_dict() == {"a": 4, "b": 1}
    difference = frames.compare_gates(run, run)
    assert len(difference) == 48 and (difference["difference"] == 0).all()
    assert list(frames.head_history(run, 1, 1).columns) == ["step", *FIELDS]


def test_a_spreadsheet_runs_nothing_of_what_it_is_given() -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", " =1", "＝1", "plain", "a=b", None]
    frame = pd.DataFrame({"=name": texts, "number": [-1.5] * len(texts), "mixed": [-1, "-1"] * (len(texts) // 2)})
    before = frame.copy()
    written = figures.to_csv(frame)
    read = pd.read_csv(io.StringIO(written), dtype=str, keep_default_na=False)
    assert list(read.columns) == ["'=name", "number", "mixed"]
    assert list(read["'=name"][:7]) == ["'" + value for value in texts[:7] if value]
    assert list(read["'=name"][7:]) == ["plain", "a=b", ""]
    assert set(read["number"]) == {"-1.5"}
    assert list(read["mixed"][:2]) == ["-1", "'-1"]
    pd.testing.assert_frame_equal(frame, before)


def test_notebooks_need_neither_gradio_nor_torch_for_figures() -> None:
    code = "import sys, workbench.figures; print(sorted({'gradio', 'torch'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_figures_leave_their_input_alone() -> None:
    run, entries = history(), metrics()
    before = {name: values.copy() for name, values in run.fields.items()}
    copies = [dict(entry) for entry in entries]
    for make in (figures.gate_map, figures.closed_map, figures.state_counts, figures.open_by_layer):
        make(run)
    figures.compare_gates(run, run)
    figures.losses(entries)
    assert entries == copies
    for name, values in before.items():
        np.testing.assert_array_equal(run.fields[name], values)
