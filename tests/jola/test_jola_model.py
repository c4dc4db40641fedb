"""`JoLAModel` in float32, compared with the plain model and with plain forward hooks, for every architecture."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from jola.config import EditConfig
from jola.edits.intervention import EditMask
from jola.errors import InputError
from jola.jola_model import JoLAModel
from tests.jola.model.passes import (
    BATCH,
    CLOSE,
    LENGTHS,
    by_hand,
    close_all_gates,
    draw_gates_between,
    every_architecture,
    greedy,
    logits_of,
    none_of,
    padded,
    parameters_of,
    with_noise,
)
from tests.jola.model.plain_hooks import cross_entropy, edits_of, hooked
from tests.tiny import LAYERS, VOCABULARY, make_model

Make = Callable[..., JoLAModel]

SITES = ("heads", "mlp", "both")
SEED = 11
"""Seed of the gate noise."""


class TestEqualsThePlainModel:
    """Bit for bit, however the edits are switched off."""

    @every_architecture
    @pytest.mark.parametrize("sites", SITES)
    @torch.no_grad()
    def test_forward(self, tiny: Make, architecture: str, sites: str) -> None:
        model = tiny(architecture, EditConfig(sites=sites))
        expected = logits_of(make_model(architecture))
        assert (model(BATCH).logits - expected).abs().max() > 0.1
        for training in (False, True):
            model.train(training)
            assert torch.equal(model(BATCH, mask=none_of(model)).logits, expected)
            assert torch.equal(model(BATCH, strength=0.0).logits, expected)
            with model.disable_edits():
                assert torch.equal(model(BATCH).logits, expected)
        model.eval()
        close_all_gates(model)
        assert torch.equal(model(BATCH).logits, expected)

    @every_architecture
    @torch.no_grad()
    def test_generation(self, tiny: Make, architecture: str) -> None:
        model, plain = tiny(architecture, EditConfig(sites="both")), make_model(architecture)
        arguments = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        expected = plain.generate(BATCH, attention_mask=torch.ones_like(BATCH), **arguments)
        assert not torch.equal(model.generate(BATCH, **arguments), expected)
        assert torch.equal(model.generate(BATCH, mask=none_of(model), **arguments), expected)
        assert torch.equal(model.generate(BATCH, strength=0.0, **arguments), expected)
        with model.disable_edits():
            assert torch.equal(model.generate(BATCH, **arguments), expected)
        close_all_gates(model)
        assert torch.equal(model.generate(BATCH, **arguments), expected)

    @torch.no_grad()
    def test_an_offset_of_zero_and_a_scale_of_zero_are_no_edit(self, tiny: Make) -> None:
        model = tiny("llama", EditConfig(sites="both", gates="none"))
        for edits in model.gated_edits():
            for edit in edits.edit_parameters():
                edit.zero_()
        assert torch.equal(model(BATCH).logits, logits_of(make_model("llama")))

    @torch.no_grad()
    def test_the_frozen_model_has_no_dropout_in_training(self, tiny: Make) -> None:
        # GPT-2 has dropout, and training mode applies only to the edits.
        model = tiny("gpt2", EditConfig(gates="none"))
        expected = model(BATCH).logits
        assert torch.equal(model.train()(BATCH).logits, expected)
        assert not model.base.training


class TestEqualsPlainHooks:
    @every_architecture
    @pytest.mark.parametrize("sites", SITES)
    @torch.no_grad()
    def test_evaluation(self, tiny: Make, architecture: str, sites: str) -> None:
        model = tiny(architecture, EditConfig(sites=sites))
        expected = logits_of(make_model(architecture), BATCH, by_hand(model))
        torch.testing.assert_close(model(BATCH).logits, expected, **CLOSE)
        assert torch.equal(model(BATCH).logits, model(BATCH).logits)

    @every_architecture
    @pytest.mark.parametrize("sites", SITES)
    def test_training_and_gradients(self, tiny: Make, architecture: str, sites: str) -> None:
        model, plain = tiny(architecture, EditConfig(sites=sites)).train(), make_model(architecture)
        draw_gates_between(model)
        labels = BATCH.masked_fill(torch.arange(BATCH.shape[1]) < 7, -100)
        model.seed_gates(SEED)
        found = model(BATCH, labels=labels)
        found.loss.backward()

        clones = {
            e.site: {name: p.detach().clone().requires_grad_() for name, p in e.named_parameters()}
            for e in model.gated_edits()
        }
        with hooked(plain, with_noise(model, SEED, clones)):
            logits = plain(BATCH).logits
        loss = torch.nn.functional.cross_entropy(logits[:, 6:-1].flatten(0, 1), BATCH[:, 7:].flatten())
        loss.backward()
        torch.testing.assert_close(found.logits, logits[:, 6:-1].flatten(0, 1), **CLOSE)
        torch.testing.assert_close(found.loss, loss, **CLOSE)
        for edits in model.gated_edits():
            for name, parameter in edits.named_parameters():
                expected = clones[edits.site][name].grad
                assert expected is not None and expected.abs().max() > 1e-5, name
                torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: n + m)
        assert all(p.grad is None for p in model.base.parameters())

    @pytest.mark.parametrize("gates", ["two", "shared", "none"])
    @pytest.mark.parametrize("operation", ["both", "offset", "scale"])
    @torch.no_grad()
    def test_variants(self, tiny: Make, gates: str, operation: str) -> None:
        model = tiny("qwen3", EditConfig(sites="both", gates=gates, operation=operation))
        plain = make_model("qwen3")
        torch.testing.assert_close(model(BATCH).logits, logits_of(plain, BATCH, by_hand(model)), **CLOSE)
        model.train().seed_gates(2)
        parameters = {e.site: parameters_of(e) for e in model.gated_edits()}
        expected = logits_of(plain, BATCH, with_noise(model, 2, parameters))
        torch.testing.assert_close(model(BATCH).logits, expected, **CLOSE)

    @every_architecture
    @pytest.mark.parametrize("strength", [-1.0, 0.3, 2.0])
    @torch.no_grad()
    def test_strength(self, tiny: Make, architecture: str, strength: float) -> None:
        model = tiny(architecture)
        expected = logits_of(make_model(architecture), BATCH, by_hand(model, strength))
        torch.testing.assert_close(model(BATCH, strength=strength).logits, expected, rtol=0, atol=3e-5)

    @torch.no_grad()
    def test_gate_noise_depends_on_the_seed_alone(self, tiny: Make) -> None:
        model = tiny("llama", EditConfig(sites="both")).train()

        def draw(seed: int, unrelated: int) -> Tensor:
            torch.manual_seed(unrelated)
            model.seed_gates(seed)
            return model(BATCH).logits

        assert torch.equal(draw(1, 5), draw(1, 6))
        assert not torch.equal(draw(1, 5), draw(2, 5))

    @torch.no_grad()
    def test_in_bfloat16(self, tiny: Make, tokenizer: Any) -> None:
        model = tiny("llama")
        low = JoLAModel(make_model("llama").to(torch.bfloat16), tokenizer)
        low.load_state_dict(model.state_dict())
        assert {p.dtype for p in low.parameters()} == {torch.float32}
        difference = low(BATCH).logits.float() - model(BATCH).logits
        plain = make_model("llama").to(torch.bfloat16)(BATCH).logits.float() - logits_of(make_model("llama"))
        assert difference.abs().mean() < 3 * plain.abs().mean()


class TestMasks:
    @torch.no_grad()
    def test_one_half_of_one_edit(self, tiny: Make) -> None:
        model, plain = tiny("llama", EditConfig(gates="none")), make_model("llama")
        for half in ("offset", "scale"):
            halves = {name: torch.ones(LAYERS, 4) for name in ("offset", "scale")}
            halves[half][1, 2] = 0
            factors = {f"{half}_factor": halves[half]}
            expected = logits_of(plain, BATCH, {"heads": edits_of(parameters_of(model.edits), None, **factors)})
            found = model(BATCH, mask=EditMask(**halves)).logits
            torch.testing.assert_close(found, expected, **CLOSE)
            assert (found - model(BATCH).logits).abs().max() > 1e-3

    @torch.no_grad()
    def test_a_mask_for_one_site_leaves_the_other(self, tiny: Make) -> None:
        model, plain = tiny("llama", EditConfig(sites="both")), make_model("llama")
        heads, mlp = model.gated_edits()
        assert model.edits is heads
        found = model(BATCH, mask={"mlp": EditMask.none(mlp)}).logits
        torch.testing.assert_close(found, logits_of(plain, BATCH, {"heads": by_hand(model)["heads"]}), **CLOSE)

    @torch.no_grad()
    def test_a_mask_lasts_one_call(self, tiny: Make) -> None:
        model = tiny("llama")
        expected = model(BATCH).logits
        model(BATCH, mask=EditMask.none(model.edits), strength=3.0)
        greedy(model, BATCH, 2, mask=EditMask.none(model.edits), strength=3.0)
        assert torch.equal(model(BATCH).logits, expected)

    @pytest.mark.parametrize(
        ("mask", "says"),
        [
            ({"head": EditMask(torch.ones(3, 4), torch.ones(3, 4))}, "There is a mask for head, but this model has"),
            ({"mlp": EditMask(torch.ones(3, 1), torch.ones(3, 1))}, "There is a mask for mlp, .* edits at heads"),
            (EditMask(torch.ones(4, 3), torch.ones(4, 3)), r"shape \(4, 3\); the edits at heads need \(…, 3, 4\)"),
            (EditMask(torch.ones(2, 3, 4), torch.ones(2, 3, 4)), "The mask has 2 rows, but the batch has 3"),
            (EditMask(torch.ones(9, 3, 4), torch.ones(9, 3, 4)), "The mask has 9 rows, but the batch has 3"),
        ],
    )
    def test_masks_that_do_not_fit_are_refused(self, tiny: Make, mask: Any, says: str) -> None:
        model = tiny("llama")
        for call in (model.forward, model.generate):
            with pytest.raises(ValueError, match=says):
                call(BATCH, mask=mask)
        assert model(BATCH).logits.shape == (*BATCH.shape, VOCABULARY)

    @torch.no_grad()
    def test_disabling_ends_with_the_block_however_it_ends(self, tiny: Make) -> None:
        model = tiny("llama")
        edited, plain = model(BATCH).logits, logits_of(make_model("llama"))
        with model.disable_edits():
            with model.disable_edits():
                pass
            assert torch.equal(model(BATCH).logits, plain)
        with pytest.raises(KeyError), model.disable_edits():
            raise KeyError
        assert torch.equal(model(BATCH).logits, edited)


class TestSubsets:
    @pytest.mark.parametrize(
        ("config", "heads", "mlp_layers"),
        [
            (EditConfig(layers="1"), {(1, h) for h in range(4)}, None),
            (EditConfig(layers="0,2", heads="0:1,1:2,2:3"), {(0, 1), (2, 3)}, None),
            (EditConfig(sites="both", layers="0-1", heads="1:0"), {(1, 0)}, {0, 1}),
            (EditConfig(sites="mlp", layers="2"), None, {2}),
        ],
    )
    @torch.no_grad()
    def test_nothing_else_is_touched(
        self, tiny: Make, config: EditConfig, heads: set[tuple[int, int]] | None, mlp_layers: set[int] | None
    ) -> None:
        model, expected = tiny("llama", config), {}
        for edits in model.gated_edits():
            chosen = heads if edits.site == "heads" else {(layer, 0) for layer in mlp_layers or ()}
            on = torch.zeros(edits.layers, edits.units)
            for pair in chosen or ():
                on[pair] = 1
            assert torch.equal(edits.editable, on.bool())
            for parameter in edits.parameters():  # units that may not be edited must not matter
                parameter[~edits.editable] = 1e3
            for gate in edits.gate_parameters():  # so far open that noise changes nothing
                gate[edits.editable] = 50.0
            expected[edits.site] = edits_of(parameters_of(edits), None, on, on)
        logits = logits_of(make_model("llama"), BATCH, expected)
        for training in (False, True):
            torch.testing.assert_close(model.train(training)(BATCH).logits, logits, **CLOSE)
        width = {"heads": 8, "mlp": 32}
        count = len(heads or ()) * (2 * width["heads"] + 2) + len(mlp_layers or ()) * (2 * width["mlp"] + 2)
        assert model.trainable_parameters()[0] == count

    @every_architecture
    def test_all_heads_have_two_vectors_and_two_gates(self, tiny: Make, architecture: str) -> None:
        model = tiny(architecture)
        d = model.geometry.head_dim
        trainable, frozen = model.trainable_parameters()
        assert trainable == LAYERS * 4 * (2 * d + 2) == sum(p.numel() for p in model.parameters())
        assert frozen == sum(p.numel() for p in make_model(architecture).parameters())

    @pytest.mark.parametrize("gates", ["two", "shared", "none"])
    @pytest.mark.parametrize("operation", ["both", "offset", "scale"])
    def test_what_is_counted_is_what_there_is(self, tiny: Make, gates: str, operation: str) -> None:
        model = tiny("qwen3", EditConfig(sites="both", gates=gates, operation=operation))
        halves = 2 if operation == "both" else 1
        gates_of_a_unit = {"two": halves, "shared": 1, "none": 0}[gates]
        expected = LAYERS * (4 * (16 * halves + gates_of_a_unit) + 32 * halves + gates_of_a_unit)
        assert model.trainable_parameters()[0] == expected == sum(p.numel() for p in model.parameters())

    def test_heads_and_layers_that_exclude_each_other(self, tiny: Make) -> None:
        with pytest.raises(InputError, match="--layers and --heads have no head in common"):
            tiny("llama", EditConfig(layers="0", heads="1:1"))

    @pytest.mark.parametrize(
        ("config", "says"),
        [
            (EditConfig(layers="0-3"), "--layers names layer 3, but the model has layers 0 to 2"),
            (EditConfig(heads="0:4"), "--heads names 0:4, but the model has 3 layers of 4 heads"),
            (EditConfig(operation="nothing"), "--operation is 'nothing'; choose one of"),
            (EditConfig(gates="one"), "--gates is 'one'; choose one of"),
            (EditConfig(sites="mlp", heads="0:0"), "--heads picks attention heads, but --sites is mlp"),
        ],
    )
    def test_edits_that_the_model_cannot_have(self, tiny: Make, config: EditConfig, says: str) -> None:
        with pytest.raises(InputError, match=says):
            tiny("llama", config)

    def test_what_trains_is_printed(self, tiny: Make, capsys: pytest.CaptureFixture[str]) -> None:
        tiny("llama").print_trainable_parameters()
        frozen = sum(p.numel() for p in make_model("llama").parameters())
        share = 100 * 216 / (216 + frozen)
        expected = f"trainable params: 216 || all params: {216 + frozen:,} || trainable%: {share:.4f}\n"
        assert capsys.readouterr().out == expected


class TestLabels:
    # Rows with one, several and separate labels; the first position can never be predicted.
    labels = torch.full_like(BATCH, -100)
    labels[0, -1], labels[1, 4:7], labels[2, 0], labels[2, 3], labels[2, 9] = 7, torch.tensor([8, 9, 10]), 3, 4, 5
    rows = torch.tensor([(0, 9), (1, 3), (1, 4), (1, 5), (2, 2), (2, 8)])

    @every_architecture
    @pytest.mark.parametrize("edited", [True, False])
    @torch.no_grad()
    def test_loss_and_rows_are_those_of_the_full_pass(self, tiny: Make, architecture: str, edited: bool) -> None:
        model = tiny(architecture, EditConfig(sites="both"))
        strength = 1.0 if edited else 0.0
        full = model(BATCH, strength=strength).logits
        expected = cross_entropy(full, self.labels)
        assert len(expected) == 6
        by_token = model(BATCH, labels=self.labels, strength=strength)
        by_answer = model(BATCH, labels=self.labels, strength=strength, reduction="answer")
        assert by_token.loss.item() == pytest.approx(sum(expected) / 6, abs=1e-5)
        assert by_answer.loss.item() == pytest.approx(sum(expected) / 3, abs=1e-5)
        torch.testing.assert_close(by_token.logits, full[self.rows[:, 0], self.rows[:, 1]], **CLOSE)

    @every_architecture
    @pytest.mark.parametrize("side", ["left", "right"])
    @torch.no_grad()
    def test_padded(self, tiny: Make, architecture: str, side: str) -> None:
        model = tiny(architecture)
        ids, real, rows = padded(side)
        labels = ids.masked_fill(real == 0, -100)
        for row, length in zip(labels, LENGTHS, strict=True):
            row[(row != -100).nonzero()[: length - 2]] = -100
        expected = [cross_entropy(model(row[None]).logits, label_last_two(row)) for row in rows]
        loss = model(ids, real, labels=labels, reduction="answer").loss
        assert loss.item() == pytest.approx(sum(map(sum, expected)) / 3, abs=1e-4)

    def test_no_label_is_refused(self, tiny: Make) -> None:
        only_first = torch.full_like(BATCH, -100)
        only_first[:, 0] = 5
        for labels in (torch.full_like(BATCH, -100), only_first):
            with pytest.raises(InputError, match="No position of this batch has a label"):
                tiny("llama")(BATCH, labels=labels)


def label_last_two(row: Tensor) -> Tensor:
    labels = torch.full_like(row, -100)
    labels[-2:] = row[-2:]
    return labels[None]


class TestModule:
    def test_only_the_edits_are_its_parameters(self, tiny: Make) -> None:
        model = tiny("llama", EditConfig(sites="both"))
        names = {f"interventions.{i}.{name}" for i, e in enumerate(model.gated_edits()) for name in parameters_of(e)}
        assert len(names) == 8
        assert set(model.state_dict()) == {name for name, _ in model.named_parameters()} == names
        assert all(p.requires_grad for p in model.parameters())
        assert not any(p.requires_grad for p in model.base.parameters())

    def test_it_comes_in_evaluation_mode_like_other_models(self, tokenizer: Any) -> None:
        model = JoLAModel(make_model("llama"), tokenizer)
        assert not model.training
        assert torch.equal(model(BATCH).logits, model(BATCH).logits)

    def test_the_same_seed_gives_the_same_edits(self, tokenizer: Any) -> None:
        base = make_model("llama")
        first, again, other = (JoLAModel(base, tokenizer, seed=seed).state_dict() for seed in (1, 1, 2))
        for name in first:
            assert torch.equal(first[name], again[name])
            assert not torch.equal(first[name], other[name])

    def test_the_state_carries_the_edits(self, tiny: Make, tokenizer: Any) -> None:
        model, fresh = tiny("gemma2"), JoLAModel(make_model("gemma2"), tokenizer)
        assert not torch.equal(fresh(BATCH).logits, model(BATCH).logits)
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(fresh(BATCH).logits, model(BATCH).logits)

    def test_an_error_in_a_pass_breaks_nothing(self, tiny: Make) -> None:
        model = tiny("llama")
        expected = model(BATCH).logits
        for call in (model.forward, model.generate):
            with pytest.raises(IndexError):
                call(torch.tensor([[VOCABULARY + 5, 4]]))
        assert torch.equal(model(BATCH).logits, expected)

    def test_a_tokenizer_without_padding_gets_some(self, tokenizer: Any) -> None:
        bare = copy.deepcopy(tokenizer)
        bare.pad_token = None
        assert JoLAModel(make_model("llama"), bare).tokenizer.pad_token_id == tokenizer.eos_token_id
