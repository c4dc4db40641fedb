"""Other edits inside a `using` block: stacks of adapters, their masks, and logits at chosen positions."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import jola
from jola.config import EditConfig
from jola.edits.gated import GatedEdits, build_edits
from jola.edits.intervention import Edit, EditMask, Intervention
from jola.edits.sites import Site
from jola.errors import InputError
from jola.jola_model import JoLAModel
from jola.methods.lora import LoRAConfig
from jola.methods.loreft import LoReFTConfig
from tests.conftest import spread_edits
from tests.jola.model.passes import (
    BATCH,
    CLOSE,
    every_architecture,
    greedy,
    logits_of,
    padded,
    parameters_of,
    random_masks,
)
from tests.jola.model.plain_hooks import SiteEdit, edits_of
from tests.tiny import LAYERS, VOCABULARY, make_model

Make = Callable[..., JoLAModel]


@pytest.mark.parametrize(
    ("edits", "missing"), [(EditConfig(), "scale"), (LoRAConfig(), "update"), (LoReFTConfig(), "update")]
)
def test_a_mask_without_a_channel_is_refused(tiny: Make, edits: Any, missing: str) -> None:
    model = tiny("llama", edits)
    mask = EditMask(offset=torch.ones(LAYERS, model.in_use[0].units))
    with pytest.raises(ValueError, match=f"mask has factors of offset, but the edits also need those of {missing}"):
        model(BATCH, mask=mask)


@pytest.mark.parametrize("edits", [EditConfig(), LoRAConfig()])
def test_edits_that_cannot_be_attached_replace_nothing(tiny: Make, edits: Any) -> None:
    model = tiny("llama", edits)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    expected = model(BATCH).logits
    for impossible in (EditConfig(layers="99"), LoRAConfig(target_modules="absent")):
        with pytest.raises(InputError):
            model.replace_edits(impossible)
        assert model.edit_config == edits
        assert torch.equal(model(BATCH).logits, expected)
    for new, layers in ((LoRAConfig(rank=2), {1}), (LoRAConfig(rank=4), {1}), (EditConfig(), set())):
        model.replace_edits(new)
        assert model.edit_config == new
        assert {len(module.lora_A) for module in model.base.modules() if hasattr(module, "lora_A")} == layers


def others(model: JoLAModel, seed: int, sites: str = "both") -> list[GatedEdits]:
    """Return edits like those of another adapter for the same model."""
    edits = build_edits(EditConfig(sites=sites), model.geometry)
    holder = JoLAModel(make_model(model.geometry.architecture), model.tokenizer, EditConfig(sites=sites))
    spread_edits(holder, seed)
    for own, source in zip(edits, holder.gated_edits(), strict=True):
        own.load_state_dict(source.state_dict())
    return [e.eval() for e in edits]


def chained(stack: Sequence[GatedEdits], masks: Sequence[EditMask | None] | None = None) -> Mapping[str, SiteEdit]:
    """Return edits for plain hooks that apply the edits of each site one after the other."""
    sites: dict[str, list[SiteEdit]] = {}
    for edits, mask in zip(stack, masks or [None] * len(stack), strict=True):
        factors = {} if mask is None else {"offset_factor": mask.offset, "scale_factor": mask.scale}
        sites.setdefault(edits.site, []).append(edits_of(parameters_of(edits), None, **factors))

    def one_after_the_other(parts: list[SiteEdit]) -> SiteEdit:
        def edit(layer: int, z: Tensor) -> Tensor:
            for part in parts:
                z = part(layer, z)
            return z

        return edit

    return {site: one_after_the_other(parts) for site, parts in sites.items()}


class TestUsing:
    @every_architecture
    @torch.no_grad()
    def test_the_second_edits_what_the_first_made(self, tiny: Make, architecture: str) -> None:
        model, plain = tiny(architecture), make_model(architecture)
        first, second = others(model, 5), others(model, 6)
        for stack in ([*first, *second], [*second, *first], second):
            with model.using(stack):
                assert model.in_use == tuple(stack)
                found = model(BATCH).logits
                generated = greedy(model, BATCH, 3)
            torch.testing.assert_close(found, logits_of(plain, BATCH, chained(stack)), rtol=0, atol=3e-5)
            assert torch.equal(generated[:, BATCH.shape[1]], found[:, -1].argmax(-1))
        with model.using([*first, *second]):
            one = model(BATCH).logits
        with model.using([*second, *first]):
            assert (model(BATCH).logits - one).abs().max() > 0.05  # the order matters

    @torch.no_grad()
    def test_the_own_edits_come_back_however_the_block_ends(self, tiny: Make) -> None:
        model = tiny("llama")
        own, other = model(BATCH).logits, others(model, 5)
        with model.using(other):
            with model.disable_edits():
                assert torch.equal(model(BATCH).logits, logits_of(make_model("llama")))
                with model.using([model.edits]):
                    assert torch.equal(model(BATCH).logits, own)
            assert not torch.equal(model(BATCH).logits, own)
        with pytest.raises(KeyError), model.using(other):
            raise KeyError
        assert torch.equal(model(BATCH).logits, own)
        assert model.gated_edits() == [model.edits]

    @torch.no_grad()
    def test_it_is_for_the_own_thread(self, tiny: Make) -> None:
        model = tiny("llama")
        stacks = [others(model, seed) for seed in range(4)]

        def ask(stack: list[GatedEdits]) -> Tensor:
            with torch.no_grad(), model.using(stack):
                return model(BATCH).logits

        expected = [ask(stack) for stack in stacks]
        own, together = model(BATCH).logits, threading.Barrier(5)

        def use(stack: list[GatedEdits]) -> list[Tensor]:
            with torch.no_grad(), model.using(stack):
                together.wait(300)
                return [model(BATCH).logits for _ in range(5)]

        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(use, stack) for stack in stacks]
            together.wait(300)
            assert all(torch.equal(model(BATCH).logits, own) for _ in range(5))
            for answer, right in zip(answers, expected, strict=True):
                assert all(torch.equal(found, right) for found in answer.result(300))

    @torch.no_grad()
    def test_any_intervention_after_the_edits_of_the_last_layer(self, tiny: Make) -> None:
        class Double(Intervention):
            site = Site.BLOCK

            def prepare(self, mask: EditMask | None = None, strength: float = 1.0) -> Mapping[int, Edit]:
                return {LAYERS - 1: lambda z: 2 * z + 1}

        model = tiny("llama", EditConfig(sites="both"))
        with model.using([Double(), *model.gated_edits()]):
            full = model(BATCH).logits
            last = model(BATCH, positions="last").logits
        torch.testing.assert_close(last, full[:, -1], **CLOSE)
        assert (full - model(BATCH).logits).abs().max() > 0.1
        with model.using([*model.gated_edits(), Double()]):
            assert torch.equal(model(BATCH).logits, full)


class TestMasks:
    @torch.no_grad()
    def test_one_for_each_intervention(self, tiny: Make) -> None:
        model, plain = tiny("qwen3"), make_model("qwen3")
        stack = [*others(model, 5), *others(model, 6, "heads")]
        masks = [random_masks(model, seed=1)["heads"], None, random_masks(model, seed=2)["heads"]]
        with model.using(stack):
            found = model(BATCH, mask=masks).logits
            torch.testing.assert_close(found, logits_of(plain, BATCH, chained(stack, masks)), **CLOSE)
            assert (found - model(BATCH).logits).abs().max() > 1e-2
            generated = greedy(model, BATCH, 2, mask=masks)
            assert torch.equal(generated[:, BATCH.shape[1]], found[:, -1].argmax(-1))
            # A mask keyed by site applies to all interventions of the site.
            same = model(BATCH, mask={"heads": masks[0]}).logits
            assert torch.equal(same, model(BATCH, mask=[masks[0], None, masks[0]]).logits)

    @torch.no_grad()
    def test_that_do_not_fit(self, tiny: Make) -> None:
        model = tiny("llama")
        with pytest.raises(ValueError, match="There are 2 masks for 1 interventions; give one for each"):
            model(BATCH, mask=[None, None])
        with model.using(others(model, 5)), pytest.raises(ValueError, match=r"a mask for head, .* at heads and mlp"):
            model(BATCH, mask={"head": EditMask.none(model.edits)})


class TestPositions:
    @every_architecture
    @pytest.mark.parametrize("strength", [1.0, 0.0])
    @torch.no_grad()
    def test_are_those_of_the_full_pass(self, tiny: Make, architecture: str, strength: float) -> None:
        model = tiny(architecture, EditConfig(sites="both"))
        rows = torch.zeros_like(BATCH, dtype=torch.bool)
        rows[0, 3], rows[0, 10], rows[2, 0] = True, True, True
        full = model(BATCH, strength=strength).logits
        found = model(BATCH, positions=rows, strength=strength).logits
        assert found.shape == (3, VOCABULARY)
        torch.testing.assert_close(found, full[rows], **CLOSE)

    @every_architecture
    @pytest.mark.parametrize("side", ["left", "right"])
    @torch.no_grad()
    def test_last_is_the_last_real_token(self, tiny: Make, architecture: str, side: str) -> None:
        model = tiny(architecture)
        ids, real, rows = padded(side)
        alone = torch.stack([model(row[None]).logits[0, -1] for row in rows])
        torch.testing.assert_close(model(ids, real, positions="last").logits, alone, **CLOSE)

    def test_that_do_not_fit(self, tiny: Make) -> None:
        model = tiny("llama")
        for bad in (torch.ones(2, 11, dtype=torch.bool), torch.ones_like(BATCH)):
            with pytest.raises(ValueError, match=r"positions must be bool of shape \(3, 11\)"):
                model(BATCH, positions=bad)
        with pytest.raises(ValueError, match="labels or positions, not both"):
            model(BATCH, labels=BATCH, positions="last")


class TestGradientCheckpointing:
    def test_a_graph_that_is_kept_has_several_backward_passes(self, tiny: Make) -> None:
        model = tiny("llama", EditConfig(sites="both")).train()
        model.gradient_checkpointing = True
        labels = BATCH.clone()
        labels[:, :-3] = -100
        loss = model(BATCH, labels=labels).loss
        parameters = list(model.parameters())
        first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        loss.backward()
        assert all(torch.equal(p.grad, gradient) for p, gradient in zip(parameters, first, strict=True))

    def test_the_layers_are_left_as_they_were(self, tiny: Make) -> None:
        model = tiny("llama").train()
        model.gradient_checkpointing = True
        layers = model.base.get_submodule("model.layers")
        before = [dict(vars(layer)) for layer in layers]
        model(BATCH, labels=BATCH)
        for layer, variables in zip(layers, before, strict=True):
            assert vars(layer).keys() == variables.keys()
            assert vars(layer)["forward"] is variables["forward"]


class TestLoadEdits:
    @torch.no_grad()
    def test_edits_as_the_model_they_were_saved_from(self, tiny: Make, tmp_path: Path) -> None:
        trained, model = tiny("llama", EditConfig(sites="both", layers="1-2")), tiny("llama", trained=False)
        trained.save_pretrained(tmp_path)
        loaded = jola.load_edits(tmp_path, model)
        assert [e.site for e in loaded] == ["heads", "mlp"]
        assert all(not e.training and not any(p.requires_grad for p in e.parameters()) for e in loaded)
        assert all(p.device == model.device for e in loaded for p in e.parameters())
        with model.using(loaded):
            assert torch.equal(model(BATCH).logits, trained(BATCH).logits)

    def test_of_another_model_are_refused(self, tiny: Make, tmp_path: Path, tokenizer: Any) -> None:
        tiny("llama").save_pretrained(tmp_path)
        with pytest.raises(InputError, match="with architecture llama, but tiny-qwen3 has qwen3"):
            jola.load_edits(tmp_path, tiny("qwen3"))
        with pytest.raises(InputError, match="has the same shape but other weights"):
            jola.load_edits(tmp_path, JoLAModel(make_model("llama", seed=1), tokenizer))
