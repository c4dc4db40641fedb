"""The page about the results of selectors agrees with the stored results."""

import re
from types import SimpleNamespace

from benchmarks import head_selectors
from jola.studies.statistics import mean_over_seeds


def test_the_page_has_the_numbers_of_the_results() -> None:
    text = head_selectors.PAGE.read_text(encoding="utf-8")
    assert head_selectors.page(text) == text, "run: python -m benchmarks.head_selectors --page"
    # The interpretation names accuracies and differences with three decimals; all of them are in the tables.
    tables, _, words = text.partition(head_selectors.END)
    named = re.findall(r"(?<![\d.])\d\.\d{3}(?!\d)", words)
    assert len(named) > 10
    assert set(named) <= set(re.findall(r"(?<![\d.])\d\.\d{3}(?!\d)", tables))


def test_differences_are_paired_by_seed_and_averaged_over_k() -> None:
    accuracy = {
        ("edit", method, k, seed): value
        for method, values in {"offset": (0.5, 0.9, 0.7), "random": (0.4, 0.6, 0.1)}.items()
        for k, shift in (("16", 0.0), ("64", 0.1 if method == "offset" else 0.0))
        for seed, value in enumerate((one + shift for one in values), 1)
        if (method, k, seed) != ("random", "64", 3)  # so that K = 64 has two seeds
    }
    accuracy["jola", "jola", "", 1] = 0.9

    def cell(method: str, *ks: str) -> str:
        return head_selectors._paired_cell(accuracy, (1, 2, 3), method, "random", ks)

    def expected(*values: float) -> str:
        found = mean_over_seeds(values)
        return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}), {len(values)}"

    assert cell("offset", "16") == expected(0.1, 0.3, 0.6)
    assert cell("offset", "64") == expected(0.2, 0.4)
    assert cell("offset", "16", "64") == expected(0.15, 0.35)
    assert cell("", "16").startswith("+0.500") and cell("", "16").endswith(", 1")
    assert cell("lofit", "16") == "–"


def test_scores_of_a_trained_base_are_compared_with_those_of_the_base_as_it_is() -> None:
    study = head_selectors.STUDIES["trec-few"]
    values = {("dsp", 42): 0.5, ("dsp", 43): 0.4, ("dsp_tuned", 42): 0.6, ("dsp_tuned", 43): 0.8, ("pass", 42): 0.3}
    cells = [
        SimpleNamespace(protocol="edit", method=method, k="16", seed=seed, accuracy=value)
        for (method, seed), value in values.items()
    ]
    found = mean_over_seeds([0.1, 0.4])
    *_, dsp, trained_pass = head_selectors._on_a_trained_base(study, cells).splitlines()
    assert dsp == f"| `dsp_tuned` | +0.250 ({found.low:+.3f} to {found.high:+.3f}), 2 |"
    assert trained_pass == "| `pass_tuned` | – |"
    assert not head_selectors._on_a_trained_base(study, cells[:2])
