"""The page about the results of methods says what the stored results say."""

import json
from typing import Any

from jola.methods import METHODS
from tests import ROOT

RESULTS = ROOT / "docs" / "results"


def test_the_table_has_the_stored_results() -> None:
    results = json.loads((RESULTS / "methods" / "learning_rates.json").read_text("utf-8"))["results"]
    rows = [
        line.strip("| ").split(" | ")
        for line in (RESULTS / "methods.md").read_text("utf-8").splitlines()
        if "|" in line
    ]
    assert [expected(found, results) for found in results] == rows[2:]


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
