"""The tasks that have a name."""

from collections.abc import Callable
from dataclasses import dataclass

from jola.data.tasks import sentiment
from jola.data.tasks.sources import Parts


@dataclass(frozen=True)
class TaskInfo:
    """A task that has a name.

    ``load`` gives every example of it and may fetch data the first time; ``prompt`` is one that is not among them, in
    the same form, to try a model with.
    """

    name: str
    title: str
    description: str
    labels: tuple[str, ...] | None
    load: Callable[[], Parts]
    prompt: str


REGISTRY: dict[str, TaskInfo] = {
    info.name: info
    for info in (
        TaskInfo(
            name="sentiment",
            title="Movie-review sentiment",
            description=sentiment.DESCRIPTION,
            labels=sentiment.LABELS,
            load=sentiment.load,
            prompt=sentiment.PROMPT,
        ),
    )
}
