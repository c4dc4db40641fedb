"""The plan of a study in the form: methods, learning rates, tasks, training examples, models, seeds."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jola.config import RunConfig
from jola.errors import InputError
from jola.methods import METHODS, method_named
from jola.studies.axes import AXES, NEUTRAL, Arm, Axes, arm_count, checked_axes, expand_arms, numbers, words_of
from jola.studies.grid import Grid
from jola.studies.methods import tried_rates
from jola.studies.presets import PRESETS, preset_named

TRIES = (1, 3, 5)
"""Choices for the number of learning rates of each method."""
MOST_ARMS = 1_000
MOST_CELLS = 20_000
_MOST_CHARACTERS = 4_000
_MOST_FACTOR = 100.0


@dataclass(frozen=True)
class StudyPlan:
    """The axes of a study.

    Args:
        methods: Names of methods with their default settings.
        variants: Comma-separated arms with other settings, as ``jola grid plan --methods`` takes them.
        tries: Number of learning rates of each method that has one: the default, and equally many above and below.
        factor: Ratio of two neighboring learning rates.
        tasks: Tasks or groups of tasks.
        train_sizes: Comma-separated numbers of training examples; 0 uses all.
        seeds: Comma-separated numbers.
        models: Names, Hub ids or folders.
    """

    methods: tuple[str, ...] = ("jola", "lora")
    variants: str = ""
    tries: int = 1
    factor: float = 3.0
    tasks: tuple[str, ...] = ("sentiment",)
    train_sizes: str = "200"
    seeds: str = "42,43,44"
    models: tuple[str, ...] = ("default",)

    @classmethod
    def of_preset(cls, name: str) -> "StudyPlan":
        """Return the axes of a table or figure of the paper. Raises `InputError` if the preset does not exist."""
        preset = preset_named(name)
        plain = tuple(arm for arm in preset.arms if arm in METHODS)
        return cls(
            methods=plain,
            variants=", ".join(arm for arm in preset.arms if arm not in METHODS),
            tasks=preset.tasks,
            train_sizes=", ".join(map(str, preset.train_sizes)),
            seeds="42",
            models=preset.models,
        )

    @classmethod
    def of_grid(cls, grid: Grid) -> "StudyPlan":
        """Return the axes of the last plan of a grid, with every arm by its label."""
        plan = grid.plans[-1]
        return cls(
            methods=tuple(arm for arm in plan["arms"] if arm in METHODS),
            variants=", ".join(arm for arm in plan["arms"] if arm not in METHODS),
            tasks=tuple(plan["tasks"]),
            train_sizes=", ".join(map(str, plan["train_sizes"])),
            seeds=", ".join(map(str, plan["seeds"])),
            models=tuple(plan["models"]),
        )

    def expanded(self, settings: Mapping[str, Mapping[str, Any]]) -> tuple[Axes, dict[str, Arm]]:
        """Return the axes and the arms with these settings. Raises `InputError`, which names fields by their label."""
        texts = {"Variants": self.variants, "Training examples": self.train_sizes, "Seeds": self.seeds}
        for title, text in texts.items():
            if len(text) > _MOST_CHARACTERS:
                raise InputError(f"{title} is longer than {_MOST_CHARACTERS:,} characters; write less.")
        named = [*self._texts(settings), *words_of(self.variants)]
        if not named:
            raise InputError("No method is chosen; tick at least one.")
        if not self.tasks:
            raise InputError("No task is chosen; choose at least one.")
        if not self.models:
            raise InputError("No model is chosen; choose at least one.")
        sizes, seeds = numbers(self.train_sizes, "Training examples"), numbers(self.seeds, "Seeds")
        for title, values, example in (("Training examples", sizes, "200"), ("Seeds", seeds, "42")):
            if not values:
                raise InputError(f"{title} is empty; give at least one whole number, such as {example}.")
        # Check before creating the arms, which takes half a millisecond each: a short text can ask for billions.
        count = sum(map(arm_count, named))
        if count > MOST_ARMS:
            raise InputError(
                f"This requires {count:,} arms, but the app plans at most {MOST_ARMS:,}; give fewer values in Variants."
            )
        _check_size(count, self.tasks, sizes, seeds, self.models)
        arms = expand_arms(named, settings)
        axes = checked_axes(arms, self.tasks, sizes, seeds, self.models)
        _check_size(len(arms), axes.tasks, axes.train_sizes, axes.seeds, axes.models)
        return axes, arms

    def _texts(self, settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return the arms of the chosen methods; the default learning rate is left out of the label of its arm."""
        chosen = [name for name in METHODS if name in self.methods]
        chosen += [method_named(name).name for name in self.methods if name not in METHODS]
        if self.tries == 1:
            return chosen
        if self.tries not in TRIES:
            raise InputError(f"Learning rates is {self.tries}; choose one of {', '.join(map(str, TRIES))}.")
        if not 1 < self.factor <= _MOST_FACTOR:
            raise InputError(f"Factor is {self.factor:g}; it must be above 1 and at most {_MOST_FACTOR:g}.")
        texts = []
        for name in chosen:
            texts.append(name)
            if "learning_rate" not in METHODS[name].unused_settings:
                rates = learning_rates(default_rate(name, settings), self.tries, self.factor)
                texts.append(f"{name}:learning_rate={'/'.join(rates)}")
        return texts


