"""The pages about methods agree with the stored results."""

import json
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy.stats import binomtest

from benchmarks import method_results
from benchmarks.repe_control import BASE, chosen, result_of
from jola.data.examples import Example, Message
from jola.jola_model import JoLAModel
from jola.methods import METHODS
from jola.methods.repe import RePEConfig
from tests import ROOT
from tests.tiny import make_model, make_tokenizer

RESULTS = ROOT / "docs" / "results"
REPE = "\n## RePE\n"
TITLES = {"trec": "TREC", "sst2": "SST-2", "snips": "Snips"}


def test_the_table_has_the_stored_results() -> None:
    results = json.loads((RESULTS / "methods" / "learning_rates.json").read_text("utf-8"))["results"]
    section, _, _ = page().partition("\n## Learning rates\n")[2].partition(REPE)
    assert [expected(found, results) for found in results] == rows_of(section)


def test_the_tables_of_three_tasks_have_the_stored_results() -> None:
    section, _, _ = page().partition("\n## Three tasks\n")[2].partition("\n## ")
    parts = [part for part in section.split("\n### ") if "\n|" in part]
    wanted = method_results.tables(method_results.read())
    assert [[line for line in part.splitlines() if line.startswith("|")] for part in parts] == [
        method_results.markdown(table).splitlines() for table in wanted
    ]


def test_the_tables_of_repe_have_the_stored_results() -> None:
    results = json.loads((RESULTS / "methods" / "repe.json").read_text("utf-8"))["results"]
    section, _, _ = page().partition(REPE)[2].partition("\n## ")
    validation, test = section.split("\n### ")[1:]
    tasks = list(dict.fromkeys(found["task"] for found in results))
    validated = {task: [r for r in results if r["task"] == task and r["part"] == "validation"] for task in tasks}
    tried = [(r["layers"], r["coefficient"]) for r in validated[tasks[0]]]
    expected_rows = []
    for column, settings in enumerate(tried):
        found = [validated[task][column] for task in tasks]
        assert {(r["layers"], r["coefficient"]) for r in found} == {settings}
        marks = [r is chosen(validated[r["task"]]) for r in found]
        values = [f"{r['accuracy']:.2f}, {r['cross_entropy']:.2f}" for r in found]
        cells = [f"**{value}**" if mark else value for value, mark in zip(values, marks, strict=True)]
        expected_rows.append([named(settings), *cells])
    assert expected_rows == rows_of(validation)

    expected_rows = []
    for task in tasks:
        base, edited = (r for r in results if r["task"] == task and r["part"] == "test")
        best = chosen(validated[task])
        assert base["layers"] is None and (edited["layers"], edited["coefficient"]) == (
            best["layers"],
            best["coefficient"],
        )
        pairs = list(zip(base["correct"], edited["correct"], strict=True))
        for r in (base, edited):
            assert r["n"] == len(pairs) and r["correct"].count("1") / r["n"] == pytest.approx(r["accuracy"])
        gained, lost = (str(pairs.count(pair)) for pair in (("0", "1"), ("1", "0")))
        p = f"{binomtest(int(gained), int(gained) + int(lost)).pvalue:.3f}"
        frequent = f"{base['most_frequent_label']:.3f}"
        expected_rows.append([TITLES[task], interval(base), interval(edited), gained, lost, p, frequent])
    assert expected_rows == rows_of(test)


def page() -> str:
    return (RESULTS / "methods.md").read_text("utf-8")


def rows_of(text: str) -> list[list[str]]:
    """Return the rows of the only table in a part of the page."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def named(settings: tuple[str | None, float | None]) -> str:
    layers, coefficient = settings
    return "base model" if layers is None else f"layers {layers}, c = {coefficient:g}"


def interval(found: dict[str, Any]) -> str:
    return f"{found['accuracy']:.3f} ({found['low']:.3f}–{found['high']:.3f})"


def expected(found: dict[str, Any], results: list[dict[str, Any]]) -> list[str]:
    method, rate, validation, test = (
        METHODS[found["method"]],
        found["learning_rate"],
        found["validation"],
        found["test"],
    )
    tried = [other for other in results if other["method"] == found["method"]]
    best = max(tried, key=lambda other: (other["validation"]["accuracy"], -other["validation_cross_entropy"]))
    marks = [*(["default"] if rate == method.learning_rate else []), *(["chosen"] if found is best else [])]
    return [
        method.title,
        "–" if rate is None else f"{rate:g}" + (f" ({', '.join(marks)})" if marks else ""),
        f"{validation['accuracy']:.2f}",
        f"{found['validation_cross_entropy']:.2f}",
        f"{test['accuracy']:.3f} ({test['low']:.3f}–{test['high']:.3f})" if test else "not run",
        f"{found['trainable']:,}",
    ]


def test_results_of_repe_over_other_examples_are_not_reused(tmp_path: Path) -> None:
    model = JoLAModel(make_model("llama"), make_tokenizer(), RePEConfig()).eval()
    examples = [Example((Message("user", f"Film {number}"),), "good") for number in range(3)]
    found = []
    for size in (2, 3, 2):
        task = SimpleNamespace(name="films", labels=("good", "bad"), validation=examples[:size])
        found.append(result_of(model, task, 1, "validation", BASE, None, None, tmp_path / "repe.json"))
    assert [each["n"] for each in found] == [2, 3, 2]
    assert json.loads((tmp_path / "repe.json").read_text())["results"] == found[:2]


def test_the_table_of_official_code_has_the_stored_differences() -> None:
    stored = json.loads((RESULTS / "official_methods.json").read_text("utf-8"))
    assert {row["method"] for row in stored["rows"]} == METHODS.keys() - {"jola", "zero-shot"}
    lines = (ROOT / "docs" / "methods.md").read_text("utf-8").splitlines()
    start = lines.index("| Method | Official code | Models | Logits | Loss | Gradients | Other |") + 2
    table = official_table(stored)
    assert lines[start : start + len(table) + 1] == [*table, ""]


def official_table(stored: dict[str, Any]) -> list[str]:
    """Return the lines of a table with the largest differences of each method over its models."""
    lines = []
    for (method, part), group in groupby(stored["rows"], key=lambda row: (row["method"], row["part"])):
        rows = list(group)
        packages = {
            name: v[:7] if len(v) == 40 else v for name, v in stored["versions"][method].items() if name != "torch"
        }
        largest = {kind: max(row["differences"][kind] for row in rows) for kind in rows[0]["differences"]}
        shown = {kind: f"{value:.1e}" if value else "0" for kind, value in largest.items()}
        cells = [
            METHODS[method].title + (f", {part}" if part else ""),
            ", ".join(f"{name} {version}" for name, version in packages.items()),
            ", ".join(row["architecture"].capitalize() for row in rows),
            *(shown.pop(kind, "–") for kind in ("logits", "loss", "gradients")),
            ", ".join(f"{kind} {value}" for kind, value in shown.items()) or "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
