"""Metrics of stored answers: values, intervals and refusals."""

import importlib
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sacrebleu
from scipy.stats import beta

from jola.data.records import Example, Message
from jola.errors import InputError
from jola.evaluation.answers import check_installed, default_metrics, metric_named, score_answers
from jola.evaluation.metrics import (
    ANSWER_LETTER,
    BLEU,
    EXACT_MATCH,
    FIRST_LABEL,
    OPTIONS,
    ROUGE_L,
    Metric,
    answer_letter,
    first_label,
    interval_of,
)
from jola.runs.answers import TestAnswer
from jola.system.formatting import score_text, score_title

LABELS = ("no", "no idea", "yes")
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "tree", "slowly", "today"]


def example(right: str, *references: str, options: tuple[str, ...] = ()) -> Example:
    return Example((Message("user", "?"),), right, references, options)


def text(generator: random.Random, shortest: int, longest: int) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(shortest, longest)))


def generated(n: int, *, seed: int = 0) -> tuple[list[str], list[Example]]:
    """Return answers that begin like the first reference, some empty, and examples with one to four references."""
    generator = random.Random(seed)
    answers, examples = [], []
    for _ in range(n):
        right = text(generator, 5, 12)
        keep = generator.randint(0, len(right.split()))
        answers.append(
            " ".join([*right.split()[:keep], *text(generator, 0, 4).split()]) if generator.random() > 0.1 else ""
        )
        examples.append(example(right, *(text(generator, 5, 12) for _ in range(generator.randint(0, 3)))))
    return answers, examples


class TestAccuracy:
    def test_exact_match_takes_references_and_ignores_white_space(self) -> None:
        examples = [example("yes"), example("yes"), example("no", "nope"), example("no")]
        score = EXACT_MATCH.score([" yes ", "Yes", "nope", ""], examples)
        assert (score.value, score.n) == (0.5, 4)
        assert 0 < score.low < 0.5 < score.high < 1
        assert str(score) == f"0.500 (n = 4, 95 % interval {score.low:.3f}–{score.high:.3f})"

    @pytest.mark.parametrize(
        ("answer", "label"),
        [
            ("The answer is YES.", "yes"),
            ("no idea", "no idea"),
            ("no, yes", "no"),
            ("yes or no", "yes"),
            ("", None),
            ("perhaps", None),
        ],
    )
    def test_the_first_label_of_an_answer(self, answer: str, label: str | None) -> None:
        assert first_label(answer, LABELS) == label

    @pytest.mark.parametrize(
        ("answer", "letter"),
        [
            ("The answer is (B)", "B"),
            ("The answer is B.", "B"),
            ("the answer is: **(D)**", "D"),
            ("A or B? The answer is (C).", "C"),
            ("J", "J"),
            ("(e)", None),
            ("K", None),
            ("Because", None),
            ("The answer is Because", None),
            ("", None),
        ],
    )
    def test_the_letter_of_an_answer(self, answer: str, letter: str | None) -> None:
        assert answer_letter(answer) == letter
        assert ANSWER_LETTER.score([answer], [example("The answer is (B)")]).value == (letter == "B")

    def test_an_answer_without_a_letter_is_not_right_because_the_reference_has_none(self) -> None:
        assert ANSWER_LETTER.score([""], [example("none")]).value == 0

    def test_a_metric_over_labels_needs_them(self) -> None:
        examples = [example("yes"), example("no")]
        assert FIRST_LABEL.score(["I say yes", "yes"], examples, LABELS).value == 0.5
        with pytest.raises(InputError, match="needs a task with a fixed set of labels"):
            FIRST_LABEL.score(["yes", "no"], examples)

    def test_options_of_an_example_come_before_the_labels_of_the_task(self) -> None:
        examples = [example("b", options=("a", "b")), example("no")]
        assert FIRST_LABEL.score(["b", "it is no"], examples, LABELS).value == 1

    def test_no_examples_are_refused(self) -> None:
        with pytest.raises(InputError, match="no examples"):
            EXACT_MATCH.score([], [])


