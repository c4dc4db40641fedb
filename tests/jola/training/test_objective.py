"""The objective: which gates are penalized, how much, and how λ changes during training."""

import itertools
import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jola.edits.gated import GatedEdits
from jola.edits.sites import Site
from jola.errors import InputError
from jola.training.objective import PENALTIES, L0Schedule, expected_open, paper_penalty, reference_penalty

SHIFT = 0.33 * math.log(11)

OFFSET = [[-1.0, 0.0, 2.0], [0.5, -3.0, 1.0]]
SCALE = [[0.3, -0.7, 0.0], [-2.0, 4.0, 1.5]]


def p_open(phi: float) -> float:
    return 1 / (1 + math.exp(-(phi + SHIFT)))


def total(rows: list[list[float]]) -> float:
    return sum(p_open(phi) for row in rows for phi in row)


def edits(site: Site = Site.HEADS, width: int = 5, **arguments: Any) -> GatedEdits:
    """Return edits of two layers of three units, with φ as above; a shared gate has the φ of the offsets."""
    made = GatedEdits(site, 2, 3, width, **arguments)
    with torch.no_grad():
        for name, gate in made.gates.items():
            gate.get_parameter("log_alpha").copy_(torch.tensor(SCALE if name == "scale" else OFFSET))
    return made


def run(kind: str, unit: float = 0.01, steps: int = 100, **arguments: Any) -> list[float]:
    schedule = L0Schedule(kind, unit, steps, **arguments)
    return [schedule.value(step) for step in range(steps)]


class TestPaper:
    """λ · Σ P(g ≠ 0), equation 5."""

    def test_is_the_sum_over_both_kinds_of_gates(self) -> None:
        assert paper_penalty([edits()], 0.5).item() == pytest.approx(0.5 * (total(OFFSET) + total(SCALE)), rel=1e-6)
        assert expected_open([edits()]).item() == pytest.approx(total(OFFSET) + total(SCALE), rel=1e-6)

    def test_is_the_sum_over_all_sites(self) -> None:
        both = [edits(), edits(Site.MLP, width=32)]
        assert paper_penalty(both, 1.0).item() == pytest.approx(2 * (total(OFFSET) + total(SCALE)), rel=1e-6)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            # A gate shared by both halves counts once.
            ({"gates": "shared"}, total(OFFSET)),
            ({"gates": "shared", "operation": "scale"}, total(OFFSET)),
            ({"operation": "offset"}, total(OFFSET)),
            ({"operation": "scale"}, total(SCALE)),
            ({"gates": "none"}, 0.0),
        ],
    )
    def test_counts_each_distinct_gate_once(self, arguments: dict[str, Any], expected: float) -> None:
        assert paper_penalty([edits(**arguments)], 1.0).item() == pytest.approx(expected, rel=1e-6)

    def test_leaves_out_what_may_not_be_edited(self) -> None:
        editable = torch.tensor([[True, False, False], [False, True, True]])
        expected = sum(p_open(phi[i][j]) for phi in (OFFSET, SCALE) for i, j in ((0, 0), (1, 1), (1, 2)))
        penalised = edits(editable=editable)
        penalty = paper_penalty([penalised], 1.0)
        assert penalty.item() == pytest.approx(expected, rel=1e-6)
        penalty.backward()
        for phi in penalised.gate_parameters():
            assert phi.grad is not None
            assert torch.equal(phi.grad != 0, editable)

    def test_its_gradient_closes_gates_and_touches_nothing_else(self) -> None:
        penalised = edits()
        paper_penalty([penalised], 0.25).backward()
        for name, rows in (("offset", OFFSET), ("scale", SCALE)):
            expected = [[0.25 * p_open(phi) * (1 - p_open(phi)) for phi in row] for row in rows]
            found = penalised.get_parameter(f"gates.{name}.log_alpha").grad
            torch.testing.assert_close(found, torch.tensor(expected))
            assert penalised.get_parameter(name).grad is None

    def test_does_not_depend_on_masks_noise_or_mode(self) -> None:
        values = {paper_penalty([edits().train(mode)], 1.0).item() for mode in (True, False)}
        assert len(values) == 1

    def test_is_finite_far_out(self) -> None:
        far = edits()
        with torch.no_grad():
            far.get_parameter("gates.offset.log_alpha").fill_(1e4)
            far.get_parameter("gates.scale.log_alpha").fill_(-1e4)
        penalty = paper_penalty([far], 1.0)
        penalty.backward()
        assert penalty.item() == pytest.approx(6)
        assert all(bool(torch.isfinite(phi.grad).all()) for phi in far.gate_parameters() if phi.grad is not None)


