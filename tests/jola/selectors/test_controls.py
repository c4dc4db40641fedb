"""The controls, compared with independent implementations."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jola.adapters.directory import read_edits
from jola.config import EditConfig
from jola.edits import gates
from jola.edits.gated import GatedEdits
from jola.edits.sites import Site
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.selectors import Ablation, Budget, GradientImportance, HeadSet, JoLAGates, OffsetSaliency
from jola.selectors.protocol import HeadFactors
from tests.conftest import spread_edits
from tests.jola.selectors.examples import EXAMPLES, SHORT, selection


@pytest.fixture
def adapter(tiny: Callable[..., JoLAModel], tmp_path: Path) -> Path:
    model = tiny("llama")
    with torch.no_grad():
        for gate in model.edits.gate_parameters():
            gate -= 3
    return model.save_pretrained(tmp_path / "adapter")


def central_difference(loss: Callable[[float], Tensor], step: float = 1e-2) -> float:
    with torch.no_grad():
        return float(loss(step) - loss(-step)) / (2 * step)


def test_gradient_importance_against_finite_differences(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("llama")
    scores = GradientImportance(SHORT)(model, EXAMPLES, 1, 0)
    found = selection(model)
    for place in ((0, 0), (1, 3), (2, 2)):
        slopes = []
        for row in found.rows:

            def loss(change: float, place: tuple[int, int] = place, row: Any = row) -> Tensor:
                factors = torch.ones(3, 4)
                factors[place] += change
                return found.loss([row], HeadFactors(factors))

            slopes.append(abs(central_difference(loss)))
        assert scores.values[place] == pytest.approx(np.mean(slopes), rel=0.02, abs=1e-4)


def test_offset_saliency_against_finite_differences(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("llama", EditConfig(gates="none", operation="offset"))
    scores = OffsetSaliency(SHORT)(model, EXAMPLES, 1, 0)
    found = selection(model)
    edits = GatedEdits(Site.HEADS, 3, 4, model.geometry.head_dim, gates="none", operation="offset")
    place, slopes = (1, 2), []
    for number in range(model.geometry.head_dim):

        def loss(change: float, number: int = number) -> Tensor:
            edits.get_parameter("offset").data.zero_()[*place, number] = change
            return torch.stack([found.loss([row], edits) for row in found.rows]).mean()

        slopes.append(central_difference(loss))
    assert scores.values[place] == pytest.approx(np.linalg.norm(slopes), rel=0.02)


def test_ablation_against_whole_passes(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("gpt2")
    scores = Ablation(SHORT, examples=len(EXAMPLES))(model, EXAMPLES, 1, 0)
    found = selection(model)
    with torch.no_grad():
        for place in ((0, 1), (1, 0), (2, 3)):
            factors = torch.ones(3, 4)
            factors[place] = 0
            rises = [
                found.loss([row], HeadFactors(factors)) - found.loss([row], HeadFactors(torch.ones(3, 4)))
                for row in found.rows
            ]
            assert scores.values[place] == pytest.approx(float(torch.stack(rises).mean()), abs=1e-4)


def test_ablation_takes_what_the_budget_affords(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("llama")
    found = selection(model, EXAMPLES * 20)
    seen: list[int] = []
    model.base.get_input_embeddings().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel()))
    with torch.no_grad():
        for rows in found.batches():
            found.loss(rows, HeadFactors(torch.ones(found.shape)))
    computed = sum(seen[-len(list(found.batches())) :])  # passes of a check precede the first pass of a model
    own = sum(len(row.input_ids) for row in found.rows)
    assert found.tokens() == computed < own
    few, many = Ablation(Budget(epochs=1)), Ablation(Budget(epochs=6))
    # A step costs three forward passes, and an example (12 heads · half a pass + 1).
    assert few.affordable(found) == math.floor(100 * computed / own * 3 / 7) > 1
    assert many.affordable(found) == 100


def test_jola_gates_rank_the_edited_heads_first(tiny: Callable[..., JoLAModel], adapter: Path) -> None:
    model, trained = tiny("llama"), read_edits(adapter)[0]
    opened = HeadSet.from_array((trained.states() > 0).numpy())
    assert 0 < len(opened) < 12
    scores = JoLAGates(adapter=str(adapter))(model, EXAMPLES, len(opened), 0)
    assert scores.top(len(opened)) == opened
    expected = torch.stack([gates.expectation(g.detach()) for g in trained.gate_parameters()]).amax(0)
    assert scores.values == pytest.approx(expected.numpy(), abs=1e-6)


def test_an_adapter_without_gates_prefers_no_head(tiny: Callable[..., JoLAModel], tmp_path: Path) -> None:
    folder = tiny("llama", EditConfig(gates="none")).save_pretrained(tmp_path / "ungated")
    with pytest.raises(InputError, match="no gates"):
        JoLAGates(adapter=str(folder))(tiny("llama"), EXAMPLES, 1, 0)


def test_factors_of_heads_are_factors_of_attention_outputs(tiny: Callable[..., JoLAModel]) -> None:
    model = tiny("qwen2")
    spread_edits(model)
    factors = torch.rand(2, 3, 4)
    ids = torch.randint(3, 300, (2, 6))
    with torch.no_grad(), model.using([HeadFactors(factors)]):
        got = model(ids).logits
    for row in range(2):
        # The same factors as scales m of edits: 1 + m.
        edits = GatedEdits(Site.HEADS, 3, 4, model.geometry.head_dim, gates="none", operation="scale").eval()
        edits.get_parameter("scale").data.copy_((factors[row] - 1)[..., None].expand(3, 4, model.geometry.head_dim))
        with torch.no_grad(), model.using([edits]):
            assert torch.allclose(got[row], model(ids[row : row + 1]).logits[0], atol=1e-4)
