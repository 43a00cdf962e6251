"""Gaussian mass: the radial integral against special functions, the probability against non-central chi-square."""

import numpy as np
import pytest
import torch
from helpers import assert_close
from scipy.special import gammainc, gammaln
from scipy.stats import ncx2
from torch import Tensor

from landscape.errors import InputError
from landscape.volume.gaussian_mass import code_length, gaussian_mass, log_radial_integral
from landscape.volume.preconditioners import diagonal, identity
from landscape.volume.sampling import Basin, shoot
from landscape.volume.weights import CALIBRATED

F64 = torch.float64


def ball(radius: float, anchor: Tensor) -> Basin:
    return Basin(lambda V: V.double().square().sum(0), radius**2, anchor)


def anchor(n: int, length: float) -> Tensor:
    c = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=F64)
    return length * c / c.norm()


@pytest.mark.parametrize("n", [1, 2, 10, 1000, 10**6])
@pytest.mark.parametrize("share", [0.3, 0.9, 1.0, 1.1, 3.0, np.inf])
def test_the_radial_integral_is_the_incomplete_gamma_function(n: int, share: float) -> None:
    """Far below the peak the gamma function underflows, where the leading term of its series is exact enough."""
    sd = 0.7
    radius = share * sd * np.sqrt(n)
    x, a = radius**2 / (2 * sd**2), 0.5 * n
    small = gammainc(a, x) if np.isfinite(x) else 1.0
    if small > 1e-250:
        log_gamma = np.log(small) + gammaln(a)
    else:
        terms = np.cumsum(np.log(x) - np.log(a + np.arange(1, 4000)))
        log_gamma = a * np.log(x) - x - np.log(a) + np.log1p(np.exp(terms).sum())
    expected = -np.log(2) + a * np.log(2 * sd**2) + log_gamma
    assert_close(log_radial_integral(np.log(radius), n, sd), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("overlap", [-40.0, -3.0, 0.5, 400.0])
def test_the_radial_integral_off_the_centre(overlap: float) -> None:
    """Against a fine sum in the log domain, at n = 50."""
    n, sd, radius = 50, 1.3, 7.0
    grid = np.linspace(0, radius, 2_000_001)[1:]
    values = (n - 1) * np.log(grid) - (grid**2 + 2 * grid * overlap) / (2 * sd**2)
    peak = values.max()
    expected = peak + np.log(np.trapezoid(np.exp(values - peak), grid))
    assert_close(log_radial_integral(np.log(radius), n, sd, overlap), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n", "radius", "length"), [(6, 1.5, 2.0), (6, 3.0, 0.0), (40, 4.0, 1.0)])
def test_a_ball_has_a_chi_square_mass(n: int, radius: float, length: float) -> None:
    sd = 0.8
    basin = ball(radius, anchor(n, length))
    found = gaussian_mass(shoot(basin, identity(), 4000, 0), basin, identity(), sd)
    expected = ncx2.logcdf((radius / sd) ** 2, n, (length / sd) ** 2 + 1e-12)
    assert found.verdict == CALIBRATED
    assert abs(found.value - expected) <= 3.5 * found.sampling.se + 1e-9
    assert found.sampling.se < 0.06


def test_the_determinant_counts() -> None:
    """A preconditioner whose determinant is not one gives the same mass."""
    basin = ball(1.5, anchor(6, 1.0))
    expected = gaussian_mass(shoot(basin, identity(), 2000, 0), basin, identity(), 0.8)
    P = diagonal(torch.linspace(0.5, 0.7, 6, dtype=F64))
    found = gaussian_mass(shoot(basin, P, 2000, 0), basin, P, 0.8)
    assert abs(found.value - expected.value) < 4 * np.hypot(found.sampling.se, expected.sampling.se)


def test_a_basin_without_bounds_has_probability_one() -> None:
    """With the anchor at the prior's centre without any sampling error; rays that end nowhere are no exception."""
    basin = Basin(lambda V: 0 * V[0], 1e-2, torch.zeros(30, dtype=F64))
    found = gaussian_mass(shoot(basin, identity(), 5, 0), basin, identity(), 0.5)
    assert_close(found.value, 0.0, atol=1e-9)
    moved = Basin(lambda V: 0 * V[0], 1e-2, anchor(5, 0.5))
    found = gaussian_mass(shoot(moved, identity(), 4000, 0), moved, identity(), 0.5)
    assert abs(found.value) < 4 * found.sampling.se < 0.2


def test_the_code_length_is_one_distribution_over_masks_and_weights() -> None:
    assert_close(code_length(np.log(0.5), 4, 2), np.log(6 / 0.5))
    assert_close(code_length(0.0, 10, 10), 0.0, atol=1e-12)
    with pytest.raises(InputError, match="no mask"):
        code_length(0.0, 3, 4)


def test_a_prior_needs_a_width() -> None:
    basin = ball(1.0, anchor(2, 0.0))
    with pytest.raises(InputError, match="must be positive"):
        gaussian_mass(shoot(basin, identity(), 3, 0), basin, identity(), 0.0)
