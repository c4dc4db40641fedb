"""Folded models compared with edited ones: every architecture, in a process that does not import jola."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from jola.config import EditConfig
from jola.edits.gated import GatedEdits
from jola.edits.intervention import EditMask, Intervention
from jola.edits.sites import Site
from jola.export import affine_edits, export_merged, merge
from tests.jola.export.edited_models import (
    ARCHITECTURES,
    BATCH,
    MLP_BIAS,
    edited,
    greedy,
    largest,
    plain,
    random_model,
    refusal,
)
from tests.tiny import _GROUPED, _SHAPE

EXACT = 1e-5
SHORT = ("a short one", "and another, somewhat longer one with 12 numbers")
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)

IN_A_FRESH_PROCESS = """
import json, sys
sys.modules["jola"] = sys.modules["nnsight"] = None  # an import of either fails
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
ids = load_file(sys.argv[1])["ids"]
found, keys = {}, {}
for folder in sys.argv[3:]:
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    keys[folder] = [sorted(map(str, report[k])) for k in ("missing_keys", "unexpected_keys", "mismatched_keys")]
    keys[folder] += [str(model.dtype), type(model).__name__, AutoTokenizer.from_pretrained(folder).decode(ids[0])]
    with torch.no_grad():
        found[folder] = model(ids).logits
        found[folder + ":tokens"] = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, use_cache=True
        )
