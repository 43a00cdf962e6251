import numpy as np
import pytest
import xarray as xr

from landscape import density
from landscape.errors import InputError


def exact(values: np.ndarray) -> xr.Dataset:
    """A stored result of the dense engine."""
    ordered = np.sort(values)[::-1]
    return xr.Dataset(
        {"eigenvalue": ("eigen", ordered), "num_params": len(values)}, {"eigen": np.arange(1, len(values) + 1)}
    )


def sampled(value: np.ndarray, weight: np.ndarray, n: int) -> xr.Dataset:
    return xr.Dataset(
        {"ritz_value": (("probe", "node"), value), "ritz_weight": (("probe", "node"), weight), "num_params": n}
    )


def mass(curve: xr.Dataset, axis: np.ndarray) -> float:
    step = axis[1] - axis[0]
    return float(curve["density"].sum() * step) + curve.attrs["zero_fraction"]


@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e5])
def test_bins_and_atom_have_mass_one_at_every_scale(scale: float) -> None:
    values = scale * np.concatenate(
        [np.zeros(30), np.random.default_rng(0).standard_normal(65), [50.0, 80.0, 300.0, 900.0, 1e3]]
    )
    linear, symlog = density.density(exact(values)), density.symlog_density(exact(values))
    assert linear.attrs["zero_fraction"] == pytest.approx(0.3, abs=1e-12)
    assert mass(linear, linear["grid"].values) == pytest.approx(1.0, abs=1e-10)
    assert mass(symlog, symlog["s"].values) == pytest.approx(1.0, abs=1e-10)


def test_the_smoothed_density_of_a_semicircle_is_the_semicircle() -> None:
    points = (np.arange(20000) + 0.5) / 20000
    t = np.linspace(-1, 1, 100001)
    quantile = np.interp(points, 0.5 + (t * np.sqrt(1 - t**2) + np.arcsin(t)) / np.pi, t)
    curve = density.density(exact(quantile), bandwidth=0.01)
    inside = np.abs(curve["grid"].values) < 0.9
    truth = 2 / np.pi * np.sqrt(1 - curve["grid"].values[inside] ** 2)
    np.testing.assert_allclose(curve["density"].values[inside], truth, rtol=2e-3)


def test_cumulative_counts_and_moments_need_no_kernel() -> None:
    values = np.array([-1.0, 0.0, 0.0, 2.0, 5.0])
    result = exact(values)
    np.testing.assert_allclose(
        density.cumulative(result, np.array([-2.0, -1.0, 0.0, 2.0, 5.0]))["cumulative"], [0, 0.2, 0.6, 0.8, 1.0]
    )
    assert density.counts_above(result, 1.0)[0] == pytest.approx(2.0)
    mean, error = density.moments(result, 3)
    np.testing.assert_allclose(mean, [np.mean(values**d) for d in range(4)], rtol=1e-13)
    assert (error == 0).all()


def test_weights_of_zero_and_values_of_nan_after_a_breakdown_do_not_enter() -> None:
    value = np.array([[1.0, 2.0, np.nan], [1.5, np.nan, np.nan]])
    weight = np.array([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])
    result = sampled(value, weight, 10)
    mean, error = density.moments(result, 1)
    np.testing.assert_allclose(mean, [1.0, 1.625])
    assert error[1] == pytest.approx(0.125)
    curve = density.density(result)
    assert mass(curve, curve["grid"].values) == pytest.approx(1.0, abs=1e-10)


def test_the_band_over_probes_holds_the_truth() -> None:
    """Gaussian quadrature of a diagonal matrix: probe weights are exact, so only the probes vary."""
    values = np.linspace(0.0, 1.0, 50)
    inside = []
    for seed in range(200):
        draws = np.random.default_rng(seed).standard_normal((20, 50)) ** 2
        result = sampled(np.tile(values, (20, 1)), draws / draws.sum(1, keepdims=True), 50)
        curve = density.cumulative(result, np.array([0.6]))
        inside.append(curve["cumulative_lo"].item() <= np.mean(values <= 0.6) <= curve["cumulative_hi"].item())
    assert 0.88 <= np.mean(inside) <= 0.99


def test_a_result_without_density_says_what_to_measure() -> None:
    with pytest.raises(InputError, match="--num-probes"):
        density.density(xr.Dataset({"eigenvalue": ("eigen", [1.0]), "num_params": 7}, {"eigen": [1]}))
