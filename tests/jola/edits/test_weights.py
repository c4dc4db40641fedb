"""Edits of weights that are read from the tensors of a file, without a model."""

import pytest
import torch
from torch import Tensor

from jola.edits.low_rank import LowRankEdits
from jola.edits.weights import WeightEdits
from jola.errors import InputError


def tensors(*paths: str) -> dict[str, Tensor]:
    """Return tensors of rank 2 for modules with 4 inputs and 3 outputs."""
    shapes = {"A": (2, 4), "B": (3, 2)}
    return {f"base_model.model.{p}.lora_{part}.weight": torch.ones(s) for p in paths for part, s in shapes.items()}


def test_places_are_layers_and_modules() -> None:
    edits: WeightEdits = LowRankEdits.of_tensors(
        tensors("model.layers.11.mlp.up_proj", "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj"), 12
    )
    assert edits.unit_names == ("q_proj", "up_proj")
    assert edits.path_of == {
        (0, 0): "model.layers.0.self_attn.q_proj",
        (0, 1): "model.layers.0.mlp.up_proj",
        (11, 1): "model.layers.11.mlp.up_proj",
    }


@pytest.mark.parametrize(
    "path",
    [
        "model.layers.0001.self_attn.q_proj",
        "model.layers.01.self_attn.q_proj",
        "model.layers.1",
        "1.q_proj",
        "model.layers.12.self_attn.q_proj",
        "model.layers.q_proj",
        "another.layers.0.self_attn.q_proj",
    ],
)
def test_names_that_are_no_module_of_a_layer_are_refused(path: str) -> None:
    """The last name is a second module at a place that is taken."""
    with pytest.raises(InputError, match=r"do not belong to modules in 12 layers .* the adapter is damaged"):
        LowRankEdits.of_tensors(tensors(path, "model.layers.0.self_attn.q_proj"), 12)
