"""Locations of the sites: the geometry of each architecture, and the refusal of unsupported models."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPTJConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from jola.edits.sites import Geometry, Site
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.model import architectures as sites
from jola.model.architectures import (
    ARCHITECTURES,
    Architecture,
    geometry_of,
    head_path,
    learned_positions,
    length_limit,
    module_path,
)
from tests.jola.model.plain_hooks import PATHS
from tests.tiny import CONFIGS, LAYERS, VOCABULARY, make_model

HEAD_DIM = {"qwen3": 16, "gemma2": 12, "gemma3_text": 12, "gemma": 12}
"""Widths of heads; 32 / 4 = 8 in all other architectures."""
TOKENS = torch.tensor([[5, 17, 250, 9, 44, 3]])

Make = Callable[..., JoLAModel]


def with_row(monkeypatch: pytest.MonkeyPatch, **paths: str) -> None:
    """Replace the description of Llama by a wrong one."""
    row = {"layers": "model.layers", "heads": "self_attn.o_proj", "mlp": "mlp"} | paths
    monkeypatch.setitem(sites.ARCHITECTURES, "llama", Architecture(**row))


def refusal(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    with pytest.raises(InputError) as error:
        JoLAModel(base, tokenizer)
    return str(error.value)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_geometry(architecture: str) -> None:
    head_dim = HEAD_DIM.get(architecture, 8)
    geometry = geometry_of(make_model(architecture))
    assert geometry == Geometry(architecture, num_layers=3, num_heads=4, head_dim=head_dim, hidden_size=32)
    assert geometry.units(Site.HEADS) == (4, head_dim)
    assert geometry.units(Site.MLP) == geometry.units(Site.BLOCK) == (1, 32)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_paths_lead_to_the_modules(architecture: str) -> None:
    model = make_model(architecture)
    layers, heads, mlp = PATHS[architecture]
    for layer in range(LAYERS):
        block = model.get_submodule(layers)[layer]
        for site, module in (
            (Site.HEADS, block.get_submodule(heads)),
            (Site.MLP, block.get_submodule(mlp)),
            (Site.BLOCK, block),
        ):
            assert model.get_submodule(module_path(model, site, layer)) is module
    head = model.get_submodule(head_path(model))
    assert head is model.get_output_embeddings() and isinstance(head, nn.Linear)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_only_learned_positions_have_an_end(architecture: str, tiny: Make) -> None:
    model, text = tiny(architecture), torch.arange(257)[None] + 3
    try:
        model.base(text)
    except IndexError:
        assert learned_positions(model.base) == 256
        assert [length_limit(model.base, given) for given in (0, 100, 256, 512)] == [256, 100, 256, 256]
        with pytest.raises(InputError, match=f"A text of 257 tokens is too long for this {architecture} model, which"):
            model(text)
    else:
        assert learned_positions(model.base) is None and length_limit(model.base, 512) == 512
        assert model(text).logits.shape == (1, 257, VOCABULARY)
    assert model(text[:, 1:]).logits.shape == (1, 256, VOCABULARY)
    # Padding has no positions.
    padded = model(text, torch.arange(257)[None] > 0, positions="last").logits
    torch.testing.assert_close(padded, model(text[:, 1:], positions="last").logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_answers_need_positions_but_for_their_last_token(architecture: str, tiny: Make) -> None:
    model, prompt = tiny(architecture), torch.arange(250)[None] + 3
    assert model.generate(prompt, max_new_tokens=7, do_sample=False, eos_token_id=[]).shape == (1, 257)
    with pytest.raises(InputError, match=r"of 250 tokens with an answer of up to 8 is too long .* positions for 256;"):
        model.generate(prompt, max_new_tokens=8, do_sample=False)
    ids = prompt[0].tolist()
    assert len(model.answer_log_likelihoods([ids, ids[:9]], [(0, [3] * 6), (1, [3] * 9)])) == 2
    with pytest.raises(InputError, match="A text of 257 tokens is too long"):
        model.answer_log_likelihoods([ids, ids[:9]], [(0, [3] * 7), (1, [3] * 9)])
    with pytest.raises(InputError, match="A text of 257 tokens is too long"):
        model.traced.record(model.inputs(torch.ones(1, 257, dtype=torch.long)), {})


def test_every_architecture_has_a_tiny_model() -> None:
    assert set(CONFIGS) == set(ARCHITECTURES) == set(PATHS)


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
        FalconConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
        GPTJConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, rotary_dim=4),
    ],
    ids=lambda config: config.model_type,
)
def test_unknown_architectures_are_refused(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_config(config)
    tokenizer.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)  # without weights, because it is refused before loading
    messages = [refusal(base, tokenizer)]
    with pytest.raises(InputError) as error:
        JoLAModel.from_pretrained(str(tmp_path))
    for message in [*messages, str(error.value)]:
        assert f"architecture {config.model_type!r}" in message
        assert all(name in message for name in ARCHITECTURES)
        assert "jola/model/architectures.py" in message


class TestWhatDoesNotFit:
    def test_layers_of_different_width(self, tokenizer: PreTrainedTokenizerBase) -> None:
        base = make_model("llama")
        base.get_submodule("model.layers.1.self_attn").o_proj = nn.Linear(24, 32)
        assert "cannot be split into 4 equal heads in every layer (projection inputs of [24, 32])" in refusal(
            base, tokenizer
        )

    def test_heads_that_do_not_divide_the_projection(self, tokenizer: PreTrainedTokenizerBase) -> None:
        base = make_model("llama")
        base.config = copy.deepcopy(base.config)
        base.config.num_attention_heads = 5
        assert "cannot be split into 5 equal heads" in refusal(base, tokenizer)

    def test_heads_of_another_width_than_the_model_says(self, tokenizer: PreTrainedTokenizerBase) -> None:
        base = make_model("qwen3")
        base.config = copy.deepcopy(base.config)
        base.config.head_dim = 8
        assert "this qwen3 model have width 8, but the input of self_attn.o_proj has 4 × 16" in refusal(base, tokenizer)

    @pytest.mark.parametrize(
        ("paths", "says"),
        [
            ({"mlp": "mlp.gate_proj"}, "Layer 0 of this llama model has 48 numbers at site 'mlp' where 1 × 32"),
            ({"mlp": "missing"}, "missing"),
            ({"heads": "self_attn.missing"}, "missing"),
            ({"heads": "self_attn"}, "weight"),
            ({"heads": "mlp.down_proj"}, "have width 8, but the input of mlp.down_proj has 4 × 12 numbers"),
            ({"layers": "model.missing"}, "missing"),
            ({"layers": "model"}, "self_attn"),
            ({"mlp": "self_attn.q_proj"}, "already ran past"),
        ],
        ids=lambda value: str(value) if isinstance(value, dict) else "",
    )
    def test_a_row_that_describes_another_model(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tokenizer: PreTrainedTokenizerBase,
        paths: dict[str, str],
        says: str,
    ) -> None:
        with_row(monkeypatch, **paths)
        message = refusal(make_model("llama"), tokenizer)
        assert says in message and "llama" in message and "jola/model/architectures.py" in message
        assert "\n" not in message

    def test_a_layer_that_no_pass_reaches(self, tokenizer: PreTrainedTokenizerBase) -> None:
        class Skipped(nn.Module):
            def __init__(self, layer: Any) -> None:
                super().__init__()
                self.self_attn, self.mlp = layer.self_attn, layer.mlp

            def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
                return hidden

        base = make_model("llama")
        layers = base.get_submodule("model.layers")
        layers[1] = Skipped(layers[1])
        assert "does not run the attention projection and then the MLP of every layer" in refusal(base, tokenizer)

    def test_a_model_is_usable_after_another_was_refused(self, tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch, pytest.raises(InputError):
            with_row(patch, mlp="self_attn.q_proj")
            tiny("llama")
        assert tiny("llama")(TOKENS).logits.shape == (1, 6, VOCABULARY)
