"""The claims of iterative magnitude pruning on planted studies: each holds, fails and stays open where it should."""

import numpy as np
import pytest
import xarray as xr

from landscape import decisions, imp_claims, schemas
from landscape.decisions import FAILS, HOLDS, NOT_RESOLVED

METHODS = ["imp", "fine_tune", "one_shot", "random_init", "random_mask_layerwise", "retrained"]
LEVELS, REPLICATES = [0, 1, 4, 10], [0, 1, 2]
SHAPE = (len(METHODS), len(LEVELS), len(REPLICATES))
NEVER = {"control": "raw"}


def planted(sign: float, noise: float = 0.02, seed: int = 0) -> xr.Dataset:
    """A study in which every claim is true (sign 1), false (-1), or has nothing in it (0), plus replicate noise."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return noise * rng.standard_normal(shape)

    points, controls = ["minimum", "projected"], ["raw", "loss_matched", "checkpoint_matched"]
    log_top = np.zeros((5, *SHAPE, 2, 3, 2)) + np.log([9, 7, 5, 3, 2])[:, None, None, None, None, None, None]
    for m, method in enumerate(METHODS):
        log_top[:, m] += (0.5 * sign if method == "fine_tune" else 0) + draw(*SHAPE[1:], 2, 3, 2)
    log_top[..., 1, :, :] += 0.5 * sign
    matched = np.where(np.array(METHODS) == "imp", "minimum", "")[:, None, None, None, None, None]
    dims = ("method", "level", "replicate", "point", "control", "curvature")
    full = np.broadcast_to(matched, (*SHAPE, 2, 3, 2)).copy()
    method_of = np.where(np.array(METHODS) == "imp", "imp", METHODS)[:, None, None, None, None, None]
    data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        "eigenvalue": (("eigen", *dims), np.exp(log_top)),
        "residual": (("eigen", *dims), 1e-6 * np.exp(log_top)),
        "output_spread": (dims, np.ones((*SHAPE, 2, 3, 2))),
        "matched_point": (dims, full),
        "matched_method": (dims, np.broadcast_to(method_of, (*SHAPE, 2, 3, 2)).copy()),
    }
    data |= _functions(sign, draw)
    coords = {
        "method": METHODS, "level": LEVELS, "replicate": REPLICATES, "point": points, "control": controls,
        "curvature": ["hessian", "jtj"], "eigen": np.arange(1, 6), "split": ["train", "test"],
        "at": ["minimum", "projected", "rewind"], "cut": [1, 9],
        "removal": ["smallest", "random_0", "random_1", "largest"],
        "pair": ["previous -> minimum", "dense -> minimum", "projected -> minimum"],
    }  # fmt: skip
    return xr.Dataset(data, coords)


def _functions(sign: float, draw) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Errors, barriers, renewal, pruning steps, overlaps: matching up to level 4, not at level 10."""
    cell = ("method", "level", "replicate")
    error = np.full((2, 3, *SHAPE), 0.02) + 0.02 * draw(2, 3, *SHAPE)
    error[:, :, 1:, :] += 0.05 * sign
    error[:, :, METHODS.index("retrained")] = error[:, :, 0] + 0.02 * draw(2, 3, *SHAPE[1:])
    error[:, :, :, LEVELS.index(10)] += 0.05
    barrier = 0.02 * draw(2, 3, *SHAPE)
    barrier[:, 0, 0, LEVELS.index(10)] += 0.05
    if sign < 0:
        barrier[:, 0, 0, LEVELS.index(1)] += 0.05
        barrier[:, 0, 0, LEVELS.index(10)] -= 0.05
    barrier[:, 1, METHODS.index("one_shot")] += 0.05 if sign > 0 else -0.02
    below = np.full((3, *SHAPE), 0.2)
    below[0] += 0.1 * sign
    below[0, METHODS.index("random_mask_layerwise")] -= 0.05 * sign
    below[0, METHODS.index("fine_tune")] = 0.1 * sign
    steps = np.ones((4, *SHAPE))
    steps[0] = np.exp(-sign)
    overlap = np.full((2, *SHAPE), 0.5)
    overlap[:, METHODS.index("random_mask_layerwise")] -= 0.2 * sign
    differs = np.full((2, 3, *SHAPE), 0.1)
    differs[:, :, METHODS.index("random_init")] += 0.05 * sign
    return {
        "point_error": (("split", "at", *cell), error),
        "barrier_error": (("split", "pair", *cell), barrier),
        "disagreement": (("split", "pair", *cell), differs + 0.1 * draw(2, 3, *SHAPE)),
        "fraction_below": (("at", *cell), below + 0.2 * draw(3, *SHAPE)),
        "loss_increase": (("removal", *cell), steps * np.exp(draw(4, *SHAPE))),
        "step_curvature": (("removal", *cell), steps * np.exp(draw(4, *SHAPE))),
        "overlap": (("cut", *cell), overlap + draw(2, *SHAPE)),
    }


