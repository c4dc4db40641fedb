"""The axes of a grid and the cells that they span: arm × task × train size × seed × model; needs no PyTorch.

An *arm* is a method with its settings, written ``method`` or ``method:setting=value:…``. Several values separated by
slashes define one arm each: ``lora:learning_rate=1e-4/5e-4``. ``jola:recipe=paper`` has all settings of a recipe.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jola.config import GROUPS, RunConfig
from jola.errors import InputError
from jola.methods import METHODS, method_named
from jola.recipes import RECIPES, recipe
from jola.settings import DataConfig, TrainingConfig, check_settings, flag
from jola.system.paths import is_there

AXES = {"task": "data", "train_size": "data", "seed": "training", "model": "model"}
"""Settings that are axes of a grid, with their groups."""
NEUTRAL = ("output", "report_to", "record_every", "gradient_checkpointing")
"""Settings of the training that do not change results."""
OF_A_LAUNCH = ("shard_base",)
"""Settings that need several processes; a cell is run by one."""
RECIPE = "recipe"
"""Stands for the settings of a recipe in an arm."""
RATE, GATE_RATE = "learning_rate", "gate_learning_rate"
"""The learning rates of the edits and of the gates. Of a recipe in which they are equal, a rate in an arm sets both."""
_SLUG_LENGTH = 40
_DIGITS = 6


@dataclass(frozen=True)
class Arm:
    """A method with all its settings, except those of the axes.

    Args:
        label: The arm as written: ``jola``, ``jola:gates=none``.
        settings: `RunConfig.to_dict` without `AXES` and `NEUTRAL`.
    """

    label: str
    settings: Mapping[str, Any]

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.settings["method"])

    @property
    def trains(self) -> bool:
        """Whether its cells depend on the seed and the number of training examples."""
        return METHODS[self.method].trains

    @property
    def digest(self) -> str:
        """Hash of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]


class PlannedCell(NamedTuple):
    """One training of a grid: its coordinates, and the name of its folder."""

    name: str
    arm: str
    task: str
    train_size: int
    seed: int
    model: str


@dataclass(frozen=True)
class Axes:
    """Labels of arms, tasks, numbers of training examples, seeds and models; a grid has all combinations of them."""

    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    train_sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    models: tuple[str, ...]

    def cells(self, arms: Mapping[str, Arm]) -> Iterator[PlannedCell]:
        """Yield all cells, seed by seed, so that an interrupted grid has as many seeds of every arm as possible.

        An arm that trains nothing has one cell for each task and model.
        """
        slugs = {text: slug(text) for text in (*self.arms, *self.tasks, *self.models)}
        digests = {label: arms[label].digest for label in self.arms}
        points = itertools.product(self.seeds, self.models, self.tasks, self.train_sizes, self.arms)
        for seed, model, task, size, arm in points:
            of_model = "" if model == "default" else f"-{slugs[model]}"
            drawn, chosen = (f"-n{size}-s{seed}", f"{size}\n{seed}\n") if arms[arm].trains else ("", "")
            digits = short_hash(f"{digests[arm]}\n{task}\n{chosen}{model}")
            name = f"{slugs[arm]}-{slugs[task]}{drawn}{of_model}-{digits}"
            if arms[arm].trains or (seed, size) == (self.seeds[0], self.train_sizes[0]):
                yield PlannedCell(name, arm, task, size, seed, model)


def checked_axes(
    arms: Iterable[str], tasks: Iterable[str], train_sizes: Iterable[int], seeds: Iterable[int], models: Iterable[str]
) -> Axes:
    """Return axes without repetitions, with absolute paths of files and folders.

    Raises:
        InputError: An axis is empty, or has a number out of bounds or a name of something that does not exist.
    """
    axes = Axes(
        tuple(dict.fromkeys(arms)),
        tuple(dict.fromkeys(name for task in tasks for name in _checked_tasks(task))),
        tuple(dict.fromkeys(train_sizes)),
        tuple(dict.fromkeys(seeds)),
        tuple(dict.fromkeys(_full_path(model) for model in models)),
    )
    for field in dataclasses.fields(axes):
        if not getattr(axes, field.name):
            raise InputError(f"The grid has no {field.name.replace('_', ' ')}; name at least one.")
    for size in axes.train_sizes:
        check_settings(DataConfig(train_size=size))
    for seed in axes.seeds:
        check_settings(TrainingConfig(seed=seed))
    return axes