class TestBleu:
    @pytest.mark.parametrize("seed", range(5))
    def test_the_sum_of_the_counts_is_the_corpus_score(self, seed: int) -> None:
        answers, examples = generated(80, seed=seed)
        most = max(1 + len(e.references) for e in examples)
        references = [
            [(right[k] if k < len(right := [e.completion, *e.references]) else None) for e in examples]
            for k in range(most)
        ]
        whole = sacrebleu.BLEU(lowercase=True)
        score = BLEU.score(answers, examples)
        assert score.value == pytest.approx(whole.corpus_score(answers, references).score / 100, abs=1e-12)
        assert score.signature == str(whole.get_signature())
        assert score.n == 80 and 0 < score.low < score.value < score.high < 1

    def test_case_does_not_count(self) -> None:
        examples = [example("The cat sat on the mat.")]
        assert BLEU.score(["the CAT sat on the mat ."], examples).value == pytest.approx(1)

    def test_the_first_reference_alone(self) -> None:
        examples = [example("the cat sat on a mat", "a dog ran under the tree")]
        answers = ["a dog ran under the tree"]
        first = BLEU.on_first_reference()
        assert BLEU.score(answers, examples).value == pytest.approx(1) and first.score(answers, examples).value < 0.2
        assert first.name == "bleu_first_reference" and "nrefs:1|" in first.score(answers, examples).signature

    def test_empty_answers(self) -> None:
        score = BLEU.score(["", ""], [example("the cat sat on it"), example("a dog ran")])
        assert (score.value, score.low, score.high) == (0, 0, 0)


class TestRouge:
    def test_it_is_the_f_of_the_longest_common_subsequence_of_stems(self) -> None:
        # Common: "cat", "sit" (the stem of "sits" and "sitting"), "mat": precision 3/4, recall 3/5.
        score = ROUGE_L.score(["cat sits beside mat"], [example("the cat is sitting mat")])
        assert score.value == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
        assert score.signature.startswith("nrefs:1|max|F|stemmer|rouge-score:")

    def test_it_takes_the_best_reference(self) -> None:
        examples = [example("nothing in common", "the cat sat"), example("the dog")]
        assert ROUGE_L.score(["the cat sat", ""], examples).value == 0.5
        assert ROUGE_L.on_first_reference().score(["the cat sat", ""], examples).value == 0


class TestIntervals:
    def test_of_shares_is_wilsons(self) -> None:
        low, high = interval_of(np.array([1.0] * 45 + [0.0] * 5))
        z, p, n = 1.959964, 0.9, 50
        centre, half = (
            (p + z * z / (2 * n)) / (1 + z * z / n),
            z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5,
        )
        assert (low, high) == pytest.approx((centre - half, centre + half), abs=1e-5)

    def test_of_other_values_covers_the_mean(self) -> None:
        generator, covered = np.random.default_rng(1), 0
        for _ in range(300):
            low, high = interval_of(beta.rvs(2, 3, size=60, random_state=generator))
            covered += low <= 0.4 <= high
        assert 0.90 <= covered / 300 <= 0.98

    def test_of_a_corpus_metric_covers_its_value_on_the_population(self) -> None:
        """The metric is a ratio of sums like BLEU's precisions: n-gram matches, with a lower rate in long answers."""
        generator, covered = np.random.default_rng(2), 0

        def draw(n: int) -> np.ndarray:
            lengths = generator.integers(5, 30, n)
            return np.stack([generator.binomial(lengths, 0.8 - 0.02 * lengths), lengths], axis=1).astype(float)

        def ratio(counts: np.ndarray) -> float:
            return float(counts[0] / counts[1])

        truth = ratio(draw(2_000_000).sum(0))
        for _ in range(200):
            low, high = interval_of(draw(80), ratio)
            covered += low <= truth <= high
        assert 0.90 <= covered / 200 <= 0.99

    def test_bleu_of_samples_covers_that_of_all_answers(self) -> None:
        answers, examples = generated(4000)
        counts = np.asarray(BLEU.values(answers, examples, None), dtype=float)
        assert BLEU.total is not None
        truth, generator, covered = BLEU.total(counts.sum(0)), np.random.default_rng(3), 0
        for _ in range(40):
            low, high = interval_of(counts[generator.choice(len(counts), 100, replace=False)], BLEU.total)
            covered += low <= truth <= high
        assert 34 <= covered <= 40

    def test_memory_is_bounded_and_blocks_change_nothing_but_the_draws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = np.random.default_rng(4).random(50)
        whole = interval_of(values)
        monkeypatch.setattr("jola.evaluation.metrics._CHUNK", 1000)
        assert interval_of(values) == pytest.approx(whole, abs=0.02)


