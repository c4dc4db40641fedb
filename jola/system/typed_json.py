"""JSON files with declared types: a pydantic model defines what a file may contain, and readers check against it.

The files of a run may come from others or be edited by hand. The types below bound values to what the program can
compute with, and to what JSON parsers, JavaScript (integers below 2**53) and time functions can represent, so that a
value that was read can always be shown, sorted and sent to a browser.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jola.errors import InputError
from jola.system.formatting import short

LARGEST = 2**53
"""Bound of integers; a float represents every smaller one exactly."""
LIMIT = 16 << 20
"""Maximum bytes of a file."""
DEPTH = 12
"""Maximum levels of nested objects and lists in a file."""
_CONTAINERS = (dict, list)

Count = Annotated[int, Field(ge=0, lt=LARGEST)]
Number = Annotated[float, Field(gt=-1e300, lt=1e300)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=-1e10, lt=1e10)]
"""A duration in wall-clock time; negative if the clock was set back."""
Time = Annotated[float, Field(ge=0, lt=4102444800)]
"""A time before the year 2100, in seconds since the epoch."""
Line = Annotated[str, Field(max_length=5000)]
"""A name, path or sentence."""
Text = Annotated[str, Field(max_length=1 << 16)]


class JsonFile(BaseModel):
    """Contents that a file, or an object inside it, may have. Unknown members are kept; types are not converted."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


def read_typed(path: Path, model: type[JsonFile]) -> dict[str, Any] | None:
    """Read and check the object in a file; None if the file is missing, or empty because it is about to be written.

    Raises:
        InputError: The file cannot be read, is not valid JSON, or contains a value that ``model`` does not allow.
    """
    content = _load(path)
    return _checked(content, model, path) if content else content


def parse_typed(data: bytes, model: type[JsonFile], name: str) -> dict[str, Any]:
    """Return the object that `read_typed` would read from a file with this content; errors call it ``name``.

    Raises:
        InputError: As for `read_typed`.
    """
    return _checked(_parsed(data, name) or {}, model, name)


def read_valid_part(path: Path, model: type[JsonFile]) -> tuple[dict[str, Any], str]:
    """Return the valid members of the object in a file, and one sentence about what is wrong with the file, or ""."""
    try:
        content = _load(path) or {}
    except InputError as error:
        return {}, str(error)
    valid, faults = valid_part(content, model)
    return valid, f"{path} is not valid: {faults[0]}." if faults else ""


def valid_part(content: Mapping[str, Any], model: type[JsonFile]) -> tuple[dict[str, Any], list[str]]:
    """Return the valid members of an object, and what is wrong with each of the others."""
    faults = _faults(content, model)
    return {name: value for name, value in content.items() if name not in faults}, list(faults.values())


def _load(path: Path) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise InputError(f"{path} must be a file, but is a folder.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    return _parsed(data, path)


def _parsed(data: bytes, name: Path | str) -> dict[str, Any] | None:
    if len(data) > LIMIT:
        raise InputError(f"{name} is larger than {LIMIT >> 20} MB, the limit for this file.")
    try:
        content = json.loads(data) if data.strip() else None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON.") from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{name} does not contain a JSON object.")
    return content


def _checked(content: dict[str, Any], model: type[JsonFile], name: Path | str) -> dict[str, Any]:
    for sentence in _faults(content, model).values():
        raise InputError(f"{name} is not valid: {sentence}.")
    return content


def _faults(content: Mapping[str, Any], model: type[JsonFile]) -> dict[str, str]:
    """Return what is wrong with each member that is not valid, by name."""
    faults = {name: f"{_name(name)}{fault}" for name, value in content.items() if (fault := _unrepresentable(value))}
    try:
        model.model_validate({name: value for name, value in content.items() if name not in faults})
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False):
            name = str(fault["loc"][0]) if fault["loc"] else ""
            faults.setdefault(name, _sentence(content, fault))
    return faults


def _sentence(content: Any, fault: Mapping[str, Any]) -> str:
    """Return a validation error in words: "test.accuracy is 'x'; it should be a valid number"."""
    if fault["type"] == "missing":
        return f"{'.'.join(map(_name, fault['loc']))} is missing"
    names = []
    for name in fault["loc"]:
        try:
            content = content[name]
        except (IndexError, KeyError, TypeError):
            break  # the other names belong to a union of types
        names.append(_name(name))
    what = fault["msg"].removeprefix("Value error, ").replace("Input", "it", 1)
    if fault["type"] == "model_type":
        what = "it should be an object"
    return f"{'.'.join(names)} is {short(fault['input'])}; {what}" if names else what


def _name(key: Any) -> str:
    """Return a key for use in a sentence: quoted if it is long or contains a line break."""
    text = str(key)
    return text if text.isprintable() and len(text) <= 40 else short(text)


def _unrepresentable(value: Any, depth: int = DEPTH) -> str:
    """Return where a value contains something that not every program can represent, and what; empty if nowhere."""
    if isinstance(value, float):  # first, because most values are floats
        return "" if math.isfinite(value) else f" is {value}; it must be a finite number"
    if isinstance(value, _CONTAINERS):
        if not depth:
            return f" is nested more than {DEPTH} levels deep"
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if fault := _unrepresentable(item, depth - 1):
                return f".{_name(key)}{fault}"
        return ""
    if isinstance(value, int) and abs(value) >= LARGEST:
        return " is a whole number of 2**53 or more"
    if isinstance(value, str) and not is_unicode(value):
        return " contains characters that are not valid Unicode"
    return ""


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded as UTF-8: it contains no half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
