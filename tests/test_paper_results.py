"""The page about the paper's tables agrees with the stored results."""

from typing import Any

import numpy as np
import pytest

from benchmarks import paper_results
from benchmarks.paper_results import GROUPS, STUDIES, arms_of, differences_table, means_table, scores_table, sizes_table
from jola.data.records import Example, Message
from jola.evaluation.metrics import METRICS, interval_of
from jola.runs.answers import TestAnswer
from jola.studies.statistics import mean_over_seeds, paired_bootstrap
from tests import ROOT

PAGE = (ROOT / "docs" / "results" / "paper.md").read_text("utf-8")


def test_the_tables_have_the_stored_results() -> None:
    assert paper_results.written(PAGE) == PAGE, "run: python -m benchmarks.paper_results write"
    for study in STUDIES:
        assert (f"<!-- {study} -->" in PAGE) == bool(paper_results.read(study))


@pytest.mark.parametrize("study", [study for study in STUDIES if paper_results.read(study)])
def test_every_stored_cell_is_complete(study: str) -> None:
    cells = paper_results.read(study)
    keys = [(c["arm"], c["task"], c["seed"], c["n_train"]) for c in cells]
    assert len(set(keys)) == len(keys)
    for cell in cells:
        assert tuple(cell["scores"]) == GROUPS[cell["group"]]
        for score in cell["scores"].values():
            assert score["low"] < score["high"]
            if "right" in score:
                assert len(score["right"]) == score["n"]
                assert score["right"].count("1") / score["n"] == pytest.approx(score["value"])


def test_scores_are_those_of_the_metrics() -> None:
    texts = ("true story", "false", "", "it is false")
    expected = ("true", "true", "false", "false")
    answers = [
        TestAnswer(str(n), Example((Message("user", "?"),), right, options=("true", "false")), text)
        for n, (right, text) in enumerate(zip(expected, texts, strict=True))
    ]
    found = paper_results.score(answers, "first_label")
    assert (found["right"], found["value"], found["n"]) == ("1001", 0.5, 4)
    assert (found["low"], found["high"]) == interval_of(np.array([1.0, 0, 0, 1]))
    bleu = paper_results.score(answers, "bleu")
    total = METRICS["bleu"].total
    assert total is not None
    assert bleu["value"] == pytest.approx(total(np.array(bleu["counts"]).sum(0)))


def cell(arm: str, right: str, seed: int | None = 1, task: str = "boolq", n_train: int | None = 200) -> dict[str, Any]:
    """Return a cell whose answers are correct where ``right`` has a 1."""
    values = np.array([float(letter) for letter in right])
    group = {"boolq": "commonsense", "sst2": "short_text"}[task]
    low, high = interval_of(values)
    score = {"value": values.mean(), "n": len(values), "low": low, "high": high, "right": right}
    return {
        "arm": arm,
        "group": group,
        "task": task,
        "seed": seed,
        "n_train": n_train,
        "examples": "a",
        "scores": {GROUPS[group][0]: score},
        "trainable": 10 if seed else 0,
        "text_kl": 0.25 if seed else None,
    }


def test_arms_follow_the_registry() -> None:
    cells = [cell(arm, "1") for arm in ("zero-shot", "lora", "jola:gates=none", "jola")]
    assert arms_of(cells) == ["jola", "jola:gates=none", "lora", "zero-shot"]
    assert paper_results.titled("jola:sites=mlp:gates=none") == "JoLA, sites = mlp, gates = none"


def test_one_seed_has_intervals_over_examples() -> None:
    cells = [cell("jola", "1100"), cell("lora", "1110"), cell("red", "1100"), cell("zero-shot", "0000", None)]
    cells[-1]["n_train"] = None
    found = paired_bootstrap([1, 1, 1, 0], [1, 1, 0, 0])
    assert scores_table(cells)[:2] == [["method", "boolq (n = 4)"], ["JoLA", "0.500 (0.150 to 0.850)"]]
    rows = dict(differences_table(cells)[1:])
    assert rows["LoRA"] == f"+0.250 ({found.low:+.3f} to {found.high:+.3f})"
    assert rows["RED"] == "+0.000, the same answers are correct"
    assert rows["Zero-shot"].startswith("-0.500 (-1.000 to ")


