"""``jola train --method``: every method has its own flags and defaults."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from jola.config import RunConfig, flag
from jola.methods import METHODS
from jola.runs.run import Run
from tests.jola.cli.commands import Result, assert_refused, train


@pytest.mark.parametrize("name", METHODS)
def test_help_shows_the_settings_of_the_method_and_of_no_other(jola: Callable[..., Result], name: str) -> None:
    shown = jola("train", "--method", name, "--help")
    assert (shown.code, shown.err) == (0, "")
    config = RunConfig(method=name)
    own = {field.name for part in config.parts() for field in dataclasses.fields(part)}
    for part in config.parts():
        for field in dataclasses.fields(part):
            used = METHODS[name].has_gates or not field.metadata["gates"]
            assert (f"{flag(field.name)} " in shown.out) == used, field.name
    for other in METHODS.values():
        for field in dataclasses.fields(other.settings):
            assert field.name in own or f"{flag(field.name)} " not in shown.out, field.name
    assert f"(default: {METHODS[name].learning_rate})" in shown.out


@pytest.mark.parametrize("given", [["--method", "red"], ["--method=red"]])
def test_a_method_is_trained_with_its_settings(jola: Callable[..., Result], place: Path, given: list[str]) -> None:
    result = jola(*train(place, *given, "--layers", "1", "--json"))
    assert result.code == 0, result.err
    config = Run.open(result.json["run"]).run_config()
    assert config.method == "red"
    assert config.edits.layers == "1"
    assert config.training.learning_rate == METHODS["red"].learning_rate


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rank", "4"], "--rank is a setting of lora, not of jola; add --method lora, or leave --rank out"),
        (["--method", "red", "--heads=0:1"], "--heads is a setting of jola, not of red"),
        (["--method", "lora", "--l0-weight", "0.1"], "--l0-weight is a setting of jola, not of lora"),
        (["--method", "lora", "--rank", "0"], "--rank is 0; it must be at least 1"),
        (["--method", "nothing"], "There is no method 'nothing'; choose one of jola, red, lora"),
    ],
)
def test_flags_of_another_method(jola: Callable[..., Result], arguments: list[str], sentence: str) -> None:
    assert_refused(jola("train", *arguments), sentence)


def test_a_method_without_its_name_is_exit_code_2(jola: Callable[..., Result]) -> None:
    result = jola("train", "--method")
    assert (result.code, result.out) == (2, "")
    assert "--method" in result.err


def test_settings_of_gates_are_no_flags_of_a_method_without_gates() -> None:
    config = RunConfig(method="lora")
    config.training.l0_weight = 0.5
    config.training.epochs = 3
    assert config.flags() == ["--method", "lora", "--epochs", "3"]
