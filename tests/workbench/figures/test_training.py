"""Figures of a run: values of the traces, and ranges that stay fixed."""

from typing import Any

import numpy as np
import pytest

from jola.edits.names import STATES
from jola.errors import InputError
from jola.runs.history import GateHistory
from tests.workbench.figures.examples import history, metrics
from tests.workbench.figures.reading import STEPS, heatmaps, traces, words
from workbench import figures
from workbench.figures import frames, style

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


def test_units_that_are_not_edited_are_blank_and_not_counted() -> None:
    gates = np.full((3, 4), np.nan)
    gates[0, :2], gates[2, 0] = [0.5, 0.0], 0.9
    fields = {"offset_gate": gates, "scale_gate": gates, "offset_open": np.nan_to_num(gates)}
    assert words(figures.gate_map(fields)).count("2 of 3 open") == 2
    np.testing.assert_array_equal(heatmaps(figures.gate_map(fields, colour="open"))[0], gates)
    states = figures.gate_map(fields, colour="state")
    counts = {trace.name.rsplit(maxsplit=1)[0]: trace.name.split()[-1] for trace in states.data if trace.name}
    assert counts == {"no edit": "1", "offset only +": "0", "scale only ×": "0", "both +×": "2"}
    assert np.isnan(heatmaps(states)[0]).sum() == 9
    assert list(frames.gate_map(fields)["state"]).count("") == 9
    assert "2 of 3 offset gates open" in words(figures.open_by_layer(fields))
    assert "2 of 6 gates are open in only one run" in words(
        figures.compare_gates(fields, fields | {"offset_gate": gates * 0})
    )


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
        figures.gate_map(history(), colour="hue")
    with pytest.raises(InputError, match=r"must be \(layers, units\)"):
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
    # Stripes, because two adjacent states differ only in hue.
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
    with pytest.raises(InputError, match="layers range from 0 to 5, units from 0 to 3"):
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
    assert "1 of 48 gates are open in only one run" in words(figure)
    minus = next(trace for trace in traces(figure, "scatter") if trace.text is not None and len(trace.text))
    assert (minus.text[0], minus.y[0], minus.x[0]) == ("−", 0, 0)


def test_runs_of_different_shapes_stand_side_by_side_without_a_difference() -> None:
    figure = figures.compare_gates(history(), history(3, 2))
    assert len(heatmaps(figure)) == 4
    assert "Maps of 6 × 4 and 3 × 2 have no difference." in words(figure)
    assert frames.compare_gates(history(), history(3, 2)).empty
