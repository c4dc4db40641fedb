"""The form, which is built from the same dataclasses as the command line."""

import dataclasses
from typing import Any

import pytest

from jola.config import RunConfig, flag
from jola.errors import InputError
from jola.methods import METHODS
from jola.methods.lora import LoRAConfig
from jola.methods.red import REDConfig
from workbench.ui import form


def defaults() -> dict[str, Any]:
    return {setting.name: form.component(setting).value for setting in form.settings()}


def test_the_untouched_form_is_the_default_configuration() -> None:
    assert form.read_form(defaults()) == RunConfig()


def test_every_setting_of_one_process_in_the_app_has_a_field() -> None:
    every = {field.name for part in RunConfig().parts() for field in dataclasses.fields(part)}
    assert every - {setting.name for setting in form.settings()} == {"output", "report_to", "shard_base"}


@pytest.mark.parametrize("name", METHODS)
def test_the_untouched_form_of_a_method_is_its_default_configuration(name: str) -> None:
    fields = {setting.key: form.component(setting).value for setting in form.settings(name)}
    assert form.read_form(fields | {"method": name}) == RunConfig(method=name)


def test_fields_of_other_methods_and_of_gates_are_not_read() -> None:
    values = defaults() | {"lora.rank": 4, "lora.target_modules": "q_proj", "red.layers": "nonsense"}
    config = form.read_form(values | {"method": "lora", "l0_weight": None, "layers": "nonsense"})
    assert config.edits == LoRAConfig(rank=4, target_modules="q_proj")
    assert config.training.l0_weight == RunConfig().training.l0_weight
    assert form.read_form({"method": "red", "red.layers": "0-1"}).edits == REDConfig(layers="0-1")
    with pytest.raises(InputError, match=r"Rank is 0; it must be at least 1"):
        form.read_form({"method": "lora", "lora.rank": 0})


def test_fields_of_all_methods_have_ids_of_their_own() -> None:
    keys = {setting.key for name in METHODS for setting in form.settings(name)}
    ids = {form.element_id(setting) for name in METHODS for setting in form.settings(name)}
    assert len(ids) == len(keys)
    assert {"setting-lora-rank", "setting-red-layers", "setting-layers"} <= ids


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


@pytest.mark.parametrize(("typed", "seed"), [("", None), (" ", None), ("7", 7), (7, 7)])
def test_a_number_that_may_be_missing(typed: Any, seed: int | None) -> None:
    assert form.read_form(defaults() | {"data_seed": typed}).data.data_seed == seed


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("epochs", None, "Epochs is empty"),
        ("epochs", 2.5, r"Epochs is 2.5; it must be a whole number"),
        ("epochs", 0, "Epochs is 0; it must be at least 1"),
        ("data_seed", "7.5", "Data seed is 7.5; it must be a whole number"),
        ("data_seed", "seven", "Data seed is 'seven'; give a number"),
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
