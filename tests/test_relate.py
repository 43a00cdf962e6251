"""Rank correlations: against SciPy, and on planted studies with and without a predictor beyond the train loss."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from landscape import relate, schemas
from landscape.errors import InputError
from landscape.relate import RelateOptions

FAST = RelateOptions(permutations=199, resamples=200)


def test_tau_is_that_of_scipy_with_ties() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=20).astype(float), rng.integers(5, size=20).astype(float)
    assert relate.tau(relate.signs(x), relate.signs(y)) == pytest.approx(stats.kendalltau(x, y).statistic)
    assert np.isnan(relate.tau(relate.signs(np.ones(20)), relate.signs(y)))


def test_partial_correlation_of_known_values() -> None:
    assert relate.partial(*map(np.array, (0.5, 0.0, 0.0))) == 0.5
    assert relate.partial(*map(np.array, (0.36, 0.6, 0.6))) == pytest.approx(0.0)
    assert np.isnan(relate.partial(*map(np.array, (1.0, 1.0, 0.5))))


def planted(seed: int, beyond: float) -> xr.Dataset:
    """Test error = train loss + beyond * sharpness + noise; volume follows the train loss alone."""
    rng = np.random.default_rng(seed)
    shape = (8, 4, 3)
    loss, sharpness, noise = (rng.standard_normal(shape) for _ in range(3))
    error = loss + beyond * sharpness + 0.3 * noise
    cell = ("method", "level", "replicate")
    points = np.stack([np.stack([error, error]), np.stack([loss, loss])])
    return xr.Dataset(
        {
            "trace": ((*cell, "point", "control", "curvature"), sharpness[..., None, None, None]),
            "volume": (cell, loss + 0.3 * rng.standard_normal(shape)),
            "constant": (cell, np.ones(shape)),
            "noise_only": (cell, rng.standard_normal(shape)),
            "trace_se": (cell, rng.standard_normal(shape)),
            "barrier_error": (("split", *cell), np.stack([rng.standard_normal(shape), error])),
            "point_error": (("split", "at", *cell), points[0][:, None]),
            "point_loss": (("split", "at", *cell), points[1][:, None]),
        },
        {
            "method": [f"m{i}" for i in range(8)],
            "level": [1, 4, 7, 10],
            "replicate": [0, 1, 2],
            "split": ["train", "test"],
            "at": ["minimum"],
            "point": ["minimum"],
            "control": ["raw"],
            "curvature": ["hessian"],
        },
    )


def test_a_planted_predictor_is_found_and_the_train_loss_is_taken_out() -> None:
    result = relate.relate(planted(0, 1.0), FAST)
    schemas.check(result.assign_coords(), "relate")
    assert set(result["scalar"].values.tolist()) == {"trace[hessian]", "volume", "noise_only", "barrier_error[train]"}
    word = result["verdict"].to_series()
    assert word["trace[hessian]"] == "holds"
    assert word["volume"] in ("fails", "not resolved")
    assert float(result["tau_error"].sel(scalar="volume").mean()) > 0.3
    assert abs(float(result["effect"].sel(scalar="volume"))) < 0.2
    assert float(result["p_value"].sel(scalar="trace[hessian]").max()) < 0.05
    assert "trace[hessian]" in relate.describe(result).splitlines()[1]


def test_no_predictor_fails_or_stays_open() -> None:
    words = []
    for seed in range(20):
        words.append(relate.relate(planted(seed, 0.0), FAST)["verdict"].sel(scalar="noise_only").item())
    assert words.count("holds") <= 3
    assert "fails" in words


def test_among_many_scalars_chance_finds_no_predictor() -> None:
    found = 0
    for seed in range(10):
        study = planted(seed, 0.0).drop_vars("trace")
        rng = np.random.default_rng(1000 + seed)
        cell = ("method", "level", "replicate")
        many = {f"noise_{i}": (cell, rng.standard_normal((8, 4, 3))) for i in range(40)}
        words = relate.relate(study.assign(many), RelateOptions(permutations=0, resamples=100))["verdict"].to_series()
        found += (words[[name for name in words.index if name.startswith("noise")]] == "holds").any()
    assert found <= 2  # without Holm's correction nearly every study of 41 scalars has one


def test_p_values_are_uniform_without_a_relation() -> None:
    values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values.append(
            relate.relate_one(*rng.standard_normal((3, 12)), RelateOptions(permutations=99, resamples=0))["p_value"]
        )
    assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.1


def test_too_few_networks_and_missing_quantities() -> None:
    study = planted(0, 1.0)
    with pytest.raises(InputError, match="known of 8 networks"):
        relate.relate(study.isel({"method": slice(2)}), FAST)
    with pytest.raises(InputError, match="measure --quantities connectivity"):
        relate.relate(study.drop_vars("point_error"), FAST)
