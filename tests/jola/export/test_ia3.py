"""Scales exported as IA3 adapters, which peft loads without jola."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jola.config import EditConfig
from jola.edits.intervention import EditMask
from jola.export import export_adapter, export_ia3
from jola.jola_model import JoLAModel
from tests.conftest import spread_edits
from tests.jola.export.edited_models import ARCHITECTURES, BATCH, edited, logits, plain, refusal

EXACT = 1e-5


def on(folder: Path) -> JoLAModel:
    model = JoLAModel.from_pretrained(str(folder), dtype="float32", device="cpu")
    spread_edits(model)
    return model


STOCK_PEFT = """
import sys
sys.modules["jola"] = sys.modules["nnsight"] = None  # an import of either fails
import peft, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
ids, found = load_file(sys.argv[1])["ids"], {}
for place in sys.argv[3:]:
    base = AutoModelForCausalLM.from_pretrained(place + "/base")
    model = peft.PeftModel.from_pretrained(base, place + "/ia3").eval()
    with torch.no_grad():
        found[place] = model(input_ids=ids).logits
save_file(found, sys.argv[2])
"""


class TestIA3:
    def test_a_process_with_peft_alone_computes_the_scales(self, tokenizer: Any, tmp_path: Path) -> None:
        pytest.importorskip("peft", reason="peft comes with the extra 'baselines'")
        expected = {}
        for architecture in ("llama", "qwen3", "gpt2", "opt"):
            model, place = edited(architecture, tokenizer, EditConfig(sites="both")), tmp_path / architecture
            model.base.save_pretrained(place / "base")
            export_ia3(model, place / "ia3")
            scales = {
                e.site: EditMask(torch.zeros(e.layers, e.units), torch.ones(e.layers, e.units))
                for e in model.gated_edits()
            }
            expected[str(place)] = logits(model, mask=scales)
        save_file({"ids": BATCH}, tmp_path / "ids")
        command = [sys.executable, "-c", STOCK_PEFT, str(tmp_path / "ids"), str(tmp_path / "found"), *expected]
        environment = os.environ | {"PYTHONPATH": ""}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, env=environment)
        assert done.returncode == 0, done.stderr
        found = load_file(tmp_path / "found")
        for place, wanted in expected.items():
            assert (found[place] - wanted).abs().max() <= EXACT, place

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("sites", ["heads", "both"])
    def test_peft_computes_the_scales(self, tokenizer: Any, tmp_path: Path, architecture: str, sites: Any) -> None:
        peft = pytest.importorskip("peft", reason="peft comes with the extra 'baselines'")
        model = edited(architecture, tokenizer, EditConfig(sites=sites))
        report = export_ia3(model, tmp_path / "ia3")
        theirs = peft.PeftModel.from_pretrained(plain(architecture), str(tmp_path / "ia3")).eval()
        scales = {
            e.site: EditMask(torch.zeros(e.layers, e.units), torch.ones(e.layers, e.units)) for e in model.gated_edits()
        }
        with torch.no_grad():
            found = theirs(input_ids=BATCH).logits
        expected = logits(model, mask=scales)
        assert (found - expected).abs().max() <= EXACT
        assert (logits(model, strength=0.0) - expected).abs().max() > 0.1
        ones = torch.ones_like(BATCH)
        tokens = theirs.generate(input_ids=BATCH, attention_mask=ones, max_new_tokens=6, do_sample=False)
        assert torch.equal(tokens, model.generate(BATCH, mask=scales, max_new_tokens=6, do_sample=False))
        assert report.offsets_left_out > 0 and "left out" in report.describe()
        merged = theirs.merge_and_unload()
        with torch.no_grad():
            assert (merged(BATCH).logits - expected).abs().max() <= 2 * EXACT

    def test_of_an_adapter_needs_no_model(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder)
        whole = model.save_pretrained(tmp_path / "whole")
        export_ia3(model, tmp_path / "a")
        export_ia3(whole, tmp_path / "b")
        export_adapter(whole, tmp_path / "small.zip")
        export_ia3(tmp_path / "small.zip", tmp_path / "c")
        tensors = [load_file(tmp_path / n / "adapter_model.safetensors") for n in "abc"]
        for name, tensor in tensors[0].items():
            assert torch.equal(tensor, tensors[1][name]) and torch.equal(tensor, tensors[2][name])
        config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "tiny-llama"

    def test_keys_are_those_of_peft(self, tokenizer: Any, tmp_path: Path) -> None:
        peft = pytest.importorskip("peft", reason="peft comes with the extra 'baselines'")
        export_ia3(edited("gpt2", tokenizer, EditConfig(sites="both")), tmp_path / "ours")
        config = peft.IA3Config.from_pretrained(str(tmp_path / "ours"))
        config.inference_mode = False
        peft.get_peft_model(plain("gpt2"), config).save_pretrained(str(tmp_path / "theirs"))
        ours, theirs = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("ours", "theirs"))
        assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}

    def test_masks_are_worked_in(self, tokenizer: Any, tmp_path: Path) -> None:
        peft = pytest.importorskip("peft", reason="peft comes with the extra 'baselines'")
        model = edited("llama", tokenizer)
        mask = EditMask(torch.zeros(3, 4), torch.tensor([[0.0, 1, 2, 0.5]]).expand(3, 4))
        report = export_ia3(model, tmp_path / "a", mask=mask, strength=0.7)
        theirs = peft.PeftModel.from_pretrained(plain("llama"), str(tmp_path / "a"))
        with torch.no_grad():
            assert (theirs(BATCH).logits - logits(model, mask=mask, strength=0.7)).abs().max() <= EXACT
        assert report.offsets_left_out == 0

    def test_without_open_scales_is_refused(self, tokenizer: Any, tmp_path: Path) -> None:
        model = edited("llama", tokenizer, EditConfig(operation="offset"))
        assert "No scale of these edits is open" in refusal(lambda: export_ia3(model, tmp_path / "a"))
        assert not list(tmp_path.iterdir())

    def test_the_card_speaks_of_offsets_only_if_some_are_left_out(self, tokenizer: Any, tmp_path: Path) -> None:
        for operation, left_out in (("both", True), ("scale", False)):
            export_ia3(edited("llama", tokenizer, EditConfig(operation=operation)), tmp_path / operation)
            assert ("offsets" in (tmp_path / operation / "README.md").read_text()) is left_out
