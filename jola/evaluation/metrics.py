"""Metrics, computed from stored answers, so that a metric can be added without running a model again.

A `Metric` gives each example a number, or a row of counts. A `Score` is the mean of the numbers, or the value computed
from the summed counts, with its n and its 95 % interval. All values are fractions: a BLEU of 0.231 is what sacrebleu
prints as 23.1.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from jola.data.records import Example
from jola.errors import InputError
from jola.system.formatting import score_text

CONFIDENCE = 0.95
RESAMPLES = 2000
"""Bootstrap resamples, for metrics whose values are not only 0 and 1."""
_CHUNK = 4 << 20
"""Numbers in one block of resamples; bounds the memory of the bootstrap."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """A metric over ``n`` examples, with its 95 % interval.

    Args:
        metric: Name of the metric, which for some includes what the value depends on, such as an encoder.
        title: Title shown to users.
        signature: Everything that the value depends on, for reports; empty if the name says it all.
    """

    metric: str
    value: float
    n: int
    low: float
    high: float
    title: str = ""
    signature: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as in ``result.json``, without empty texts."""
        found = {
            "metric": self.metric, "value": self.value, "n": self.n, "low": self.low, "high": self.high,
            "title": self.title, "signature": self.signature,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value != ""}

    def __str__(self) -> str:
        return score_text(self.to_dict())


Values = Callable[[Sequence[str], Sequence[Example], Sequence[str] | None], Any]


@dataclass(frozen=True)
class Metric:
    """A number, or a row of counts, for each example, and how they are combined.

    Args:
        name: Name in files.
        title: Title shown to users.
        values: Called with the answers, the examples and the labels of the task, or None; returns (n,) numbers or
            (n, k) counts.
        needs_labels: Whether it requires examples with options or labels.
        total: Computes the value from (k,) summed counts; None takes the mean of the numbers.
        single: Computes the value from the (k,) counts of one example, if it differs from `total`.
        reads: "answer", or "options" for the most likely option.
        signature: Returns everything that the value depends on, given the examples.
        package: Module of the extra ``metrics`` that it needs.
    """

    name: str
    title: str
    values: Values
    needs_labels: bool = False
    total: Callable[[Array], float] | None = None
    single: Callable[[Array], float] | None = None
    reads: str = "answer"
    signature: Callable[[Sequence[Example]], str] | None = None
    package: str = ""

    def score(self, answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None = None) -> Score:
        """Compute the value over the examples, with its interval.

        Args:
            answers: One for each example; for a metric that reads options, the most likely option.
            examples: Examples with the right answers.
            labels: Options of the examples that have none of their own.

        Raises:
            InputError: There are no examples, the metric needs labels that are missing, or a package is missing.
        """
        if not examples:
            raise InputError("There are no examples to evaluate.")
        if self.needs_labels and not labels and not all(example.options for example in examples):
            raise InputError(f"The metric {self.name} needs a task with a fixed set of labels, or options by example.")
        values = np.asarray(self.values(answers, examples, labels), dtype=np.float64)
        value = float(values.mean()) if self.total is None else self.total(values.sum(0))
        low, high = interval_of(values, self.total)
        signature = self.signature(examples) if self.signature else ""
        return Score(self.name, value, len(values), low, high, self.title, signature)

    def on_first_reference(self) -> "Metric":
        """Return this metric with only the first right answer of each example."""

        def values(answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None) -> Any:
            return self.values(answers, _first_only(examples), labels)

        signature = self.signature
        return replace(
            self,
            name=f"{self.name}_first_reference",
            title=f"{self.title}, first reference",
            values=values,
            signature=(lambda examples: signature(_first_only(examples))) if signature else None,
        )