def words(study: xr.Dataset) -> dict[tuple[str, str, str], str]:
    """The verdicts that apply, by claim, method and control."""
    judged = imp_claims.evaluate(study)
    schemas.check(judged, "preconditions")
    flat = judged[["verdict", "reason"]].to_dataframe().reset_index()
    flat = flat[flat["reason"] != decisions.NOT_APPLICABLE]
    return {(row.claim, row.method, row.control): row.verdict for row in flat.itertuples()}


def test_planted_truths_hold_raw_and_under_every_control() -> None:
    found = words(planted(1.0))
    wrong = {key: word for key, word in found.items() if word != HOLDS}
    assert not wrong
    assert {control for claim, _, control in found if claim == "imp_flatter_than_fine_tune"} == set(imp_claims.CONTROLS)


def test_planted_falsehoods_fail() -> None:
    found = words(planted(-1.0))
    assert not {key: word for key, word in found.items() if word != FAILS and key[0] != "one_shot_barrier"}
    assert found["one_shot_barrier", "", "raw"] in (FAILS, NOT_RESOLVED)


def test_the_barrier_of_one_shot_pruning_can_fail() -> None:
    study = planted(1.0)
    study["barrier_error"].loc[{"method": "one_shot", "pair": "dense -> minimum"}] = 0.0
    assert words(study)["one_shot_barrier", "", "raw"] == FAILS


def test_nothing_planted_is_seldom_given_a_word() -> None:
    given = []
    for seed in range(8):
        found = words(planted(0.0, seed=seed))
        given += [
            w for key, w in found.items() if key[0] not in ("barrier_vanishes_where_matching", "one_shot_barrier")
        ]
    assert given.count(HOLDS) < 0.05 * len(given)
    assert given.count(FAILS) < 0.15 * len(given)  # one of three levels, the noise known from three replicates each


def test_what_was_not_measured_is_not_resolved() -> None:
    study = planted(1.0).drop_vars(["eigenvalue", "fraction_below"])
    judged = imp_claims.evaluate(study).sel(control="raw").sel({"method": ""})
    for claim in ("imp_flatter_than_fine_tune", "training_refills"):
        assert judged["verdict"].sel(claim=claim).item() == NOT_RESOLVED
        assert judged["reason"].sel(claim=claim).item() == "not measured"


def test_single_levels_have_their_own_verdicts() -> None:
    study = planted(1.0)
    study["eigenvalue"].loc[{"method": "fine_tune", "level": 4}] *= np.exp(-1.0)
    judged = imp_claims.evaluate(study).sel({"claim": "imp_flatter_than_fine_tune", "control": "raw", "method": ""})
    assert judged["verdict"].item() == FAILS
    assert judged["level_verdict"].sel(level=[1, 4, 10]).values.tolist() == [HOLDS, FAILS, HOLDS]
    assert judged["level_effect"].sel(level=4).item() == pytest.approx(-0.5, abs=0.1)


