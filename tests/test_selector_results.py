"""The page about the results of selectors agrees with the stored results."""

import re

from benchmarks import head_selectors


def test_the_page_has_the_numbers_of_the_results() -> None:
    text = head_selectors.PAGE.read_text(encoding="utf-8")
    assert head_selectors.page(text) == text, "run: python -m benchmarks.head_selectors --page"
    # The interpretation names accuracies and differences with three decimals; all of them are in the tables.
    tables, _, words = text.partition(head_selectors.END)
    named = re.findall(r"(?<![\d.])\d\.\d{3}(?!\d)", words)
    assert len(named) > 10
    assert set(named) <= set(re.findall(r"(?<![\d.])\d\.\d{3}(?!\d)", tables))