def interval_of(values: Array, total: Callable[[Array], float] | None = None) -> tuple[float, float]:
    """Return the 95 % interval of a mean, or of ``total`` of the summed counts.

    Wilson's interval for the mean of values that are all 0 or 1, else the percentiles of a bootstrap over the examples.

    Args:
        values: (n,) numbers, or (n, k) counts.
        total: See `Metric`.
    """
    n = len(values)
    if total is None and np.isin(values, (0, 1)).all():
        found = binomtest(int(values.sum()), n).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)
    generator = np.random.default_rng(0)
    size = max(1, _CHUNK // values.size)
    blocks = [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]
    sums = np.concatenate([values[generator.integers(0, n, (count, n))].sum(1) for count in blocks])
    estimates = sums / n if total is None else [total(row) for row in sums]
    low, high = np.quantile(estimates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def right_answers(example: Example) -> list[str]:
    """Return the answers that count as right, without surrounding white space."""
    return [answer.strip() for answer in (example.completion, *example.references)]


def _first_only(examples: Sequence[Example]) -> list[Example]:
    return [replace(example, references=()) for example in examples]


# Accuracy


def _exact_match(answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None) -> list[float]:
    return [float(a.strip() in right_answers(e)) for a, e in zip(answers, examples, strict=True)]


def _first_label(answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None) -> list[float]:
    return [
        float(first_label(a, e.options or labels or ()) in right_answers(e))
        for a, e in zip(answers, examples, strict=True)
    ]


def first_label(answer: str, labels: Sequence[str]) -> str | None:
    """Return the label that occurs first in an answer, the longest if several begin there; None without any."""
    text = answer.lower()
    found = [(text.find(label.lower()), -len(label), label) for label in labels if label.lower() in text]
    return min(found)[2] if found else None


_STATED = re.compile(r"(?i:answer\s+is)\W{0,4}([A-J])(?![A-Za-z])")
_LONE = re.compile(r"(?<![A-Za-z])([A-J])(?![A-Za-z])")


def answer_letter(answer: str) -> str | None:
    """Return the letter A to J in "The answer is (X)", else the first such capital that is a word, else None."""
    found = _STATED.search(answer) or _LONE.search(answer)
    return found[1] if found else None


def _answer_letter(answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None) -> list[float]:
    right = [{answer_letter(text) for text in right_answers(example)} - {None} for example in examples]
    return [float(answer_letter(answer) in letters) for answer, letters in zip(answers, right, strict=True)]


# Generation; the packages of the extra "metrics" are imported where they are used


def _bleu_counts(answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None) -> list[list[int]]:
    """Return for each example: lengths of answer and closest reference, then matches and n-grams of orders 1 to 4."""
    bleu = required_package("sacrebleu").BLEU(lowercase=True, effective_order=True)
    rows = []
    for answer, example in zip(answers, examples, strict=True):
        found = bleu.sentence_score(answer, right_answers(example))
        rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])
    return rows


def _bleu(counts: Array, *, effective_order: bool = False) -> float:
    lengths, matches, ngrams = (part.astype(int).tolist() for part in np.split(counts, (2, 6)))
    compute = required_package("sacrebleu").BLEU.compute_bleu
    return compute(matches, ngrams, *lengths, smooth_method="exp", effective_order=effective_order).score / 100


def _bleu_of_one(counts: Array) -> float:
    """BLEU of one sentence, without the orders of n-grams that are longer than the answer."""
    return _bleu(counts, effective_order=True)


def _bleu_signature(examples: Sequence[Example]) -> str:
    version = required_package("sacrebleu").__version__
    return f"{_reference_counts(examples)}|case:lc|eff:no|tok:13a|smooth:exp|version:{version}"


def _rouge_l(answers: Sequence[str], examples: Sequence[Example], labels: Sequence[str] | None) -> list[float]:
    """F-measure of the longest common subsequence of stems, with the reference for which it is largest."""
    scorer = required_package("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=True)
    return [scorer.score_multi(right_answers(e), a)["rougeL"].fmeasure for a, e in zip(answers, examples, strict=True)]


def _rouge_signature(examples: Sequence[Example]) -> str:
    from importlib.metadata import version

    return f"{_reference_counts(examples)}|max|F|stemmer|rouge-score:{version('rouge-score')}"


def _reference_counts(examples: Sequence[Example]) -> str:
    counts = {1 + len(example.references) for example in examples}
    return f"nrefs:{counts.pop() if len(counts) == 1 else 'var'}"


def required_package(name: str) -> Any:
    """Import a module of the extra ``metrics``.

    Raises:
        InputError: Its package is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        raise InputError(
            f"The metrics of generated texts need {package} ({error}); pip install 'jola-workbench[metrics]'."
        ) from error


EXACT_MATCH = Metric("exact_match", "Exact match", _exact_match)
OPTIONS = Metric("options", "Choosing among the options", _exact_match, needs_labels=True, reads="options")
FIRST_LABEL = Metric("first_label", "First label in the answer", _first_label, needs_labels=True)
ANSWER_LETTER = Metric("answer_letter", "Letter of the answer", _answer_letter)
BLEU = Metric(
    "bleu", "BLEU", _bleu_counts, total=_bleu, single=_bleu_of_one, signature=_bleu_signature, package="sacrebleu"
)
ROUGE_L = Metric("rouge_l", "ROUGE-L", _rouge_l, signature=_rouge_signature, package="rouge_score.rouge_scorer")

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (EXACT_MATCH, OPTIONS, FIRST_LABEL, ANSWER_LETTER, BLEU, ROUGE_L)
}
"""Metrics that need no model of their own, by name. `jola.evaluation.answers.metric_named` also knows BERTScore."""
