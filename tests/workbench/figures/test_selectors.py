"""Figures of sets of heads, and the report of a comparison."""

from pathlib import Path

import numpy as np
import pytest

from jola.selectors import SELECTORS, Cost, HeadScores, HeadSet, Provenance
from jola.studies.results import Cell, Comparison, summarise
from jola.studies.statistics import expected_jaccard
from tests.workbench.figures.reading import words
from workbench.figures import selector_report
from workbench.figures import selectors as draw
from workbench.figures.head_sets import head_agreement, head_sets, head_table, heads_against
from workbench.figures.style import Figure

HOSTILE = "<img src=x onerror=alert(1)> $x^2$ %{y}"
GENERATOR = np.random.default_rng(0)
SETS = {
    "jola": HeadSet(6, 4, [(0, 0), (1, 1), (2, 2), (5, 3)]),
    "dsp": HeadSet(6, 4, [(0, 0), (1, 1), (3, 0)]),
    HOSTILE: HeadSet(6, 4, [(4, 0), (4, 1), (4, 2), (4, 3), (5, 3)]),
}
SCORES = {name: HeadScores(GENERATOR.random((6, 4)), Provenance(name)) for name in SETS}


def cells() -> list[Cell]:
    found = []
    for seed in (1, 2, 3):
        jola = GENERATOR.random(100) < 0.8
        parts = [("base", "base", "", None, 0.1), ("jola", "jola", "", SETS["jola"], 0.8)]
        parts += [("edit", "dsp", k, SETS["dsp"], 0.7) for k in ("auto", "3")] + [
            ("edit", "smp", "auto", SETS["jola"], 0.6)
        ]
        parts += [("swap", "pass", "auto", SETS[HOSTILE], 0.7)]
        for protocol, method, k, heads, share in parts:
            right = tuple(bool(r) for r in (GENERATOR.random(100) < share if protocol != "jola" else jola))
            selection = Cost(seconds=12.0 if method == "dsp" else 3.0)
            found.append(Cell(protocol, method, k, seed, heads, right, Cost(4, 8, 8, 10.0), selection))
    return found


def all_figures(dark: bool) -> list[Figure]:
    rows = summarise(cells())
    return [
        draw.overlap_matrix(SETS, dark=dark),
        draw.rank_correlations(SCORES, dark=dark),
        draw.heads_by_layer(SETS, dark=dark),
        draw.accuracy_by_k(rows, dark=dark),
        draw.accuracy_forest(rows, "auto", dark=dark),
        draw.selection_costs(rows, dark=dark),
    ]


@pytest.mark.parametrize("dark", [False, True])
def test_names_never_become_markup(dark: bool) -> None:
    for figure in all_figures(dark):
        assert "<img" not in figure.to_json()


def test_overlap_is_shown_beside_chance() -> None:
    figure = draw.overlap_matrix(SETS)
    values = np.asarray(figure.data[0].z)
    assert values[0].tolist() == pytest.approx([1, 2 / 5, 1 / 8])
    assert np.array_equal(values, values.T)
    least, most = expected_jaccard(24, 3, 4), expected_jaccard(24, 4, 5)
    assert f"by chance {least:.2f} to {most:.2f} off the diagonal" in figure.to_json()
    assert "p = " in figure.data[0].customdata[0][1]
    assert "At least two" in draw.overlap_matrix({"jola": SETS["jola"]}).to_json()


def test_correlations_of_a_ranking_with_itself_and_its_reverse() -> None:
    scores = SCORES["jola"]
    figure = draw.rank_correlations({"a": scores, "b": HeadScores(-scores.values, scores.provenance)})
    assert np.asarray(figure.data[0].z).tolist() == pytest.approx(np.array([[1, -1], [-1, 1]]))


def test_layers_count_heads() -> None:
    figure = draw.heads_by_layer(SETS)
    assert np.asarray(figure.data[0].z)[0].tolist() == [1, 1, 1, 0, 0, 1]
    assert "DSP  3" in figure.layout.yaxis.ticktext
    assert "No heads" in draw.heads_by_layer({}).to_json()


def test_accuracy_against_k_has_intervals_and_jola_as_a_line() -> None:
    rows = summarise(cells())
    figure = draw.accuracy_by_k(rows)
    by_name = {trace.name: trace for trace in figure.data}
    assert set(by_name) == {"DSP", "SMP", "PASS gates"}
    # Values of K are evenly spaced, and methods are side by side.
    assert list(figure.layout.xaxis.ticktext) == ["3", "auto (4)"] and np.diff(by_name["DSP"].x) == pytest.approx([1])
    assert len({round(float(trace.x[-1]) % 1, 6) for trace in figure.data}) == 3
    assert max(by_name["DSP"].error_y.array) > 0
    jola = next(row for row in rows if row.protocol == "jola")
    assert f"JoLA {jola.accuracy:.3f}" in [annotation.text for annotation in figure.layout.annotations]
    assert "n = 100 test examples × 3 seeds" in figure.to_json()
    assert "Nothing has been trained" in draw.accuracy_by_k([]).to_json()


