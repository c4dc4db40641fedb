"""Passes of the frozen model from which methods compute edits without training."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

import torch
from torch import Tensor

from jola.data.examples import Encoded, EncodedSet, Example, Template, collate, pad_token_of
from jola.edits.intervention import Intervention
from jola.evaluation.reading import after_answers
from jola.model.edited import EditedModel
from jola.training.trainer import rows_correct

_BATCH = 16


class Passes:
    """A `jola.methods.base.Material`: examples, and passes of a model over them.

    Args:
        model: The model; its own edits are not used.
        train: Training examples.
        validation: Encoded validation examples, or None.
        labels: The possible answers of a task with fixed labels, else None.
        advance: Called with the number of finished batches after each batch; may raise to stop.
        measured: Called with the metrics and the settings of each validation.
    """

    def __init__(
        self,
        model: EditedModel,
        template: Template,
        train: Sequence[Example],
        validation: EncodedSet | None,
        labels: Sequence[str] | None,
        seed: int,
        advance: Callable[[int], None],
        measured: Callable[[dict[str, Any]], None],
    ) -> None:
        self.train, self.labels = train, labels
        self.random = Random(seed)
        self.validation: Sequence[Encoded] = validation.rows if validation else ()
        self._model, self._template = model, template
        self._advance, self._measured = advance, measured
        self._batches = 0
        self._found: list[dict[str, Any]] = []
        self.seen = 0
        """Number of examples in the passes so far."""

    def after_blocks(self, examples: Sequence[Example]) -> Tensor:
        """See `jola.methods.base.Material`."""
        batches = self._in_batches([self._template.encode(example) for example in examples])
        return torch.cat([after_answers(self._model, rows, self._template.end_token_ids) for rows in batches])

    @torch.no_grad()
    def validate(self, interventions: Sequence[Intervention], **settings: Any) -> tuple[float, float]:
        """See `jola.methods.base.Material`."""
        correct = total = 0.0
        for rows in self._in_batches(self.validation):
            batch = collate(rows, pad_token_of(self._model.tokenizer))
            with self._model.using([i.to(self._model.device) for i in interventions]):
                output = self._model(**batch, reduction="answer")
            total += float(output.loss) * len(rows)
            correct += float(rows_correct(output.logits, batch["labels"]).sum())
        n = len(self.validation)
        self._found.append({"validation_cross_entropy": total / n, "validation_accuracy": correct / n, **settings})
        self._measured(self._found[-1])
        return correct / n, total / n

    def found_with(self, settings: Any) -> dict[str, Any]:
        """Metrics of the validation with these settings of a method; empty if they were not validated."""
        given = asdict(settings)
        return next((f for f in self._found if all(f.get(name, value) == value for name, value in given.items())), {})

    def _in_batches(self, rows: Sequence[Encoded]) -> Iterator[Sequence[Encoded]]:
        for start in range(0, len(rows), _BATCH):
            chosen = rows[start : start + _BATCH]
            yield chosen
            self._batches += 1
            self.seen += len(chosen)
            self._advance(self._batches)
