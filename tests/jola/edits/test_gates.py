"""Hard-Concrete gates compared with their definition, integrated and sampled without the code under test."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from jola.edits import gates
from jola.edits.gates import HardConcrete

LOG_11 = math.log(11)

# φ, P(g = 0), P(g = 1), evaluation gate, true mean: from the methods of the paper, which gives three digits.
TABLE = [
    (-4.0, 0.961, 0.008, 0.000, 0.019),
    (-3.0, 0.901, 0.022, 0.000, 0.050),
    (-LOG_11, 0.833, 0.040, 0.000, 0.088),
    (-1.5, 0.670, 0.092, 0.119, 0.189),
    (-0.43, 0.411, 0.228, 0.373, 0.398),
    (0.0, 0.312, 0.312, 0.500, 0.500),
    (0.43, 0.228, 0.411, 0.627, 0.602),
    (1.5, 0.092, 0.670, 0.881, 0.811),
    (LOG_11, 0.040, 0.833, 1.000, 0.912),
]
EXTREMES = (-1e4, -50.0, -20.0, 0.0, 20.0, 50.0, 1e4)

phis = st.floats(-12, 12)


def below(level: float, phi: float) -> float:
    """Return P(g ≤ level) before clipping to [0, 1]: the distribution function of the stretched concrete variable."""
    share = (level + 0.1) / 1.2
    return 1 / (1 + math.exp(phi - 0.33 * math.log(share / (1 - share))))


def number(value: Tensor) -> float:
    return float(value.double())


@pytest.mark.parametrize(("phi", "closed", "full", "at_test_time", "mean"), TABLE)
def test_table_of_the_method(phi: float, closed: float, full: float, at_test_time: float, mean: float) -> None:
    log_alpha = torch.tensor(phi, dtype=torch.float64)
    digits = {"abs": 5.5e-4}
    assert number(gates.probability_closed(log_alpha)) == pytest.approx(closed, **digits)
    assert number(gates.probability_full(log_alpha)) == pytest.approx(full, **digits)
    assert number(gates.probability_open(log_alpha)) == pytest.approx(1 - closed, **digits)
    assert number(gates.at_test_time(log_alpha)) == pytest.approx(at_test_time, **digits)
    assert number(gates.expectation(log_alpha)) == pytest.approx(mean, **digits)


@given(phis)
def test_probabilities_are_those_of_the_stretched_variable(phi: float) -> None:
    log_alpha = torch.tensor(phi, dtype=torch.float64)
    closed, full = number(gates.probability_closed(log_alpha)), number(gates.probability_full(log_alpha))
    assert closed == pytest.approx(below(0, phi), abs=1e-12)
    assert full == pytest.approx(1 - below(1, phi), abs=1e-12)
    between = below(1, phi) - below(0, phi)
    assert closed + full + between == pytest.approx(1, abs=1e-12)
    assert number(gates.probability_open(log_alpha)) == pytest.approx(1 - closed, abs=1e-12)


@given(phis)
def test_expectation_is_the_integral(phi: float) -> None:
    exact, _ = quad(lambda x: 1 - below(x, phi), 0, 1)
    assert number(gates.expectation(torch.tensor(phi, dtype=torch.float64))) == pytest.approx(exact, abs=1e-6)
    assert number(gates.expectation(torch.tensor(phi))) == pytest.approx(exact, abs=2e-6)


def test_samples_have_that_mean_and_those_masses() -> None:
    # 200 000 draws: five standard errors of a number in [0, 1] are at most 0.0056.
    log_alpha = torch.tensor([row[0] for row in TABLE])
    drawn = gates.sample(log_alpha.expand(200_000, -1), generator=torch.Generator().manual_seed(0))
    bound = 5 * 0.5 / math.sqrt(len(drawn))
    assert (drawn.mean(0) - gates.expectation(log_alpha)).abs().max() < bound
    assert ((drawn == 0).float().mean(0) - gates.probability_closed(log_alpha)).abs().max() < bound
    assert ((drawn == 1).float().mean(0) - gates.probability_full(log_alpha)).abs().max() < bound
    assert bool(((drawn >= 0) & (drawn <= 1)).all())


@given(st.floats(-8, 8), st.floats(0.001, 0.999))
def test_sample_of_given_noise(phi: float, uniform: float) -> None:
    noise = uniform * (1 - 2e-6) + 1e-6
    concrete = 1 / (1 + math.exp(-(math.log(noise / (1 - noise)) + phi) / 0.33))
    expected = min(max(concrete * 1.2 - 0.1, 0), 1)
    exact = gates.sample(torch.tensor(phi, dtype=torch.float64), uniform=torch.tensor(uniform, dtype=torch.float64))
    assert number(exact) == pytest.approx(expected, abs=1e-9)
    single = gates.sample(torch.tensor(phi), uniform=torch.tensor(uniform))
    assert number(single) == pytest.approx(expected, abs=2e-4)


@given(st.floats(1e-5, 40))
def test_evaluation_gate_is_exactly_closed_and_open_beyond_log_11(distance: float) -> None:
    def value(phi: float) -> float:
        return number(gates.at_test_time(torch.tensor(phi)))

    assert value(-LOG_11 - distance) == 0.0
    assert value(LOG_11 + distance) == 1.0
    inside = min(distance, LOG_11)
    assert 0.0 < value(-LOG_11 + inside) < 1.0
    assert 0.0 < value(LOG_11 - inside) < 1.0


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=20))
def test_everything_grows_with_phi(phi: list[float]) -> None:
    log_alpha = torch.tensor(sorted(phi))
    uniform = torch.full_like(log_alpha, 0.3)
    functions = (gates.at_test_time, gates.expectation, gates.probability_open, gates.probability_full)
    for values in (*(f(log_alpha) for f in functions), gates.sample(log_alpha, uniform=uniform)):
        assert bool((values.diff() >= -1e-6).all())
    assert bool((gates.probability_closed(log_alpha).diff() <= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_out_values_and_gradients_are_finite(dtype: torch.dtype) -> None:
    uniforms = (0.0, 1e-7, 0.5, 1 - 2**-24)
    functions = [
        gates.at_test_time,
        gates.expectation,
        gates.probability_open,
        gates.probability_closed,
        gates.probability_full,
        *(lambda phi, u=u: gates.sample(phi, uniform=torch.full_like(phi, u)) for u in uniforms),
    ]
    for function in functions:
        log_alpha = torch.tensor(EXTREMES, dtype=dtype, requires_grad=True)
        value = function(log_alpha)
        (gradient,) = torch.autograd.grad(value.sum(), log_alpha)
        assert bool(torch.isfinite(value).all())
        assert bool(((value >= 0) & (value <= 1)).all())
        assert bool(torch.isfinite(gradient).all())
    ends = torch.tensor([-1e4, 1e4], dtype=dtype)
    for function in functions[:3]:
        torch.testing.assert_close(function(ends), torch.tensor([0.0, 1.0], dtype=dtype), rtol=0, atol=1e-6)


def test_small_probabilities_keep_their_precision() -> None:
    # None is computed as 1 − another probability, which would be 0 in float32.
    shift = 0.33 * LOG_11
    for probability, phi, logarithm in (
        (gates.probability_closed, 50.0, -50 - shift),
        (gates.probability_open, -50.0, -50 + shift),
        (gates.probability_full, -50.0, -50 - shift),
    ):
        assert number(probability(torch.tensor(phi)).log()) == pytest.approx(logarithm, abs=1e-3)


def test_gradients_are_those_of_finite_differences() -> None:
    # Inside (0, 1), because the gate is not differentiable where it is clipped.
    log_alpha = torch.tensor([-1.7, -0.3, 0.1, 1.9], dtype=torch.float64, requires_grad=True)
    uniform = torch.tensor([0.8, 0.5, 0.45, 0.15], dtype=torch.float64)
    drawn = gates.sample(log_alpha, uniform=uniform)
    assert bool(((drawn > 0) & (drawn < 1)).all())
    for function in (
        lambda phi: gates.sample(phi, uniform=uniform),
        gates.at_test_time,
        gates.expectation,
        gates.probability_open,
        gates.probability_closed,
        gates.probability_full,
    ):
        assert torch.autograd.gradcheck(function, (log_alpha,))


def test_noise_is_reproducible() -> None:
    log_alpha = torch.zeros(4, 5)

    def draw(seed: int) -> Tensor:
        return gates.sample(log_alpha, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


class TestHardConcrete:
    def test_starts_open_and_has_one_parameter(self) -> None:
        gate = HardConcrete(3, 4)
        assert {name: tuple(p.shape) for name, p in gate.named_parameters()} == {"log_alpha": (3, 4)}
        assert gate.log_alpha.dtype == torch.float32

    def test_noise_in_training_alone(self) -> None:
        gate = HardConcrete(3, 4)
        gate.reset(torch.Generator().manual_seed(0))
        gate.train()
        generator = torch.Generator().manual_seed(1)
        first, second = gate(generator), gate(generator)
        assert not torch.equal(first, second)
        assert torch.equal(gate(torch.Generator().manual_seed(1)), first)
        # The definition, with the same noise.
        uniform = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) * (1 - 2e-6) + 1e-6
        concrete = torch.sigmoid((torch.logit(uniform) + gate.log_alpha) / 0.33)
        torch.testing.assert_close(first, (concrete * 1.2 - 0.1).clamp(0, 1), rtol=0, atol=1e-5)
        gate.eval()
        assert torch.equal(gate(generator), gate(generator))
        assert torch.equal(gate(generator), gate.value())

    @pytest.mark.parametrize("estimator", ["test_time", "expectation"])
    def test_value_is_the_estimator_asked_for(self, estimator: str) -> None:
        gate = HardConcrete(1, len(TABLE), estimator)
        with torch.no_grad():
            gate.log_alpha.copy_(torch.tensor([row[0] for row in TABLE]))
        expected = torch.tensor([row[3 if estimator == "test_time" else 4] for row in TABLE])
        torch.testing.assert_close(gate.value()[0], expected, rtol=0, atol=6e-4)

    @given(st.floats(0, 1), st.sampled_from(["test_time", "expectation"]))
    def test_below_the_threshold_a_gate_is_closed(self, threshold: float, estimator: str) -> None:
        plain, gate = HardConcrete(2, 50, estimator), HardConcrete(2, 50, estimator, threshold)
        with torch.no_grad():
            for each in (plain, gate):
                each.log_alpha.copy_(torch.linspace(-5, 5, 100).reshape(2, 50))
        before, value = plain.eval().value(), gate.eval().value()
        limit = torch.tensor(threshold)
        assert bool((value[before < limit] == 0).all())
        assert torch.equal(value[before >= limit], before[before >= limit])

    def test_the_threshold_does_not_reach_training(self) -> None:
        gate = HardConcrete(50, 50, threshold=1.0).train()
        drawn = gate(torch.Generator().manual_seed(0))
        assert bool(((drawn > 0) & (drawn < 1)).any())

    @pytest.mark.parametrize("units", [1, 9, 32])
    def test_reset_draws_as_published_code_does(self, units: int) -> None:
        gate = HardConcrete(2000, units)
        gate.reset(torch.Generator().manual_seed(5))
        drawn = gate.log_alpha.detach().clone()
        bound = math.sqrt(6 / (units + 1))
        assert drawn.abs().max() <= bound
        # Uniform: mean 0, variance b²/3.
        assert drawn.mean().abs() < 5 * bound / math.sqrt(3 * drawn.numel())
        assert drawn.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        if units > 1:
            assert gates.probability_open(drawn).mean().item() == pytest.approx(0.69, abs=0.02)
        gate.reset(torch.Generator().manual_seed(5))
        assert torch.equal(gate.log_alpha, drawn)
        gate.reset(torch.Generator().manual_seed(6))
        assert not torch.equal(gate.log_alpha, drawn)
