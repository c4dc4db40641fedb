"""The form and the command line are made from the same dataclasses."""

import dataclasses
from typing import Any

import pytest

from jola.config import RunConfig, flag
from jola.errors import InputError
from workbench.ui import form


def defaults() -> dict[str, Any]:
    return {setting.name: form.component(setting).value for setting in form.settings()}


def test_the_untouched_form_is_the_default_configuration() -> None:
    assert form.read_form(defaults()) == RunConfig()


def test_every_setting_but_two_has_a_field() -> None:
    every = {field.name for part in RunConfig().parts() for field in dataclasses.fields(part)}
    assert every - {setting.name for setting in form.settings()} == {"output", "report_to"}


def test_fields_carry_help_and_unit() -> None:
    settings = {setting.name: setting for setting in form.settings()}
    component = form.component(settings["train_size"])
    assert component.label == "Train size (examples)"
    assert component.info == settings["train_size"].help
    assert all(setting.help for setting in settings.values())


def test_values_become_settings() -> None:
    config = form.read_form(defaults() | {"epochs": 3.0, "l0_weight": 0.5, "task": " sentiment ", "revision": "  "})
    assert (config.training.epochs, config.training.l0_weight) == (3, 0.5)
    assert isinstance(config.training.epochs, int)
    assert config.data.task == "sentiment"
    assert config.model.revision is None


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("epochs", None, "Epochs is empty"),
        ("epochs", 2.5, r"Epochs is 2.5; it must be a whole number"),
        ("epochs", 0, "Epochs is 0; it must be at least 1"),
        ("l0_weight", -1, r"L0 weight is -1(\.0)?; it must be at least 0"),
        ("learning_rate", 0, "Learning rate is 0"),
        ("task", "", "Task is empty"),
        ("layers", "one", "Layers is 'one'"),
        ("dtype", "float8", "Dtype is 'float8'"),
    ],
)
def test_a_bad_value_is_a_sentence_in_the_words_of_the_form(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        form.read_form(defaults() | {name: value})
    assert flag(name) not in str(caught.value)
