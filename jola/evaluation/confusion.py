"""What the kept answers of a run say: which are right, what the edits changed, and which labels are confused.

from jola import Run
from jola.evaluation.confusion import confusion, changes

answers = Run.open("runs/my-run").answers()
confusion(answers).to_frame()
changes(answers)  # {"gained": [...], "lost": [...]}, for runs that also kept the answers of the base model
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
"""Column of the answers that are no label."""

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

    def to_frame(self) -> "pd.DataFrame":
        """One row per expected label, one column per answered label, and a last column of other answers."""
        import pandas as pd

        columns = pd.Index([*self.labels, OTHER], name="answered")
        return pd.DataFrame(self.counts, index=pd.Index(self.labels, name="expected"), columns=columns)


def labels_of(answers: Sequence[TestAnswer]) -> tuple[str, ...]:
    """The labels of the task; empty unless all examples share one set of options, and every right answer is one."""
    sets = {answer.example.options for answer in answers}
    labels = next(iter(sets)) if len(sets) == 1 else ()
    known = len(labels) > 1 and all(answer.example.completion in labels for answer in answers)
    return labels if known else ()


def confusion(answers: Sequence[TestAnswer], *, base: bool = False) -> Confusion | None:
    """The confusion matrix of the edited model, or of the base model; None for tasks without labels.

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
    """(row, column) of an answer in the confusion matrix."""
    said = text.strip()
    return labels.index(answer.example.completion), labels.index(said) if said in labels else len(labels)


def is_right(answer: TestAnswer, text: str | None) -> bool:
    """Whether a text is one of the right answers, apart from surrounding white space."""
    return text is not None and text.strip() in [expected.strip() for expected in answer.expected]


def change_of(answer: TestAnswer, before: str | None, after: str | None) -> Change | None:
    """``gained`` if only the later answer is right, ``lost`` if only the earlier one is; None if either is missing."""
    if before is None or after is None:
        return None
    was, now = is_right(answer, before), is_right(answer, after)
    return None if was == now else "gained" if now else "lost"


def changes(answers: Sequence[TestAnswer]) -> dict[Change, list[TestAnswer]]:
    """The examples that only the edited model answers right (``gained``), and those that only the base model does."""
    found: dict[Change, list[TestAnswer]] = {"gained": [], "lost": []}
    for answer in answers:
        change = change_of(answer, answer.base_answer, answer.answer)
        if change:
            found[change].append(answer)
    return found
