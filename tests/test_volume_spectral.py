"""Estimates from the spectrum: sections, Occam factors, the bias of star sampling, prunable fractions."""

import numpy as np
import pytest
import torch
from helpers import assert_close
from scipy.special import betainc
from torch import Tensor, nn

from landscape import operators
from landscape.errors import InputError
from landscape.operators import from_matrix
from landscape.problem import Problem
from landscape.volume import occam, prunable, star, truths
from landscape.volume.multilevel import ProbeBudget, Probes, sample
from landscape.volume.preconditioners import identity
from landscape.volume.prunable import Relaxation
from landscape.volume.sampling import log_volume, shoot
from landscape.volume.section import section
from landscape.volume.weights import log_ball

F64 = torch.float64


def exactly(values: np.ndarray) -> Probes:
    """A spectrum of which every eigenvalue is known."""
    return Probes(len(values), np.asarray(values, dtype=float), [], (1,), 0)


# ---- sections and log-determinants ----------------------------------------------------------------------------------


def test_a_section_is_the_ellipsoid_of_the_stiffest_directions() -> None:
    values = np.array([4.0, 2.0, 1.0, 0.5])
    found = section(values, np.array([0.4, 0.0, 0.0, 9.0]), 3, 0.01)
    assert_close(found.stiffness, -0.5 * np.log(8.0))
    assert_close(found.log_volume, np.log(4 * np.pi / 3 * np.sqrt(0.02) ** 3 / np.sqrt(8.0)))
    assert_close(found.error, 0.05)


def test_a_section_needs_positive_eigenvalues() -> None:
    with pytest.raises(InputError, match="needs 3 positive eigenvalues, but there are 2"):
        section(np.array([2.0, 1.0, -1.0]), np.zeros(3), 3, 0.01)


def test_the_occam_factor_is_the_evidence_of_linear_regression() -> None:
    """Unit noise, prior N(0, sd^2): log evidence - log likelihood at the MAP = O - |w_MAP|^2 / (2 sd^2)."""
    random, sd = np.random.default_rng(0), 0.7
    X = random.standard_normal((30, 5))
    y = X @ random.standard_normal(5) + random.standard_normal(30)
    w = np.linalg.solve(X.T @ X + np.eye(5) / sd**2, X.T @ y)
    cover = np.eye(30) + sd**2 * X @ X.T
    evidence = -0.5 * (np.linalg.slogdet(cover)[1] + y @ np.linalg.solve(cover, y) + 30 * np.log(2 * np.pi))
    likelihood = -0.5 * (np.square(y - X @ w).sum() + 30 * np.log(2 * np.pi))
    model = nn.Linear(5, 1, bias=False).to(F64)
    point = Problem.from_model(model, "mse", (torch.as_tensor(X), torch.as_tensor(y)[:, None]))
    probes = sample(operators.ggn(point), ProbeBudget(100, 5))
    found = occam.occam_factor(probes, 30, sd)
    assert abs(found.value - w @ w / (2 * sd**2) - (evidence - likelihood)) < 4 * found.se
    exact = exactly(np.linalg.eigvalsh(X.T @ X / 30))
    assert_close(occam.occam_factor(exact, 30, sd).value, evidence - likelihood + w @ w / (2 * sd**2))


def test_null_directions_leave_the_occam_factor_unchanged() -> None:
    values = np.linspace(0.1, 1, 20)
    padded = np.concatenate([values, np.zeros(10_000)])
    assert_close(
        occam.occam_factor(exactly(padded), 100, 1.0).value, occam.occam_factor(exactly(values), 100, 1.0).value
    )
    difference = occam.damped(exactly(padded), 0.01, 1e-3).value - occam.damped(exactly(values), 0.01, 1e-3).value
    assert abs(difference) > 1e4


def test_negative_eigenvalues_are_clipped_and_counted() -> None:
    values = np.array([1.0, 0.5, -0.2, -0.1])
    clipped = np.maximum(values, 0)
    assert_close(occam.occam_factor(exactly(values), 9, 1.0).value, occam.occam_factor(exactly(clipped), 9, 1.0).value)
    number, size = occam.negative_part(exactly(values))
    assert (number.value, round(size.value, 12)) == (2.0, 0.3)