def test_a_sign_that_changes_between_the_last_checkpoints_is_not_converged() -> None:
    study = planted(1.0)
    earlier = study["eigenvalue"].sel(control="raw").copy()
    earlier.loc[{"method": "fine_tune"}] *= np.exp(-1.0)
    values = xr.concat([study["eigenvalue"], earlier.assign_coords(control="earlier_epoch")], "control")
    judged = imp_claims.evaluate(
        study.drop_vars("eigenvalue").reindex(control=values["control"]).assign(eigenvalue=values)
    )
    one = judged.sel({"claim": "imp_flatter_than_fine_tune", "control": "raw", "method": ""})
    assert one["verdict"].item() == NOT_RESOLVED
    assert "not converged" in one["reason"].item()


def test_eigenvalues_along_the_epochs_serve_where_no_earlier_epoch_was_measured() -> None:
    study = planted(1.0)
    before = study["eigenvalue"].sel({"control": "raw", "curvature": "hessian", "point": "minimum"}, drop=True).copy()
    epochs = xr.concat([before, before], "epoch").assign_coords(epoch=[9, 10])
    whole = {"claim": "imp_flatter_than_fine_tune", "control": "raw", "method": ""}
    assert imp_claims.evaluate(study.assign(epoch_eigenvalue=epochs)).sel(whole)["verdict"].item() == HOLDS
    epochs.loc[{"method": "fine_tune", "epoch": 9}] *= np.exp(-1.0)
    judged = imp_claims.evaluate(study.assign(epoch_eigenvalue=epochs)).sel(whole)
    assert judged["verdict"].item() == NOT_RESOLVED
    assert "not converged" in judged["reason"].item()


def test_replicates_with_fewer_eigenvalues_are_compared_on_those_that_all_have() -> None:
    study = planted(0.0, noise=0.0)
    study["eigenvalue"].loc[{"method": "fine_tune", "eigen": [4, 5]}] *= np.e
    whole = imp_claims.spectral_pair(study, "fine_tune", "raw")
    np.testing.assert_allclose(whole, 0.4, atol=1e-12)
    study["eigenvalue"].loc[{"replicate": 1, "eigen": [4, 5], "level": 4}] = np.nan
    study["eigenvalue"].loc[{"replicate": 2, "level": 1}] = np.nan
    part = imp_claims.spectral_pair(study, "fine_tune", "raw")
    np.testing.assert_allclose(part.sel(level=4), 0.0, atol=1e-12)
    np.testing.assert_allclose(part.sel(level=1), [0.4, 0.4, np.nan], atol=1e-12)


def test_points_on_different_numbers_of_examples_are_not_compared() -> None:
    study = planted(1.0)
    study["num_examples"] = xr.full_like(study["output_spread"], 2000.0)
    before = imp_claims.spectral_pair(study, "fine_tune", "raw")
    plain = imp_claims.spectral_pair(planted(1.0), "fine_tune", "raw")
    xr.testing.assert_equal(before.drop_vars("num_examples"), plain)
    study["num_examples"].loc[{"method": "imp", "level": 4, "replicate": 1}] = 10000.0
    part = imp_claims.spectral_pair(study, "fine_tune", "raw")
    assert np.isnan(part.sel(level=4)).values.tolist() == [False, True, False]
    assert part.sel(level=10).notnull().all()


def test_the_matched_point_replaces_the_right_side() -> None:
    """Under loss matching only the point of lower loss is replaced; the other keeps its raw eigenvalues."""
    study = planted(0.0, noise=0.0)
    at = {"method": "fine_tune", "control": "loss_matched", "curvature": "hessian", "point": "minimum"}
    study["eigenvalue"].loc[at] *= np.e
    for replaced, effect in (("fine_tune", 1.0), ("imp", -1.0)):
        study["matched_method"].loc[{"method": "fine_tune"}] = replaced
        ratio = imp_claims.spectral_pair(study, "fine_tune", "loss_matched")
        assert ratio is not None
        np.testing.assert_allclose(ratio, effect, atol=1e-12)


def test_exactly_where_needs_both_kinds_of_level() -> None:
    study = planted(1.0).sel(level=[0, 1, 4])
    judged = imp_claims.evaluate(study).sel(
        {"claim": "barrier_vanishes_where_matching", "control": "raw", "method": ""}
    )
    assert judged["verdict"].item() == NOT_RESOLVED
    assert "no contrast" in judged["reason"].item()
