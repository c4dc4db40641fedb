"""A model with layers on several devices or on disk computes the same as on one device."""

import gc
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from jola.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from jola.edits.gated import GatedEdits
from jola.edits.hidden import BottleneckEdits, SubspaceEdits
from jola.edits.intervention import EditMask
from jola.edits.sites import Site
from jola.errors import InputError
from jola.export import merge_and_unload
from jola.insight import promoted_tokens
from jola.jola_model import JoLAModel
from jola.model import placement
from jola.model.edited import EditedModel
from jola.settings import EditConfig
from jola.training.run import run_training
from tests.conftest import spread_edits
from tests.kept import numbers_kept
from tests.methods.contract import CASES, Case
from tests.tiny import make_model

IDS = torch.tensor([[5, 17, 250, 9, 44, 3, 8], [7, 80, 11, 12, 13, 14, 15]])
LABELS = torch.cat([torch.full((2, 4), -100), IDS[:, 4:]], 1)
OFFLOADED = {
    "model.embed_tokens": "disk",
    "model.layers.0": "cpu",
    "model.layers.1.self_attn": "disk",
    "model.layers.1.mlp": "cpu",
    "model.layers.1.input_layernorm": "disk",
    "model.layers.1.post_attention_layernorm": "cpu",
    "model.layers.2": "disk",
    "model.norm": "disk",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}


def load(folder: Path, edits: Any = None, **where: Any) -> JoLAModel:
    return JoLAModel.from_pretrained(str(folder), edits=edits, dtype="float32", **where)


def fill(model: JoLAModel) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.interventions.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def refusal(folder: Path, device_map: Any, **where: Any) -> str:
    with pytest.raises(InputError) as error:
        load(folder, device_map=device_map, **where)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("case", [case for case in CASES if case.by_gradients], ids=lambda case: case.name)
def test_every_method_trains_and_answers_as_in_memory(case: Case, tiny_folder: Path) -> None:
    whole, spread = load(tiny_folder, case.settings), load(tiny_folder, case.settings, device_map=OFFLOADED)
    assert placement.is_spread(spread.base)
    gradients: list[dict[str, Tensor]] = []
    for model in (whole, spread):
        fill(model)
        model.train()
        model.seed_gates(3)
        torch.manual_seed(5)  # for dropout
        loss = model(IDS, torch.ones_like(IDS), LABELS).loss
        assert loss is not None
        loss.backward()
        model.eval()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    with torch.no_grad():
        assert torch.equal(whole(IDS).logits, spread(IDS).logits)
        assert torch.equal(whole(IDS, positions="last").logits, spread(IDS, positions="last").logits)
    answers = [model.generate(IDS, max_new_tokens=5, do_sample=False) for model in (whole, spread)]
    assert torch.equal(*answers)


def test_gradient_checkpointing_keeps_no_weights_of_layers_elsewhere(tiny_folder: Path) -> None:
    kept, gradients = [], []
    for checkpointing in (False, True):
        model = load(tiny_folder, EditConfig(sites="both"), device_map=OFFLOADED).train()
        fill(model)
        model.seed_gates(3)
        model.gradient_checkpointing = checkpointing
        elsewhere = {name for name, p in model.base.named_parameters() if p.is_meta}
        assert "model.layers.1.self_attn.q_proj.weight" in elsewhere
        numbers, loss = numbers_kept(lambda model=model: model(IDS, torch.ones_like(IDS), LABELS).loss)
        loss.backward()
        assert {name for name, p in model.base.named_parameters() if p.is_meta} == elsewhere
        kept.append(numbers)
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    layer = sum(p.numel() for name, p in make_model("llama").named_parameters() if "layers.0" in name and p.dim() == 2)
    assert kept[0] - kept[1] > 2 * layer
    assert all(torch.equal(gradients[1][name], gradient) for name, gradient in gradients[0].items())


def test_tied_weights(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        tie_word_embeddings=True, eos_token_id=2, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    places = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "disk", "model.rotary_emb": "cpu"}
    whole, spread = load(tmp_path), load(tmp_path, device_map=places | {"lm_head": "cpu"})
    with torch.no_grad():
        assert torch.equal(whole(IDS).logits, spread(IDS).logits)


@pytest.mark.parametrize("strategy", placement.STRATEGIES)
def test_strategies(strategy: str, tiny_folder: Path) -> None:
    with torch.no_grad():
        assert torch.equal(load(tiny_folder)(IDS).logits, load(tiny_folder, device_map=strategy)(IDS).logits)


def test_adapters_pass_between_placements(tiny_folder: Path, tmp_path: Path) -> None:
    whole, spread = load(tiny_folder), load(tiny_folder, device_map=OFFLOADED)
    for name, model in (("whole", whole), ("spread", spread)):
        spread_edits(model)
        model.save_pretrained(tmp_path / name)
    saved = [(tmp_path / name / "adapter_config.json").read_text() for name in ("whole", "spread")]
    assert saved[0] == saved[1]
    path = tmp_path / "map.json"
    path.write_text(json.dumps(OFFLOADED))
    loaded = JoLAModel.from_adapter(tmp_path / "whole", dtype="float32", device_map=path)
    assert placement.is_spread(loaded.base)
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, spread(IDS).logits)


