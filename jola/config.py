"""`RunConfig`: all settings of one training run, and their form as a file and as flags."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jola.errors import InputError
from jola.methods import METHODS, Method, method_named
from jola.settings import (
    DataConfig,
    EditConfig,
    ModelConfig,
    TrainingConfig,
    check_revision,
    check_settings,
    flag,
    parse_heads,
    parse_layers,
    setting,
)
from jola.system.formatting import short

__all__ = [
    "DataConfig",
    "EditConfig",
    "ModelConfig",
    "RunConfig",
    "TrainingConfig",
    "flag",
    "parse_heads",
    "parse_layers",
    "setting",
]


@dataclass
class RunConfig:
    """All settings of one training run.

    Args:
        edits: Settings of the method, an instance of its ``settings`` class; None takes its defaults. For JoLA this is
            an `EditConfig`.
        method: Name of the method, a key of `jola.methods.METHODS`.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    edits: Any = None
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    method: str = "jola"

    def __post_init__(self) -> None:
        self._take_defaults()

    def _take_defaults(self) -> None:
        """Set the defaults of the method for settings that are None."""
        method = METHODS.get(self.method)
        if method is None:  # `validate` reports it
            return
        if self.edits is None:
            self.edits = method.settings()
        if self.training.learning_rate is None:
            self.training = dataclasses.replace(self.training, learning_rate=method.learning_rate)

    @property
    def tuning(self) -> Method:
        """The method. Raises `InputError` for an unknown name."""
        return method_named(self.method)

    def validate(self) -> "RunConfig":
        """Return self, or raise InputError naming the first setting that cannot be used."""
        method = self.tuning
        self._take_defaults()
        if not isinstance(self.edits, method.settings):
            raise InputError(
                f"The settings of the edits are of type {type(self.edits).__name__}; the method {method.name} takes "
                f"{method.settings.__name__}."
            )
        for part in self.parts():
            check_settings(part)
        check_revision(self.model.revision)
        for name in ("learning_rate", "gate_learning_rate"):
            if self[name] == 0:
                raise InputError(f"{flag(name)} is 0; it must be greater than 0, or nothing is learned.")
        method.check(self.edits, self.training)
        return self

    def parts(self) -> tuple[ModelConfig, Any, DataConfig, TrainingConfig]:
        """The four groups of settings; field names are unique over all of them."""
        return self.model, self.edits, self.data, self.training

    def __getitem__(self, name: str) -> Any:
        """The value of a setting by its name, whichever group it is in."""
        for part in self.parts():
            if name in {f.name for f in dataclasses.fields(part)}:
                return getattr(part, name)
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return nested dictionaries for JSON: one for each group, and the name of the method."""
        return {**{name: dataclasses.asdict(getattr(self, name)) for name in GROUPS}, "method": self.method}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """Create a configuration from the result of `to_dict`.

        Missing settings get their defaults; unknown settings raise `InputError`.
        """
        if not isinstance(values, dict):
            raise InputError(f"Settings must be an object with the groups {', '.join(GROUPS)}.")
        unknown = sorted(set(values) - {*GROUPS, "method"})
        if unknown:
            raise InputError(f"Unknown group of settings {', '.join(unknown)}; known are {', '.join(GROUPS)}.")
        method = method_named(values.get("method", "jola"))
        groups = {**GROUPS, "edits": method.settings}
        parts: dict[str, Any] = {}
        for name, group in groups.items():
            known = [f.name for f in dataclasses.fields(group)]
            given = values.get(name, {})
            if not isinstance(given, dict):
                raise InputError(
                    f"The settings in {name} are {short(given)}; they must be an object of names and values."
                )
            unknown = sorted(set(given) - set(known))
            if unknown:
                raise InputError(f"Unknown setting {', '.join(unknown)} in {name}; known are {', '.join(known)}.")
            parts[name] = group(**given)
        return cls(**parts, method=method.name).validate()

    @classmethod
    def from_file(cls, path: Path | str) -> "RunConfig":
        """Read the settings part of a JSON file, such as the ``config.json`` of a run."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"Cannot read the settings in {path}: {error}.") from error
        if not isinstance(values, dict):
            raise InputError(f"Cannot read the settings in {path}: the file does not contain an object of settings.")
        return cls.from_dict({name: values[name] for name in (*GROUPS, "method") if name in values})

    def flags(self) -> list[str]:
        """Command-line flags of the settings that differ from their defaults."""
        result = [] if self.method == RunConfig.method else ["--method", self.method]
        for part, usual in zip(self.parts(), RunConfig(method=self.method).parts(), strict=True):
            for setting_ in dataclasses.fields(part):
                value = getattr(part, setting_.name)
                if setting_.name not in self.tuning.unused_settings and value != getattr(usual, setting_.name):
                    name, text = flag(setting_.name), str(value)
                    if value is True:
                        result.append(name)
                    else:
                        # A text that begins with a dash would be taken for the next flag.
                        result += [f"{name}={text}"] if text.startswith("-") else [name, text]
        return result


GROUPS: dict[str, type] = {"model": ModelConfig, "edits": EditConfig, "data": DataConfig, "training": TrainingConfig}
"""The groups of settings by their names in files; the class of ``edits`` is that of the method."""
