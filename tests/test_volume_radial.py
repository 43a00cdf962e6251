"""Radii along rays: exact on quadratics, first crossing, infinite and non-monotone rays, cost, any dimension."""

import numpy as np
import pytest
import torch
from helpers import assert_close
from torch import Tensor

from landscape.volume.radial import RayOptions, radii

CUTOFF = 1e-2


def directions(n: int, k: int = 8) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def square(V: Tensor) -> Tensor:
    return 0.5 * V.square().sum(0)


def exact(V: Tensor) -> np.ndarray:
    return 0.5 * np.log(2 * CUTOFF) - V.norm(dim=0).log().numpy()


@pytest.mark.parametrize("n", [1, 50, 5000])
def test_a_quadratic_is_exact_within_few_passes(n: int) -> None:
    V = directions(n)
    found = radii(square, V, CUTOFF)
    assert_close(found.log_radius, exact(V), atol=1e-12)
    assert found.passes.max() <= 6
    assert found.monotone.all()


@pytest.mark.parametrize("n", [50, 5000])
@pytest.mark.parametrize("bend", [30.0, 300.0, -20.0])
def test_the_tolerance_holds_in_log_volume(n: int, bend: float) -> None:
    """A tolerance on the loss alone would be multiplied by n / 2."""
    V = directions(n)
    V = V / V.norm(dim=0)
    found = radii(lambda W: square(W) + bend * square(W) ** 2, V, CUTOFF, RayOptions(tolerance=0.01))
    reached = 0.5 * np.exp(2 * found.log_radius)
    root = (np.sqrt(1 + 4 * bend * CUTOFF) - 1) / (2 * bend)
    assert np.abs(0.5 * n * np.log(reached / root)).max() <= 0.02
    assert found.passes.max() <= 10


def test_with_a_guess_eight_passes_are_enough() -> None:
    V = directions(2000, 40)
    V = V / V.norm(dim=0)
    first = radii(lambda W: torch.cosh(30 * square(W)) - 1 + square(W), V[:, :8], CUTOFF)
    guess = float(np.median(first.log_radius))
    rest = radii(lambda W: torch.cosh(30 * square(W)) - 1 + square(W), V[:, 8:], CUTOFF, guess=guess)
    assert rest.passes.max() <= 8


def test_bisection_would_need_many_more_passes() -> None:
    """Halving a bracket of one e-fold down to 0.02 / n takes log2(n / 0.02) passes, 18 at n = 5000."""
    found = radii(lambda W: square(W) + 300 * square(W) ** 2, directions(5000), CUTOFF)
    assert found.passes.mean() < np.log2(5000 / 0.02) / 2


def test_the_first_crossing_is_found_and_the_ray_is_flagged() -> None:
    """Excess r^2 / 2 up to 1, back to 0.1 at r = 2, then up for good: a threshold of 0.3 is crossed three times."""

    def excess(V: Tensor) -> Tensor:
        r = V.norm(dim=0)
        return torch.where(r < 1, 0.5 * r**2, torch.where(r < 2, 0.5 - 0.4 * (r - 1), 0.1 + (r - 2) ** 2))

    found = radii(excess, torch.eye(3, dtype=torch.float64), 0.3, guess=np.log(2.5))
    assert_close(np.exp(found.log_radius), np.full(3, 0.6**0.5), rtol=1e-2)
    assert not found.monotone.any()


def test_a_dip_inside_is_flagged() -> None:
    """The bump at 0.3 stays below the threshold, so the radius stands."""

    def excess(V: Tensor) -> Tensor:
        return square(V) + 0.5 * torch.exp(-100 * (V.norm(dim=0) - 0.3) ** 2)

    found = radii(excess, torch.eye(2, dtype=torch.float64), 0.8)
    assert_close(np.exp(found.log_radius), [1.6**0.5, 1.6**0.5], rtol=1e-2)
    assert not found.monotone.any()


def test_a_threshold_that_is_never_reached_gives_an_infinite_radius() -> None:
    V = torch.eye(2, dtype=torch.float64)
    found = radii(lambda W: 0.009 * torch.tanh(square(W)) * (W[0] != 0) + square(W) * (W[0] == 0), V, CUTOFF)
    assert found.log_radius[0] == np.inf
    assert np.isfinite(found.log_radius[1])
    assert found.error[0] == 0
    assert found.passes[0] <= 12


def test_a_start_that_is_downhill_is_passed() -> None:
    """Off the centre, the excess is negative at first; the far side counts."""
    found = radii(lambda V: 0.5 * (V[0] - 1) ** 2 - 0.5, torch.ones(1, 1, dtype=torch.float64), 1.0, RayOptions(1e-8))
    assert_close(np.exp(found.log_radius), [1 + 3**0.5], rtol=1e-6)


def test_overflow_counts_as_outside() -> None:
    found = radii(lambda V: torch.where(square(V) > 0.05, float("nan"), square(V)), directions(3), CUTOFF, guess=5.0)
    assert_close(found.log_radius, exact(directions(3)), atol=1e-6)


def test_a_million_dimensions() -> None:
    V = torch.full((10**6, 2), 1e-3, dtype=torch.float32)
    found = radii(lambda W: 0.5 * W.double().square().sum(0), V, CUTOFF)
    assert_close(found.log_radius, np.full(2, 0.5 * np.log(2 * CUTOFF)), atol=1e-6)


def test_a_jump_ends_at_the_bracket() -> None:
    """A step function has no slope at the threshold; bisection takes over and says what error is left."""
    found = radii(lambda V: (V.norm(dim=0) > 2).double(), torch.eye(2, dtype=torch.float64), 0.5)
    assert_close(np.exp(found.log_radius), [2.0, 2.0], rtol=1e-2)
    assert np.isinf(found.error).all()
