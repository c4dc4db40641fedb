"""Changes of the residual stream by layer, compared with transformers and plain hooks."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from jola import insight
from jola.config import EditConfig
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.methods.lora import LoRAConfig
from jola.methods.loreft import LoReFTConfig
from tests.jola.insight.by_hand import IDS, Make, parts_of
from tests.jola.model.passes import every_architecture
from tests.jola.model.plain_hooks import PATHS, hooked
from tests.tiny import make_model, make_tokenizer

OTHER = IDS[::-1][:6]


def after_blocks(plain: torch.nn.Module, ids: Sequence[int]) -> torch.Tensor:
    """Return the output of each block with shape (layers, tokens, hidden size)."""
    seen: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda m, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for block in plain.get_submodule(PATHS[plain.config.model_type][0]).children()
    ]
    plain(torch.tensor([list(ids)]))
    for handle in handles:
        handle.remove()
    return torch.cat([values.reshape(1, len(ids), -1) for values in seen])


@every_architecture
@torch.no_grad()
def test_changes_are_those_of_plain_hooks(tiny: Make, architecture: str) -> None:
    model, plain = tiny(architecture, EditConfig(sites="both")), make_model(architecture)
    expected = []
    for ids in (IDS, OTHER):
        base = after_blocks(plain, ids)
        with hooked(plain, parts_of(model)):
            edited = after_blocks(plain, ids)
        expected.append([float(v) for v in ((edited - base).norm(dim=-1) / base.norm(dim=-1)).mean(-1)])
    found = insight.layer_changes(model, [IDS, OTHER])
    assert found.change == pytest.approx(np.mean(expected, axis=0), rel=1e-3)
    assert found.n == 2 and found.tokens == len(IDS) + len(OTHER)
    assert (found.low < found.change).all() and (found.change < found.high).all()
    assert found.largest == int(np.argmax(found.change))
    assert found.to_frame().change.tolist() == found.to_dict()["change"]


def test_a_layer_that_no_edit_reaches_does_not_change(tiny: Make) -> None:
    model = tiny("llama", EditConfig(layers="1"))
    found = insight.layer_changes(model, [IDS])
    assert found.change[0] == 0 and (found.change[1:] > 0).all()
    assert np.isnan(found.low).all() and found.to_dict()["low"] is None
    assert (insight.layer_changes(model, [IDS], strength=0.0).change == 0).all()


@pytest.mark.parametrize("settings", [LoRAConfig(rank=2), LoReFTConfig(rank=2)])
def test_methods_of_other_kinds_have_changes_too(settings: LoRAConfig | LoReFTConfig) -> None:
    model = JoLAModel(make_model("llama"), make_tokenizer(), settings).eval()
    assert (insight.layer_changes(model, [IDS]).change == 0).all()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    assert (insight.layer_changes(model, [IDS]).change > 0).all()


def test_no_prompts_are_refused(tiny: Make) -> None:
    with pytest.raises(InputError, match="no prompts"):
        insight.layer_changes(tiny("llama"), [])
