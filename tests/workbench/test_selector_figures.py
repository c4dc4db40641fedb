"""Figures of choices of heads, and the report of a comparison."""

from pathlib import Path

import numpy as np
import pytest

from jola.selectors import Cost, HeadScores, HeadSet, Provenance
from jola.selectors.results import Cell, Comparison, summarise
from jola.selectors.statistics import expected_jaccard
from workbench import selector_report
from workbench.figures import selectors as draw
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
    for seed in (1, 2):
        jola = GENERATOR.random(100) < 0.8
        parts = [("base", "base", "", None, 0.1), ("jola", "jola", "", SETS["jola"], 0.8)]
        parts += [("edit", "dsp", k, SETS["dsp"], 0.7) for k in ("auto", "3")] + [
            ("edit", "smp", "auto", SETS["jola"], 0.6)
        ]
        parts += [("swap", "pass", "auto", SETS[HOSTILE], 0.7)]
        for protocol, method, k, heads, share in parts:
            right = tuple(bool(r) for r in (GENERATOR.random(100) < share if protocol != "jola" else jola))
            selection = Cost(seconds=12.0 if method == "dsp" else 3.0)
            found.append(Cell(protocol, method, k, seed, heads, right, Cost(4, 8, 8, 10.0), selection))  # type: ignore[arg-type]
    return found


def all_figures(dark: bool) -> list[Figure]:
    rows = summarise(cells())
    return [
        draw.overlap_matrix(SETS, dark=dark),
        draw.rank_correlations(SCORES, dark=dark),
        draw.heads_by_layer(SETS, dark=dark),
        draw.accuracy_by_k(rows, dark=dark),
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


def test_accuracy_has_intervals_and_jola_as_a_line() -> None:
    rows = summarise(cells())
    figure = draw.accuracy_by_k(rows)
    by_name = {trace.name: trace for trace in figure.data}
    assert set(by_name) == {"DSP", "SMP", "PASS gates"}
    assert list(by_name["DSP"].x) == [3, 3]
    assert all(value > 0 for value in by_name["DSP"].error_y.array)
    lines = [annotation.text for annotation in figure.layout.annotations]
    jola = next(row for row in rows if row.protocol == "jola")
    assert f"JoLA {jola.accuracy:.3f}" in lines
    assert "n = 100 test examples, 2 seeds" in figure.to_json()
    assert "Nothing has been trained" in draw.accuracy_by_k([]).to_json()


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
    assert "holds no comparison" in capsys.readouterr().err
