"""`GatedEdits` as a function of tensors, without a model: the formula, its variants, masks and states."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jola.edits.gated import GatedEdits
from jola.edits.intervention import EditMask, Intervention
from jola.edits.names import HALVES, STATES
from jola.edits.sites import Site
from tests.jola.model.plain_hooks import Edits, edits_of

LAYERS, UNITS, WIDTH = 3, 4, 5
VARIANTS = list(itertools.product(("two", "shared", "none"), ("both", "offset", "scale")))


def make(seed: int = 0, **arguments: Any) -> GatedEdits:
    """Return edits in evaluation mode, as after training: large vectors, and gates open, closed or in between."""
    edits = GatedEdits(Site.HEADS, LAYERS, UNITS, WIDTH, **arguments)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in edits.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 3)
    return edits.eval()


def z_for(batch: int = 2, tokens: int = 6) -> Tensor:
    return torch.randn(batch, tokens, UNITS * WIDTH, generator=torch.Generator().manual_seed(9))


def apply(edits: GatedEdits, z: Tensor, mask: EditMask | None = None, strength: float = 1.0) -> list[Tensor]:
    """Return the activation after the edit of each layer."""
    prepared = edits.prepare(mask, strength)
    return [prepared[layer](z) if layer in prepared else z for layer in range(edits.layers)]


def by_hand(expected: Edits, z: Tensor) -> list[Tensor]:
    return [expected(layer, z) for layer in range(LAYERS)]


def parameters_of(edits: GatedEdits) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in edits.named_parameters()}


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for layer, (a, b) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda text, n=layer: f"layer {n}: {text}")


def one(half: str, layer: int, unit: int, value: float = 0.0) -> EditMask:
    """Return a mask that is 1 except for one half of one edit."""
    halves = {name: torch.ones(LAYERS, UNITS) for name in HALVES}
    halves[half][layer, unit] = value
    return EditMask(**halves)


class TestFormula:
    @pytest.mark.parametrize(("gates", "operation"), VARIANTS)
    def test_parameters_that_are_there(self, gates: str, operation: str) -> None:
        halves = HALVES if operation == "both" else (operation,)
        names = {"two": halves, "shared": ("shared",), "none": ()}[gates]
        expected = {half: (LAYERS, UNITS, WIDTH) for half in halves}
        expected |= {f"gates.{name}.log_alpha": (LAYERS, UNITS) for name in names}
        edits = make(gates=gates, operation=operation)
        assert {name: tuple(p.shape) for name, p in edits.named_parameters()} == expected
        assert {p.dtype for p in edits.parameters()} == {torch.float32}
        assert len(edits.edit_parameters()) == len(halves)
        assert len(edits.gate_parameters()) == len(names)
        assert edits.state_dict().keys() == expected.keys()

    @pytest.mark.parametrize(("gates", "operation"), VARIANTS)
    def test_edit_of_each_variant(self, gates: str, operation: str) -> None:
        edits, z = make(gates=gates, operation=operation), z_for()
        found = apply(edits, z)
        assert_same(found, by_hand(edits_of(parameters_of(edits)), z))
        assert all((a - z).abs().max() > 0.1 for a in found)

    @pytest.mark.parametrize(("gates", "operation"), VARIANTS)
    def test_in_training_gates_have_noise_from_their_own_source(self, gates: str, operation: str) -> None:
        edits, z = make(gates=gates, operation=operation).train(), z_for()
        generator = torch.Generator().manual_seed(4)
        names = [name for name in parameters_of(edits) if name.endswith("log_alpha")]
        uniform = {name: torch.rand(LAYERS, UNITS, generator=generator) for name in names}
        expected = by_hand(edits_of(parameters_of(edits), uniform), z)
        for unrelated in (0, 1):
            torch.manual_seed(unrelated)
            edits.noise.manual_seed(4)
            assert_same(apply(edits, z), expected)

    def test_one_pass_draws_once_and_the_next_draws_anew(self) -> None:
        edits, z = make().train(), z_for()
        with torch.no_grad():
            for gate in edits.gate_parameters():
                gate.zero_()
        edits.noise.manual_seed(0)
        prepared = edits.prepare()
        assert torch.equal(prepared[0](z), prepared[0](z))
        assert not torch.equal(edits.prepare()[0](z), prepared[0](z))

    @pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize("estimator", ["test_time", "expectation"])
    def test_estimator_and_threshold_reach_the_edit(self, estimator: str, threshold: float) -> None:
        edits = make(gate_estimator=estimator, gate_threshold=threshold)
        values, parameters, z = edits.gate_values(), parameters_of(edits), z_for()
        assert all(bool(((v == 0) | (v >= threshold)).all()) for v in values.values())
        expected = Edits(parameters["offset"], parameters["scale"], values["offset"], values["scale"])
        assert_same(apply(edits, z), by_hand(expected, z))

    def test_a_pass_in_bfloat16_computes_in_float32(self) -> None:
        # bfloat16 cannot represent 1.003; the edit must still change a large activation.
        edits = GatedEdits(Site.HEADS, 1, 1, 1, gates="none", operation="scale").eval()
        with torch.no_grad():
            edits.get_parameter("scale").fill_(0.003)
        z = torch.linspace(-4, 4, 257, dtype=torch.bfloat16).reshape(1, -1, 1)
        edited = edits.prepare()[0](z)
        assert edited.dtype == torch.bfloat16
        assert torch.equal(edited, (z.float() * 1.003).to(torch.bfloat16))
        assert not torch.equal(edited, z)

    def test_edits_go_through_in_the_precision_of_the_parameters(self) -> None:
        edits, z = make(), z_for()
        loss = sum(a.pow(2).sum() for a in apply(edits, z))
        assert isinstance(loss, Tensor)
        found = torch.autograd.grad(loss, list(edits.parameters()))
        clones = {name: p.detach().clone().requires_grad_() for name, p in edits.named_parameters()}
        expected = torch.autograd.grad(sum(a.pow(2).sum() for a in by_hand(edits_of(clones), z)), list(clones.values()))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


class TestReset:
    def test_fresh_edits_are_small_and_random_and_gates_are_drawn_too(self) -> None:
        edits = GatedEdits(Site.HEADS, 20, 10, 20)
        edits.reset(torch.Generator().manual_seed(0))
        for edit in edits.edit_parameters():
            assert edit.std().item() == pytest.approx(1e-3, rel=0.05)
            assert edit.mean().abs().item() < 1e-4
        drawn = [p.detach().clone() for p in edits.parameters()]
        assert len({float(p.flatten()[0]) for p in drawn}) == len(drawn)
        edits.reset(torch.Generator().manual_seed(0))
        assert all(torch.equal(a, b) for a, b in zip(drawn, edits.parameters(), strict=True))
        edits.reset(torch.Generator().manual_seed(1))
        assert not any(torch.equal(a, b) for a, b in zip(drawn, edits.parameters(), strict=True))


class TestReadings:
    def test_states_say_which_halves_are_on(self) -> None:
        edits = make()
        phi = torch.tensor([[-9.0, 9.0, -9.0, 9.0]]).expand(LAYERS, -1)
        with torch.no_grad():
            edits.gates.get_submodule("offset").get_parameter("log_alpha").copy_(phi)
            edits.gates.get_submodule("scale").get_parameter("log_alpha").copy_(phi.sort().values)
        assert STATES == ("none", "offset", "scale", "both")
        assert edits.states().tolist() == [[0, 1, 2, 3]] * LAYERS

    @pytest.mark.parametrize(("gates", "operation"), VARIANTS)
    def test_values_norms_and_probabilities(self, gates: str, operation: str) -> None:
        edits = make(gates=gates, operation=operation)
        parameters, hand = parameters_of(edits), edits_of(parameters_of(edits))
        values, opened, norms = edits.gate_values(), edits.open_probability(), edits.norms()
        assert list(values) == list(opened) == list(norms) == ["offset", "scale"]
        for half, gate in (("offset", hand.offset_gate), ("scale", hand.scale_gate)):
            if half not in parameters:
                assert not values[half].any() and not opened[half].any() and not norms[half].any()
                continue
            torch.testing.assert_close(values[half], gate, rtol=0, atol=1e-6)
            torch.testing.assert_close(norms[half], parameters[half].pow(2).sum(-1).sqrt())
            phi = parameters.get(f"gates.{half}.log_alpha", parameters.get("gates.shared.log_alpha"))
            expected = torch.ones(LAYERS, UNITS) if phi is None else torch.sigmoid(phi + 0.7913)
            torch.testing.assert_close(opened[half], expected, rtol=0, atol=1e-4)
        on = (values["offset"] > 0).int() + 2 * (values["scale"] > 0).int()
        assert torch.equal(edits.states().int(), on)

    def test_readings_hold_no_graph_and_have_no_noise(self) -> None:
        edits = make().train()
        for reading in (edits.gate_values, edits.open_probability, edits.norms):
            for first, second in zip(reading().values(), reading().values(), strict=True):
                assert torch.equal(first, second) and not first.requires_grad

    def test_penalised_gates_are_the_distinct_ones(self) -> None:
        assert set(make().log_alphas()) == {"offset", "scale"}
        assert set(make(gates="shared").log_alphas()) == {"shared"}
        assert make(gates="none").log_alphas() == {}


class TestEditable:
    editable = torch.zeros(LAYERS, UNITS, dtype=torch.bool)
    editable[0, 1] = editable[2, 0] = editable[2, 3] = True

    def test_other_units_are_never_touched(self) -> None:
        z = z_for()
        for mode in (True, False):
            edits = make(editable=self.editable).train(mode)
            assert not mode or set(edits.prepare()) == {0, 2}
            edits.noise.manual_seed(1)
            with torch.no_grad():  # open gates, so that each edit has an effect
                for gate in edits.gate_parameters():
                    gate.fill_(9.0)
            for layer, edited in enumerate(apply(edits, z)):
                changed = (edited != z).reshape(-1, UNITS, WIDTH).any(-1).any(0)
                assert torch.equal(changed, self.editable[layer])

    def test_other_units_count_nowhere(self) -> None:
        edits = make(editable=self.editable)
        for phi in edits.log_alphas().values():
            assert phi.shape == (3,)
        for reading in (edits.gate_values(), edits.open_probability(), edits.norms()):
            for values in reading.values():
                assert not values[~self.editable].any()
        assert not edits.states()[~self.editable].any()

    def test_other_units_learn_nothing(self) -> None:
        edits = make(editable=self.editable).train()
        with torch.no_grad():
            for gate in edits.gate_parameters():
                gate.zero_()
        for _ in range(10):  # a gate sampled as exactly 0 or 1 has no gradient in that pass
            sum(a.pow(2).sum() for a in apply(edits, z_for())).backward()
        for parameter in edits.parameters():
            assert parameter.grad is not None
            assert not parameter.grad[~self.editable].any()
            assert parameter.grad[self.editable].any()

    def test_it_is_no_part_of_a_checkpoint(self) -> None:
        assert "editable" not in make(editable=self.editable).state_dict()


class TestMasks:
    def test_all_changes_nothing_and_none_is_no_edit(self) -> None:
        edits, z = make(), z_for()
        for a, b in zip(apply(edits, z), apply(edits, z, EditMask.all(edits)), strict=True):
            assert torch.equal(a, b)
        assert edits.prepare(EditMask.none(edits)) == {}

    @pytest.mark.parametrize("half", HALVES)
    def test_one_half_of_one_edit(self, half: str) -> None:
        edits, z = make(gates="none"), z_for()
        found = apply(edits, z, one(half, 1, 2))
        factors = {f"{half}_factor": getattr(one(half, 1, 2), half)}
        assert_same(found, by_hand(edits_of(parameters_of(edits), **factors), z))
        before = apply(edits, z)
        changed = (found[1] != before[1]).reshape(-1, UNITS, WIDTH).any(-1).any(0)
        assert changed.tolist() == [False, False, True, False]
        assert torch.equal(found[0], before[0]) and torch.equal(found[2], before[2])

    @given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
    def test_factors_multiply_the_gates(self, offset: float, scale: float, strength: float) -> None:
        edits, z = make(), z_for()
        mask = EditMask(torch.full((LAYERS, UNITS), offset), torch.full((LAYERS, UNITS), scale))
        hand = edits_of(parameters_of(edits), None, offset * strength, scale * strength)
        for a, b in zip(apply(edits, z, mask, strength), by_hand(hand, z), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)

    def test_strength_zero_and_closed_layers_are_no_edit(self) -> None:
        edits = make()
        assert edits.prepare(strength=0.0) == {}
        with torch.no_grad():
            for gate in edits.gate_parameters():
                gate.fill_(9.0)
                gate[1] = -9.0
        assert set(edits.prepare()) == {0, 2}
        with torch.no_grad():  # one open half is an edit
            edits.gates.get_submodule("scale").get_parameter("log_alpha")[1, 3] = 9.0
        assert set(edits.prepare()) == {0, 1, 2}

    def test_each_row_of_a_batch_has_its_own(self) -> None:
        edits, z = make(), z_for(3)
        rows = torch.randint(0, 2, (2, 3, LAYERS, UNITS), generator=torch.Generator().manual_seed(2)).float()
        together = apply(edits, z, EditMask(rows[0], rows[1]))
        for row in range(3):
            alone = apply(edits, z[row : row + 1], EditMask(rows[0, row], rows[1, row]))
            for a, b in zip(together, alone, strict=True):
                torch.testing.assert_close(a[row : row + 1], b, rtol=0, atol=1e-6)

    def test_rows_are_found_in_every_form_of_the_activation(self) -> None:
        # The MLP of OPT returns (batch · tokens, width), and beam search has (batch · beams, tokens, width).
        edits, z = make(), z_for(3, 4)
        rows = torch.rand(2, 3, LAYERS, UNITS, generator=torch.Generator().manual_seed(2))
        mask = EditMask(rows[0], rows[1])
        expected = apply(edits, z, mask)
        flat = apply(edits, z.flatten(0, 1), mask)
        beams = apply(edits, z.repeat_interleave(2, 0), mask)
        for a, b, c in zip(expected, flat, beams, strict=True):
            assert torch.equal(b, a.flatten(0, 1))
            assert torch.equal(c, a.repeat_interleave(2, 0))

    @pytest.mark.parametrize("shape", [(LAYERS,), (UNITS, LAYERS), (LAYERS, 1), (2, 2, LAYERS, UNITS), ()])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"The mask has shape .* need \(…, 3, 4\)"):
            make().prepare(EditMask(torch.ones(shape), torch.ones(shape)))

    def test_halves_of_different_shape_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"the same shape; these have offset \(3, 4\), scale \(2, 3, 4\)"):
            EditMask(torch.ones(3, 4), torch.ones(2, 3, 4))

    def test_a_mask_learns_nothing_into_what_it_switches_off(self) -> None:
        edits = make(gates="none").train()
        sum(a.pow(2).sum() for a in apply(edits, z_for(), one("scale", 1, 2))).backward()
        scale = edits.get_parameter("scale").grad
        assert scale is not None
        assert not scale[1, 2].any() and scale[1, 1].any()


def test_an_intervention_must_say_what_it_does() -> None:
    class Nothing(Intervention):
        site = Site.MLP

    with pytest.raises(NotImplementedError):
        Nothing().prepare()


def test_sites_go_by_their_names() -> None:
    names: Mapping[str, Site] = {
        "heads": Site.HEADS,
        "attention": Site.ATTENTION,
        "mlp": Site.MLP,
        "block": Site.BLOCK,
        "weights": Site.WEIGHTS,
    }
    assert [names[site] for site in Site] == list(Site) == [Site(name) for name in names]
