"""Data classes that describe built-in tasks."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from jola.data.records import Example
from jola.data.tasks.hub import HubTable

DEFAULT_METRICS = ("exact_match", "first_label")
"""Metrics of tasks that declare none; metrics over labels are used only for tasks with labels."""


def prompt_of(example: Example) -> Hashable:
    """Return the prompt of an example; examples with the same prompt belong together."""
    return example.prompt


@dataclass(frozen=True)
class Parts:
    """All examples of a task, before a sample is chosen; a part is None if the source does not have it.

    Args:
        revision: Commit of the dataset, if the source has commits.
        group: Function of an example; those with equal results stay together when a missing part is carved from the
            training part.
    """

    train: list[Example]
    validation: list[Example] | None = None
    test: list[Example] | None = None
    revision: str | None = None
    group: Callable[[Example], Hashable] = prompt_of


@dataclass(frozen=True)
class TaskInfo:
    """A built-in task.

    Args:
        name: Name for ``--task``.
        title: Title shown to users.
        description: One sentence.
        labels: The possible answers, if they are the same for all examples.
        load: Returns all examples; may download data the first time.
        prompt: A sample prompt in the same form that is not among the examples.
        group: Name of its group; empty if it has none.
        metrics: Keys of `jola.evaluation.metrics.METRICS`; the first is the main metric, which tables and comparisons
            show.
        max_new_tokens: Maximum length of an answer in a test; None allows the longest right answer.
        source: Dataset on the Hub; None for data from the package index.
        licence: License of the data, as stated in its data card.
        sizes: Numbers of rows of the training and test parts at the source; None if unknown.
    """

    name: str
    title: str
    description: str
    labels: tuple[str, ...] | None
    load: Callable[[], Parts]
    prompt: str
    group: str = ""
    metrics: tuple[str, ...] = DEFAULT_METRICS
    max_new_tokens: int | None = None
    source: HubTable | None = None
    licence: str = ""
    sizes: tuple[int | None, int | None] = (None, None)