def test_the_ellipsoid() -> None:
    truth = truths.ellipsoid(50, 1e2)
    assert_close(occam.ellipsoid(exactly(truth.eigenvalue), truths.CUTOFF).value, truth.log_volume)
    assert_close(
        occam.damped(exactly(truth.eigenvalue), truths.CUTOFF, 0.1).value,
        truth.log_volume - 0.5 * np.log1p(0.1 / truth.eigenvalue).sum(),
    )


@pytest.mark.parametrize("smallest", [0.0, -0.1, 1e-18])
def test_an_ellipsoid_without_bounds_is_refused(smallest: float) -> None:
    with pytest.raises(InputError, match="infinite volume"):
        occam.ellipsoid(exactly(np.array([1.0, smallest])), 0.01)
    with pytest.raises(InputError, match="rank at most 1 of 2"):
        occam.ellipsoid(exactly(np.array([1.0, 1.0])), 0.01, rank_bound=1)


def test_widths_and_dampings_must_be_positive() -> None:
    with pytest.raises(InputError, match="must be positive"):
        occam.occam_factor(exactly(np.ones(2)), 3, 0.0)
    with pytest.raises(InputError, match="must be positive"):
        occam.damped(exactly(np.ones(2)), 3, 0.0)


# ---- star-shaped sampling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "low", "spread"), [(50, 59.6, 9.5), (200, None, 18.9)])
def test_the_bias_of_star_sampling_is_predicted(n: int, low: float | None, spread: float) -> None:
    truth = truths.ellipsoid(n, 1e4)
    found = log_volume(shoot(truth.basin, identity(), 1500, 0), truth.basin, identity())
    expected = star.predict(exactly(truth.eigenvalue), truths.CUTOFF)
    assert abs(found.sampling.sd / expected.sd - 1) < 0.06
    assert abs(found.sampling.sd / spread - 1) < 0.06
    assert abs(truth.log_volume - expected.mean - expected.shortfall.value) < 1e-8
    assert abs(log_ball(n) + found.sampling.mean - expected.mean) < 0.05 * expected.shortfall.value
    if low is not None:
        assert abs(truth.log_volume - log_ball(n) - found.sampling.mean - low) < 1.0
    recovered = found.value - log_ball(n) - found.sampling.mean
    assert 0.5 < recovered / (expected.sd * np.sqrt(2 * np.log(1500))) < 1.3
    assert recovered < 0.8 * expected.shortfall.value


def test_filters_are_rows_and_vectors() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False)).to(F64)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        model[0].bias.copy_(torch.tensor([1.0, 0.0]))
        model[1].weight.copy_(torch.tensor([[6.0, 8.0]]))
    point = Problem.from_model(model, "mse", (torch.ones(3, 2, dtype=F64), torch.ones(3, 1, dtype=F64)))
    rms = float(point.theta.square().mean().sqrt())
    assert_close(star.filter_scales(point), torch.tensor([5.0, 5, rms, rms, 1, 1, 10, 10], dtype=F64))
    assert_close(star.filter_normalised(point).log_det.value, np.log(25 * rms**2 * 100))


# ---- prunable fractions ---------------------------------------------------------------------------------------------


def test_everything_is_prunable_for_a_wide_basin_and_nothing_for_a_narrow_one() -> None:
    weights = np.random.default_rng(0).standard_normal(50)
    probes = exactly(np.ones(50))
    assert prunable.predicted_fraction(probes, weights, 1e9) == 1.0
    assert prunable.predicted_fraction(probes, weights, 1e-9) == 0.0


def test_the_isotropic_prediction_by_hand() -> None:
    """Weights of size w: after p of n, R^2 = p w^2, and p / n <= 1 / (1 + p w^2 lambda / 2 eps)."""
    n, size, curvature, cutoff = 100, 0.3, 2.0, 0.5
    found = prunable.predicted_fraction(exactly(np.full(n, curvature)), np.full(n, size), cutoff, "random")
    feasible = [p for p in range(n + 1) if p / n <= 1 / (1 + p * size**2 * curvature / (2 * cutoff))]
    assert found == max(feasible) / n
    assert 0.1 < found < 0.4


