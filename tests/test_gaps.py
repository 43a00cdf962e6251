from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from landscape import gaps
from landscape.errors import InputError

Draw = Callable[[np.random.Generator, int], np.ndarray]


def goe_edge(rng: np.random.Generator, n: int) -> np.ndarray:
    """Eigenvalues of the tridiagonal beta = 1 ensemble (Dumitriu & Edelman 2002), semicircle of radius 2."""
    from scipy.linalg import eigvalsh_tridiagonal

    diagonal = rng.standard_normal(n) * np.sqrt(2)
    off = np.sqrt(rng.chisquare(np.arange(n - 1, 0, -1)))
    return eigvalsh_tridiagonal(diagonal, off, select="i", select_range=(n - 40, n - 1)) / np.sqrt(n)


def wishart_edge(rng: np.random.Generator, n: int) -> np.ndarray:
    """Marchenko-Pastur with ratio 1/2, by the bidiagonal beta = 1 Laguerre ensemble."""
    from scipy.linalg import eigvalsh_tridiagonal

    m = 2 * n
    d, s = np.sqrt(rng.chisquare(m - np.arange(n))), np.sqrt(rng.chisquare(np.arange(n - 1, 0, -1)))
    diagonal = d**2 + np.concatenate([[0.0], s**2])
    return eigvalsh_tridiagonal(diagonal, d[:-1] * s, select="i", select_range=(n - 40, n - 1)) / m


def regular(quantile: Callable[[np.ndarray], np.ndarray]) -> Draw:
    return lambda rng, n: quantile((np.arange(n) + 0.5) / n)


BULKS: dict[str, Draw] = {
    "uniform": lambda rng, n: rng.random(n),
    "Gaussian": lambda rng, n: rng.standard_normal(n),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "semicircle": goe_edge,
    "Marchenko-Pastur": wishart_edge,
    "regular uniform": regular(lambda p: p),
    "regular exponential": regular(lambda p: -np.log1p(-p)),
}
EDGE = {"uniform": 1.0, "semicircle": 2.0, "Marchenko-Pastur": (1 + np.sqrt(0.5)) ** 2, "regular uniform": 1.0}
SEEDS = 200


def top(values: np.ndarray, k: int = 20) -> np.ndarray:
    return np.sort(values)[::-1][:k]


@pytest.mark.parametrize("n", [200, 1000])
@pytest.mark.parametrize("bulk", BULKS)
def test_continuous_bulks_have_no_outliers_in_95_percent(bulk: str, n: int) -> None:
    found = [gaps.outliers(top(BULKS[bulk](np.random.default_rng(seed), n))) for seed in range(SEEDS)]
    counted = sum(count > 0 for count, _ in found)
    rejected = sum(p <= gaps.LEVEL for _, p in found)
    assert counted == rejected  # the count and the p-value are one test
    assert counted <= 0.05 * SEEDS + 2 * np.sqrt(0.05 * 0.95 * SEEDS)


@pytest.mark.parametrize("bulk", EDGE)
@pytest.mark.parametrize("factors", [[2.0], list(np.linspace(2, 10, 9))], ids=["one", "nine"])
def test_outliers_at_twice_the_edge_are_counted(bulk: str, factors: list[float]) -> None:
    right = 0
    for seed in range(SEEDS // 5):
        values = BULKS[bulk](np.random.default_rng(seed), 1000)
        right += gaps.outliers(top(np.append(values, EDGE[bulk] * np.array(factors))))[0] == len(factors)
    assert right >= 0.95 * (SEEDS // 5)


@pytest.mark.parametrize("k", [20, 100])
@pytest.mark.parametrize("bulk", ["Gaussian", "exponential"])
def test_outlier_at_twice_the_largest_value_of_a_bulk_with_a_tail_is_found(bulk: str, k: int) -> None:
    found = 0
    for seed in range(SEEDS):
        values = BULKS[bulk](np.random.default_rng(seed), 1000)
        found += gaps.outliers(top(np.append(values, 2 * np.abs(values).max()), k))[0] >= 1
    assert found >= 0.95 * SEEDS


def test_p_values_of_an_exponential_tail_are_exact() -> None:
    """For each j alone P(T_j > t) is exact; the smallest of k/2 of them is at most Bonferroni."""
    smallest = np.array([gaps.outliers(top(np.random.default_rng(s).exponential(size=500)))[1] for s in range(2000)])
    for level in (0.01, 0.05, 0.2):
        assert np.mean(smallest <= level) <= level + 3 * np.sqrt(level / 2000)
    assert np.mean(smallest <= 0.2) >= 0.08  # valid, and not empty-handed


def test_spacings_within_the_residuals_are_no_gap() -> None:
    values = np.concatenate([[1.0 + 1e-6], np.full(19, 1.0)])
    assert gaps.outliers(values, np.full(20, 1e-5))[0] == 0
    assert gaps.outliers(values, np.full(20, 1e-9))[0] == 1


def spectrum(labels: list[int], values: list[float], residual: float = 1e-3) -> xr.Dataset:
    columns = {"eigenvalue": ("eigen", values), "residual": ("eigen", [residual] * len(values)), "num_params": 100}
    return xr.Dataset(columns, {"eigen": labels})


@pytest.mark.parametrize("order", [[-1, -2], [-2, -1]])
def test_gaps_belong_to_the_upper_label_in_either_order(order: list[int]) -> None:
    bottom = {-1: -3.0, -2: -1.0}
    result = gaps.add_gaps(spectrum([1, 2, 3, *order], [5.0, 4.0, 3.9995, *(bottom[label] for label in order)]))
    gap = dict(zip(result["eigen"].values.tolist(), result["gap"].values.tolist(), strict=True))
    assert gap[1] == 1.0
    assert gap[2] == pytest.approx(5e-4)
    assert gap[-2] == 2.0
    assert np.isnan(gap[3])
    assert np.isnan(gap[-1])
    resolved = result["gap_resolved"].sel(eigen=[1, 2, 3, -2, -1]).values.tolist()
    assert resolved == [True, False, False, True, False]
    assert float(result["relative_gap"].sel(eigen=1)) == 0.25


def test_eigenvalues_beside_an_unknown_or_narrow_gap_are_unsafe() -> None:
    result = gaps.add_gaps(spectrum([1, 2, 3, -2, -1], [9.0, 5.0, 4.0, -1.0, -3.0]))
    result["gap_se"] = ("eigen", [0.5, 0.5, np.nan, 0.1, np.nan])
    assert gaps.are_safe(result).tolist() == [True, False, False, False, True]


def test_too_few_eigenvalues_are_no_edge() -> None:
    with pytest.raises(InputError, match="at least 8"):
        gaps.outliers(np.arange(5.0))
    assert not gaps.outlier_table(spectrum([1, 2, 3], [3.0, 2.0, 1.0])).data_vars


def test_gap_over_levels() -> None:
    one = gaps.add_gaps(spectrum([1, 2], [3.0, 1.0])).assign(gap_se=("eigen", [0.1, np.nan]))
    study = xr.concat([one, one * 2], dim="level")
    series = gaps.gap_series(study, 1)
    np.testing.assert_allclose(series["gap"], [2.0, 4.0])
    np.testing.assert_allclose(series["gap_lo"], [1.6, 3.2])
    with pytest.raises(InputError, match="label 7"):
        gaps.gap_series(study, 7)