def _check_size(*parts: int | Sequence[Any]) -> None:
    """Raise `InputError` if the product of numbers and of lengths of axes exceeds `MOST_CELLS`."""
    number = math.prod(part if isinstance(part, int) else len(part) for part in parts)
    if number > MOST_CELLS:
        raise InputError(
            f"This requires {number:,} cells, but the app plans at most {MOST_CELLS:,}; choose fewer methods, "
            "tasks, sizes or seeds, or use `jola grid plan`."
        )


def default_rate(method: str, settings: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the learning rate of a method with these settings."""
    return float(expand_arms([method], settings)[method].settings["training"]["learning_rate"])


def learning_rates(default: float, tries: int, factor: float) -> list[str]:
    """Return the rates of `tried_rates` without the default: equally many below and above it."""
    rates = tried_rates(default, tries, factor)
    return [f"{rate:g}" for number, rate in enumerate(rates) if number != tries // 2]


def grid_settings(config: RunConfig) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Return (settings that all arms share, settings that do not affect results) in the format of `Grid.plan`.

    The shared learning rate is None, for the default of each method.
    """
    groups = {"model": config.model, "data": config.data, "training": config.training}
    shared = {
        group: {name: value for name, value in dataclasses.asdict(part).items() if name not in (*AXES, "output")}
        for group, part in groups.items()
    }
    shared["training"]["learning_rate"] = None
    neutral = {name: shared["training"].pop(name) for name in NEUTRAL if name in shared["training"]}
    return shared, neutral


def preset_choices() -> list[tuple[str, str]]:
    """Return (title, name) of every preset."""
    return [(preset.title, name) for name, preset in PRESETS.items()]


def method_titles(arms: Iterable[str]) -> str:
    """Return the methods of arms, with the number of arms if there are several: ``JoLA, LoRA (3 arms)``."""
    counts: dict[str, int] = {}
    for arm in arms:
        method = arm.partition(":")[0]
        counts[method] = counts.get(method, 0) + 1
    titles = {method: METHODS[method].title if method in METHODS else method for method in counts}
    return ", ".join(f"{titles[m]} ({count} arms)" if count > 1 else titles[m] for m, count in counts.items())


def size_words(axes: Axes, cells: int) -> str:
    """Return ``18 cells: 3 arms × 2 tasks × 3 seeds``, without factors of 1; untrained arms have fewer cells."""
    factors: Sequence[tuple[int, str]] = (
        (len(axes.arms), "arm"), (len(axes.tasks), "task"), (len(axes.train_sizes), "size"),
        (len(axes.models), "model"), (len(axes.seeds), "seed"),
    )  # fmt: skip
    words = [f"{count:,} {noun}{'s' if count > 1 else ''}" for count, noun in factors if count > 1 or noun == "arm"]
    return f"{cells:,} cell{'' if cells == 1 else 's'}: {' × '.join(words)}"
