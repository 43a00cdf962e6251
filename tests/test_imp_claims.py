"""The claims of iterative magnitude pruning on planted studies: each holds, fails and stays open where it should."""

import json

import numpy as np
import pytest
import xarray as xr

from landscape import decisions, imp_claims, imp_evidence, noise, preconditions, schemas
from landscape.decisions import FAILS, HOLDS, NOT_RESOLVED
from landscape.errors import InputError

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
    barrier[:, 0, METHODS.index("retrained")] = barrier[:, 0, 0] + 0.02 * draw(2, *SHAPE[1:])
    barrier[:, 1, METHODS.index("one_shot")] += 0.05 if sign > 0 else -0.02
    below = np.full((3, *SHAPE), 0.2)
    below[0] += 0.1 * sign
    below[0, METHODS.index("random_mask_layerwise")] -= 0.05 * sign
    below += 0.2 * draw(3, *SHAPE)
    # the region is empty where fine-tuning starts, and a fraction is never negative
    below[0, METHODS.index("fine_tune")] = imp_claims.REFILLING_DELTA + 0.1 * sign + 0.01 * draw(*SHAPE[1:])
    below = np.maximum(below, 0.0)
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
        "fraction_below": (("at", *cell), below),
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


def test_levels_at_which_pruning_lowers_the_loss_count_too() -> None:
    study = planted(1.0)
    study["loss_increase"].loc[{"removal": "smallest"}] *= -1  # no logarithm, and all the cheaper
    assert words(study)["small_weights_cost_less", "", "raw"] == HOLDS
    study["loss_increase"].loc[{"removal": ["random_0", "random_1"]}] *= -3
    assert words(study)["small_weights_cost_less", "", "raw"] == FAILS


def test_nothing_planted_is_seldom_given_a_word() -> None:
    given = []
    for seed in range(8):
        found = words(planted(0.0, seed=seed))
        given += [
            w for key, w in found.items() if key[0] not in ("barrier_vanishes_where_matching", "one_shot_barrier")
        ]
    assert given.count(HOLDS) < 0.05 * len(given)
    assert given.count(FAILS) < 0.15 * len(given)  # one of three levels, the noise known from three replicates each


def whole(study: xr.Dataset, claim: str, control: str = "raw", method: str = "") -> tuple[str, str]:
    """The word over every level, and its reason."""
    one = imp_claims.evaluate(study).sel({"claim": claim, "control": control, "method": method})
    return one["verdict"].item(), one["reason"].item()


def test_fine_tuning_that_refills_nothing_fails() -> None:
    study = planted(1.0)
    study["fraction_below"].loc[{"method": "fine_tune", "at": "minimum"}] = 0.0
    assert whole(study, "refilling_is_not_rewinding")[0] == FAILS


def test_a_control_with_fewer_levels_than_raw_says_so() -> None:
    study = planted(1.0)
    assert whole(study, "minimum_flatter_than_projected", "loss_matched") == (HOLDS, "levels 1, 4, 10")
    study["eigenvalue"].loc[{"control": "loss_matched", "level": 4}] = np.nan
    found = whole(study, "minimum_flatter_than_projected", "loss_matched")
    assert found == (HOLDS, "only levels 1, 10 of 1, 4, 10")
    assert "only levels 1, 10 of 1, 4, 10" in preconditions.describe(imp_claims.evaluate(study))
    assert whole(study, "training_refills") == (HOLDS, "levels 1, 4, 10")


def test_eigenvalues_that_did_not_converge_stay_out() -> None:
    study = planted(0.0, noise=0.0)
    study["eigenvalue"].loc[{"method": "fine_tune", "eigen": 5}] *= np.e
    study["converged"] = xr.ones_like(study["eigenvalue"])
    assert float(imp_claims.spectral_pair(study, "fine_tune", "raw").mean()) == pytest.approx(0.2)
    study["converged"].loc[{"method": "fine_tune", "eigen": 5}] = 0.0
    np.testing.assert_allclose(imp_claims.spectral_pair(study, "fine_tune", "raw"), 0.0, atol=1e-12)


def test_the_error_after_the_last_epoch_ranks_what_connectivity_did_not_measure() -> None:
    study = planted(1.0)
    last = 1 - study["point_error"].sel(split="test", at="minimum", drop=True)
    study["test_accuracy"] = xr.concat([last - 0.5, last], "epoch").assign_coords(epoch=[9, 10])
    study["point_error"].loc[{"method": "one_shot"}] = np.nan
    assert whole(study, "imp_best", method="one_shot") == (HOLDS, "level 10")
    found = imp_claims.evaluate(study)["effect"].sel({"claim": "imp_best", "control": "raw", "method": "one_shot"})
    assert found.item() == pytest.approx(0.05, abs=0.01)
    alone = study.drop_vars("point_error")
    assert whole(alone, "imp_best", method="fine_tune") == (HOLDS, "level 10")
    assert imp_claims.matching(alone)[4].verdict == HOLDS


def test_level_zero_lends_matching_no_noise() -> None:
    """There every difference from the dense networks is exactly zero: pooled in, it would halve the noise."""
    study = planted(0.0, noise=0.1)
    errors = (
        study["point_error"].sel({"split": "test", "at": "minimum", "method": "imp"}).transpose("level", "replicate")
    )
    gaps = (errors - errors.sel(level=0)).values[1:]
    twins = study.drop_sel(method="retrained")
    assert imp_claims.matching(twins)[4].noise == pytest.approx(noise.pooled_sd(gaps) / 3**0.5)
    assert set(imp_claims.matching(study)) == {1, 4, 10}


