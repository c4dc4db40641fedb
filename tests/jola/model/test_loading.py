"""Loading a base model from a complete folder, and one sentence for every damaged folder."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, Gemma3Config

from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.model import loading
from jola.model.loading import empty_model, load_base, load_tokenizer, pick_attention, pick_device, pick_dtype
from tests.tiny import CONFIGS, make_model

IDS = torch.tensor([[5, 17, 250, 9, 44, 3]])


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def refusal(folder: Path, **arguments: Any) -> str:
    with pytest.raises(InputError) as error:
        load_base(str(folder), **arguments)
    message = str(error.value)
    assert "\n" not in message and "Traceback" not in message
    return message


class TestFolder:
    def test_is_the_model_that_was_saved(self, tiny_folder: Path) -> None:
        plain = make_model("llama")
        attention = plain.config._attn_implementation
        model = JoLAModel.from_pretrained(str(tiny_folder), dtype="float32", attn_implementation=attention)
        with torch.no_grad(), model.disable_edits():
            assert torch.equal(model(IDS).logits, plain(IDS).logits)
        assert not model.training

    def test_edits_depend_on_the_seed(self, tiny_folder: Path) -> None:
        first, again, other = (JoLAModel.from_pretrained(str(tiny_folder), seed=s).state_dict() for s in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not any(torch.equal(first[name], other[name]) for name in first)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", torch.float32, torch.bfloat16])
    def test_in_the_precision_asked_for_with_edits_in_float32(
        self, tiny_folder: Path, dtype: str | torch.dtype
    ) -> None:
        model = JoLAModel.from_pretrained(str(tiny_folder), dtype=dtype)
        assert model.base.dtype == (getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        assert {p.dtype for p in model.parameters()} == {torch.float32}

    def test_by_a_relative_path_is_remembered_by_its_absolute_one(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tiny_folder.parent)
        assert JoLAModel.from_pretrained(tiny_folder.name).name == str(tiny_folder)

    def test_with_tied_weights_lacks_nothing(self, tmp_path: Path, tokenizer: Any) -> None:
        model = make_model("llama")
        model.config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
        base, _, _ = load_base(str(tmp_path), dtype="float32")
        assert base.get_output_embeddings().weight is base.get_input_embeddings().weight


class TestDamage:
    """Each of these would otherwise be a traceback or, worse, random weights in place of trained ones."""

    def test_a_weight_is_missing(self, tiny_folder: Path) -> None:
        edit_weights(tiny_folder, lambda tensors: tensors.__delitem__("model.layers.1.mlp.up_proj.weight"))
        message = refusal(tiny_folder)
        assert "1 weights are missing from its files, beginning with model.layers.1.mlp.up_proj.weight" in message
        assert "check the files of the folder" in message

    def test_a_weight_has_another_shape(self, tiny_folder: Path) -> None:
        edit_weights(tiny_folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
        assert "model.norm.weight has shape (31,), but (32,) is needed" in refusal(tiny_folder)

    def test_the_configuration_is_of_a_deeper_model(self, tiny_folder: Path) -> None:
        edit_json(tiny_folder / "config.json", num_hidden_layers=4)
        assert "beginning with model.layers.3" in refusal(tiny_folder)

    @pytest.mark.parametrize("content", [b"", b"x" * 1000, b"\xff" * 8], ids=["empty", "garbage", "huge header"])
    def test_the_weights_are_no_safetensors(self, tiny_folder: Path, content: bytes) -> None:
        (tiny_folder / "model.safetensors").write_bytes(content)
        assert "tiny-llama cannot be loaded" in refusal(tiny_folder)

    def test_the_weights_are_cut_short(self, tiny_folder: Path) -> None:
        path = tiny_folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        assert re.search("file not fully covered|MetadataIncompleteBuffer", refusal(tiny_folder))

    def test_pickled_weights_are_not_read(self, tiny_folder: Path) -> None:
        (tiny_folder / "model.safetensors").unlink()
        torch.save(make_model("llama").state_dict(), tiny_folder / "pytorch_model.bin")
        assert "no file named model.safetensors" in refusal(tiny_folder)

    @pytest.mark.parametrize(
        "values",
        [
            {"hidden_size": "x"},
            {"num_attention_heads": 0},
            {"num_attention_heads": 3},
            {"dtype": "nonsense"},
            {"quantization_config": {"quant_method": "gptq"}},
        ],
        ids=str,
    )
    def test_the_configuration_makes_no_sense(self, tiny_folder: Path, values: dict[str, Any]) -> None:
        edit_json(tiny_folder / "config.json", **values)
        assert "tiny-llama cannot be loaded" in refusal(tiny_folder)

    @pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
    def test_a_file_is_no_object(self, tiny_folder: Path, name: str, content: bytes) -> None:
        (tiny_folder / name).write_bytes(content)
        refusal(tiny_folder)

    def test_a_multi_modal_model_is_refused_before_it_is_loaded(self, tmp_path: Path, tokenizer: Any) -> None:
        config = Gemma3Config(text_config=CONFIGS["gemma3_text"].to_dict())
        config.save_pretrained(tmp_path)  # without weights, so loading would fail
        tokenizer.save_pretrained(tmp_path)
        message = refusal(tmp_path)
        assert "is a multi-modal model of architecture 'gemma3'" in message
        assert "give its language model, 'gemma3_text', as a separate model" in message

    def test_there_is_no_tokenizer(self, tiny_folder: Path) -> None:
        (tiny_folder / "tokenizer.json").unlink()
        assert "tokenizer" in refusal(tiny_folder)

    def test_the_architecture_is_not_known(self, tiny_folder: Path) -> None:
        edit_json(tiny_folder / "config.json", model_type="bert")
        assert re.search("'bert', which is not supported; supported architectures are .*llama", refusal(tiny_folder))

    @pytest.mark.parametrize("kind", ["bert", "lightglue", "evil", "", None, 3, ["llama"], "x" * 5000], ids=repr)
    @pytest.mark.parametrize("load", [load_base, empty_model, load_tokenizer])
    def test_no_code_sees_the_configuration_of_an_unknown_architecture(
        self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, load: Callable[[str], Any]
    ) -> None:
        (tiny_folder / "evil.py").write_text("raise SystemExit\n")
        for more in ({}, {"auto_map": {"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.T", None]}}):
            edit_json(tiny_folder / "config.json", model_type=kind, **more)
            for auto in (AutoConfig, AutoTokenizer):
                monkeypatch.setattr(auto, "from_pretrained", lambda *_, **__: pytest.fail("was called"))
            with pytest.raises(InputError, match="which is never run" if more else "which is not supported") as refused:
                load(str(tiny_folder))
            assert len(str(refused.value)) < 600

    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
    def test_code_beside_a_known_architecture_is_not_run(self, tiny_folder: Path, tmp_path: Path, name: str) -> None:
        mark = tmp_path / "ran"
        (tiny_folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
        classes = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": ["evil.T", "evil.T"]}
        edit_json(tiny_folder / name, auto_map=classes)
        load_base(str(tiny_folder), dtype="float32")
        assert not mark.exists()

    @pytest.mark.parametrize("whole", [True, False])
    def test_an_adapter_in_the_folder_names_no_other_model(self, tiny_folder: Path, whole: bool) -> None:
        (tiny_folder / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
        if not whole:
            (tiny_folder / "config.json").unlink()
        assert ("contains an adapter" if whole else "is an adapter and not a model") in refusal(tiny_folder)

    @pytest.mark.parametrize("revision", ["../../x", "a..b", "-x", "/x", "x y", "x\0", "", "é", "x" * 300])
    def test_a_revision_is_a_branch_tag_or_commit(self, tiny_folder: Path, revision: str) -> None:
        assert "must be a branch, tag or commit" in refusal(tiny_folder, revision=revision)

    @pytest.mark.parametrize("content", [b"GGUF", b"GGUF" + b"\0" * 60, b"GGUF" + b"\xff" * 60])
    def test_a_gguf_file_is_damaged(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        assert "cannot be loaded" in refusal(path)

    def test_there_is_no_such_model_here_and_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match=r"nobody/nothing cannot be loaded .* use --model default\."):
            load_base("nobody/nothing")


class TestChoices:
    def test_unknown_device(self, tiny_folder: Path) -> None:
        assert "There is no device 'nonsense' on this machine; use --device auto or cpu." in refusal(
            tiny_folder, device="nonsense"
        )

    def test_unknown_precision(self, tiny_folder: Path) -> None:
        assert "dtype is 'float8'; choose 'auto' or one of float32" in refusal(tiny_folder, dtype="float8")

    def test_unknown_attention_code(self, tiny_folder: Path) -> None:
        assert "nonsense" in refusal(tiny_folder, attn_implementation="nonsense")

    def test_flash_attention_on_a_processor(self, tiny_folder: Path) -> None:
        said = refusal(tiny_folder, attn_implementation="flash_attention_2", device="cpu")
        assert said.startswith("--attn-implementation flash_attention_2 needs all layers on a GPU") and "'sdpa'" in said

    @pytest.mark.parametrize(
        ("places", "dtype", "lack"),
        [
            ({"0", "cpu", "disk"}, "bfloat16", "on cpu, disk"),
            ({"cuda:1"}, "float32", "float16, not float32"),
            ({"0", "1"}, "bfloat16", "the package flash-attn"),
        ],
    )
    def test_flash_attention_on_accelerators(
        self, monkeypatch: pytest.MonkeyPatch, places: set[str], dtype: str, lack: str
    ) -> None:
        monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: False)
        with pytest.raises(InputError, match=f"{lack}; leave it out"):
            loading.check_flash_attention(places, loading.DTYPES[dtype])
        monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: True)
        loading.check_flash_attention({"0", "cuda"}, torch.bfloat16)

    def test_auto_is_one_that_works_here(self) -> None:
        device = pick_device("auto")
        assert torch.ones(2, dtype=pick_dtype("auto", device), device=device).sum() == 2
        assert pick_dtype("auto", torch.device("meta")) == torch.float32

    @pytest.mark.parametrize("architecture", sorted(CONFIGS))
    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_auto_attention_exists_for_the_architecture(self, architecture: str, device: str) -> None:
        config = CONFIGS[architecture]
        assert pick_attention("auto", config, torch.device(device)) in ("eager", "sdpa")
        assert pick_attention("eager", config, torch.device(device)) == "eager"
        if architecture == "gemma2":  # no fused kernel for its soft-capped scores
            assert pick_attention("auto", config, torch.device(device)) == "eager"


def test_the_tests_ask_no_hub() -> None:
    assert constants.HF_HUB_OFFLINE
