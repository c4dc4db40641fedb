"""The page about the results of selectors says what the stored results say."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("head_selectors", ROOT / "benchmarks" / "head_selectors.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_numbers_of_the_results() -> None:
    made = script()
    text = made.PAGE.read_text(encoding="utf-8")
    assert made.page(text) == text, "run: python -m benchmarks.head_selectors --page"
    # The interpretation names accuracies and differences with three decimals; all of them are in the tables.
    tables, _, words = text.partition(made.END)
    named = re.findall(r"(?<![\d.])\d\.\d{3}(?!\d)", words)
    assert len(named) > 10
    assert set(named) <= set(re.findall(r"(?<![\d.])\d\.\d{3}(?!\d)", tables))