def test_a_barrier_has_the_error_of_its_examples_and_the_floor_of_training_twice() -> None:
    study = planted(1.0)
    assert whole(study, "barrier_vanishes_where_matching")[0] == HOLDS
    sharp = imp_claims.evaluate(study)["level_noise"].sel({"claim": "barrier_vanishes_where_matching", "level": 4})
    assert float(sharp.sel({"control": "raw", "method": ""})) < 0.001
    study["barrier_error_se"] = xr.full_like(study["barrier_error"], 0.004)
    blunt = imp_claims.evaluate(study)["level_noise"].sel({"claim": "barrier_vanishes_where_matching", "level": 4})
    assert float(blunt.sel({"control": "raw", "method": ""})) == pytest.approx(0.004, rel=0.05)
    twin = planted(1.0)
    twin["barrier_error"].loc[{"method": "retrained", "pair": "previous -> minimum"}] += 0.01
    floor = imp_claims.evaluate(twin)["level_noise"].sel({"claim": "barrier_vanishes_where_matching", "level": 1})
    assert float(floor.sel({"control": "raw", "method": ""})) > 0.01 / 3**0.5 / 2


def test_a_spectrum_without_an_earlier_checkpoint_says_so() -> None:
    study = planted(1.0)
    assert whole(study, "imp_flatter_than_fine_tune") == (HOLDS, "levels 1, 4, 10; convergence not checked")
    assert whole(study, "imp_flatter_than_fine_tune", "loss_matched") == (HOLDS, "levels 1, 4, 10")
    epochs = along_the_epochs(study)
    assert whole(study.assign(epoch_eigenvalue=epochs), "imp_flatter_than_fine_tune") == (HOLDS, "levels 1, 4, 10")
    epochs.loc[{"level": 4}] = np.nan
    found = whole(study.assign(epoch_eigenvalue=epochs), "imp_flatter_than_fine_tune")
    assert found == (HOLDS, "levels 1, 4, 10; convergence not checked at 4")


def along_the_epochs(study: xr.Dataset) -> xr.DataArray:
    """The same eigenvalues at the last two epochs of a training."""
    before = study["eigenvalue"].sel({"control": "raw", "curvature": "hessian", "point": "minimum"}, drop=True).copy()
    return xr.concat([before, before], "epoch").assign_coords(epoch=[9, 10])


def test_projected_is_held_against_the_epoch_before_the_last() -> None:
    study, claim = planted(1.0), "minimum_flatter_than_projected"
    epochs = along_the_epochs(study)
    assert whole(study.assign(epoch_eigenvalue=epochs), claim) == (HOLDS, "levels 1, 4, 10")
    epochs.loc[{"epoch": 9}] *= np.exp(1.0)
    word, reason = whole(study.assign(epoch_eigenvalue=epochs), claim)
    assert word == NOT_RESOLVED
    assert "not converged" in reason
    # epochs on other examples, whose last one is not the minimum that was measured, check nothing
    other = study.assign(epoch_eigenvalue=1.5 * epochs)
    assert whole(other, claim) == (HOLDS, "levels 1, 4, 10; convergence not checked")


def test_overlaps_count_where_the_gap_behind_the_cut_is_resolved() -> None:
    study = planted(1.0)
    study["resolved"] = xr.ones_like(study["overlap"])
    assert whole(study, "eigenspace_persists") == (HOLDS, "levels 1, 4, 10")
    study["resolved"].loc[{"method": "random_mask_layerwise", "level": 4, "cut": 9}] = 0.0
    assert whole(study, "eigenspace_persists") == (HOLDS, "only levels 1, 10 of 1, 4, 10")
    study["resolved"][:] = 0.0
    assert whole(study, "eigenspace_persists") == (NOT_RESOLVED, "the gap behind the cut is resolved at no level")


def test_the_cut_follows_the_number_of_classes() -> None:
    def cuts(values: list[int], data: str = "") -> xr.Dataset:
        options = {"description": {"training": {"data": data}}}
        return xr.Dataset(coords={"cut": values}).assign_attrs(options=json.dumps(options) if data else "{}")

    assert imp_evidence.cut_of(cuts([1, 2, 5, 9, 10, 20])) == 9
    assert imp_evidence.cut_of(cuts([1, 2, 4, 5, 20])) == 4
    assert imp_evidence.cut_of(cuts([1, 2, 5, 20], "cifar100")) == 20
    assert imp_evidence.cut_of(cuts([1, 2, 5, 20], "mnist_binary")) == 1
    with pytest.raises(InputError, match="number of classes"):
        imp_evidence.cut_of(cuts([1, 2, 5, 20]))
    study = planted(1.0).assign_coords(cut=[1, 20])
    assert "number of classes" in whole(study, "eigenspace_persists")[1]


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
    epochs = along_the_epochs(study)
    assert whole(study.assign(epoch_eigenvalue=epochs), "imp_flatter_than_fine_tune")[0] == HOLDS
    epochs.loc[{"method": "fine_tune", "epoch": 9}] *= np.exp(-1.0)
    word, reason = whole(study.assign(epoch_eigenvalue=epochs), "imp_flatter_than_fine_tune")
    assert word == NOT_RESOLVED
    assert "not converged" in reason


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
