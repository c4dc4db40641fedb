"""Scores of runs with different metrics: in their rows, in comparisons, on the command line and in model cards."""

from pathlib import Path
from typing import Any

import pytest

from jola.cli.main import main
from jola.config import RunConfig
from jola.export.run_facts import run_facts, run_results
from jola.runs.compare import compare_runs
from jola.runs.run import Run
from jola.runs.scores import own_score, scores_in
from jola.runs.store import RunStore
from jola.system.formatting import short_score_text
from workbench.runs.tab import comparison_tables
from workbench.service.bench import describe_run
from workbench.service.follow import result_facts

ACCURACY = {"accuracy": 0.5, "n": 4, "low": 0.2, "high": 0.8}


def score(metric: str, title: str, value: float) -> dict[str, Any]:
    return {"metric": metric, "title": title, "value": value, "n": 1200, "low": value - 0.1, "high": value + 0.1}


BLEU, ROUGE = score("bleu", "BLEU", 0.231), score("rouge_l", "ROUGE-L", 0.5)
EXACT, OPTIONS = score("exact_match", "Exact match", 0.25), score("options", "Choosing among the options", 0.75)


@pytest.fixture
def runs() -> dict[str, Run]:
    """Runs in the store: one of a generation task, one with options, one of an earlier version."""
    results = {
        "texts": {"metric": "bleu", "test": None, "scores": [ROUGE, BLEU]},
        "choices": {"metric": "exact_match", "test": ACCURACY, "scores": [EXACT, OPTIONS]},
        "earlier": {"test": ACCURACY, "test_options": ACCURACY | {"accuracy": 0.6}},
    }
    made = {}
    for name, result in results.items():
        run = made[name] = Run.create(RunStore().root / name, RunConfig())
        run.write_result(result)
        run.write_status(state="finished")
    return made


def test_the_own_metric_comes_first(runs: dict[str, Run]) -> None:
    assert scores_in(runs["texts"].result()) == [BLEU, ROUGE] and own_score(runs["texts"].result()) == BLEU
    assert [found["value"] for found in scores_in(runs["earlier"].result())] == [0.5, 0.6]


def test_rows_have_the_score_of_the_task(runs: dict[str, Run]) -> None:
    rows = {name: run.summary() for name, run in runs.items()}
    assert rows["texts"]["accuracy"] is None and rows["texts"]["score"] == BLEU | {"share": False}
    assert rows["choices"]["score"] == EXACT | {"title": "Test accuracy", "share": True}
    assert (rows["earlier"]["score"] or {})["value"] == 0.5
    assert short_score_text(BLEU) == "BLEU 23.1" and " · BLEU 23.1 · " in describe_run(runs["texts"])
    assert " · 25.0 % · " in describe_run(runs["choices"])


def test_a_comparison_has_a_row_for_each_metric(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare_runs([runs["texts"], runs["choices"]])
    found = {row.name: row.values for row in comparison.figures}
    assert list(found)[:4] == ["accuracy", "accuracy_options", "bleu", "rouge_l"]
    assert found["bleu"] == (BLEU, None)
    assert found["accuracy_options"] == (None, {"accuracy": 0.75, "n": 1200, "low": 0.65, "high": 0.85})
    page = comparison_tables(comparison, ["a", "b"])
    assert '<th scope="row">BLEU</th><td>23.1 (n = 1,200, 95 % interval 13.1–33.1)</td><td>–</td>' in page
    assert '<th scope="row">Choosing among the options</th><td>–</td><td>75.0 % (n = 1,200' in page
    main(["runs", "compare", "texts", "choices"])
    text = capsys.readouterr().out
    assert "BLEU" in text and "0.231 (n = 1,200, 95 % interval 0.131–0.331)" in text


def test_the_list_on_the_command_line(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    main(["runs"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "BLEU 0.231 (n = 1,200" in lines["texts"] and " 0.250 (n = 1,200" in lines["choices"]


def test_the_run_view_and_the_card(runs: dict[str, Run], tmp_path: Path) -> None:
    shown = result_facts(runs["texts"].result())
    assert shown[:2] == [
        ("BLEU", "23.1 (n = 1,200, 95 % interval 13.1–33.1)"), ("ROUGE-L", "50.0 (n = 1,200, 95 % interval 40.0–60.0)"),
    ]  # fmt: skip
    facts = run_facts(runs["texts"])
    assert facts["Test score, BLEU"] == "0.231 (n = 1,200, 95 % interval 0.131–0.331)"
    assert run_facts(runs["choices"])["Test accuracy, choosing among the options"].startswith("0.750 (n = 1,200")
    kinds = [(found.metric_type, found.metric_value) for name in runs for found in run_results(runs[name])]
    assert kinds == [
        ("bleu", 0.231), ("rouge_l", 0.5), ("accuracy", 0.25), ("accuracy", 0.75), ("accuracy", 0.5), ("accuracy", 0.6),
    ]  # fmt: skip