@pytest.mark.parametrize("dark", [False, True])
def test_the_forest_is_sorted_and_shows_interval_seeds_and_n(dark: bool) -> None:
    rows = summarise(cells())
    figure = draw.accuracy_forest(rows, "auto", dark=dark)
    shown = {draw.row_name(row): row for row in rows if row.protocol != "base" and row.k in ("", "auto")}
    labels = list(figure.layout.yaxis.ticktext)
    assert set(labels) == {"JoLA", "DSP", "SMP", "PASS gates"} == set(shown)
    accuracies = [shown[name].accuracy for name in labels]
    assert accuracies == sorted(accuracies, reverse=True)
    means = {trace.name: trace for trace in figure.data if trace.name}
    for place, name in enumerate(labels):
        row, trace = shown[name], means[name]
        assert (trace.x[0], trace.y[0]) == (row.accuracy, place)
        assert row.low is not None and trace.error_x.arrayminus[0] == pytest.approx(row.accuracy - row.low) != 0
    seeds = [tuple(trace.x) for trace in figure.data if not trace.name]
    assert seeds == [shown[name].by_seed for name in labels]
    assert [a.text for a in figure.layout.annotations] == [f"{shown[n].accuracy:.3f}  n = 100 × 3" for n in labels]
    line = figure.layout.shapes[0]
    assert line.x0 == line.x1 == shown["JoLA"].accuracy
    assert "Nothing has been trained" in draw.accuracy_forest([], "auto", dark=dark).to_json()


def test_one_seed_has_an_interval_over_examples() -> None:
    rows = summarise([cell for cell in cells() if cell.seed == 1])
    words = draw.accuracy_forest(rows, "auto").layout.title.text
    assert "over test examples" in words.replace("<br>", " ") and "Student" not in words


@pytest.mark.parametrize("dark", [False, True])
def test_a_method_has_one_color_and_mark_of_its_own_in_every_figure(dark: bool) -> None:
    marks = {name: draw.method_mark(name, dark=dark) for name in SELECTORS}
    assert len(set(marks.values())) == len(marks)
    plain = {name: mark for name, mark in marks.items() if not name.endswith("_tuned")}
    assert len({colour for colour, _ in plain.values()}) == len(plain)
    rows = summarise(cells())
    forest = {trace.name: trace for trace in draw.accuracy_forest(rows, "auto", dark=dark).data if trace.name}
    by_k = {trace.name: trace for trace in draw.accuracy_by_k(rows, dark=dark).data}
    assert forest["DSP"].marker.color == by_k["DSP"].marker.color == marks["dsp"][0]
    assert forest["DSP"].marker.symbol == by_k["DSP"].marker.symbol == marks["dsp"][1]
    assert forest["PASS gates"].marker.symbol == by_k["PASS gates"].marker.symbol == f"{marks['pass'][1]}-open"
    # Fewer or other methods change neither colors nor marks, in the maps too.
    fewer = draw.accuracy_by_k([row for row in rows if row.method != "smp"], dark=dark)
    assert {trace.name: trace.marker.color for trace in fewer.data}["DSP"] == marks["dsp"][0]
    strips = {trace.name: trace.marker.color for trace in head_sets(SETS, dark=dark).data if trace.name}
    assert strips["DSP  3"] == marks["dsp"][0] and strips["JoLA's gates  4"] == marks["jola"][0]
    against = heads_against({"jola": SETS["jola"], "dsp": SETS["dsp"]}, dark=dark).data[0]
    inks = [colour for _, colour in against.colorscale]
    assert marks["dsp"][0] in inks and marks["jola"][0] in inks


def test_agreement_counts_methods() -> None:
    figure = head_agreement(SETS)
    counts = np.asarray(figure.data[0].z)
    assert np.array_equal(counts, sum(heads.array().astype(int) for heads in SETS.values()))
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 3)
    assert "0 chosen by all 3 methods, 15 by none" in " ".join(figure.layout.title.text.split("<br>")[1:]).replace(
        "</span>", ""
    )
    assert "No heads" in head_agreement({}).to_json()