def kept(answer: str, right: str = "b", **more: Any) -> TestAnswer:
    return TestAnswer("id", example(right, options=("a", "b")), answer, **more)


class TestKeptAnswers:
    def test_every_metric_of_the_task_in_its_order(self) -> None:
        answers = [kept("b", log_likelihoods=(-2.0, -1.0)), kept("it is b", log_likelihoods=(-1.0, -2.0))]
        found = score_answers(answers, ["options", "exact_match", "first_label"])
        assert [(score.metric, score.value) for score in found] == [
            ("options", 0.5), ("exact_match", 0.5), ("first_label", 1.0),
        ]  # fmt: skip

    def test_of_the_base_model(self) -> None:
        answers = [kept("b", base_answer="a", base_log_likelihoods=(-1.0, -3.0)), kept("a", base_answer="b")]
        assert score_answers(answers, ["exact_match"], base=True)[0].value == 0.5
        with pytest.raises(InputError, match="needs the log-likelihoods of options, which 1 of the 2"):
            score_answers(answers, ["options"], base=True)
        with pytest.raises(InputError, match="needs answers without edits"):
            score_answers([kept("b")], ["exact_match"], base=True)

    def test_the_first_reference_alone(self) -> None:
        answers = [TestAnswer("id", example("one", "two"), "two")]
        values = {s.metric: s.value for s in score_answers(answers, ["exact_match"], first_reference=True)}
        assert values == {"exact_match_first_reference": 0}

    @pytest.mark.parametrize(
        ("answers", "names"),
        [
            ([kept("b", log_likelihoods=(-2.0, -1.0))], ["exact_match", "options", "first_label"]),
            ([kept("b")], ["exact_match", "first_label"]),
            ([TestAnswer("id", example("b"), "b")], ["exact_match"]),
        ],
    )
    def test_those_that_the_answers_allow(self, answers: Sequence[TestAnswer], names: list[str]) -> None:
        assert default_metrics(answers, ["exact_match", "options", "first_label"]) == names

    def test_an_unknown_name(self) -> None:
        with pytest.raises(InputError, match="There is no metric 'blue'; known are exact_match, options,"):
            metric_named("blue")

    @pytest.mark.parametrize("name", ["bleu", "rouge_l"])
    def test_a_package_that_is_not_installed(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(module: str) -> None:
            raise ImportError(f"No module named {module!r}")

        monkeypatch.setattr(importlib, "import_module", refuse)
        with pytest.raises(InputError, match=r"need (sacrebleu|rouge-score) .*pip install 'jola-workbench\[metrics\]'"):
            check_installed(["exact_match", name])


def test_one_formatter_writes_shares_in_percent_and_other_scores_without() -> None:
    found = {"metric": "exact_match", "value": 0.878, "n": 1500, "low": 0.846, "high": 0.904}
    assert score_text(found) == "0.878 (n = 1,500, 95 % interval 0.846–0.904)"
    assert score_text(found, percent=True) == "87.8 % (n = 1,500, 95 % interval 84.6–90.4)"
    bleu = found | {"metric": "bleu", "title": "BLEU"}
    assert score_text(bleu) == "0.878 (n = 1,500, 95 % interval 0.846–0.904)"
    assert score_text(bleu, percent=True) == "87.8 (n = 1,500, 95 % interval 84.6–90.4)"
    assert (score_title(found), score_title(bleu)) == ("Exact match", "BLEU")


def test_metrics_of_options_compare_the_chosen_option() -> None:
    assert isinstance(OPTIONS, Metric) and OPTIONS.reads == "options"
    assert OPTIONS.score(["b"], [example("b", options=("a", "b"))]).value == 1