def _checked_tasks(task: str) -> tuple[str, ...]:
    """Return the task, or the tasks of a group."""
    from jola.data.tasks.registry import GROUPS, REGISTRY
    from jola.data.tasks.sources import HUB_PREFIX

    if task in REGISTRY or task.startswith(HUB_PREFIX):
        return (task,)
    if task in GROUPS:
        return GROUPS[task]
    if not is_there(task):
        raise InputError(
            f"There is no task, group, folder or file '{task}'; `jola tasks` lists tasks and groups, and a Hub dataset "
            "is written hf:owner/name."
        )
    return (_full_path(task),)


def _full_path(name: str) -> str:
    """Return the absolute path of a file or folder, so that a grid works in any working directory; else the name."""
    return str(Path(name).expanduser().resolve()) if not _is_registered(name) and is_there(name) else name


def expand_arms(texts: Iterable[str], base: Mapping[str, Mapping[str, Any]]) -> dict[str, Arm]:
    """Return the arms in texts such as ``jola:gates=none`` or ``lora:learning_rate=1e-4/5e-4``, by label.

    Args:
        base: Settings of all arms, by group (without ``edits``).

    Raises:
        InputError: There is no such method or setting, or a value is not valid.
    """
    return {arm.label: arm for text in texts for arm in _arms_of(text.strip(), base)}


def changes_of(label: str) -> dict[str, str]:
    """Return the settings in the label of an arm, or in a text that stands for several arms, by name."""
    parts = (change.partition("=") for change in label.split(":")[1:])
    return {name.replace("-", "_"): values for name, _, values in parts}


