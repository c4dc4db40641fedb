"""Examples and prompts of a run: its test examples, its labels, and a built-in prompt for named tasks."""

import random
from functools import lru_cache
from pathlib import Path

from jola.data.records import Example
from jola.data.tasks import REGISTRY, load_task
from jola.errors import InputError
from jola.runs.run import Run
from workbench.service.bench import Workbench
from workbench.service.session import Prompt


def test_examples(bench: Workbench, run: Run) -> tuple[Example, ...]:
    """Load the test examples of a run.

    Raises:
        InputError: The data are missing or not allowed for this page, or they are on the Hub and the run was imported,
            in which case nothing is downloaded.
    """
    task = run.run_config().data.task
    bench.jobs.check(run.run_config())  # an imported run may name any source
    if "imported" in run.raw_config() and task.startswith("hf:"):
        raise InputError(
            f"This run was imported and its examples are those of {task[:200]!r} on the Hub. Nothing is downloaded for "
            "an imported run; type a prompt instead."
        )
    config = run.run_config()
    return _test_examples(run.path, repr(config.data), config.training.seed, _changes(Path(task)))


@lru_cache(maxsize=4)
def _test_examples(path: Path, _data: str, seed: int, _changed: tuple[int, ...]) -> tuple[Example, ...]:
    """Load the test examples of the run in `path`; the other arguments are what they depend on."""
    return load_task(Run(path).run_config().data, seed).test


def _changes(place: Path) -> tuple[int, ...]:
    """Return the times of the last changes of a file or of the files in a folder; empty if it is neither."""
    try:
        return tuple(path.stat().st_mtime_ns for path in (sorted(place.iterdir()) if place.is_dir() else [place]))
    except OSError:
        return ()


def draw_example(bench: Workbench, run: Run) -> tuple[Prompt, str]:
    """Draw a random test example; return its prompt and its right answer. Raises `InputError` like `test_examples`."""
    example = random.choice(test_examples(bench, run))
    return Prompt.of_example(example), example.completion


def labels_of(run: Run) -> tuple[str, ...]:
    """Return the possible answers of the run's task; empty if they are unknown without reading its data."""
    task = run.raw_config().get("task")
    labels = task.get("labels") if isinstance(task, dict) else None
    if isinstance(labels, list) and all(isinstance(label, str) for label in labels):
        return tuple(labels)
    info = REGISTRY.get(_task_name(run))
    return info.labels or () if info is not None else ()


def first_prompt(run: Run) -> str:
    """Return a built-in prompt in the format of the run's task; empty for unknown tasks."""
    info = REGISTRY.get(_task_name(run))
    return info.prompt if info is not None else ""


def longest_answer(run: Run) -> int | None:
    """Return the maximum number of tokens of an answer; None if the task does not define it."""
    info = REGISTRY.get(_task_name(run))
    return info.max_new_tokens if info is not None else None


def _task_name(run: Run) -> str:
    data = run.raw_config().get("data")
    name = data.get("task") if isinstance(data, dict) else None
    return name if isinstance(name, str) else ""