class TestReference:
    """λ·Σ P(g_a ≠ 0)/(L·H²) + (1 − λ)·Σ P(g_m ≠ 0)/(L·H²), as in the reference code."""

    @given(st.floats(1e-6, 1))
    def test_by_hand(self, weight: float) -> None:
        layers, heads = 2, 3
        expected = (weight * total(OFFSET) + (1 - weight) * total(SCALE)) / (layers * heads**2)
        assert reference_penalty([edits()], weight).item() == pytest.approx(expected, rel=1e-5)

    def test_a_weight_of_zero_is_no_penalty_at_all(self) -> None:
        assert reference_penalty([edits()], 0.0).item() == 0.0

    @pytest.mark.parametrize("half", ["offset", "scale"])
    def test_one_half_alone(self, half: str) -> None:
        expected = {"offset": 0.1 * total(OFFSET), "scale": 0.9 * total(SCALE)}[half] / (2 * 9)
        assert reference_penalty([edits(operation=half)], 0.1).item() == pytest.approx(expected, rel=1e-5)

    def test_a_shared_gate_has_no_place_in_it(self) -> None:
        with pytest.raises(InputError, match="these edits have shared gates"):
            reference_penalty([edits(gates="shared")], 0.1)

    def test_both_go_by_their_names(self) -> None:
        assert (PENALTIES["paper"], PENALTIES["reference"]) == (paper_penalty, reference_penalty)


