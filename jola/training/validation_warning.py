"""Warn of a training with low validation accuracy while it runs."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from jola.data.records import Example
from jola.evaluation.scoring import Accuracy
from jola.runs.run import Run
from jola.runs.store import RunStore

WATCHED_FROM = 0.5
"""Share of the training before which there is no warning, because accuracy still rises quickly."""
_ANSWERS_REPEAT = 4
"""Minimum number of validation examples per distinct answer for the most frequent answer to be a baseline."""
_ADVICE = "Stop it, and train again with another seed or a lower learning rate."


@dataclass(frozen=True)
class Expected:
    """The accuracies with which the validation accuracy of a training is compared.

    Args:
        answer: The most frequent answer of the validation examples; empty if answers rarely repeat.
        share: Its share of the validation examples.
        earlier: Validation accuracies of finished runs with the same method, model and data.
    """

    answer: str
    share: float
    earlier: tuple[float, ...]

    @classmethod
    def of(cls, validation: Sequence[Example], earlier: Sequence[float]) -> "Expected":
        """The baseline of the validation examples, and the accuracies of earlier runs."""
        counts = Counter(example.completion for example in validation)
        if len(counts) * _ANSWERS_REPEAT > len(validation):
            return cls("", 0.0, tuple(earlier))
        answer, count = counts.most_common(1)[0]
        return cls(answer, count / len(validation), tuple(earlier))

    def problem(self, best: Accuracy, epochs: str) -> str:
        """A warning if the best validation accuracy so far is low; empty if it is not.

        Args:
            epochs: Progress of the training, such as ``5 of 8 epochs``.
        """
        so_far = f"The validation accuracy is at most {best} after {epochs}"
        if self.answer and best.value <= self.share:
            always = f"always answering '{self.answer}' would give {self.share:.3f}"
            return f"Validation accuracy is low. {so_far}, and {always}. {_ADVICE}"
        usual = statistics.median(self.earlier) if self.earlier else 0.0
        if best.high < usual:
            runs = "an earlier run" if len(self.earlier) == 1 else f"{len(self.earlier)} earlier runs (median)"
            return f"Validation accuracy is low. {so_far}; {runs} on the same data reached {usual:.3f}. {_ADVICE}"
        return ""


def earlier_accuracies(store: RunStore, method: str, model: str, fingerprint: str) -> list[float]:
    """Validation accuracies of the edits that finished runs kept, for one method, model and set of test examples."""
    return [
        accuracy
        for run in store.list()
        if (accuracy := _accuracy_of(run)) is not None and _matches(run.raw_config(), method, model, fingerprint)
    ]


def _accuracy_of(run: Run) -> float | None:
    found = (run.result() or {}).get("validation")
    return found["accuracy"] if found else None


def _matches(config: Mapping[str, object], method: str, model: str, fingerprint: str) -> bool:
    task, own = config.get("task"), config.get("model")
    return (
        config.get("method", "jola") == method
        and isinstance(own, dict)
        and own.get("model") == model
        and isinstance(task, dict)
        and task.get("fingerprint") == fingerprint
    )


class ValidationWarning(TrainerCallback):
    """Compare the best validation accuracy so far with the expected one, from the middle of the training on.

    Args:
        expected: The accuracies to compare with.
        n: Number of validation examples.
        say: Called after each validation with the warning, which is empty if the accuracy is not low.
    """

    def __init__(self, expected: Expected, n: int, say: Callable[[str], None]) -> None:
        self.expected, self.n, self.say = expected, n, say

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Check the validations so far."""
        found = [float(entry["eval_accuracy"]) for entry in state.log_history if "eval_accuracy" in entry]
        if not found or state.global_step < WATCHED_FROM * state.max_steps or not state.is_world_process_zero:
            return
        best = Accuracy(round(max(found) * self.n), self.n)
        self.say(self.expected.problem(best, f"{state.epoch or 0:.0f} of {args.num_train_epochs:.0f} epochs"))
