"""Analyze the stored answers of a run: which are right, what the edits changed, and which labels are confused.

from jola import Run
from jola.evaluation.confusion import confusion, changes

answers = Run.open("runs/my-run").answers()
confusion(answers).to_frame()
changes(answers)  # {"gained": [...], "lost": [...]}, for runs that also stored the answers of the base model
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from jola.runs.answers import TestAnswer

if TYPE_CHECKING:
    import pandas as pd

OTHER = "other"
"""Column of the answers that are not a label, unless a label has this name."""

Change = Literal["gained", "lost"]


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each expected label got each answer.

    Args:
        labels: The labels of the task.
        counts: (labels, labels + 1): expected label × answered label; the last column counts answers that are no label.
    """

    labels: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def n(self) -> int:
        """The number of examples."""
        return int(self.counts.sum())

    @property
    def columns(self) -> tuple[str, ...]:
        """The labels, and a name for the answers that are no label."""
        return *self.labels, OTHER if OTHER not in self.labels else "no label"

    def to_frame(self) -> "pd.DataFrame":
        """One row per expected label, one column per answered label, and a last column of other answers."""
        import pandas as pd

        columns = pd.Index(self.columns, name="answered")
        return pd.DataFrame(self.counts, index=pd.Index(self.labels, name="expected"), columns=columns)


def labels_of(answers: Sequence[TestAnswer]) -> tuple[str, ...]:
    """Return the labels of the task; empty unless all examples have the same options, with each right answer."""
    sets = {answer.example.options for answer in answers}
    labels = next(iter(sets)) if len(sets) == 1 else ()
    known = len(labels) > 1 and all(answer.example.completion in labels for answer in answers)
    return labels if known else ()


def confusion(answers: Sequence[TestAnswer], *, base: bool = False) -> Confusion | None:
    """Return the confusion matrix of the edited model, or of the base model; None for tasks without labels.

    An answer is a label if it is identical to it, apart from surrounding white space. Examples without an answer of the
    base model are not counted in its matrix.
    """
    labels = labels_of(answers)
    if not labels:
        return None
    counts = np.zeros((len(labels), len(labels) + 1), dtype=np.int64)
    for answer in answers:
        text = answer.base_answer if base else answer.answer
        if text is not None:
            counts[cell_of(answer, text, labels)] += 1
    return Confusion(labels, counts)


def cell_of(answer: TestAnswer, text: str, labels: Sequence[str]) -> tuple[int, int]:
    """Return the (row, column) of an answer in the confusion matrix."""
    said = text.strip()
    return labels.index(answer.example.completion), labels.index(said) if said in labels else len(labels)


def example_values(
    answers: Sequence[TestAnswer], metric: str = "exact_match", *, base: bool = False
) -> list[float | None]:
    """Score each answer with a metric: 1 and 0 for right and wrong, or a value such as ROUGE-L; None without an answer.

    A metric of summed counts, such as BLEU, is computed from the counts of each example, with its ``single``.

    Args:
        metric: Name of a metric that reads answers, as for `jola.evaluation.answers.metric_named`.
        base: Whether to take the answers of the base model.

    Raises:
        InputError: There is no such metric, or its package is missing.
    """
    from jola.evaluation.answers import metric_named  # which imports scipy; the table of runs begins without it

    found = metric_named(metric)
    texts = [answer.base_answer if base else answer.answer for answer in answers]
    known = [(text, answer.example) for text, answer in zip(texts, answers, strict=True) if text is not None]
    if not known:
        return [None] * len(texts)
    said, examples = zip(*known, strict=True)
    total = found.single or found.total
    counts = np.asarray(found.values(said, examples, None), dtype=np.float64)
    values = iter(counts.tolist() if total is None else [total(row) for row in counts])
    return [None if text is None else next(values) for text in texts]


def change_of(before: float | None, after: float | None) -> Change | None:
    """Return ``gained`` if the later value is larger, ``lost`` if it is smaller, else None (also if one is missing)."""
    if before is None or after is None or before == after:
        return None
    return "gained" if after > before else "lost"


def changes(answers: Sequence[TestAnswer], metric: str = "exact_match") -> dict[Change, list[TestAnswer]]:
    """Return the examples that the edits gained and lost: for exact match, right only with, or only without, the edits.

    Raises:
        InputError: See `example_values`.
    """
    found: dict[Change, list[TestAnswer]] = {"gained": [], "lost": []}
    before, after = example_values(answers, metric, base=True), example_values(answers, metric)
    for answer, was, now in zip(answers, before, after, strict=True):
        change = change_of(was, now)
        if change:
            found[change].append(answer)
    return found