def test_several_seeds_have_intervals_over_seeds() -> None:
    cells = [cell("jola", right, seed) for seed, right in enumerate(("1100", "1110", "1111"), 1)]
    cells += [cell("lora", right, seed) for seed, right in enumerate(("1000", "1110", "0111"), 1)]
    cells.append(cell("red", "1100", 2))
    found = mean_over_seeds([0.5, 0.75, 1.0])
    assert scores_table(cells)[1] == ["JoLA", f"0.750 ({found.low:.3f} to {found.high:.3f})"]
    difference = mean_over_seeds([-0.25, 0.0, -0.25])
    rows = dict(differences_table(cells)[1:])
    assert rows["LoRA"] == f"-0.167 ({difference.low:+.3f} to {difference.high:+.3f})"
    assert rows["RED"] == "-0.250"  # one common seed: no interval over examples next to intervals over seeds
    assert dict(differences_table([c for c in cells if c["seed"] < 3])[1:])["LoRA"] == "-0.125 [-0.250, +0.000]"


def test_what_does_not_train_is_paired_with_every_seed() -> None:
    cells = [cell("jola", right, seed) for seed, right in enumerate(("1100", "1110"), 1)]
    cells.append(cell("zero-shot", "1000", None, n_train=None))
    assert differences_table(cells)[1] == ["Zero-shot", "-0.375 [-0.250, -0.500]"]


def test_other_examples_are_not_paired() -> None:
    cells = [cell("jola", "1100"), {**cell("lora", "1100"), "examples": "b"}]
    with pytest.raises(SystemExit, match="lora and jola were tested on different examples of boolq"):
        differences_table(cells)


def test_bleu_is_compared_on_resampled_examples() -> None:
    generator = np.random.default_rng(3)
    # Lengths of answer and reference, then matches and n-grams of orders 1 to 4.
    counts = np.concatenate([np.full((50, 2), 12), np.tile([12, 11, 10, 9], (50, 1))], 1)
    rows = [np.insert(counts, [2], generator.integers(low, 9, (50, 4)), 1).tolist() for low in (6, 2)]
    better, worse = ({"counts": row} for row in rows)
    low, high = paper_results.over_examples(better, worse)
    assert 0 < low < high
    swapped = paper_results.over_examples(worse, better)
    assert swapped == pytest.approx((-high, -low))


def test_sizes_are_columns() -> None:
    cells = [cell("jola", right, 1, "sst2", n) for n, right in ((25, "1000"), (100, "1100"))]
    cells.append(cell("lora", "1110", 1, "sst2", 100))
    head, jola, lora, difference = sizes_table(cells)
    assert head == ["training examples (n = 4)", "25", "100"]
    assert [text.partition(" ")[0] for text in jola] == ["JoLA", "0.250", "0.500"]
    assert [text.partition(" ")[0] for text in lora] == ["LoRA", "–", "0.750"]
    found = paired_bootstrap([1, 1, 1, 0], [1, 1, 0, 0])
    assert difference == ["LoRA minus JoLA", "–", f"+0.250 ({found.low:+.3f} to {found.high:+.3f})"]


def test_means_are_over_the_tasks_that_all_arms_have() -> None:
    cells = [cell("jola", "1100", seed) for seed in (1, 2)] + [cell("jola", "1111", 1, "sst2")]
    cells += [cell("lora", "1110", 1), cell("lora", "1111", 1, "sst2")]
    head, jola, lora = means_table(cells)
    assert head == ["method", "accuracy, 2 tasks", "minus JoLA", "KL on plain text, 2 tasks", "trainable parameters"]
    assert jola == ["JoLA", "0.750", "", "0.25", "10"]
    assert lora == ["LoRA", "0.875", "+0.125 [+0.250, +0.000]", "0.25", "10"]
    cells.append(cell("red", "1110", 1))
    head, jola, _, red = means_table(cells)
    assert head[1] == "accuracy, 1 task"
    assert (jola[1], red[1]) == ("0.500", "0.750")
