"""The formulas of docs/scale.md agree with PyTorch's counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.scale import Shape, backward_flops, forward_flops
from jola.jola_model import JoLAModel
from tests.tiny import LAYERS, make_model, make_tokenizer


@pytest.mark.parametrize(("rows", "tokens", "answers"), [(1, 16, 3), (2, 32, 5)])
def test_operations_of_a_training_step(rows: int, tokens: int, answers: int) -> None:
    base = make_model("llama")
    base.set_attn_implementation("eager")
    model = JoLAModel(base, make_tokenizer()).train()
    shape = Shape(LAYERS, hidden=32, queries=32, keys=16, mlp=48, vocabulary=300)
    assert shape.parameters + 32 * (2 * LAYERS + 1) == sum(p.numel() for p in base.parameters())
    assert shape.trained == sum(p.numel() for p in model.edits.edit_parameters())
    ids = torch.randint(0, 300, (rows, tokens), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, : tokens - answers] = -100
    batch = ids, torch.ones_like(ids), labels
    model(*batch)
    with FlopCounterMode(display=False) as forward:
        loss = model(*batch).loss
    assert loss is not None
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    size = rows, tokens, rows * answers
    assert forward.get_total_flops() == forward_flops(shape, *size)
    assert backward.get_total_flops() == backward_flops(shape, *size)
