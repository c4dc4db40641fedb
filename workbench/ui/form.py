"""The form of the Train tab, built from the dataclasses that also define the flags of ``jola train``."""

import dataclasses
import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from jola.config import GROUPS, RunConfig, flag
from jola.errors import InputError
from jola.methods import METHODS, method_named

# The app chooses the directory itself and starts one process; a tracker asks for an account in a terminal.
_LEFT_OUT = frozenset({"output", "report_to", "shard_base"})


@dataclass(frozen=True)
class Setting:
    """One field of the form."""

    name: str
    group: str
    help: str
    unit: str
    advanced: bool
    kind: Any
    """Type of the value, as annotated."""
    default: Any
    optional: bool = False
    """Whether the value may be missing."""
    method: str = ""
    """Name of the method of the setting; empty for settings of the model, the data and the training."""

    @property
    def key(self) -> str:
        """Key of the field in the form; includes the method, because settings of several methods may share a name."""
        return f"{self.method}.{self.name}" if self.method not in ("", RunConfig.method) else self.name

    @property
    def label(self) -> str:
        """``l0_weight`` → ``L0 weight``, with its unit."""
        return self.title + (f" ({self.unit})" if self.unit and self.unit not in self.title.lower() else "")

    @property
    def title(self) -> str:
        return self.name.replace("_", " ").capitalize()


def settings(method: str = RunConfig.method) -> list[Setting]:
    """Return the settings of a run with this method that the form shows, in the order of the dataclasses."""
    return [
        Setting(
            name=field.name,
            group=group,
            help=field.metadata["help"],
            unit=field.metadata.get("unit", ""),
            advanced=field.metadata.get("advanced", True),
            kind=_kind(typing.get_type_hints(type(part))[field.name]),
            default=getattr(part, field.name),
            optional=getattr(part, field.name) is None,
            method=method if group == "edits" else "",
        )
        for group, part in zip(GROUPS, RunConfig(method=method).parts(), strict=True)
        for field in dataclasses.fields(part)
        if field.name not in _LEFT_OUT
    ]


def _kind(annotation: Any) -> Any:
    """Return the type of the input; for an optional number, the type of the number."""
    numbers = [kind for kind in typing.get_args(annotation) if kind in (int, float)]
    return numbers[0] if numbers else annotation


def element_id(setting: Setting, prefix: str = "setting") -> str:
    """Return the id of the field: ``setting-l0-weight``, ``setting-lora-rank``."""
    return f"{prefix}-{re.sub('[_.]', '-', setting.key)}"


def component(setting: Setting, **options: Any) -> gr.components.Component:
    """Build the input of one setting."""
    common: dict[str, Any] = {
        "label": setting.label,
        "info": setting.help,
        "elem_id": element_id(setting),
        "elem_classes": ["setting"],
        **options,
    }
    if typing.get_origin(setting.kind) is Literal:
        return gr.Dropdown(list(typing.get_args(setting.kind)), value=setting.default, **common)
    if setting.kind is bool:
        return gr.Checkbox(value=setting.default, **common)
    if setting.kind in (int, float) and not setting.optional:
        step = 1 if setting.kind is int or not setting.default else 10 ** math.floor(math.log10(setting.default))
        return gr.Number(value=setting.default, step=step, **common)
    # Also for a number that may be missing: gradio makes an empty Number 0.
    return gr.Textbox(value=setting.default or "", max_lines=1, **common)


def read_form(values: Mapping[str, Any]) -> RunConfig:
    """Read and check the settings in the form. Raises `InputError`, which names the field by its label.

    Args:
        values: The value of each field by its `Setting.key`, and the name of the ``method``. Fields of other methods
            are ignored.
    """
    method = method_named(values.get("method", RunConfig.method))
    groups: dict[str, Any] = {"method": method.name}
    for setting in settings(method.name):
        if setting.key in values and setting.name not in method.unused_settings:
            groups.setdefault(setting.group, {})[setting.name] = _read(setting, values[setting.key])
    try:
        return RunConfig.from_dict(groups)
    except InputError as error:
        raise InputError(in_form_words(str(error))) from error


def in_form_words(sentence: str, shown: Iterable[Setting] | None = None) -> str:
    """Replace flags in a sentence with the labels of the form: ``--l0-weight`` → ``L0 weight``."""
    named = shown or [setting for method in METHODS for setting in settings(method)]
    titles = {flag(setting.name): setting.title for setting in named}
    return re.sub(r"--[a-z0-9][a-z0-9-]*", lambda found: titles.get(found[0], found[0]), sentence)


def _read(setting: Setting, value: Any) -> Any:
    """Convert the value of a component to the type of the setting."""
    if setting.kind in (int, float):
        value = value.strip() if isinstance(value, str) else value
        if value is None or value == "":
            if setting.optional:
                return None
            raise InputError(f"{setting.title} is empty; give a number.")
        try:
            value = float(value)
        except ValueError:
            raise InputError(f"{setting.title} is '{value}'; give a number.") from None
        if setting.kind is float:
            return value
        if not value.is_integer():
            raise InputError(f"{setting.title} is {value:g}; it must be a whole number.")
        return int(value)
    if isinstance(value, str):
        value = value.strip()
        if not value:
            if type(None) in typing.get_args(setting.kind):
                return None
            if setting.default:
                raise InputError(f"{setting.title} is empty; the default is '{setting.default}'.")
    return value
