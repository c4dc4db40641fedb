"""Tasks: examples in a training, a validation and a test split.

A task is a built-in task, a folder of files, a single file, or a Hub dataset. The training examples are a sample that
depends on the seed of the run. The test examples are the same for every seed, so that runs can be compared.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jola.data.records import Example, content_hash
from jola.data.tasks.info import DEFAULT_METRICS, Parts, TaskInfo
from jola.data.tasks.registry import REGISTRY
from jola.data.tasks.sources import HUB_PREFIX, load_file, load_folder, load_hub
from jola.errors import InputError
from jola.settings import DataConfig

__all__ = ["REGISTRY", "Parts", "Task", "TaskInfo", "infer_labels", "load_task"]

TEST_SHARE, VALIDATION_SHARE = 0.25, 0.2
"""Largest share of the training examples that is set aside for a missing part: first for the test part, then, of the
remaining examples, for the validation part."""

MAX_LABELS, MAX_LABEL_LENGTH = 20, 40


@dataclass(frozen=True)
class Task:
    """The chosen examples of a task.

    ``labels`` are the possible answers if they are a small closed set, else None. ``notes`` are sentences that tell the
    user what differs from the request. ``fingerprint`` is a hash of all chosen examples: equal fingerprints mean equal
    data in the same order. ``revision`` is the commit of a dataset on the Hub. ``metrics`` are keys of
    `jola.evaluation.metrics.METRICS`, the main metric first. ``max_new_tokens`` is the maximum length of an answer in a
    test; None allows the longest right answer. ``has_carved_test`` says whether the test part is carved from the
    training examples, so that it depends on its size which examples remain for training.
    """

    name: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    labels: tuple[str, ...] | None
    notes: tuple[str, ...]
    fingerprint: str
    revision: str | None = None
    metrics: tuple[str, ...] = DEFAULT_METRICS
    max_new_tokens: int | None = None
    has_carved_test: bool = False


def load_task(data: DataConfig, seed: int) -> Task:
    """Load a task and choose its examples.

    The training and validation parts are random samples without replacement. They depend on ``data.data_seed``, or on
    `seed` if that is not given; with the same seed, a larger sample contains the smaller one. The test part is the
    beginning of an order that depends only on the examples. A size of 0, or one larger than the data, takes all
    examples. A missing part is carved from the training examples in the order of the test part; examples of the same
    `Parts.group` (by default, with the same prompt) stay together.

    Raises:
        InputError: The task does not exist, or its data cannot be used.
    """
    seed = seed if data.data_seed is None else data.data_seed
    name, info, parts = _find(data.task)
    notes: list[str] = []
    source = "part" if info else "file"
    train, validation, test = parts.train, parts.validation, parts.test
    if test is None:
        train, test = _carve(train, data.test_size, TEST_SHARE, parts.group)
        notes.append(f"There is no test {source}: {len(test)} training examples are used for testing instead.")
    if validation is None:
        train, validation = _carve(train, data.validation_size, VALIDATION_SHARE, parts.group)
        notes.append(
            f"There is no validation {source}: {len(validation)} training examples are used for validation instead."
        )
    labels = info.labels if info else infer_labels(train, [*validation, *test])
    chosen_train = _take(_shuffled(train, f"train {seed}"), data.train_size)
    chosen_validation = _take(_shuffled(validation, f"validation {seed}"), data.validation_size)
    chosen_test = _take(_fixed_order(test), data.test_size)
    _note_missing(notes, "training", data.train_size, chosen_train)
    # The notes above already give the sizes of carved parts.
    if parts.validation is not None:
        _note_missing(notes, "validation", data.validation_size, chosen_validation)
    if parts.test is not None:
        _note_missing(notes, "test", data.test_size, chosen_test)
    seen = {example.prompt for example in chosen_train}
    repeated = sum(example.prompt in seen for example in chosen_test)
    if repeated:
        notes.append(f"{repeated} of the {len(chosen_test)} test prompts also occur in the training part.")
    return Task(
        name=name,
        train=chosen_train,
        validation=chosen_validation,
        test=chosen_test,
        labels=labels,
        notes=tuple(notes),
        fingerprint=content_hash((chosen_train, chosen_validation, chosen_test)),
        revision=parts.revision,
        metrics=info.metrics if info else DEFAULT_METRICS,
        max_new_tokens=info.max_new_tokens if info else None,
        has_carved_test=parts.test is None,
    )


def infer_labels(train: Sequence[Example], others: Iterable[Example] = ()) -> tuple[str, ...] | None:
    """Return the labels of a classification task in alphabetical order; None if they are not a small closed set.

    They are a small closed set if the training answers are 2 to 20 distinct short texts, each occurring at least twice,
    no training example has references, and the other parts contain no other answers.
    """
    counts = Counter(example.completion for example in train)
    if not 2 <= len(counts) <= MAX_LABELS or min(counts.values()) < 2:
        return None
    if max(map(len, counts)) > MAX_LABEL_LENGTH or any("\n" in label for label in counts):
        return None
    if any(example.references for example in train):
        return None
    if any(example.completion not in counts for example in others):
        return None
    return tuple(sorted(counts))


def _find(task: str) -> tuple[str, TaskInfo | None, Parts]:
    if task in REGISTRY:
        return task, REGISTRY[task], REGISTRY[task].load()
    if task.startswith(HUB_PREFIX):
        return task, None, load_hub(task)
    # os.path returns False for strings that cannot be paths, where pathlib raises.
    path = os.path.expanduser(task)
    if os.path.isdir(path):
        return Path(path).resolve().name, None, load_folder(Path(path))
    if os.path.isfile(path):
        return Path(path).stem, None, load_file(Path(path))
    raise InputError(
        f"There is no task, folder or file '{task}'; `jola tasks` lists the built-in tasks, and a Hub dataset "
        "is written hf:owner/name."
    )


def _carve(
    examples: list[Example], size: int, share: float, group_of: Callable[[Example], Hashable]
) -> tuple[list[Example], list[Example]]:
    """Set aside about ``size`` examples (0: ``share`` of all), at most ``share`` of all and at least one."""
    wanted = int(len(examples) * share)
    wanted = max(1, min(size, wanted) if size > 0 else wanted)
    groups: dict[Hashable, list[Example]] = {}
    for example in _fixed_order(examples):
        groups.setdefault(group_of(example), []).append(example)
    carved: list[Example] = []
    rest: list[Example] = []
    for group in groups.values():
        (carved if len(carved) < wanted else rest).extend(group)
    if not rest:
        raise InputError(
            f"{len(examples)} examples with {len(groups)} different prompts are too few to set aside a "
            "validation or a test part; add examples, or give files for these parts."
        )
    return rest, carved


def _take(examples: list[Example], size: int) -> tuple[Example, ...]:
    return tuple(examples[:size] if size > 0 else examples)


def _note_missing(notes: list[str], part: str, size: int, chosen: Sequence[Example]) -> None:
    if size > len(chosen):
        notes.append(f"{size} {part} examples were requested, but only {len(chosen)} exist; all are used.")


def _shuffled(examples: list[Example], seed: str) -> list[Example]:
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    return shuffled


def _fixed_order(examples: list[Example]) -> list[Example]:
    """Return the examples ordered by a hash of their content: a shuffle that needs no seed and ignores their order."""
    return sorted(examples, key=lambda example: example.id)
