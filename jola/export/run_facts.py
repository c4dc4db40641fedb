"""Facts about a run for the model card of its adapter: data, settings, and scores with n and interval."""

import re
from dataclasses import fields
from typing import Any

from huggingface_hub import EvalResult

from jola.adapters.card import portable_name
from jola.methods import METHODS
from jola.runs.run import Run
from jola.runs.scores import scores_in
from jola.system.formatting import is_share, sample_text, score_fact, score_text, score_title


def run_facts(run: Run) -> dict[str, str]:
    """Lines of a model card, name → text; unknown facts are left out."""
    config, result = run.raw_config(), run.result() or {}
    task, training, edits = (_part(config, name) for name in ("task", "training", "edits"))
    facts: dict[str, str] = {}
    if name := portable_name(task.get("name") or _part(config, "data").get("task")):
        counts = [
            f"{task[key]:,} {words}"
            for key, words in (("n_train", "training"), ("n_validation", "validation"), ("n_test", "test"))
            if isinstance(task.get(key), int)
        ]
        mark = f" (fingerprint {task['fingerprint']})" if isinstance(task.get("fingerprint"), str) else ""
        facts["Data"] = f"{name}{mark}" + (f", {', '.join(counts)} examples" if counts else "")
    method = METHODS.get(str(config.get("method")), METHODS["jola"])
    gates = training if method.has_gates else {}
    own = ("sites", "gates", "operation") if method.has_gates else [field.name for field in fields(method.settings)]
    settings = [
        f"{words} {source[key]}"
        for source, key, words in (
            *((edits, name, name.replace("_", " ")) for name in own),
            (gates, "l0_weight", "λ"),
            (training, "epochs", "epochs"),
            (training, "batch_size", "batch"),
            (training, "learning_rate", "learning rate"),
            (gates, "gate_learning_rate", "of gates"),
            (training, "seed", "seed"),
        )
        if source.get(key) is not None
    ]
    if settings:
        facts["Settings"] = ", ".join(settings)
    if isinstance(result.get("kept_step"), int) and isinstance(result.get("steps"), int):
        facts["Edits kept"] = f"step {result['kept_step']} of {result['steps']}"
    facts |= {score_fact(score): score_text(score) for score in scores_in(result)}
    versions = _part(config, "versions")
    if known := [f"{name} {versions[name]}" for name in ("torch", "transformers", "nnsight") if name in versions]:
        facts["Trained with"] = ", ".join(known)
    return facts


def run_results(run: Run) -> list[EvalResult]:
    """The scores on the test examples in the format of the Hub, as fractions."""
    config = run.raw_config()
    task = portable_name(_part(config, "task").get("name") or _part(config, "data").get("task")) or "unnamed"
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=re.sub(r"[^\w-]+", "-", task.lower()).strip("-") or "unnamed",
            dataset_name=task,
            metric_type="accuracy" if is_share(score) else score["metric"].partition(":")[0],
            metric_name=f"{score_title(score)} ({sample_text(score)})",
            metric_value=round(float(score["value"]), 4),
        )
        for score in scores_in(run.result())
    ]


def _part(values: dict[str, Any], name: str) -> dict[str, Any]:
    return values[name] if isinstance(values.get(name), dict) else {}