def test_the_prediction_is_conservative_for_a_ball() -> None:
    """A random subspace of k dimensions meets a ball of radius r at distance R with probability
    I(r^2 / R^2; (n - k) / 2, k / 2): even odds at k = 40.8 for n = 80, r / R = 0.7, where the sum says 53.7."""
    n, ratio = 80, 0.49
    odds = [betainc((n - k) / 2, k / 2, ratio) for k in range(1, n)]
    exact = 1 + int(np.argmax(np.array(odds) > 0.5))
    by_sum = n - n * ratio / (1 + ratio)
    assert 40 <= exact <= 42
    assert_close(by_sum, 53.69, rtol=1e-3)


def test_magnitude_prunes_more_than_random() -> None:
    weights = np.random.default_rng(0).standard_normal(200)
    probes = exactly(np.ones(200))
    fractions = [prunable.predicted_fraction(probes, weights, 0.5, order) for order in ("magnitude", "random")]
    assert fractions[0] > fractions[1] > 0


def quadratic() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=random, dtype=F64)
    return (
        root @ root.T / 12 + 0.1 * torch.eye(12, dtype=F64),
        torch.randn(12, generator=random, dtype=F64),
        torch.zeros(12),
    )


def test_the_relaxed_increase_is_the_schur_complement() -> None:
    """1/2 w_p' [(H^-1)_pp]^-1 w_p, and without relaxation 1/2 w_p' H_pp w_p."""
    H, theta, _ = quadratic()
    pruned = torch.arange(12) < 5
    found = prunable.axial_increase(
        from_matrix(H), torch.zeros(12, dtype=F64), theta, pruned, Relaxation(0.0, 200, 1e-12)
    )
    w = theta[:5]
    assert_close(found.projected, 0.5 * w @ H[:5, :5] @ w)
    assert_close(found.relaxed, 0.5 * w @ torch.linalg.solve(torch.linalg.inv(H)[:5, :5], w), rtol=1e-8)
    assert found.relaxed < found.projected


def test_the_gradient_enters_the_increase() -> None:
    """At the best point of the kept coordinates by hand."""
    H, theta, _ = quadratic()
    g = torch.linspace(-1, 1, 12, dtype=F64)
    pruned = torch.arange(12) < 5
    found = prunable.axial_increase(from_matrix(H), g, theta, pruned, Relaxation(0.0, 200, 1e-12))
    step = torch.where(pruned, -theta, torch.zeros(12, dtype=F64))
    step[5:] = -torch.linalg.solve(H[5:, 5:], g[5:] + H[5:, :5] @ step[:5])
    assert_close(found.relaxed, g @ step + 0.5 * step @ H @ step, rtol=1e-8)


def test_unfinished_relaxation_errs_upwards_and_says_so() -> None:
    H, theta, _ = quadratic()
    pruned = torch.arange(12) < 5
    values = []
    for steps in (0, 2, 50):
        found = prunable.axial_increase(
            from_matrix(H), torch.zeros(12, dtype=F64), theta, pruned, Relaxation(0.0, steps)
        )
        values.append(found.relaxed)
    assert values[0] >= values[1] >= values[2]
    assert found.residual < 1e-5


def test_all_pruned() -> None:
    H, theta, _ = quadratic()
    every = torch.ones(12, dtype=torch.bool)
    found = prunable.axial_increase(from_matrix(H), torch.zeros(12, dtype=F64), theta, every, Relaxation(0.0))
    assert_close(found.relaxed, 0.5 * theta @ H @ theta)


def test_the_scan_zeroes_weights_in_order() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2).to(F64)
    x, y = torch.randn(10, 4, dtype=F64), torch.randint(0, 2, (10,))
    point = Problem.from_model(model, "cross_entropy", (x, y))
    chosen = prunable.prunable_coordinates(point)
    assert int(chosen.sum()) == 8, "biases are not prunable"
    order = prunable.prune_order(point.theta, chosen, "magnitude")
    found = prunable.empirical_scan(point, order, (0.5, 1.0))
    small = point.theta.clone()
    small[order[:4]] = 0
    assert bool((small[chosen].abs() > 0).sum() == 4)
    assert_close(found[0, 0], point.loss(small) - point.loss())
    assert_close(found[1, 1], point.accuracy(torch.where(chosen, 0.0, point.theta)))


def test_unknown_orders_are_refused() -> None:
    with pytest.raises(InputError, match="unknown pruning order"):
        prunable.squared_lengths(np.ones(3), "largest")
