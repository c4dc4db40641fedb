"""The choice among training runs that differ only in the seed."""

from pathlib import Path
from typing import Any

import pytest

from jola.config import RunConfig
from jola.runs.restarts import best_by_validation, validation_text
from jola.runs.run import Run


def finished(path: Path, accuracy: float | None, cross_entropy: float | None, metric: str = "exact_match") -> Run:
    run = Run.create(path, RunConfig())
    validation: dict[str, Any] | None = None
    if accuracy is not None:
        validation = {"accuracy": accuracy, "low": 0.0, "high": 1.0, "n": 10}
    run.write_result({"validation": validation, "validation_cross_entropy": cross_entropy, "metric": metric})
    run.write_status(state="finished")
    return run


@pytest.mark.parametrize(
    ("metric", "found", "best"),
    [
        ("exact_match", [(0.5, 0.1), (0.7, 0.9), (0.6, 0.2)], 1),
        ("exact_match", [(0.7, 0.9), (0.7, 0.3), (0.7, 0.3)], 1),
        ("exact_match", [(0.0, 3.0), (0.0, 2.0), (0.0, 4.0)], 1),
        ("exact_match", [(0.7, None), (0.7, 0.3)], 1),
        ("options", [(0.5, 0.1), (0.7, 0.9)], 1),
        # One exactly right text says little about the others.
        ("rouge_l", [(0.1, 3.0), (0.0, 2.0), (0.0, 4.0)], 1),
        ("exact_match", [(None, None), (0.0, 2.0)], 1),
        ("exact_match", [(None, None)], None),
    ],
)
def test_validation_chooses_a_run(
    tmp_path: Path, metric: str, found: list[tuple[float | None, float | None]], best: int | None
) -> None:
    runs = [finished(tmp_path / str(number), *values, metric=metric) for number, values in enumerate(found)]
    failed = Run.create(tmp_path / "failed", RunConfig())
    failed.write_status(state="failed")
    assert best_by_validation([failed, *runs]) == (None if best is None else runs[best])


def test_the_text_has_what_is_compared(tmp_path: Path) -> None:
    text = validation_text(finished(tmp_path / "a", 0.7, 0.25).result() or {})
    assert text == "accuracy 0.700 (n = 10, 95 % interval 0.000–1.000), cross-entropy 0.2500"
    assert validation_text(finished(tmp_path / "b", 0.1, 2.0, "rouge_l").result() or {}) == "cross-entropy 2.0000"
    assert validation_text(finished(tmp_path / "c", 0.7, None).result() or {}).endswith("1.000)")
    assert validation_text(finished(tmp_path / "d", None, None).result() or {}) == ""