def test_each_method_is_mapped_against_jola() -> None:
    figure = heads_against(SETS)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 2
    states = np.asarray(maps[0].z)
    assert (states[0, 0], states[1, 1]) == (3, 3), "both"
    assert (states[2, 2], states[5, 3]) == (2, 2), "only JoLA"
    assert states[3, 0] == 1, "only DSP"
    assert (states == 0).sum() == 24 - 5
    assert maps[0].customdata[3][0] == "only DSP" and maps[0].customdata[0][1] == "neither"
    headings = [annotation.text for annotation in figure.layout.annotations]
    assert "DSP" in headings[0] and "2 · 2 · 1" in headings[0]
    assert "<img" not in figure.to_json()
    for sets in ({}, {"jola": SETS["jola"]}, {"dsp": SETS["dsp"]}):
        assert "are needed" in heads_against(sets).to_json()
    many = heads_against({"jola": SETS["jola"]} | {f"m{index}": SETS["dsp"] for index in range(9)})
    assert len([trace for trace in many.data if trace.type == "heatmap"]) == 9


def test_costs_are_shares_of_jolas_training() -> None:
    figure = draw.selection_costs(summarise(cells()))
    assert dict(zip(figure.layout.yaxis.ticktext, figure.data[0].x, strict=True)) == pytest.approx(
        {"SMP": 0.3, "DSP": 1.2}
    )


def test_the_report_has_every_figure_and_needs_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = Comparison(tmp_path / "c")
    comparison.write_settings({"settings": {"data": {"task": HOSTILE}}})
    for cell in cells():
        comparison.write_cell(cell)
    for name in ("jola", "dsp"):
        comparison.write_scores(f"{name}-seed1", SCORES[name])
    selector_report.main([str(comparison.folder)])
    html = (comparison.folder / "report.html").read_text()
    assert capsys.readouterr().out == f"{comparison.folder / 'report.html'}\n"
    assert html.count("plotly-graph-div") >= 5
    assert "<img" not in html.split("</script>")[-1]
    assert '<script src="http' not in html
    with pytest.raises(SystemExit) as exit:
        selector_report.main([str(tmp_path)])
    assert exit.value.code == 2
    assert "contains no comparison" in capsys.readouterr().err


@pytest.mark.parametrize("dark", [False, True])
def test_sets_on_one_map_have_a_strip_a_method_and_a_count(dark: bool) -> None:
    figure = head_sets(SETS, dark=dark)
    ground, strips = (np.asarray(trace.z) for trace in figure.data[:2])
    assert ground.shape == (6, 4) and ground[0, 0] == 2 and ground[2, 0] == 0
    # Layers are in every second row; a head has a column for each of three methods and an empty fourth one.
    by_method = np.stack([strips[::2, index::4] == index for index in range(3)])
    assert np.array_equal(by_method, np.stack([heads.array() for heads in SETS.values()]))
    assert (strips[1::2] == -1).all() and (strips[:, 3::4] == -1).all()
    assert len(figure.data[1].x) == strips.shape[1] + 1 and len(figure.data[1].y) == strips.shape[0] + 1
    assert figure.data[0].customdata[0][0].startswith("2 of 3: JoLA")
    assert figure.data[0].customdata[2][0] == "chosen by none"
    names = [trace.name for trace in figure.data if trace.showlegend is not False and trace.type == "scatter"]
    assert names[:2] == ["JoLA's gates  4", "DSP  3"]
    assert "n = 24 heads; 9 chosen, 3 of them by more than one of 3 methods" in " ".join(
        figure.layout.title.text.replace("<", " <").split()
    )
    assert "<img" not in figure.to_json()
    assert "No heads" in head_sets({}, dark=dark).to_json()


def test_the_map_of_a_large_model_is_small_enough_to_send() -> None:
    generator = np.random.default_rng(1)
    sets = {f"m{index}": HeadSet.from_array(generator.random((80, 64)) < 0.1) for index in range(10)}
    figure = head_sets(sets)
    assert np.asarray(figure.data[1].z).shape == (80, 64 * 9)
    assert len(figure.to_json()) < 500_000
    assert not [trace for trace in figure.data if trace.type == "scatter" and trace.mode == "text"]


def test_the_table_of_sets_begins_where_most_agree() -> None:
    table = head_table(SETS)
    assert table.columns.tolist() == ["layer", "head", "methods", *SETS]
    assert table.iloc[0, :3].tolist() == [0, 0, 2] and len(table) == 9
    assert table["methods"].tolist() == sorted(table["methods"], reverse=True)
    assert table[HOSTILE].sum() == 5
    assert head_table({}).empty


def test_the_note_names_what_the_intervals_of_all_rows_are_over() -> None:
    found = cells()
    one_seed = [cell for cell in found if cell.seed == 1]
    unfinished = [cell for cell in found if cell.method != "smp" or cell.seed == 1]
    for shown, over in (
        (found, "over seeds (Student's t);"),
        (one_seed, "over test examples;"),
        (unfinished, "over seeds (Student's t) or test examples for one seed;"),
    ):
        for figure in (draw.accuracy_by_k(summarise(shown)), draw.accuracy_forest(summarise(shown), "auto")):
            assert f"95 % intervals {over}" in words(figure)