def recipe_notes(arms: Iterable[Arm], base: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each setting that is not the default in `base`, and that a recipe overrides in an arm."""
    given = {
        (group, name): value
        for group, settings in base.items()
        for name, value in settings.items()
        if value != getattr(GROUPS[group](), name)
    }
    notes: dict[str, None] = {}
    for arm in arms:
        changes = changes_of(arm.label)
        chosen = changes.get(RECIPE, "")
        for (group, name), value in given.items():
            own = arm.settings[group].get(name)
            if name in RECIPES.get(chosen, {}) and name not in changes and own != value:
                change = f"{RECIPE}={chosen}:{name}={value}"
                notes[f"{flag(name)} is {own}, not {value}, with {RECIPE}={chosen}; to change it, write {change}."] = (
                    None
                )
    return list(notes)


def arm_count(text: str) -> int:
    """Return the number of arms in a text, including repeated values, without creating them."""
    return math.prod(len(change.split("/")) for change in text.split(":")[1:])


def _arms_of(text: str, base: Mapping[str, Mapping[str, Any]]) -> Iterator[Arm]:
    method, *changes = text.split(":")
    method_named(method)
    named: dict[str, list[str]] = {}
    for change in changes:
        written, equals, values = change.partition("=")
        name = written.replace("-", "_")
        if not (equals and name and values):
            raise InputError(f"{text!r} is not a method with settings; write it as jola:gates=none.")
        if name in named:
            both = "/".join([*named[name], values])
            raise InputError(f"{text!r} sets {name} twice; for an arm with each value, write {name}={both}.")
        named[name] = values.split("/")
    for values_chosen in itertools.product(*named.values()):
        chosen = dict(zip(named, values_chosen, strict=True))
        label = ":".join([method, *(f"{name}={value}" for name, value in chosen.items())])
        yield Arm(label, _without_axes(_config(method, chosen, base)))


def _config(method: str, changes: Mapping[str, str], base: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    groups = {**GROUPS, "edits": method_named(method).settings}
    if given := base.get("edits"):
        raise InputError(
            f"{next(iter(given))} is a setting of a method, which arms do not share; write it in an arm, as in "
            "jola:gates=none."
        )
    values: dict[str, Any] = {group: dict(base.get(group, {})) for group in {**groups, **base}} | {"edits": {}}
    if RECIPE in changes:
        recipe(changes[RECIPE], method)  # raises if there is none
        own = RECIPES[changes[RECIPE]]
        for group, kind in groups.items():
            values[group] |= {name: value for name, value in own.items() if name in _names(kind)}
        if RATE in changes and RATE in own and own[RATE] == own.get(GATE_RATE):
            changes = {GATE_RATE: changes[RATE], **changes}
    for name, text in changes.items():
        if name == RECIPE:
            continue
        owner = next((group for group, kind in groups.items() if name in _names(kind)), None)
        if owner is None or name in (*AXES, *NEUTRAL, *OF_A_LAUNCH):
            reason = "is an axis of the grid" if name in AXES else f"is not a setting of {method}"
            raise InputError(f"{name!r} in '{method}:{name}={text}' {reason}; `jola train --help` lists the settings.")
        values[owner][name] = _parsed(text, typing.get_type_hints(groups[owner])[name])
    return RunConfig.from_dict({**values, "method": method})


def _parsed(text: str, annotation: Any) -> Any:
    """Convert a text to the type of a setting, if possible; `RunConfig.validate` refuses other texts."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _names(settings: type) -> set[str]:
    return {field.name for field in dataclasses.fields(settings)}


def _without_axes(config: RunConfig) -> dict[str, Any]:
    settings = config.to_dict()
    for name, group in AXES.items():
        del settings[group][name]
    for name in NEUTRAL:
        del settings["training"][name]
    return settings


def changed_setting(stored: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the first setting in which a stored arm differs from the same arm now; empty if there is none.

    Settings that the stored arm lacks, because they are newer, count as left at their defaults.
    """
    before = _without_axes(RunConfig.from_dict({**stored}))
    for group in GROUPS:
        for name, value in now[group].items():
            if before[group].get(name) != value:
                return f"{name} {before[group].get(name)!r}, not {value!r}"
    return ""


def config_of(arm: Arm, cell: PlannedCell, neutral: Mapping[str, Any], output: Path | str) -> RunConfig:
    """Return all settings of the run of a cell, whose directory is `output`."""
    values = {group: dict(arm.settings[group]) for group in GROUPS}
    for name, group in AXES.items():
        values[group][name] = getattr(cell, name)
    for name in NEUTRAL:  # the file of a grid may have them in an arm
        values["training"].pop(name, None)
    values["training"] |= {**neutral, "output": str(output)}
    return RunConfig.from_dict({**values, "method": arm.method})


def numbers(text: str, flag: str) -> tuple[int, ...]:
    """Return the integers in a comma-separated text. Raises `InputError` for anything else."""
    words = words_of(text)
    if bad := [word for word in words if not (word.isascii() and word.isdigit() and len(word) <= 15)]:
        raise InputError(f"{flag} names {bad[0]!r}; write whole numbers, separated by commas.")
    return tuple(map(int, words))


def words_of(text: str) -> tuple[str, ...]:
    """Return the distinct words in a comma-separated text."""
    return tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return names for a table: the last part of paths and Hub ids, if it is enough to distinguish them."""
    short = {name: re.split(r"[/\\]", name.rstrip("/\\"))[-1] or name for name in names if is_path_like(name)}
    taken = [*short.values(), *(name for name in names if name not in short)]
    return {name: short[name] if name in short and taken.count(short[name]) == 1 else name for name in names}


def _is_registered(name: str) -> bool:
    """Whether this is the name of a task; the registry takes half a second to import."""
    from jola.data.tasks import REGISTRY

    return name in REGISTRY


def is_path_like(name: str) -> bool:
    """Whether a name of a task or model is a path or an id on the Hub."""
    return not _is_registered(name) and bool(re.search(r"[/\\]", name))


def short_hash(text: str) -> str:
    """Return six hexadecimal digits that distinguish things with the same name."""
    return hashlib.sha256(text.encode("utf-8", errors="replace")).hexdigest()[:_DIGITS]


def slug(text: str) -> str:
    """Return a part of a folder's name; for a path or a Hub id, from its last part."""
    if ":" not in text and is_path_like(text):
        text = re.sub(r"\.(jsonl?|csv|parquet)$", "", re.split(r"[/\\]", text)[-1])
    return re.sub(r"[^a-zA-Z0-9.]+", "-", text).strip("-.")[:_SLUG_LENGTH].strip("-.") or "x"
