"""Edits of quantized models: gradients, generation and adapters, where the packages are installed."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from jola.errors import InputError
from jola.export import merge_and_unload
from jola.insight import promoted_tokens
from jola.jola_model import JoLAModel
from jola.model import quantization
from jola.model.quantization import PACKAGES
from jola.selectors.heads import model_hash
from tests.conftest import spread_edits
from tests.methods.contract import CASES, Case

INSTALLED = [name for name, package in PACKAGES.items() if importlib.util.find_spec(package)]
needs = {
    name: pytest.param(name, marks=pytest.mark.skipif(name not in INSTALLED, reason=f"{package} is not installed"))
    for name, package in PACKAGES.items()
}
QUANTIZATIONS = list(needs.values())
IDS = torch.tensor([[5, 17, 250, 9, 44, 3, 8], [7, 80, 11, 12, 13, 14, 15]])
LABELS = torch.cat([torch.full((2, 4), -100), IDS[:, 4:]], 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A tiny Llama with the width of the blocks of bitsandbytes."""
    path = tmp_path_factory.mktemp("wide")
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        tie_word_embeddings=False, eos_token_id=2, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def load(folder: Path, quantize: str, edits: Any = None, **where: Any) -> JoLAModel:
    return JoLAModel.from_pretrained(str(folder), edits=edits, dtype="float32", quantize=quantize, **where)


@pytest.mark.parametrize("quantize", QUANTIZATIONS)
class TestQuantized:
    def test_logits_are_close_to_those_of_the_checkpoint_and_the_size_is_the_same(
        self, quantize: str, folder: Path
    ) -> None:
        whole, model = load(folder, "none"), load(folder, quantize)
        with torch.no_grad():
            expected, found = whole(IDS).logits, model(IDS).logits
        error = float((found - expected).std() / expected.std())
        assert 0 < error < (0.3 if quantize == "4bit" else 0.05)
        assert model.trainable_parameters() == whole.trainable_parameters()
        assert model_hash(model) != model_hash(whole)

    def test_a_pass_without_gradients_changes_no_later_gradient(self, quantize: str, folder: Path) -> None:
        gradients = []
        for evaluate_first in (False, True):
            model = load(folder, quantize)
            spread_edits(model)
            if evaluate_first:
                model.generate(IDS, max_new_tokens=3, do_sample=False)
            model.train()
            model.seed_gates(1)
            loss = model(IDS, torch.ones_like(IDS), LABELS).loss
            assert loss is not None
            loss.backward()
            assert model.edits.offset.grad is not None
            assert model.edits.offset.grad.dtype == torch.float32
            gradients.append(model.edits.offset.grad)
        assert torch.equal(*gradients)
        assert float(gradients[0].norm()) > 0

    @pytest.mark.parametrize("case", [case for case in CASES if case.by_gradients], ids=lambda case: case.name)
    def test_every_method_gets_gradients(self, quantize: str, case: Case, folder: Path) -> None:
        settings = case.settings
        if case.name == "lofit":
            settings = type(settings)(heads="0:1,1:3")
        model = load(folder, quantize, settings)
        model.train()
        loss = model(IDS, torch.ones_like(IDS), LABELS).loss
        assert loss is not None
        loss.backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())

    def test_an_adapter_names_it_and_loads_in_both_ways(self, quantize: str, folder: Path, tmp_path: Path) -> None:
        model = load(folder, quantize)
        spread_edits(model)
        saved = model.save_pretrained(tmp_path / "adapter")
        assert json.loads((saved / "adapter_config.json").read_text())["base_quantization"] == quantize
        again = JoLAModel.from_adapter(saved, dtype="float32")
        whole = JoLAModel.from_adapter(saved, dtype="float32", quantize="none")
        assert (again.quantize, whole.quantize) == (quantize, "none")
        with torch.no_grad():
            assert torch.equal(again(IDS).logits, model(IDS).logits)
        whole.save_pretrained(tmp_path / "whole")
        assert JoLAModel.from_adapter(tmp_path / "whole", quantize=quantize).quantize == quantize

    def test_what_is_computed_from_weights_is_refused(self, quantize: str, folder: Path) -> None:
        model = load(folder, quantize)
        for action in (lambda: merge_and_unload(model), lambda: promoted_tokens(model, 0, 0)):
            with pytest.raises(InputError, match="which are quantized here; load the model with --quantize none"):
                action()


def test_a_quantization_without_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    for name, package in PACKAGES.items():
        with pytest.raises(InputError, match=rf"needs the package {package}, which is not installed"):
            load(folder, name)


def test_unknown_quantizations(folder: Path) -> None:
    with pytest.raises(InputError, match="choose none or one of 4bit, 8bit, int8"):
        load(folder, "3bit")


def test_adapters_of_models_that_were_not_quantized_say_nothing(folder: Path, tmp_path: Path) -> None:
    saved = load(folder, "none").save_pretrained(tmp_path / "adapter")
    assert "base_quantization" not in json.loads((saved / "adapter_config.json").read_text())