save_file(found, sys.argv[2])
print(json.dumps(keys))
"""


def loaded_elsewhere(folders: list[Path], place: Path) -> tuple[dict[str, Tensor], dict[str, list[Any]]]:
    save_file({"ids": BATCH}, place / "ids")
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, str(place / "ids"), str(place / "found"), *map(str, folders)]
    done = subprocess.run(
        command, cwd=place, capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": ""}
    )
    assert done.returncode == 0, done.stderr
    return load_file(place / "found"), json.loads(done.stdout.splitlines()[-1])


class TestInAFreshProcess:
    """The checkpoints of all architectures, loaded by transformers without jola."""

    def test_every_architecture_computes_the_same(self, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
        models = {}
        for architecture in ARCHITECTURES:
            models[f"{architecture}-heads"] = edited(architecture, tokenizer)
            sites = (
                EditConfig(sites="both") if architecture in MLP_BIAS else EditConfig(sites="both", operation="scale")
            )
            models[f"{architecture}-both"] = edited(architecture, tokenizer, sites)
        for name, model in models.items():
            report = export_merged(model, tmp_path / name, "float32", SHORT)
            assert report.after_cast.largest <= EXACT and report.before_cast.largest <= EXACT, name
        logits, keys = loaded_elsewhere([tmp_path / name for name in models], tmp_path)
        for name, model in models.items():
            folder = str(tmp_path / name)
            missing, unexpected, mismatched, dtype, _, text = keys[folder]
            assert not missing and not unexpected and not mismatched, name
            assert dtype == "torch.float32" and text == tokenizer.decode(BATCH[0])
            with torch.no_grad():
                expected = model(BATCH).logits
            assert (logits[folder] - expected).abs().max() <= EXACT, name
            with model.disable_edits(), torch.no_grad():
                assert (expected - model(BATCH).logits).abs().max() > 0.1, name
            assert torch.equal(logits[f"{folder}:tokens"], greedy(model)), name
        assert len(models) == 2 * len(set(ARCHITECTURES))

    def test_generation_of_the_edited_differs_from_that_of_the_frozen(self, tokenizer: Any) -> None:
        # The comparison of tokens above can only fail where edits change them.
        changed = [not torch.equal(greedy(edited(a, tokenizer)), greedy(plain(a))) for a in ARCHITECTURES]
        assert sum(changed) >= 10


class TestMerge:
    @every_architecture
    def test_leaves_the_model_as_it_is_and_shares_nothing_with_it(self, tokenizer: Any, architecture: str) -> None:
        model = edited(architecture, tokenizer)
        before = {name: t.clone() for name, t in model.base.state_dict().items()}
        config = copy.deepcopy(model.base.config.to_dict())
        with torch.no_grad():
            expected = model(BATCH).logits
            merged = merge(model)
            assert not merged.training and not any(p.requires_grad for p in merged.parameters())
            for parameter in merged.parameters():
                parameter.fill_(7.0)
            assert torch.equal(model(BATCH).logits, expected)
        for name, tensor in model.base.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        assert model.base.config.to_dict() == config

    @pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "gemma2"])
    def test_masks_and_strength_are_folded_in(self, tokenizer: Any, architecture: str) -> None:
        model = edited(architecture, tokenizer)
        generator = torch.Generator().manual_seed(2)
        mask = EditMask(*((torch.rand(3, 4, generator=generator) * 2).round() / 2 for _ in range(2)))
        for arguments in ({"mask": mask}, {"strength": -0.5}, {"mask": mask, "strength": 1.7}):
            with torch.no_grad():
                expected = model(BATCH, **arguments).logits
                found = merge(model, **arguments)(BATCH).logits
            assert (found - expected).abs().max() <= 2 * EXACT, arguments
            assert (found - model(BATCH).logits).abs().max() > 0.01

    def test_the_interventions_in_use_are_folded_one_after_the_other(self, tokenizer: Any) -> None:
        model, other = edited("llama", tokenizer), edited("llama", tokenizer, seed=9)
        with model.using((*model.interventions, *other.interventions)):
            assert largest(model, merge(model)) <= EXACT
            masks = [None, EditMask.none(other.edits)]
            with torch.no_grad():
                expected = model(BATCH, mask=masks).logits
            assert (merge(model, masks)(BATCH).logits - expected).abs().max() <= EXACT
        with model.disable_edits():
            assert largest(model, merge(model)) == 0.0
            assert not merge(model).config.attention_bias

    def test_scales_alone_need_no_bias_and_no_conversion(self, tokenizer: Any) -> None:
        for architecture in ("qwen2", "mistral", "llama"):
            model = edited(architecture, tokenizer, EditConfig(sites="both", operation="scale"))
            merged = merge(model)
            assert type(merged) is type(model.base) and merged.state_dict().keys() == model.base.state_dict().keys()
            assert largest(model, merged) <= EXACT

    def test_training_mode_does_not_matter(self, tokenizer: Any) -> None:
        model = edited("llama", tokenizer)
        expected = merge(model).state_dict()
        found = merge(model.train()).state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    def test_zero_biases_of_the_neighbours_are_written(self, tokenizer: Any) -> None:
        merged = merge(edited("llama", tokenizer)).state_dict()
        for name in ("q_proj", "k_proj", "v_proj"):
            assert not merged[f"model.layers.1.self_attn.{name}.bias"].any()
        assert merged["model.layers.1.self_attn.o_proj.bias"].any()
        assert "model.layers.1.mlp.down_proj.bias" not in merged

    def test_qwen2_keeps_its_biases(self, tokenizer: Any) -> None:
        model = edited("qwen2", tokenizer)
        for name in ("q_proj", "k_proj", "v_proj"):
            path = f"model.layers.2.self_attn.{name}.bias"
            assert torch.equal(merge(model).state_dict()[path], model.base.state_dict()[path])

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.bfloat16])
    def test_is_rounded_once(self, tokenizer: Any, dtype: Any) -> None:
        model = edited("gpt_neox", tokenizer)
        merged = merge(model, dtype=dtype)
        exact = {place: (a.scale, a.offset) for place, a in affine_edits(model).items()}
        for layer in range(3):
            dense = model.base.get_submodule(f"gpt_neox.layers.{layer}.attention.dense")
            scale, offset = exact[Site.HEADS, layer]
            weight, bias = dense.weight.double(), dense.bias.double()
            found = merged.get_submodule(f"gpt_neox.layers.{layer}.attention.dense")
            assert torch.equal(found.weight, (weight * scale).to(merged.dtype))
            assert torch.equal(found.bias, (bias + weight @ offset).to(merged.dtype))
        assert merged.dtype in (torch.float16, torch.bfloat16)

    def test_of_half_precision_stays_what_it_is(self, tokenizer: Any) -> None:
        low = edited(plain("llama").to(torch.bfloat16), tokenizer)
        assert merge(low).dtype == torch.bfloat16 and merge(low, dtype="float32").dtype == torch.float32


class TestShapes:
    """Geometries for which folding could go wrong."""

    @pytest.mark.parametrize(
        "config",
        [
            pytest.param(LlamaConfig(**_GROUPED, head_dim=20), id="wide heads"),
            pytest.param(LlamaConfig(**_GROUPED, tie_word_embeddings=True), id="tied embeddings"),
            pytest.param(LlamaConfig(**_GROUPED, attention_bias=True, mlp_bias=True), id="biases that are there"),
            pytest.param(
                LlamaConfig(
                    **_GROUPED,
                    rope_parameters={
                        "rope_type": "llama3",
                        "rope_theta": 500.0,
                        "factor": 4.0,
                        "low_freq_factor": 1.0,
                        "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 64,
                    },
                ),
                id="scaled positions",
            ),
            pytest.param(Qwen2Config(**_GROUPED, tie_word_embeddings=True), id="Qwen2 with tied embeddings"),
            pytest.param(
                Qwen2Config(
                    **_GROUPED,
                    rope_parameters={
                        "rope_type": "yarn",
                        "rope_theta": 500.0,
                        "factor": 4.0,
                        "original_max_position_embeddings": 64,
                    },
                ),
                id="Qwen2 with scaled positions",
            ),
            pytest.param(MistralConfig(**_GROUPED, sliding_window=None, head_dim=24), id="Mistral with wide heads"),
            pytest.param(
                GPT2Config(vocab_size=300, n_embd=32, n_layer=3, n_head=4, n_positions=256, eos_token_id=2), id="GPT-2"
            ),
            pytest.param(Qwen3Config(**_SHAPE | {"num_key_value_heads": 1}, head_dim=16), id="one key head"),
        ],
    )
    def test_is_exact(self, tokenizer: Any, tmp_path: Path, config: Any) -> None:
        config.pad_token_id = 0
        model = edited(random_model(type(config).from_dict(config.to_dict())), tokenizer)
        export_merged(model, tmp_path / "out", "float32", SHORT)
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert largest(model, found) <= EXACT
        assert largest(model, found, BATCH.repeat(1, 12)) <= 2 * EXACT  # beyond the original positions
        assert torch.equal(greedy(model), greedy(found))
        assert found.config.tie_word_embeddings == config.tie_word_embeddings
        if config.tie_word_embeddings:
            assert found.get_output_embeddings().weight is found.get_input_embeddings().weight
            assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")

    def test_an_opt_without_biases_gets_them(self, tokenizer: Any) -> None:
        base = plain("opt")
        config = copy.deepcopy(base.config)
        config.enable_bias = False
        model = edited(random_model(config), tokenizer, EditConfig(sites="both"))
        assert largest(model, merge(model)) <= EXACT
        assert merge(model).config.enable_bias

    def test_a_model_of_another_format_remembers_nothing_of_it(self, tokenizer: Any, tmp_path: Path) -> None:
        base = plain("llama")
        base.config.quantization_config = {"quant_method": "gguf", "dequantize": True}
        model = edited(base, tokenizer)
        export_merged(model, tmp_path / "out", "float32", SHORT)
        assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
        assert largest(model, AutoModelForCausalLM.from_pretrained(tmp_path / "out")) <= EXACT
        assert base.config.quantization_config


class TestRefusals:
    @pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a not in MLP_BIAS])
    def test_offsets_of_mlps_that_have_no_bias(self, tokenizer: Any, tmp_path: Path, architecture: str) -> None:
        model = edited(architecture, tokenizer, EditConfig(sites="mlp"))
        message = refusal(lambda: export_merged(model, tmp_path / "out"))
        assert f"cannot be folded into a plain {architecture} model" in message
        assert "export the adapter or the standalone script instead" in message
        assert not list(tmp_path.iterdir())
        zeros = torch.zeros(3, 1)
        scales_alone = EditMask(offset=zeros, scale=zeros + 1)
        with torch.no_grad():
            expected = model(BATCH, mask=scales_alone).logits
        assert (merge(model, scales_alone)(BATCH).logits - expected).abs().max() <= EXACT

    @pytest.mark.parametrize(
        "config",
        [
            MistralConfig(**_GROUPED, sliding_window=8),
            Qwen2Config(**_GROUPED, use_sliding_window=True, sliding_window=8, max_window_layers=1),
        ],
    )
    def test_a_sliding_window_is_not_lost_in_a_conversion(self, tokenizer: Any, config: Any) -> None:
        config.pad_token_id = 0
        model = edited(random_model(config), tokenizer)
        assert "uses a sliding window" in refusal(lambda: merge(model))
        scales = EditMask(torch.zeros(3, 4), torch.ones(3, 4))
        with torch.no_grad():
            assert (merge(model, scales)(BATCH).logits - model(BATCH, mask=scales).logits).abs().max() <= EXACT

    def test_a_mistral_of_a_shape_that_llama_refuses(self, tokenizer: Any) -> None:
        config = MistralConfig(**_GROUPED | {"hidden_size": 30}, head_dim=8, sliding_window=None, pad_token_id=0)
        model = edited(random_model(config), tokenizer)
        assert "has a shape that Llama does not support" in refusal(lambda: merge(model))

    def test_packed_weights(self, tokenizer: Any) -> None:
        model = edited("llama", tokenizer)

        class Packed(nn.Linear):
            pass

        old = model.base.model.layers[1].self_attn.o_proj
        model.base.model.layers[1].self_attn.o_proj = Packed(old.in_features, old.out_features, bias=False)
        assert "o_proj is a Packed, not a plain matrix; load the model without" in refusal(lambda: merge(model))

    def test_weights_that_are_not_there(self, tokenizer: Any) -> None:
        model = edited("llama", tokenizer)
        model.base.model.norm.to("meta")
        assert "model.norm.weight is not stored as plain float numbers" in refusal(lambda: merge(model))

    def test_other_interventions(self, tokenizer: Any) -> None:
        class Halved(Intervention):
            site = Site.BLOCK

        model = edited("llama", tokenizer)
        with model.using((Halved(),)):
            assert "Halved at 'block' is not a fixed scale and offset" in refusal(lambda: merge(model))

    def test_masks_that_do_not_fit(self, tokenizer: Any) -> None:
        model = edited("llama", tokenizer)
        rows = EditMask(torch.ones(2, 3, 4), torch.ones(2, 3, 4))
        assert "with a batch dimension" in refusal(lambda: merge(model, rows))
        with pytest.raises(ValueError, match=r"shape \(4, 3\); it must be \(3, 4\) for the edits at heads"):
            merge(model, EditMask(torch.ones(4, 3), torch.ones(4, 3)))

    def test_folders_that_are_taken(self, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = edited("llama", tokenizer)
        monkeypatch.chdir(tmp_path)
        assert "give the name of a new folder" in refusal(lambda: export_merged(model, ".", prompts=SHORT))
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "a").touch()
        for folder in (tmp_path / "full", tmp_path / "full" / "a"):
            assert "already exists" in refusal(lambda f=folder: export_merged(model, f, prompts=SHORT))
        assert "part of its path is a file" in refusal(
            lambda: export_merged(model, tmp_path / "full" / "a" / "b", prompts=SHORT)
        )
        (tmp_path / "empty").mkdir()
        export_merged(model, tmp_path / "empty", prompts=SHORT)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "full"]

    @pytest.mark.parametrize(
        ("prompts", "says"),
        [((), "no prompts"), (("a", " "), "A prompt is empty"), (("word " * 400,), "accepts at most 256")],
    )
    def test_prompts_that_measure_nothing(self, tokenizer: Any, tmp_path: Path, prompts: Any, says: str) -> None:
        model = edited("llama", tokenizer)
        assert says in refusal(lambda: export_merged(model, tmp_path / "a", prompts=prompts))

    def test_an_unknown_number_format(self, tokenizer: Any, tmp_path: Path) -> None:
        for dtype in ("int8", torch.float64):
            assert "choose one of float32" in refusal(
                lambda d=dtype: export_merged(edited("llama", tokenizer), tmp_path / "a", d)
            )

    def test_numbers_that_a_format_does_not_have(self, tokenizer: Any, tmp_path: Path) -> None:
        model = edited("llama", tokenizer, EditConfig(gates="none"))
        with torch.no_grad():
            model.edits.get_parameter("offset").mul_(1e6)
        assert "o_proj.bias contains numbers that float16 cannot represent" in refusal(
            lambda: export_merged(model, tmp_path / "a", "float16", SHORT)
        )
        assert not list(tmp_path.iterdir())


def test_what_is_closed_or_may_not_be_edited_does_nothing(tokenizer: Any) -> None:
    model = edited("llama", tokenizer, EditConfig(layers="1", heads="1:2"))
    edits = model.edits
    assert isinstance(edits, GatedEdits)
    with torch.no_grad():
        for parameter in edits.edit_parameters():
            parameter[~edits.editable] = torch.inf
        for gate in edits.gate_parameters():
            gate.fill_(9.0)
    affines = affine_edits(model)
    assert list(affines) == [(Site.HEADS, 1)]
    width = edits.width
    untouched = torch.ones(4 * width, dtype=torch.bool)
    untouched[2 * width : 3 * width] = False
    assert bool((affines[Site.HEADS, 1].scale[untouched] == 1).all())
    assert not affines[Site.HEADS, 1].offset[untouched].any()
    assert affines[Site.HEADS, 1].scales and affines[Site.HEADS, 1].offsets
