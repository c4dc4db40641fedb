"""``jola methods``: the methods, their settings, and how many parameters they train on a model."""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from jola.cli import console
from jola.cli.common import Json, check_flags, settings_type
from jola.config import RunConfig, flag
from jola.errors import InputError
from jola.methods import METHODS, Method, method_named

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAME_HELP = "Method to describe; give it first. Its settings are flags of the command. Default: list all methods."
_SHAPE_HELP = (
    "Count the trained parameters for this model, without reading its weights: a Hub id, a folder or a config.json."
)


def methods_command(arguments: Sequence[str]) -> Callable[..., None]:
    """Return ``jola methods`` with the flags of the method that it describes.

    Args:
        arguments: Arguments of the command line; the name is read before all others are parsed.

    Raises:
        InputError: There is no such method, or a flag belongs to another one.
    """
    given = arguments[1:] if arguments[:1] == ["methods"] else []
    name_given = _name_in(given)
    owners = [name for name in METHODS for option in given if _setting_of(option) in _own_settings(name)]
    if owners and name_given not in METHODS:
        raise InputError(f"The settings of a method follow its name, as in `jola methods {owners[0]} {given[0]} …`.")
    if name_given is None:

        def methods(
            name: Positional[Annotated[str | None, arg(metavar="[NAME]", help=_NAME_HELP)]] = None,
            shape: Annotated[str | None, arg(metavar="MODEL", help=_SHAPE_HELP)] = None,
            json: Json = False,
        ) -> None:
            """List methods and their settings, and count what they train on a model."""
            _list(shape, json)

        return methods

    chosen = method_named(name_given)
    check_flags(given, chosen.name)
    config = RunConfig(method=chosen.name)
    others = {field.name for part in config.parts() if part is not config.edits for field in dataclasses.fields(part)}

    def methods_of(
        settings: Annotated[Any, arg(name="", constructor=settings_type(config, omit=others))],
        name: Positional[Annotated[str, arg(metavar="[NAME]", help=_NAME_HELP)]] = chosen.name,
        shape: Annotated[str | None, arg(metavar="MODEL", help=_SHAPE_HELP)] = None,
        json: Json = False,
    ) -> None:
        """Describe a method and its settings, and count what it trains on a model."""
        edits = chosen.settings(**dataclasses.asdict(settings).get("edits", {}))
        RunConfig(method=chosen.name, edits=edits).validate()
        _describe(chosen, edits, shape, json)

    methods_of.__name__ = "methods"
    return methods_of


def _setting_of(argument: str) -> str:
    """Return the name of the setting that an argument may set; empty if it is not a flag."""
    return argument.partition("=")[0][2:].replace("-", "_") if argument.startswith("--") else ""