class TestSchedule:
    def test_constant(self) -> None:
        assert run("constant") == [0.01] * 100

    def test_linear_rises_from_nothing_around_its_mean(self) -> None:
        values = run("linear")
        assert values[0] == 0 and values == sorted(values)
        assert values[50] == pytest.approx(0.01)
        assert values[-1] < 0.02
        assert sum(values) / 100 == pytest.approx(0.01, rel=0.02)

    def test_cycle_of_twenty_steps_around_its_mean(self) -> None:
        values = run("cyclic")
        assert values[0] == pytest.approx(0.01)
        assert values[5] == pytest.approx(0.02) and values[15] == pytest.approx(0, abs=1e-12)
        assert values[20:40] == pytest.approx(values[:20], abs=1e-12)
        assert sum(values) / 100 == pytest.approx(0.01)

    def test_late_is_constant_after_a_quarter_of_the_steps(self) -> None:
        assert run("late", 0.01, 100) == [0.0] * 25 + [0.01] * 75
        assert run("late", 0.01, 1) == [0.0]
        assert run("late", 0.01, 6) == [0.0] * 2 + [0.01] * 4

    def test_exponential_falls_from_its_start(self) -> None:
        values = run("exponential")
        assert values[0] == 0.01
        assert all(b / a == pytest.approx(math.exp(-0.01)) for a, b in itertools.pairwise(values))

    def test_performance_follows_the_loss(self) -> None:
        schedule, values = L0Schedule("performance", 0.01, 100), []
        for loss in (3.0, 2.0, 2.0, 5.0, 4.9):  # first loss, lower, equal, higher, lower
            values.append(schedule.value(len(values)))
            schedule.observe(loss)
        values.append(schedule.value(5))
        assert values == pytest.approx([0.010, 0.011, 0.012, 0.011, 0.010, 0.011])

    @given(st.floats(1e-6, 10), st.lists(st.floats(0, 60), max_size=200))
    def test_performance_stays_within_its_bounds(self, unit: float, losses: list[float]) -> None:
        schedule = L0Schedule("performance", unit, 10)
        for loss in losses:
            before = schedule.value(1)
            schedule.observe(loss)
            assert 0 <= schedule.value(1) <= 10 * unit
            assert abs(schedule.value(1) - before) <= unit / 10 * (1 + 1e-9)

    def test_performance_reaches_both_bounds(self) -> None:
        schedule = L0Schedule("performance", 0.02, 10)
        for loss in range(200, 0, -1):
            schedule.observe(loss / 10)
        assert schedule.value(0) == pytest.approx(0.2)
        for _ in range(150):
            schedule.observe(1.0)
        assert schedule.value(0) == 0

    @pytest.mark.parametrize("kind", ["constant", "late", "linear", "cyclic", "exponential", "performance"])
    @pytest.mark.parametrize("reference", [True, False])
    def test_no_weight_is_negative_and_none_of_the_paper_s_is_more_than_twice_the_unit(
        self, kind: str, reference: bool
    ) -> None:
        values = run(kind, 0.3, 60, reference=reference)
        assert min(values) >= 0
        assert max(values) <= (1.0 if reference else 0.6) + 1e-12
        if kind not in ("constant", "late"):
            # A weight of 0 means no penalty; the reference code ignores it and starts at its own weight.
            assert any(run(kind, 0.0, 60, reference=reference)) is reference
        else:
            assert run(kind, 0.0, 60, reference=reference) == [0.0] * 60

    @pytest.mark.parametrize(
        ("kind", "first", "later"),
        [
            ("linear", 0.0, lambda n: 0.2 * n / 50),
            ("cyclic", 0.1, lambda n: 0.5 + 0.5 * math.sin(2 * math.pi * n / 20)),
            ("exponential", 0.1, lambda n: 0.1 * math.exp(-0.01 * n)),
            ("constant", 0.7, lambda n: 0.7),
            ("late", 0.7, lambda n: 0.7),
        ],
    )
    def test_of_the_reference_code(self, kind: str, first: float, later: Any) -> None:
        values = run(kind, 0.7, 50, reference=True)
        assert values[0] == first
        assert values[1:] == pytest.approx([later(n) for n in range(1, 50)])

    def test_performance_rule_of_the_reference_code(self) -> None:
        schedule = L0Schedule("performance", 0.7, 50, reference=True)
        assert schedule.value(0) == 0.1
        schedule.observe(49.9)  # the first loss is compared with 50
        assert schedule.value(1) == pytest.approx(0.11)
        schedule.observe(49.9)
        assert schedule.value(2) == pytest.approx(0.10)
        for loss in range(400, 0, -1):
            schedule.observe(loss / 10)
        assert schedule.value(3) == 1.0

    def test_a_training_of_no_steps_divides_by_nothing(self) -> None:
        assert L0Schedule("linear", 0.01, 0).value(0) == 0

    def test_an_unknown_kind_is_refused(self) -> None:
        with pytest.raises(ValueError, match="There is no λ schedule 'cosine'"):
            L0Schedule("cosine", 0.01, 10).value(1)


class TestCheckpoint:
    """transformers restores the schedule from its state: class(**args), then one attribute after the other."""

    @staticmethod
    def restored(schedule: L0Schedule) -> L0Schedule:
        state = json.loads(json.dumps(schedule.state()))
        again = type(schedule)(**state["args"])
        for name, value in state["attributes"].items():
            setattr(again, name, value)
        return again

    @pytest.mark.parametrize("kind", ["constant", "late", "linear", "cyclic", "exponential", "performance"])
    @pytest.mark.parametrize("reference", [True, False])
    def test_every_schedule_goes_on(self, kind: str, reference: bool) -> None:
        schedule = L0Schedule(kind, 0.03, 40, reference=reference)
        for loss in (3.0, 2.5, 2.6):
            schedule.observe(loss)
        again = self.restored(schedule)
        for step in range(40):
            assert again.value(step) == schedule.value(step)
            for each in (again, schedule):
                each.observe(2.0 + math.sin(step))

    def test_transformers_can_restore_it(self) -> None:
        schedule = L0Schedule("performance", 0.03, 40)
        schedule.observe(2.0)
        again = L0Schedule.from_state(schedule.state())
        assert again.value(1) == schedule.value(1) == pytest.approx(0.033)
        schedule.observe(2.5)
        again.observe(2.5)
        assert again.value(2) == schedule.value(2) == pytest.approx(0.030)
