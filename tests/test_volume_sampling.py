"""Sampled volumes against closed forms: exact where whitened, unbiased, with intervals that hold, or labelled."""

import numpy as np
import pytest
import torch
from helpers import assert_close, check_coverage
from torch import Tensor

from landscape.volume import truths
from landscape.volume.multilevel import ProbeBudget, Trace, sample
from landscape.volume.preconditioners import Preconditioner, diagonal, identity, polynomial
from landscape.volume.sampling import Basin, log_volume, shoot, unit_directions
from landscape.volume.truths import CUTOFF, Truth
from landscape.volume.weights import CALIBRATED, LOWER_BOUND, controlled_log_mean, log_ball, log_mean

F64 = torch.float64


def whitener(truth: Truth, seed: int = 0) -> Preconditioner:
    """P = A^(-1/2)."""
    operator, _ = truths.rotated(truth.eigenvalue**-0.5, seed)
    return Preconditioner("exact", lambda b: operator @ b, Trace(-0.5 * float(np.log(truth.eigenvalue).sum())))


def test_a_ball_is_exact_without_variance() -> None:
    basin = Basin(lambda V: 0.5 * V.square().sum(0), CUTOFF, torch.zeros(9, dtype=F64))
    found = log_volume(shoot(basin, identity(), 5, 0), basin, identity())
    assert_close(found.value, log_ball(9) + 4.5 * np.log(2 * CUTOFF), atol=1e-10)
    assert found.sampling.sd < 1e-10


@pytest.mark.parametrize("n", [200, 5000])
def test_whitened_quadratics_are_exact_without_variance(n: int) -> None:
    truth = truths.ellipsoid(n, 1e4)
    P = whitener(truth)
    found = log_volume(shoot(truth.basin, P, 30, 0), truth.basin, P)
    assert_close(found.value, truth.log_volume, rtol=1e-10, atol=1e-8)
    assert found.sampling.sd < 1e-6
    assert found.verdict == CALIBRATED


def test_a_determinant_that_is_not_one_is_corrected() -> None:
    """Any constant scale of P must cancel."""
    truth = truths.ellipsoid(40, 1e2)
    small, large = (diagonal(torch.full((40,), scale, dtype=F64)) for scale in (0.1, 10.0))
    values = [log_volume(shoot(truth.basin, P, 50, 0), truth.basin, P).value for P in (small, identity(), large)]
    assert_close(values[0], values[1], atol=1e-6)
    assert_close(values[2], values[1], atol=1e-6)


def test_a_far_first_guess_is_paid_for_by_one_direction() -> None:
    """Radii 30 times the default guess, and a growth steeper than a quadratic's: 9 passes each from a far start."""
    n = 10**5
    turn = torch.linspace(0.8, 1.2, n, dtype=F64)

    def excess(V: Tensor) -> Tensor:
        half = 0.5 * (turn[:, None] * V.square()).sum(0) * (1 + 2 * V[0].tanh()) / 900
        return half + 30 * half**2

    rays = shoot(Basin(excess, CUTOFF, torch.zeros(n, dtype=F64)), identity(), 16, 0)
    assert rays.radii.passes[0] > rays.radii.passes[1:].max()
    assert rays.radii.passes.mean() < 7
    reached = unit_directions(n, range(16), 0, "final") * torch.as_tensor(rays.radii.log_radius).exp()
    assert_close(excess(reached).log(), np.full(16, np.log(CUTOFF)), atol=2e-7)


def test_plain_sampling_of_small_ellipsoids() -> None:
    truth = truths.ellipsoid(4, 10.0)
    found = log_volume(shoot(truth.basin, identity(), 4000, 0), truth.basin, identity())
    assert abs(found.value - truth.log_volume) < 4 * found.sampling.se < 0.1


def test_an_anchor_off_the_centre() -> None:
    """The gradient counts: ignoring it would give log(1 + 0.01) n / 2 = 0.1 nats less, four standard errors."""
    truth = truths.ellipsoid(20, 1e2, offset=0.1)
    P = whitener(truth)
    found = log_volume(shoot(truth.basin, P, 600, 0), truth.basin, P)
    assert found.verdict == CALIBRATED
    assert abs(found.value - truth.log_volume) < 3 * found.sampling.se < 0.08


@pytest.mark.parametrize("truth", [truths.sheared(100, 1e2, 0.02), truths.tilted(100, 1e2, 0.8)], ids=lambda t: t.name)
def test_basins_that_are_not_quadratic(truth: Truth) -> None:
    P = whitener(truth)
    found = log_volume(shoot(truth.basin, P, 300, 0), truth.basin, P)
    assert found.verdict == CALIBRATED
    assert abs(found.value - truth.log_volume) < 3 * found.sampling.se < 0.2


def test_intervals_of_the_polynomial_cover_and_are_calibrated() -> None:
    low, high = [], []
    for seed in range(60):
        truth = truths.ellipsoid(40, 30.0)
        probes = sample(truth.operator, ProbeBudget(8, 14, 0, seed))
        P = polynomial(truth.operator, probes, 8)
        found = log_volume(shoot(truth.basin, P, 32, seed), truth.basin, P)
        assert found.verdict == CALIBRATED
        low.append(found.low)
        high.append(found.high)
    check_coverage(np.array(low), np.array(high), truth.log_volume)


