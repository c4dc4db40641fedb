"""Recipes: named sets of all settings for one way of training JoLA."""

from collections.abc import Mapping
from typing import Any

from jola.config import GROUPS, RunConfig
from jola.errors import InputError

_PUBLISHED: Mapping[str, Any] = {
    "gate_start": 0.0,
    "template": "plain",
    "beams": 4,
    "epochs": 20,
    "batch_size": 8,
    "loss_reduction": "token",
    "l0_schedule": "exponential",
    "patience": 2,
    "keep": "loss",
}
"""Settings shared by the paper and its code. The paper does not state epochs, batch size and patience."""

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "paper": {
        **_PUBLISHED,
        "learning_rate": 5e-4,
        "gate_learning_rate": 5e-4,
        # One of 20 epochs.
        "warmup_ratio": 0.05,
        # Not stated; about the weight of a gate of an 8B model in the reference code.
        "l0_weight": 4e-5,
    },
    "reference": {
        **_PUBLISHED,
        "objective": "reference",
        "learning_rate": 5e-3,
        "gate_learning_rate": 5e-3,
        # 50 of 500 steps.
        "warmup_ratio": 0.1,
    },
}
"""Settings that differ from the defaults, by recipe: 'paper' (section 4.3 and appendix F) and 'reference', its code."""


def recipe(name: str, method: str = RunConfig.method) -> RunConfig:
    """Return the settings of a recipe.

    Args:
        name: A key of `RECIPES`.
        method: Name of a method; only JoLA has recipes other than 'default'.

    Raises:
        InputError: There is no such recipe, or it is not for this method.
    """
    if name not in RECIPES:
        raise InputError(f"--recipe is {name!r}; choose one of {', '.join(RECIPES)}.")
    if RECIPES[name] and method != RunConfig.method:
        raise InputError(f"The recipe '{name}' is only for {RunConfig.method}; leave --recipe out for {method}.")
    config = RunConfig(method=method)
    values = config.to_dict()
    for group in GROUPS:
        values[group] |= {key: value for key, value in RECIPES[name].items() if key in values[group]}
    return RunConfig.from_dict(values)
