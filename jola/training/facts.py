"""Facts of a run that ``config.json`` contains next to the settings: versions, machine, examples, model."""

from dataclasses import asdict, replace
from typing import Any

from jola.config import RunConfig
from jola.data.tasks import Task
from jola.model.edited import EditedModel
from jola.runs.run import Run
from jola.system.processes import machine
from jola.system.versions import installed_versions

PACKAGES = ("jola-workbench", "torch", "transformers", "nnsight", "accelerate", "datasets")


def facts_of(task: Task, model: EditedModel, n_train: int) -> dict[str, Any]:
    """The facts that are known when training begins; `n_train` is the number of examples that are not too long."""
    return {
        "versions": installed_versions(PACKAGES),
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


def chosen_heads(run: Run) -> dict[str, str]:
    """The heads that a selector chose for a run, as a fact; empty if its settings name the heads."""
    text = run.raw_config().get("chosen_heads")
    return {"chosen_heads": text} if text else {}


def with_heads(config: RunConfig, chosen_heads: str = "") -> RunConfig:
    """The settings with the heads that a selector chose; unchanged if `chosen_heads` is empty."""
    return replace(config, edits=replace(config.edits, heads=chosen_heads)) if chosen_heads else config


def parameters_of(model: EditedModel) -> dict[str, int]:
    """Number of trainable parameters and of parameters of the frozen model."""
    return dict(zip(("trainable", "frozen"), model.trainable_parameters(), strict=True))
