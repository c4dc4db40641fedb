"""The stages of a run: which are finished, their cost, and the settings they chose."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jola.config import RunConfig
from jola.errors import InputError
from jola.methods import Stage
from jola.system.files import json_bytes, read_json, replace_file
from jola.training.fit import Fit

STAGES_NAME = "stages.json"
"""File in the folder of checkpoints from which a run with several stages is resumed."""


@dataclass(frozen=True)
class FinishedStage:
    """A finished stage."""

    name: str
    steps: int
    kept_step: int
    examples: int
    """Training examples seen, with repetition."""
    seconds: float
    processor_seconds: float
    settings: dict[str, Any]
    """Settings of the method for the next stage, which include the choices of this one."""

    @classmethod
    def of(cls, stage: Stage, fitted: Fit, settings: Any) -> "FinishedStage":
        """Create the record of a finished stage from its `Fit` and the settings for the next stage."""
        return cls(
            name=stage.name,
            steps=fitted.steps,
            kept_step=fitted.kept_step,
            examples=fitted.examples,
            seconds=fitted.seconds,
            processor_seconds=fitted.processor_seconds,
            settings=asdict(settings),
        )


class Stages:
    """The stages of a run; if there are several, the finished ones are saved in a file.

    Args:
        checkpoints: Folder for the checkpoints of the run.
        config: Settings of the run.
        resume: Whether to resume from the file.

    Raises:
        InputError: The file is damaged.
    """

    def __init__(self, checkpoints: Path, config: RunConfig, resume: bool) -> None:
        self._folder, self._config = checkpoints, config
        self.several = len(config.tuning.stages(config.edits)) > 1
        self.finished: tuple[FinishedStage, ...] = ()
        self.settings = config.edits
        """Settings of the method for the current stage."""
        self.has_edits = False
        """Whether the model has edits to keep, which are those of the last stage."""
        if not (resume and self.several and (checkpoints / STAGES_NAME).is_file()):
            return
        try:
            listed = (read_json(checkpoints / STAGES_NAME) or {})["stages"]
            self.finished = tuple(FinishedStage(**stage) for stage in listed)
            for stage in self.finished:
                edits = config.tuning.settings(**stage.settings)
                self.settings = RunConfig(method=config.method, edits=edits).validate().edits
            if not self.left or any(type(stage.steps) is not int for stage in self.finished):
                raise ValueError("steps are not numbers")
        except (KeyError, TypeError, ValueError, InputError) as error:
            raise InputError(f"{checkpoints / STAGES_NAME} is damaged ({error}); start the run again.") from error

    @property
    def left(self) -> tuple[Stage, ...]:
        """The current stage and those after it."""
        return self._config.tuning.stages(self.settings)

    @property
    def offset(self) -> int:
        """Number of steps of the finished stages."""
        return sum(stage.steps for stage in self.finished)

    @property
    def folder(self) -> Path:
        """Folder for the checkpoints of the current stage."""
        return self._folder / self.left[0].name if self.several else self._folder

    def finish(self, fitted: Fit, settings: Any, *, write: bool) -> None:
        """Finish the current stage; the next one has these settings."""
        self.finished = (*self.finished, FinishedStage.of(self.left[0], fitted, settings))
        self.settings = settings
        if write:
            content = {"stages": [asdict(stage) for stage in self.finished]}
            replace_file(self._folder / STAGES_NAME, json_bytes(content, indent=2), durable=True)

    def total(self, last: Fit) -> Fit:
        """The sum of all stages, where `last` is the last one."""
        fits: Sequence[FinishedStage | Fit] = (*self.finished, last)
        return replace(
            last,
            steps=self.offset + last.steps,
            kept_step=self.offset + last.kept_step,
            examples=sum(fit.examples for fit in fits),
            seconds=sum(fit.seconds for fit in fits),
            processor_seconds=sum(fit.processor_seconds for fit in fits),
        )

    def to_dicts(self, total: Fit) -> list[dict[str, Any]]:
        """The cost of each stage, for JSON; `total` is the sum of all stages."""
        names = ("name", "steps", "kept_step", "seconds")
        earlier = [{name: getattr(stage, name) for name in names} for stage in self.finished]
        last = {
            "name": self.left[0].name,
            "steps": total.steps - self.offset,
            "kept_step": total.kept_step - self.offset,
            "seconds": total.seconds - sum(stage.seconds for stage in self.finished),
        }
        return [*earlier, last]

    def config(self) -> RunConfig:
        """Settings of the run for training the current stage."""
        rate = self.left[0].learning_rate
        if rate is None:
            return self._config
        return replace(self._config, training=replace(self._config.training, learning_rate=rate))