def _name_in(arguments: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--shape", nargs="?")
    return parser.parse_known_args(arguments)[0].name


def _own_settings(method: str) -> set[str]:
    return {field.name for field in dataclasses.fields(METHODS[method].settings)}


@dataclasses.dataclass(frozen=True)
class Count:
    """The number of parameters that a method trains on a model, with some of its settings."""

    method: str
    settings: str
    """The settings that differ from the defaults, as flags; empty for the defaults."""
    stages: dict[str, int]
    frozen: int
    refusal: str = ""
    """Why the model cannot have these edits, as one sentence; there are no stages then."""

    @property
    def trainable(self) -> int:
        """Number of parameters trained in the last stage."""
        return list(self.stages.values())[-1] if self.stages else 0

    @property
    def share(self) -> float:
        """The same as a share of all parameters, as in peft."""
        return self.trainable / (self.frozen + self.trainable)

    def row(self) -> list[Any]:
        """Return the row of the table."""
        if self.refusal:
            return [self.method, self.settings, "none", "", self.refusal]
        earlier = [f"{count:,} in stage {name}" for name, count in list(self.stages.items())[:-1]]
        return [self.method, self.settings, f"{self.trainable:,}", f"{self.share:.4%}", "; ".join(earlier)]

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        if self.refusal:
            return {"settings": self.settings, "refusal": self.refusal}
        return {"settings": self.settings, "trainable": self.trainable, "stages": self.stages, "share": self.share}


_COUNT_COLUMNS = ["method", "settings", "trainable", "share", "notes"]


def _counts(method: Method, edits: Sequence[Any], base: "PreTrainedModel", *, refuse: bool = True) -> Iterator[Count]:
    """Yield the counts for several settings; raise an error for those that do not fit the model, or list the reason."""
    from jola.model.architectures import geometry_of

    geometry, frozen = geometry_of(base), sum(p.numel() for p in base.parameters())
    for each in edits:
        settings = " ".join(RunConfig(method=method.name, edits=each).flags()[2 if method.name != "jola" else 0 :])
        try:
            yield Count(method.name, settings, method.trainable(each, base, geometry), frozen)
        except InputError as error:
            if refuse:
                raise
            yield Count(method.name, settings, {}, frozen, str(error))


def _presets(method: Method) -> list[Any]:
    """Return the default settings and those of the presets."""
    return [method.settings(), *(method.settings(**changes) for changes in method.presets.values())]


def _list(shape: str | None, json: bool) -> None:
    base, model = _empty(shape)
    counts = {m.name: list(_counts(m, _presets(m), base, refuse=False)) if base else [] for m in METHODS.values()}
    if json:
        described = [_facts(m) | _with_counts(counts[m.name], base) for m in METHODS.values()]
        console.print_json({"methods": described} | model)
    elif base:
        console.print_table(_COUNT_COLUMNS, [count.row() for own in counts.values() for count in own])
    else:
        rows = [[m.name, m.title, m.summary, " ".join(_flags(m)) or "none", m.source] for m in METHODS.values()]
        console.print_table(["method", "title", "what it trains", "settings", "source"], rows)


def _describe(method: Method, edits: Any, shape: str | None, json: bool) -> None:
    base, model = _empty(shape)
    counts = list(_counts(method, [edits], base)) if base else []
    if json:
        console.print_json(_facts(method) | _with_counts(counts, base) | model)
        return
    if base:
        console.print_table(_COUNT_COLUMNS, [count.row() for count in counts])
        return
    console.print_text(
        f"{method.full_name}\n{method.summary}\n\n  {method.formula}\n\nsource         {method.source}\n"
        + (f"learning rate  {method.learning_rate:g} by default" if method.learning_rate else "nothing is trained")
    )
    for words, changes in method.presets.items():
        console.print_text(f"preset         {words}: {' '.join(f'{flag(n)} {v}' for n, v in changes.items())}")
    if fields := dataclasses.fields(method.settings):
        console.print_text("")
        console.print_table(
            ["setting", "default", "what it is"], [[flag(f.name), f.default, f.metadata["help"]] for f in fields]
        )


def _empty(shape: str | None) -> tuple[Any, dict[str, Any]]:
    """Return the model without weights on which parameters are counted, and its facts for JSON; empty without name."""
    if shape is None:
        return None, {}
    from jola.model.loading import empty_model

    base, name = empty_model(shape)
    frozen = sum(p.numel() for p in base.parameters())
    return base, {"shape": {"model": name, "architecture": base.config.model_type, "frozen": frozen}}


def _flags(method: Method) -> list[str]:
    return [flag(field.name) for field in dataclasses.fields(method.settings)]


def _facts(method: Method) -> dict[str, Any]:
    settings = [
        {"flag": flag(f.name), "name": f.name, "default": f.default, "help": f.metadata["help"]}
        for f in dataclasses.fields(method.settings)
    ]
    names = ("name", "title", "full_name", "summary", "formula", "source", "learning_rate", "has_gates")
    return {name: getattr(method, name) for name in names} | {"settings": settings, "presets": dict(method.presets)}


def _with_counts(counts: Sequence[Count], base: Any) -> dict[str, Any]:
    return {"counts": [count.to_dict() for count in counts]} if base else {}
