"""Adapters to give away: compact, zipped, pushed, and as IA3 adapters of peft."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jola.adapter import load_edits, read_adapter
from jola.config import EditConfig
from jola.errors import InputError
from jola.export import compact, export_adapter, export_ia3, load_zip, push_to_hub
from jola.interventions import EditMask
from jola.model import JoLAModel
from jola.run_archive import import_archive
from jola.runs import RunStore
from tests.conftest import spread_edits
from tests.jola.export_models import ARCHITECTURES, BATCH, edited, plain

EXACT = 1e-5
VARIANTS = {
    "the method": EditConfig(),
    "both sites": EditConfig(sites="both", gate_threshold=0.3),
    "a shared gate": EditConfig(sites="mlp", gates="shared", layers="0,2"),
    "no gate": EditConfig(gates="none", operation="scale", heads="0:1,2:3"),
}


def on(folder: Path, edits: EditConfig | None = None) -> JoLAModel:
    model = JoLAModel.from_pretrained(str(folder), edits=edits, dtype="float32", device="cpu")
    spread_edits(model)
    return model


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@torch.no_grad()
def logits(model: JoLAModel, **arguments: Any) -> torch.Tensor:
    return model(BATCH, **arguments).logits


class TestCompact:
    @pytest.mark.parametrize("ending", ["", ".zip"])
    @pytest.mark.parametrize("name", VARIANTS)
    def test_computes_the_same_to_the_bit(self, tiny_folder: Path, tmp_path: Path, name: str, ending: str) -> None:
        model = on(tiny_folder, VARIANTS[name])
        report = export_adapter(model.save_pretrained(tmp_path / "whole"), tmp_path / f"small{ending}")
        load = load_zip if ending else JoLAModel.from_adapter
        loaded = load(tmp_path / f"small{ending}", model=str(tiny_folder), dtype="float32", device="cpu")
        assert torch.equal(logits(loaded), logits(model))
        assert loaded.edit_config == model.edit_config
        for before, after in zip(model.gated_edits(), loaded.gated_edits(), strict=True):
            assert torch.equal(before.states(), after.states())
        on_now = sum(int((g > 0).sum()) for e in model.gated_edits() for g in e.gate_values().values())
        assert report.kept == on_now <= report.total

    def test_holds_nothing_of_what_is_closed(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder)
        for gate in model.edits.gate_parameters():
            gate.data[::2] -= 9.0
        export_adapter(model.save_pretrained(tmp_path / "whole"), tmp_path / "small")
        tensors = read_adapter(tmp_path / "small").tensors
        for half, gate in model.edits.gate_values().items():
            vectors = tensors[f"heads.{half}"]
            assert not vectors[gate == 0].any() and bool((gate == 0).any())
            assert torch.equal(vectors[gate > 0], model.edits.get_parameter(half)[gate > 0])

    def test_says_how_many_bytes_it_is(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder)
        for gate in model.edits.gate_parameters():
            gate.data[1:] = -9.0
        whole = model.save_pretrained(tmp_path / "whole")
        small = export_adapter(whole, tmp_path / "small.zip")
        full = export_adapter(whole, tmp_path / "full.zip", compact=False)
        assert small.bytes == (tmp_path / "small.zip").stat().st_size < full.bytes < small.bytes_before
        assert small.bytes_before == sum(p.stat().st_size for p in whole.iterdir())
        assert f"{small.bytes:,} bytes ({small.bytes_before:,} before)" in small.describe()
        assert torch.equal(read_adapter(whole).tensors["heads.offset"], model.edits.get_parameter("offset"))

    def test_names_no_folder_of_this_machine(self, tiny_folder: Path, tmp_path: Path) -> None:
        whole = on(tiny_folder).save_pretrained(tmp_path / "whole")
        assert str(tmp_path) in (whole / "adapter_config.json").read_text()
        export_adapter(whole, tmp_path / "small")
        export_adapter(whole, tmp_path / "small.zip")
        with zipfile.ZipFile(tmp_path / "small.zip") as archive:
            contents = [archive.read(name) for name in archive.namelist()]
        for content in [*contents, *(p.read_bytes() for p in (tmp_path / "small").iterdir())]:
            assert str(tmp_path).encode() not in content

    def test_equal_adapters_give_equal_files(self, tiny_folder: Path, tmp_path: Path) -> None:
        whole = on(tiny_folder).save_pretrained(tmp_path / "whole")
        for name in ("a.zip", "b.zip"):
            export_adapter(whole, tmp_path / name)
        assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()

    def test_masks_and_strength_are_worked_in(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder, EditConfig(sites="both"))
        generator = torch.Generator().manual_seed(3)
        mask = {"heads": EditMask(*((torch.rand(3, 4, generator=generator) * 2).round() for _ in range(2)))}
        whole = model.save_pretrained(tmp_path / "whole")
        report = export_adapter(whole, tmp_path / "a.zip", mask=mask, strength=0.5)
        loaded = load_zip(tmp_path / "a.zip", model=str(tiny_folder), dtype="float32")
        assert (logits(loaded) - logits(model, mask=mask, strength=0.5)).abs().max() <= EXACT
        assert report.kept < export_adapter(whole, tmp_path / "b.zip").kept

    def test_all_closed_can_be_read_again(self, tiny_folder: Path, tmp_path: Path) -> None:
        # Zeros pack a thousandfold, and careful readers refuse files that do.
        model = on(tiny_folder)
        for gate in model.edits.gate_parameters():
            gate.data.fill_(-9.0)
        export_adapter(model.save_pretrained(tmp_path / "whole"), tmp_path / "a.zip")
        with zipfile.ZipFile(tmp_path / "a.zip") as archive:
            assert archive.namelist() == ["adapter_config.json", "adapter_model.safetensors", "README.md"]
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            compact._add(archive, "zeros", bytes(4 << 20))
        assert archive.getinfo("zeros").compress_type == zipfile.ZIP_STORED
        loaded = load_zip(tmp_path / "a.zip", model=str(tiny_folder), dtype="float32")
        assert torch.equal(logits(loaded), logits(model, strength=0.0))

    def test_is_imported_as_a_run(self, tiny_folder: Path, tmp_path: Path) -> None:
        model = on(tiny_folder)
        export_adapter(model.save_pretrained(tmp_path / "whole"), tmp_path / "a.zip")
        run = import_archive(tmp_path / "a.zip", RunStore(tmp_path / "runs"))
        with model.using(load_edits(run.adapter_dir, model)):
            found = logits(model)
        assert torch.equal(found, logits(model))

    def test_zips_that_are_not_adapters_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text.zip").write_text("no zip file")
        with zipfile.ZipFile(tmp_path / "escape.zip", "w") as archive:
            archive.writestr("../adapter_config.json", "{}")
        for name, says in (("text.zip", "not a zip file"), ("escape.zip", "leads out"), ("none.zip", "no file")):
            assert says in refusal(lambda n=name: load_zip(tmp_path / n))


class TestPush:
    """What is sent to the Hub, with a Hub that only remembers."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        calls: list[Any] = []

        class Hub:
            def __init__(self, token: str) -> None:
                calls.append(("token", token))

            def create_repo(self, repo: str, **arguments: Any) -> None:
                calls.append(("create", repo, arguments))

            def upload_folder(self, **arguments: Any) -> str:
                if arguments["repo_id"] == "me/refused":
                    raise OSError("403 for token secret-token\nand a long story")
                calls.append(("upload", arguments))
                return f"https://hub.example/{arguments['repo_id']}"

        monkeypatch.setattr(compact, "HfApi", Hub)
        monkeypatch.setenv("HF_TOKEN", "secret-token")
        return calls

    def test_sends_the_folder(self, tiny_folder: Path, tmp_path: Path, calls: list[Any]) -> None:
        whole = on(tiny_folder).save_pretrained(tmp_path / "whole")
        export_adapter(whole, tmp_path / "small")
        assert push_to_hub(tmp_path / "small", "me/edits") == "https://hub.example/me/edits"
        assert calls[0] == ("token", "secret-token")
        assert calls[1] == ("create", "me/edits", {"private": True, "exist_ok": True})
        assert calls[2][1]["folder_path"] == tmp_path / "small"
        assert not any(b"secret-token" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())

    def test_refuses(
        self, tiny_folder: Path, tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = on(tiny_folder).save_pretrained(tmp_path / "whole")
        assert "names a folder of this machine" in refusal(lambda: push_to_hub(whole, "me/edits"))
        assert "neither an adapter nor a model" in refusal(lambda: push_to_hub(tmp_path, "me/edits"))
        export_adapter(whole, tmp_path / "small")
        assert "no name of a repository" in refusal(lambda: push_to_hub(tmp_path / "small", "a b//c"))
        message = refusal(lambda: push_to_hub(tmp_path / "small", "me/refused"))
        assert "403" in message and "secret-token" not in message and "***" in message
        monkeypatch.delenv("HF_TOKEN")
        assert "no HF_TOKEN in the environment" in refusal(lambda: push_to_hub(tmp_path / "small", "me/edits"))
        assert not any(call[0] == "upload" for call in calls)


class TestIA3:
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
