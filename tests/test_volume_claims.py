"""The claims of volumes on planted studies: each holds, fails and stays open where it should."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from landscape import decisions, preconditions, results, runs, schemas, store, volume_claims
from landscape.decisions import FAILS, HOLDS, NOT_RESOLVED
from landscape.errors import InputError

METHODS, LEVELS, REPLICATES = ["imp", "fine_tune", "retrained"], [0, 1, 4], [0, 1, 2]
POINTS, CONTROLS, CURVATURES = ["minimum", "projected"], ["raw", "loss_matched"], ["ggn", "jtj"]
LABELS = ("method", "level", "replicate", "point", "control", "curvature")
SHAPE = tuple(map(len, (METHODS, LEVELS, REPLICATES, POINTS, CONTROLS, CURVATURES)))
PARAMS = np.array([1000, 500, 100])


def planted(sign: float = 1.0, noise: float = 0.02, rank: int = 10_000) -> xr.Dataset:
    """A study in which every claim is true (sign 1), false (-1) or empty (0)."""
    rng = np.random.default_rng(0)

    def spread(*shape: int) -> np.ndarray:
        return noise * rng.standard_normal((*shape, *SHAPE))

    larger = np.zeros(SHAPE)
    larger[0, :, :, 0] = sign  # imp's minimum above projected and fine_tune
    larger[2, :, :, 0] = sign
    falling = -0.5 * sign * np.arange(3)[:, None, None, None, None] + np.zeros(SHAPE)
    ray = rng.standard_normal(8)[:, *[None] * len(SHAPE)]
    volumes = np.stack([np.zeros(SHAPE), larger + falling])
    numbers = {
        "section_stiffness": (("section_size", *LABELS), np.stack([10 + larger, 20 + larger]) + spread(2)),
        "section_error": (("section_size", *LABELS), np.full((2, *SHAPE), 1e-3)),
        "log_radius": (("sampler", "ray", *LABELS), np.stack([ray + larger + spread(8), ray + spread(8)])),
        "occam_factor": (("prior_factor", *LABELS), larger[None] + spread(1)),
        "occam_factor_se": (("prior_factor", *LABELS), np.full((1, *SHAPE), 1e-3)),
        "relative_noise_tolerance": (("sampler", *LABELS), np.exp(volumes + spread(2))),
        "log_volume": (("sampler", *LABELS), volumes),
        "log_volume_se": (("sampler", *LABELS), np.full((2, *SHAPE), 1e-3)),
        "log_volume_verdict": (("sampler", *LABELS), np.full((2, *SHAPE), "calibrated")),
        "prunable_fraction": (("order", *LABELS), np.stack([0.3 + 0.1 * (larger + falling), 0.2 + spread()])),
        "relaxed_increase": (("order", "fraction", *LABELS), relaxed(sign, spread)),
        "relaxed_residual": (("order", "fraction", *LABELS), np.full((2, 3, *SHAPE), 1e-3)),
        "cutoff": (LABELS, np.full(SHAPE, 0.01)),
        "rank_bound": (LABELS, np.full(SHAPE, float(rank))),
        "num_params": (LABELS, np.broadcast_to(PARAMS[:, None, None, None, None], SHAPE).astype(float)),
        "matched_point": (LABELS, np.full(SHAPE, "minimum")),
        "matched_method": (LABELS, np.broadcast_to(np.array(METHODS)[:, None, None, None, None, None], SHAPE)),
    }
    coords = dict(zip(LABELS, (METHODS, LEVELS, REPLICATES, POINTS, CONTROLS, CURVATURES), strict=True))
    more = {"section_size": [10, 100], "sampler": ["identity", "preconditioned"], "prior_factor": [1.0]}
    return xr.Dataset(numbers, {**coords, **more, "order": ["magnitude", "random"], "fraction": [0.1, 0.5, 0.9]})


def relaxed(sign: float, spread) -> np.ndarray:
    """Loss increases that cross the cutoff at a fraction of 0.2 (random) and of 0.8 or 0.05 (smallest first)."""
    rows = [[0.0, 0.001, 0.013] if sign > 0 else [0.02, 0.03, 0.04], [0.005, 0.025 + 0.02 * (sign < 0), 0.5]]
    if sign < 0:
        rows[1] = [0.0, 0.0, 0.001]
    values = np.array(rows)[:, :, *[None] * len(SHAPE)]
    return np.broadcast_to(values, (2, 3, *SHAPE)) * np.exp(spread(2, 3))


def words(study: xr.Dataset, prefix: str = "") -> dict[tuple[str, str], str]:
    judged = volume_claims.evaluate(study)
    schemas.check(judged, "preconditions")
    flat = judged[["verdict", "reason"]].to_dataframe().reset_index()
    flat = flat[(flat["reason"] != decisions.NOT_APPLICABLE) & flat["claim"].str.startswith(prefix)]
    return {(row.claim, row.control): row.verdict for row in flat.itertuples()}


def reason(study: xr.Dataset, claim: str, control: str = "raw") -> str:
    return str(volume_claims.evaluate(study)["reason"].sel(claim=claim, control=control).item())


@pytest.mark.parametrize(("sign", "expected"), [(1.0, HOLDS), (-1.0, FAILS)])
def test_planted_truths_hold_and_planted_falsehoods_fail(sign: float, expected: str) -> None:
    found = words(planted(sign))
    assert {key: word for key, word in found.items() if word != expected} == {}
    for name in ("section_10", "section_100", "star", "occam", "tolerance", "prunable"):
        controls = {control for claim, control in found if claim == f"minimum_over_projected_{name}"}
        assert controls == {"raw", "loss_matched", "function", "geometric"}
    assert ("imp_over_fine_tune_tolerance", "raw") in found
    assert {"noise_tolerance_falls", "prunable_fraction_falls", "random_pruning_as_predicted"} <= {c for c, _ in found}


def test_nothing_planted_is_not_resolved() -> None:
    found = words(planted(0.0), "minimum_over_projected")
    assert set(found.values()) == {NOT_RESOLVED}


def test_the_floor_of_training_twice_hides_smaller_effects() -> None:
    study = planted()
    twin = study["occam_factor"].values
    twin[:, METHODS.index("retrained"), :, :, 0] += 3.0
    assert words(study)["minimum_over_projected_occam", "raw"] == NOT_RESOLVED


def test_lower_bounds_are_not_compared() -> None:
    study = planted()
    study["log_volume_verdict"].values[1, 0, 1, 2, 1, 0, 0] = "lower bound"
    judged = volume_claims.evaluate(study).sel(control="raw")
    one = judged.sel(claim="minimum_over_projected_tolerance")
    assert one["verdict"].item() == NOT_RESOLVED
    assert one["reason"].item() == "lower bound: the volumes are not calibrated (levels 1)"
    assert one["level_verdict"].sel(level=[1, 4]).values.tolist() == [NOT_RESOLVED, HOLDS]
    assert judged["verdict"].sel(claim="imp_over_fine_tune_tolerance").item() == HOLDS


def test_too_few_examples_leave_trends_over_levels_open_and_nothing_else() -> None:
    study = planted(rank=1400)  # below 3 x 500, above 3 x 100
    whole, few = words(planted()), words(study)
    changed = {claim for claim, control in whole if whole[claim, control] != few[claim, control]}
    assert changed == {
        *("noise_tolerance_falls", "prunable_fraction_falls"),
        *("random_pruning_as_predicted", "magnitude_beats_prediction"),
    }
    assert "sample-limited" in reason(study, "prunable_fraction_falls")


def test_an_optimum_that_was_not_reached_predicts_nothing() -> None:
    study = planted()
    study["relaxed_residual"].values[1, 2, 0, 2, 0, 0, 0, 0] = 0.5
    judged = volume_claims.evaluate(study).sel(control="raw", claim="random_pruning_as_predicted")
    assert judged["reason"].item() == "the other weights are not at their optimum (levels 4)"
    assert judged["level_verdict"].sel(level=[1, 4]).values.tolist() == [HOLDS, NOT_RESOLVED]


def test_under_loss_matching_the_softened_point_takes_the_place_of_its_own() -> None:
    study = planted()
    study["matched_point"] = xr.full_like(study["matched_point"], "projected", dtype="U9")
    # The replacement has the minimum's numbers, so a replaced projected point equals the minimum.
    found = words(study)
    assert found["minimum_over_projected_occam", "loss_matched"] == NOT_RESOLVED
    assert found["minimum_over_projected_occam", "geometric"] == NOT_RESOLVED
    assert found["minimum_over_projected_occam", "function"] == HOLDS
    assert found["imp_over_fine_tune_occam", "loss_matched"] == HOLDS  # its matched method is its own


def test_a_control_at_fewer_levels_than_raw_says_so() -> None:
    study = planted()
    claim = "minimum_over_projected_occam"
    assert reason(study, claim, "function") == reason(study, claim, "geometric") == "levels 1, 4"
    study["occam_factor"].loc[{"control": "loss_matched", "level": 4}] = np.nan
    assert words(study)[claim, "loss_matched"] == HOLDS
    assert reason(study, claim, "loss_matched") == "only level 1 of 1, 4"
    assert reason(study, claim, "geometric") == "only level 1 of 1, 4; levels 1, 4"


def test_directions_are_compared_one_by_one() -> None:
    """The spread of the directions, 1 here, is fifty times the effect of a planted difference of 0.02."""
    study = planted(0.0, noise=1e-4)
    study["log_radius"].values[0, :, [0, 2], :, :, 0] += 0.02
    assert words(study)["minimum_over_projected_star", "raw"] == HOLDS


def test_the_allowed_fraction_is_where_the_cutoff_is_crossed() -> None:
    increase = xr.DataArray([[0.005, 0.015, 0.1], [0.0, 0.0, 0.001]], dims=("row", "fraction")).assign_coords(
        fraction=[0.1, 0.5, 0.9]
    )
    found = volume_claims.crossing_fraction(increase, xr.DataArray(0.01))
    np.testing.assert_allclose(found, [0.3, 0.9])


def test_a_run_is_judged_from_its_stored_results(tmp_path: Path) -> None:
    run = runs.create(tmp_path / "run", {"kind": "imp"})
    study = planted().isel(method=[0, 1], level=[1], control=[0], point=[0])
    for place, values in study.stack(cell=LABELS).groupby("cell"):
        one = values.squeeze("cell", drop=True).drop_vars(LABELS, errors="ignore")
        one = one.assign(num_params=int(one["num_params"]), rank_bound=int(one["rank_bound"]))
        one = one.assign_coords({**dict(zip(LABELS, place, strict=True)), "ray": np.arange(8)})
        name = store.fingerprint({"cell": place})
        one.attrs = {"fingerprint": name, "options": "{}"}
        store.write(one, results.folder(run.root, "volume") / f"{name}.nc", "volume")
    judged = preconditions.evaluate_preconditions(run.root, "volume")
    assert set(judged["verdict"].sel(claim="imp_over_fine_tune_occam", control=["raw", "function"]).values) == {HOLDS}
    assert "imp_over_fine_tune_occam" in preconditions.describe(judged)


def test_volumes_that_compare_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="compare nothing"):
        volume_claims.evaluate(planted().isel(point=[1]))
