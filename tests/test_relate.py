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
    result = relate.relate(planted(0, 1.0), RelateOptions(permutations=999, resamples=200))
    schemas.check(result.assign_coords(), "relate")
    assert set(result["scalar"].values.tolist()) == {"trace[hessian]", "volume", "noise_only", "barrier_error[train]"}
    word = result["verdict"].to_series()
    assert word["trace[hessian]"] == "holds"
    assert word["volume"] in ("fails", "not resolved")
    assert float(result["tau_error"].sel(scalar="volume").mean()) > 0.3
    assert abs(float(result["effect"].sel(scalar="volume"))) < 0.2
    assert float(result["p_value"].sel(scalar="trace[hessian]").median()) < 0.05
    assert float(result["effect_p_value"].sel(scalar="trace[hessian]")) < 0.01
    assert "trace[hessian]" in relate.describe(result).splitlines()[1]


def test_no_predictor_fails_or_stays_open() -> None:
    words = []
    for seed in range(20):
        words.append(relate.relate(planted(seed, 0.0), FAST)["verdict"].sel(scalar="noise_only").item())
    assert words.count("holds") <= 1
    assert "fails" in words


def test_among_many_scalars_chance_finds_no_predictor() -> None:
    found = 0
    for seed in range(6):
        study = planted(seed, 0.0).drop_vars("trace")
        rng = np.random.default_rng(1000 + seed)
        cell = ("method", "level", "replicate")
        many = {f"noise_{i}": (cell, rng.standard_normal((8, 4, 3))) for i in range(20)}
        words = relate.relate(study.assign(many), RelateOptions(permutations=999, resamples=20))["verdict"].to_series()
        found += (words[[name for name in words.index if name.startswith("noise")]] == "holds").any()
    assert found <= 1  # without Holm's correction most studies of 21 scalars have one


def test_p_values_are_uniform_without_a_relation() -> None:
    """Error and loss have effects of the method that all replicates share, as real ones do, and so has the scalar."""
    values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x, error, loss = rng.standard_normal((3, 2, 1, 8)) + 0.3 * rng.standard_normal((3, 2, 3, 8))
        found = relate.relate_one(x, error, loss, RelateOptions(permutations=99, resamples=0))
        assert found is not None
        values.append(found.p_value)
    assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.1


def test_what_only_tells_replicates_apart_predicts_nothing() -> None:
    """Replicates with a worse seed have the higher error: a scalar that is the replicate's number follows it."""
    study = planted(0, 0.0)
    order = xr.DataArray([0.0, 1.0, 2.0], dims="replicate")
    study["point_error"] = study["point_error"] + 10 * order
    study["which"] = order.broadcast_like(study["volume"]).transpose("method", "level", "replicate")
    assert "which" not in relate.relate(study, FAST)["scalar"].values


def test_leading_eigenvalue_and_volume_are_scalars_and_counts_are_not() -> None:
    study = planted(0, 1.0)
    rng = np.random.default_rng(3)
    place = ("method", "level", "replicate", "point", "control", "curvature")
    study = study.assign(
        eigenvalue=(("eigen", *place), rng.standard_normal((2, 8, 4, 3, 1, 1, 1))),
        relative_noise_tolerance=(("sampler", *place), rng.standard_normal((1, 8, 4, 3, 1, 1, 1))),
        num_products=(place, rng.standard_normal((8, 4, 3, 1, 1, 1))),
        distance=(("pair", *place[:3]), rng.standard_normal((2, 8, 4, 3))),
    ).assign_coords(eigen=[1, 2], sampler=["star"], pair=["rewind -> projected", "rewind -> minimum"])
    found = relate.scalars(study)
    assert all(set(values.coords) == set(relate.CELL) for values in found.values())
    names = set(found)
    assert {"eigenvalue[1, hessian]", "relative_noise_tolerance[star, hessian]", "distance[rewind -> minimum]"} <= names
    assert not names & {"num_products[hessian]", "eigenvalue[2, hessian]", "distance[rewind -> projected]"}


def test_too_few_networks_and_missing_quantities() -> None:
    study = planted(0, 1.0)
    with pytest.raises(InputError, match="known of 5 methods"):
        relate.relate(study.isel({"method": slice(4)}), FAST)
    with pytest.raises(InputError, match="measure --quantities connectivity"):
        relate.relate(study.drop_vars("point_error"), FAST)
