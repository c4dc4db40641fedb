"""Facts of a run beside its settings, which ``config.json`` has: versions, machine, examples, model."""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from jola.data.tasks import Task
from jola.model.edited import EditedModel
from jola.system.processes import machine

PACKAGES = ("jola-workbench", "torch", "transformers", "nnsight", "accelerate", "datasets")


def facts_of(task: Task, model: EditedModel, n_train: int) -> dict[str, Any]:
    """What is known when training begins; `n_train` counts the examples that are not too long."""
    return {
        "versions": {name: _version(name) for name in PACKAGES},
        "machine": machine(),
        "device": str(model.device),
        "task": {
            "name": task.name,
            "n_train": n_train,
            "n_validation": len(task.validation),
            "n_test": len(task.test),
            "labels": task.labels,
            "notes": task.notes,
            "fingerprint": task.fingerprint,
            "revision": task.revision,
            "metrics": task.metrics,
        },
        "geometry": asdict(model.geometry),
        "parameters": parameters_of(model),
    }


def parameters_of(model: EditedModel) -> dict[str, int]:
    """Numbers that train, and numbers of the frozen model."""
    return dict(zip(("trainable", "frozen"), model.trainable_parameters(), strict=True))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ImportError:
        return None
