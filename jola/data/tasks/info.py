"""What a task with a name declares."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from jola.data.records import Example
from jola.data.tasks.hub import HubTable

DEFAULT_METRICS = ("exact_match", "first_label")
"""Metrics of a task that declares none; those over labels only where there are labels."""


def prompt_of(example: Example) -> Hashable:
    """The prompt of an example; those with equal prompts belong together."""
    return example.prompt


@dataclass(frozen=True)
class Parts:
    """All examples of a task, before any are chosen; None where the source has no such part.

    Args:
        revision: Commit of the dataset, where the source has commits.
        group: Examples for which it is equal stay together when a missing part is carved from the training part.
    """

    train: list[Example]
    validation: list[Example] | None = None
    test: list[Example] | None = None
    revision: str | None = None
    group: Callable[[Example], Hashable] = prompt_of


@dataclass(frozen=True)
class TaskInfo:
    """A task that has a name.

    Args:
        name: As in ``--task``.
        title: As people read it.
        description: One sentence.
        labels: The possible answers, if they are the same for all examples.
        load: Gives every example, and may fetch data the first time.
        prompt: One that is not among the examples, in the same form, to try a model with.
        group: Name of the group it belongs to; empty for none.
        metrics: Names of its metrics in `jola.evaluation.metrics.METRICS`; the first is the task's own, which tables
            and comparisons show.
        max_new_tokens: Longest answer in a test; None allows the longest right one.
        source: The dataset on the Hub; None for data of the package index.
        licence: Of the data, as its data card states it.
        sizes: Rows of its training and its test part at the source; None where unknown.
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
