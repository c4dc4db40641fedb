"""Figures of missing data, their colors, and text of others, which never becomes markup or a formula."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from jola.edits.names import STATES
from jola.insight import AnswerScores, EditRef, NextTokens, PromotedTokens, TokenScores
from jola.runs.history import GATE_FIELDS, GateHistory
from tests.workbench.figures import examples
from tests.workbench.figures.examples import HOSTILE, history, metrics
from tests.workbench.figures.reading import EMPTY, STEPS, heatmaps, strings, words
from workbench import figures
from workbench.figures import Figure, frames, style
from workbench.theme import STYLE

DEGENERATE: dict[str, tuple[Callable[..., Figure], str]] = {
    "no records, map": (lambda **k: figures.gate_map(EMPTY, **k), "No gates have been recorded yet."),
    "no records, states": (lambda **k: figures.state_counts(EMPTY, **k), "No gates have been recorded yet."),
    "no records, figure 7": (lambda **k: figures.closed_map(EMPTY, **k), "No gates have been recorded yet."),
    "no records, layers": (lambda **k: figures.open_by_layer(EMPTY, **k), "No gates have been recorded yet."),
    "no records, head": (lambda **k: figures.head_history(EMPTY, 0, 0, **k), "No gates have been recorded yet."),
    "no records, two runs": (lambda **k: figures.compare_gates(EMPTY, EMPTY, **k), "No gates have been recorded by"),
    "no metrics, losses": (lambda **k: figures.losses([], **k), "No training step has been recorded yet."),
    "no metrics, rates": (lambda **k: figures.rates([], **k), "No training step has been recorded yet."),
    "no methods": (lambda **k: figures.layer_changes({}, **k), "There are no changes of layers to show."),
    "no layers": (lambda **k: figures.layer_changes({"a": []}, **k), "There are no changes of layers to show."),
    "one method, one layer": (lambda **k: figures.layer_changes({"a": [0.5]}, prompts=1, **k), "mean over 1 prompt;"),
    "no changes": (lambda **k: figures.layer_changes({"a": [0.0, 0.0]}, **k), "mean over prompts;"),
    "no runs": (lambda **k: figures.compare_curves({}, **k), "No run is selected."),
    "runs without it": (lambda **k: figures.compare_curves({"a": []}, **k), "None of the selected runs recorded this."),
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
    "no tokens": (lambda **k: figures.next_tokens(NextTokens((), 0.0), **k), "No next tokens were requested."),
    "no answers": (
        lambda **k: figures.answer_shares(AnswerScores((), np.empty(0), np.empty(0)), **k), "No answers were given.",
    ),
    "one answer": (lambda **k: figures.answer_shares(examples.answer_scores(("yes",)), **k), "1 answer"),
    "no text": (
        lambda **k: figures.token_scores(TokenScores((), (), np.empty(0), np.empty(0), np.empty(0)), **k),
        "The text is empty.",
    ),
    "one token": (lambda **k: figures.token_scores(examples.token_scores(1), **k), "The text has only one token"),
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
    "one position": (lambda **k: figures.logit_lens(examples.lens(2, 1), **k), "1 position; 3 rows"),
    "many positions": (lambda **k: figures.logit_lens(examples.lens(80, 60, 1), **k), "60 positions; 81 rows"),
    "no ranks": (lambda **k: figures.logit_lens(examples.lens(2, 2, 0), **k), "No tokens were requested."),
    "no ranks there": (lambda **k: figures.logit_lens(examples.lens(2, 2, 0), 0, **k), "No tokens were requested."),
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
    # The page parses it as strict JSON.
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


# Text written by others


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
    assert list(table.columns) == ["step", "layer", "unit", *GATE_FIELDS, "state"]
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
    assert list(frames.head_history(run, 1, 1).columns) == ["step", *GATE_FIELDS]


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