def test_a_run_with_layers_on_disk(tiny_folder: Path, tmp_path: Path) -> None:
    path, task = tmp_path / "map.json", tmp_path / "task.jsonl"
    rows = [{"prompt": f"Is film {i} good or bad?", "completion": ("good", "bad")[i % 2]} for i in range(20)]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path.write_text(json.dumps(OFFLOADED))
    losses = []
    for name, where in (("whole", None), ("spread", str(path))):
        config = RunConfig(
            model=ModelConfig(model=str(tiny_folder), dtype="float32", device_map=where),
            data=DataConfig(task=str(task), train_size=6, validation_size=4, test_size=4),
            training=TrainingConfig(epochs=1, output=str(tmp_path / name)),
        )
        run = run_training(config)
        assert run.state == "finished"
        losses.append([entry["loss"] for entry in run.metrics() if "loss" in entry])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # batches are packed in only one of the runs


def test_the_temporary_folder_goes_with_the_model(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    model = load(tiny_folder, device_map=OFFLOADED)
    assert len(list((tmp_path / "temporary").glob("jola-offload-*"))) == 1
    del model
    gc.collect()
    assert not list((tmp_path / "temporary").glob("jola-offload-*"))
    refusal(tiny_folder, {"model.embed_tokens": "cpu"})
    assert not list((tmp_path / "temporary").iterdir())


class TestRefusals:
    def test_maps_that_do_not_fit(self, tiny_folder: Path, tmp_path: Path) -> None:
        assert "'model.layers.7', which is not a module" in refusal(tiny_folder, OFFLOADED | {"model.layers.7": "cpu"})
        rest = {name: place for name, place in OFFLOADED.items() if name != "lm_head"}
        assert "does not place lm_head.weight" in refusal(tiny_folder, rest)
        assert "places 'lm_head' twice, as a part of ''" in refusal(tiny_folder, {"": "cpu", "lm_head": "disk"})
        assert "puts everything on disk" in refusal(tiny_folder, {"": "disk"})
        assert "has a value of type float for ''; give the name" in refusal(tiny_folder, {"": 1.5})
        assert "uses 'cuda:7', which this machine does not have" in refusal(tiny_folder, {"": "cuda:7"})
        split = OFFLOADED | {"model.layers.1.self_attn": "cuda:0", "model.layers.1.mlp": "cuda:1"}
        assert "splits layer 1 over cuda:0 and cuda:1; place each layer on one" in refusal(tiny_folder, split)

    def test_files(self, tiny_folder: Path, tmp_path: Path) -> None:
        assert "which is not a file; give one of auto, balanced" in refusal(tiny_folder, "automatic")
        (tmp_path / "map.json").write_text("{")
        assert "is not valid JSON" in refusal(tiny_folder, tmp_path / "map.json")
        (tmp_path / "map.json").write_text("[]")
        assert "is not an object of module names" in refusal(tiny_folder, tmp_path / "map.json")
        (tmp_path / "map.json").write_text('{"passwords": ["hunter2"]}')
        assert "hunter2" not in refusal(tiny_folder, tmp_path / "map.json")
        for name in ("~nosuchuser/map.json", "~\ud800"):
            assert "which is not a file" in refusal(tiny_folder, name)

    def test_two_places(self, tiny_folder: Path) -> None:
        assert "leave one of them out" in refusal(tiny_folder, "auto", device="cpu")

    def test_several_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InputError, match="--device-map spreads one process"):
            run_training(RunConfig(model=ModelConfig(device_map="auto")))

    def test_what_needs_the_weights(self, tiny_folder: Path) -> None:
        model = load(tiny_folder, device_map=OFFLOADED)
        for action in (
            lambda: merge_and_unload(model),
            lambda: promoted_tokens(model, 0, 0),
            lambda: model.resize_token_embeddings(400),
        ):
            with pytest.raises(InputError, match="needs the whole model on one device; load it without a device map"):
                action()


@pytest.mark.parametrize("positions", [None, (2, 1)])
def test_edits_come_to_the_device_of_the_activation(positions: tuple[int, int] | None) -> None:
    """Kernels refuse operands on another device, including the meta device."""
    prompt, z = torch.ones(2, 5, dtype=torch.bool), torch.empty(2, 5, 32, device="meta")
    for intervention in (
        GatedEdits(Site.HEADS, 2, 4, 8),
        BottleneckEdits(Site.MLP, 2, 32, 4, [0, 1]),
        SubspaceEdits(2, 32, 3, [0, 1], positions=positions, separate=False, identity=False),
    ):
        intervention.reset(torch.Generator().manual_seed(0))
        for mask in (None, EditMask(**{c: torch.rand(2, 2, intervention.units) for c in intervention.channels})):
            planned = intervention.prepare_at(prompt, mask)
            assert set(planned) == {0, 1}
            assert all(edit(z).device == z.device for edit in planned.values())
    with pytest.raises(RuntimeError):
        z + torch.ones(32)


def test_moving_the_model_does_not_separate_edits_from_their_layers(tiny: Callable[..., EditedModel]) -> None:
    model = tiny()
    model.to("meta")
    assert model.edits.offset.device.type == "cpu"
    assert model.half().edits.offset.dtype == torch.float16
    assert model.hf_device_map == {"": "cpu"}
    assert tiny("llama", EditConfig()).base is not make_model("llama")
