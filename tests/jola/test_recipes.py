"""Recipes set all settings that belong together."""

import pytest

from jola.config import RunConfig
from jola.errors import InputError
from jola.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_value_of_a_recipe_arrives(name: str) -> None:
    config = recipe(name)
    assert {setting: config[setting] for setting in RECIPES[name]} == RECIPES[name]


def test_the_default_recipe_is_the_defaults() -> None:
    assert recipe("default") == RunConfig()
    assert recipe("default", "red") == RunConfig(method="red")


def test_the_reference_recipe_has_one_rate_and_its_loss() -> None:
    config = recipe("reference")
    assert config.training.learning_rate == config.training.gate_learning_rate == 5e-3
    assert (config.training.objective, config.training.l0_schedule) == ("reference", "exponential")


@pytest.mark.parametrize(
    ("name", "method", "sentence"),
    [
        ("ours", "jola", "--recipe is 'ours'; choose one of default, paper, reference."),
        ("paper", "lora", "The recipe 'paper' is only for jola; leave --recipe out for lora."),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(name: str, method: str, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        recipe(name, method)
    assert str(error.value) == sentence
