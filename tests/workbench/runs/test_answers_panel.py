"""The test answers of a run, without a browser."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from jola.data.records import Example, Message
from jola.errors import InputError
from jola.runs.answers import TestAnswer
from jola.runs.run import Run
from tests.workbench.recorded import Recorder
from workbench.runs.answers_panel import (
    ALL,
    GAINED,
    LOST,
    WRONG,
    AnswersEvents,
    AnswersPanel,
    Shown,
    _cell,
    build,
    content,
    lacking,
    matching,
    opened_example,
)
from workbench.service.answering import judged, metric_of
from workbench.service.bench import Workbench
from workbench.ui.example_table import PAGE, shortened

TAG = "<img src=x onerror=alert(1)>${x}"
LABELS = ("bad", "good")


def kept(number: int, expected: str, answer: str, base: str | None, options: Any = LABELS) -> TestAnswer:
    prompt = f"Good or bad? {number} {TAG}"
    return TestAnswer(str(number), Example((Message("user", prompt),), expected, (), options), answer, base)


ANSWERS = [
    kept(0, "good", "good", "bad"),
    kept(1, "good", "bad", "good"),
    kept(2, "bad", TAG, TAG),
    kept(3, "bad", "bad", "bad"),
]


JUDGED = judged(ANSWERS, "exact_match")


@pytest.fixture
def run(bench: Workbench) -> Run:
    run = Recorder(bench.store.root / "one", steps=4, layers=2, units=3).until(4).finish()
    run.write_answers(ANSWERS)
    return run


@pytest.fixture
def panel(bench: Workbench) -> AnswersPanel:
    import gradio as gr

    with gr.Blocks() as page:
        return build(bench, page)


def test_wrong_ones_come_first_and_filters_let_some_through() -> None:
    assert matching(JUDGED, Shown("one", ALL)) == [1, 2, 0, 3]
    assert matching(JUDGED, Shown("one", WRONG)) == [1, 2]
    assert matching(JUDGED, Shown("one", GAINED)) == [0]
    assert matching(JUDGED, Shown("one", LOST)) == [1]
    assert matching(JUDGED, Shown("one", cell=(0, 2))) == [2]


def test_matrices_scores_and_examples_have_their_n_and_are_escaped() -> None:
    html = content(JUDGED, Shown("one"))
    assert "with the edits 50.0 % (n = 4, 95 % interval" in html and "gained 1 · lost 1" in html
    assert html.count('<table class="et-matrix">') == 2 and html.count("n = 4</span>") == 2
    assert "1–4 of 4 examples" in html and "<img" not in html and "${" not in html
    assert html.index('data-number="1"') < html.index('data-number="0"')
    chosen = content(JUDGED, Shown("one", cell=(0, 2)))
    assert "Expected bad, answered something that is not a label" in chosen and 'aria-pressed="true"' in chosen


def test_without_base_answers_or_labels_less_is_shown() -> None:
    alone = content(judged([kept(0, "good", "good", None)], "exact_match"), Shown("one"))
    assert "the base model was not tested" in alone and alone.count('et-matrix"') == 1
    texts = content(judged([kept(0, "a long text", "another text", "", options=())], "exact_match"), Shown("one"))
    assert 'et-matrix"' not in texts and "another text" in texts and "(empty)" in texts


def test_generated_texts_have_scores_in_place_of_right_and_wrong() -> None:
    pytest.importorskip("rouge_score")
    text = "a film about small things"
    found = judged([kept(0, text, text, "a film", ()), kept(1, text, "a film", text, ())], "rouge_l")
    html = content(found, Shown("one"))
    assert "ROUGE-L: with the edits" in html and "raised 1 · lowered 1" in html and "lowest score first" in html
    assert '<span class="et-score">100.0</span>' in html and "✓" not in html
    assert matching(found, Shown("one")) == [1, 0] and matching(found, Shown("one", GAINED)) == [0]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (["options", "first_label"], "first_label"),
        (["bertscore", "exact_match"], "exact_match"),
        (["answer_letter"], "answer_letter"),
        (None, "exact_match"),
        ([7, "unknown"], "exact_match"),
    ],
)
def test_the_metric_is_the_first_of_the_task_that_reads_answers(run: Run, metrics: Any, expected: str) -> None:
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps(config | {"task": {"name": "t", "metrics": metrics}}))
    assert metric_of(run, ANSWERS) == expected


def test_thousands_of_answers_come_in_pages(bench: Workbench, run: Run, panel: AnswersPanel) -> None:
    run.write_answers([kept(n, "good", "good" if n % 2 else "bad", "bad") for n in range(5000)])
    _, _, html, _, back, on, *_ = panel.updates(Shown("one", ALL, page=1))
    assert html.count("<tr data-number") == PAGE and "51–100 of 5,000 examples" in html
    assert back.interactive and on.interactive
    last, _, html, _, _, on, *_ = panel.updates(Shown("one", ALL, page=10_000))
    assert last.page == 99 and not on.interactive and "4,951–5,000" in html


def test_a_run_without_answers_says_so(bench: Workbench, run: Run, panel: AnswersPanel) -> None:
    assert lacking(run, ANSWERS) == "" and lacking(run, [kept(0, "a", "a", None)]) == "Also answer with the base model"
    (run.path / "answers.jsonl").unlink()
    column, *values = panel.opened("one", "page")
    assert column.visible and "has no stored answers" in values[-1] and values[2] == ""
    assert values[6].visible and values[6].value == "Answer the test examples"
    assert panel.opened("absent", "page")[0].visible is False


def test_a_damaged_file_is_a_sentence(run: Run, panel: AnswersPanel) -> None:
    (run.path / "answers.jsonl").write_text("[]\n")
    assert "is not a JSON object" in panel.updates(Shown("one"))[-1]


@pytest.mark.parametrize("payload", [None, {}, {"number": 4}, {"number": -1}, {"number": "0"}, []])
def test_an_example_that_is_not_there_is_a_sentence(bench: Workbench, run: Run, payload: Any) -> None:
    with pytest.raises(InputError, match="no such example"):
        opened_example(bench, Shown("one"), payload)
    assert opened_example(bench, Shown("one"), {"number": 2}).id == "2"


def test_only_cells_of_the_matrix_are_taken() -> None:
    assert _cell({"row": 1, "column": 2}, LABELS) == (1, 2)
    for payload in (None, {"row": 2, "column": 0}, {"row": 0, "column": 3}, {"row": "0", "column": 0}, {"row": 0}):
        assert _cell(payload, LABELS) is None


def test_a_cell_clicked_again_shows_all(run: Run, panel: AnswersPanel) -> None:
    events = AnswersEvents(panel)
    click: Any = SimpleNamespace(_data={"row": 0, "column": 2})
    shown = events.on_cell(Shown("one"), click)[0]
    assert shown.cell == (0, 2)
    assert events.on_cell(shown, click)[0] == Shown("one")


def test_what_all_prompts_begin_with_is_left_out() -> None:
    html = content(judged([kept(n, "good", "good", None) for n in range(3)], "exact_match"), Shown("one"))
    assert "… " not in html, "a short start stays"
    task = "Is the sentiment of this review good or bad? "
    long = [TestAnswer(t, Example((Message("user", task + t),), "good"), "good") for t in ("A fine film.", "A bore.")]
    html = content(judged(long, "exact_match"), Shown("one"))
    assert ">… A fine film.<" in html and ">… A bore.<" in html and "sentiment" not in html


def test_long_texts_are_cut_on_one_line() -> None:
    assert shortened("a\n b", 10) == "a b" and shortened("abcdef", 4) == "abc…"
