"""The built-in tasks: the default one and the 26 of the paper."""

from jola.data.tasks import commonsense, gem, mmlu_pro, sentiment
from jola.data.tasks.info import TaskInfo
from jola.errors import InputError

__all__ = ["GROUPS", "REGISTRY", "TaskInfo", "task_names"]

REGISTRY: dict[str, TaskInfo] = {
    info.name: info for info in (sentiment.TASK, *commonsense.TASKS, *mmlu_pro.TASKS, *gem.TASKS)
}

GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(name for name, info in REGISTRY.items() if info.group == group)
    for group in ("commonsense", "mmlu-pro", "gem")
}
"""The names of the tasks of each group."""


def task_names(name: str) -> tuple[str, ...]:
    """Return the tasks of a group, or the task with this name.

    Raises:
        InputError: There is no group and no task with this name.
    """
    if name in GROUPS:
        return GROUPS[name]
    if name in REGISTRY:
        return (name,)
    raise InputError(f"There is no task or group '{name[:200]}'; `jola tasks` lists them.")