def test_plain_sampling_in_many_dimensions_says_that_it_is_low() -> None:
    truth = truths.ellipsoid(200, 1e2)
    found = log_volume(shoot(truth.basin, identity(), 100, 0), truth.basin, identity())
    assert found.verdict == LOWER_BOUND
    assert found.value < truth.log_volume - 20
    assert found.low < truth.log_volume < found.high == np.inf


def test_rotations_change_nothing_but_the_directions() -> None:
    values = truths.log_spaced(30, 10.0)
    found = []
    for seed in (3, 4):
        _, turn = truths.rotated(values, seed)
        U = turn.forward(torch.eye(30, dtype=F64))

        def excess(V: Tensor, U: Tensor = U) -> Tensor:
            return 0.5 * (torch.as_tensor(values)[:, None] * (U.T @ V).square()).sum(0)

        basin = Basin(excess, CUTOFF, torch.zeros(30, dtype=F64))
        P = Preconditioner("turned", lambda b, U=U: U @ b, Trace(0.0))
        found.append(log_volume(shoot(basin, P, 20, 0), basin, P).value)
    assert_close(found[0], found[1], atol=1e-9)


def test_infinite_radii_are_counted() -> None:
    """A quarter plane without bound makes the volume infinite, whatever the other rays say."""

    def excess(V: Tensor) -> Tensor:
        return 0.5 * V.square().sum(0) * ~((V[0] > 0) & (V[1] > 0))

    basin = Basin(excess, CUTOFF, torch.zeros(2, dtype=F64))
    found = log_volume(shoot(basin, identity(), 40, 0), basin, identity())
    assert found.value == np.inf
    assert found.sampling.num_infinite == 10
    assert found.verdict == LOWER_BOUND


def test_the_same_seed_gives_the_same_bits_and_directions_do_not_depend_on_their_number() -> None:
    truth = truths.tilted(50, 10.0, 0.5)
    first, second = (shoot(truth.basin, identity(), 20, 5).radii.log_radius for _ in range(2))
    assert np.array_equal(first, second)
    assert_close(shoot(truth.basin, identity(), 33, 5).radii.log_radius[:20], first, atol=1e-3)


def test_a_million_dimensions_do_not_overflow() -> None:
    n = 10**6
    basin = Basin(lambda V: 0.5 * V.double().square().sum(0), CUTOFF, torch.zeros(n, dtype=torch.float32))
    found = log_volume(shoot(basin, identity(), 2, 0), basin, identity())
    assert_close(found.value, log_ball(n) + 0.5 * n * np.log(2 * CUTOFF), rtol=1e-8)


# ---- means of weights known by their logarithms ---------------------------------------------------------------------


@pytest.mark.parametrize(("sd", "num"), [(0.3, 50), (1.0, 200), (1.6, 400)])
def test_intervals_of_log_means_cover(sd: float, num: int) -> None:
    """The delta method alone covers in 88 % at sd 1.6."""
    random = np.random.default_rng(0)
    found = [log_mean(1000 + sd * random.standard_normal(num)) for _ in range(400)]
    low = np.array([f.value - 1.96 * f.se for f in found])
    high = np.array([f.value + 1.96 * f.se for f in found])
    check_coverage(low, high, 1000 + sd**2 / 2)
    ideal = 3.92 * np.std([f.value for f in found])
    assert (high - low).mean() < 2 * ideal


@pytest.mark.parametrize(
    ("sd", "num", "verdict"), [(1.0, 200, CALIBRATED), (1.0, 60, LOWER_BOUND), (3.5, 10**6, LOWER_BOUND)]
)
def test_the_verdict_asks_for_spread_and_sample_size(sd: float, num: int, verdict: str) -> None:
    assert log_mean(sd * np.random.default_rng(1).standard_normal(num)).verdict == verdict


def test_a_few_lucky_draws_are_not_calibrated() -> None:
    """Equal observed weights, but a spread that says that the heavy ones were missed."""
    lows = np.concatenate([np.zeros(50), np.full(50, -6.0)])
    assert log_mean(lows).ess < 1


def test_the_control_variate_removes_what_is_known() -> None:
    random = np.random.default_rng(2)
    control = 5 * random.standard_normal(60)
    exact = controlled_log_mean(control, control)
    assert exact.value == 0
    assert exact.se == 0
    assert exact.verdict == CALIBRATED
    off = controlled_log_mean(control + random.standard_normal(60), control)
    assert off.verdict == LOWER_BOUND, "a wide control must be closer"


def test_controlled_intervals_cover() -> None:
    random = np.random.default_rng(3)
    low, high = [], []
    for _ in range(300):
        control = 2 * random.standard_normal(80)
        found = controlled_log_mean(control + 0.3 * random.standard_normal(80) + 0.1 * control, control)
        low.append(found.value - 1.96 * found.se)
        high.append(found.value + 1.96 * found.se)
    check_coverage(np.array(low), np.array(high), 0.5 * (2.2**2 + 0.3**2) - 2.0)
