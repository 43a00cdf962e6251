"""Claims of IMC pruning on planted studies: each holds, fails and stays open where it should; and on a run's files."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from landscape import preconditions, schemas
from landscape.compression_claims import STATEMENTS, evaluate
from landscape.decisions import FAILS, HOLDS, NOT_RESOLVED
from landscape.errors import InputError

METHODS = ["imp", "one_shot", "one_shot_shuffled", "random_layerwise", "theory_forced"]
LEVELS, REPLICATES = [0, 4, 10], [0, 1, 2]


def networks(gain: float, lost: float = 0.0, kept: float | None = None, noise: float = 0.0004) -> xr.Dataset:
    """Pruned networks whose method is better than its null by ``gain`` and worse than the dense one by ``lost``."""
    shape = (len(METHODS), len(LEVELS), len(REPLICATES))
    scatter = np.array([np.roll([-1.0, 0.0, 1.0], m) for m in range(len(METHODS))])  # of mean zero
    accuracy = 0.95 + noise * np.broadcast_to(scatter[:, None], shape)
    accuracy[1, 1:] -= lost
    accuracy[2:4, 1:] -= lost + gain
    accuracy[0, 1:], accuracy[1:, 0] = np.nan, np.nan
    chance = np.full(shape, np.nan)
    chance[4, 1:] = 0.05 if gain > 0 else 1.0 if gain < 0 else 0.5  # 1 in 20 is the least that 19 masks show
    fraction = 0.8 ** np.array(LEVELS) if kept is None else np.array([1.0, kept, kept])
    dims = ("method", "level", "replicate")
    kept_of = np.where(np.isnan(accuracy), np.nan, fraction[None, :, None])
    data = {"test_accuracy": (dims, accuracy), "kept": (dims, kept_of), "masked_p_value": (dims, chance)}
    return xr.Dataset(data, {"method": METHODS, "level": LEVELS, "replicate": REPLICATES})


def conditions(near: float, ratio: float, coverage: float, concentration: float) -> xr.Dataset:
    """Conditions of one choice in one replicate."""
    cell = ("method", "replicate")
    shells = ("shell", *cell)
    one = {
        "measured_imc": (cell, np.array([[True]])),
        "newton_displacement": (cell, np.array([[0.01 / near]])),
        "concentration": (cell, np.array([[concentration]])),
        "coverage": (cell, np.array([[coverage]])),
        "rho": (shells, np.array([[[0.01]], [[1.0]]])),
        "gap_ratio_lo": (shells, np.array([[[ratio - 0.01]], [[0.1]]])),
        "gap_ratio_hi": (shells, np.array([[[ratio + 0.01]], [[0.1]]])),
        "status": (shells, np.array([[["found"]], [["none"]]], dtype=object)),
    }
    return xr.Dataset(one, {"method": ["imc_reconstructed"], "replicate": [0]})


def word(found: xr.Dataset, claim: str, method: str, replicate: int | None = None) -> str:
    place: dict[str, str | int] = {"claim": claim, "method": method}
    if replicate is not None or "replicate" in found.dims:
        place["replicate"] = -1 if replicate is None else replicate
    return str(found["verdict"].sel(place).item())


@pytest.mark.parametrize(("gain", "expected"), [(0.01, HOLDS), (-0.01, FAILS), (0.0, NOT_RESOLVED)])
def test_better_than_nulls(gain: float, expected: str) -> None:
    found = evaluate(None, networks(gain), None)
    for claim in ("beats_shuffle", "beats_random"):
        assert word(found, claim, "one_shot") == expected
    assert word(found, "masks_well_at_base", "theory_forced") == expected


def text(found: xr.Dataset, claim: str, method: str) -> str:
    return str(found["reason"].sel({"claim": claim, "method": method}).item())


@pytest.mark.parametrize(
    ("chances", "expected"),
    [([0.05, 0.05, 0.05], HOLDS), ([0.05, 0.1, 0.05], NOT_RESOLVED), ([0.45] * 3, NOT_RESOLVED),
     ([0.9] * 3, NOT_RESOLVED), ([0.95, 1.0, 1.0], FAILS), ([0.05, 1.0, 1.0], NOT_RESOLVED)],
)  # fmt: skip
def test_a_chance_that_is_neither_low_nor_high_is_not_resolved(chances: list[float], expected: str) -> None:
    study = networks(0.01)
    study["masked_p_value"].loc[{"method": "theory_forced", "level": 4}] = chances
    found = evaluate(None, study, None)
    place = {"claim": "masks_well_at_base", "method": "theory_forced", "level": 4}
    assert found["level_verdict"].sel(place).item() == expected
    assert word(found, "masks_well_at_base", "theory_forced") == expected
    assert found["effect"].sel({k: v for k, v in place.items() if k != "level"}).item() == pytest.approx(
        0.05 - max(chances)
    )


def test_a_mask_that_prunes_nothing_is_no_test_of_masking_or_of_comparisons() -> None:
    for gain in (0.01, -0.01, 0.0):
        found = evaluate(None, networks(gain, kept=0.99), None)
        for claim, method in (("masks_well_at_base", "theory_forced"), ("beats_random", "one_shot")):
            assert word(found, claim, method) == NOT_RESOLVED
            assert text(found, claim, method).startswith("vacuous")
    part = networks(-0.01)
    part["kept"].loc[{"level": 4}] = 0.96
    found = evaluate(None, part, None)
    assert word(found, "beats_random", "one_shot") == FAILS
    assert text(found, "beats_random", "one_shot") == "only level 10 of 4, 10"
    assert text(found, "masks_well_at_base", "theory_forced") == "level 10"


def test_networks_are_compared_where_they_keep_as_much() -> None:
    """What a rule chooses itself stands under one level, whatever it keeps."""
    study = networks(0.01)
    study["kept"].loc[{"method": "one_shot", "level": 4}] = 0.9
    found = evaluate(None, study, None)
    assert word(found, "beats_random", "one_shot") == HOLDS
    assert text(found, "beats_random", "one_shot") == "only level 10 of 4, 10"
    study["kept"].loc[{"method": "one_shot"}] = 0.9
    assert (
        text(evaluate(None, study, None), "beats_random", "one_shot") == "no network that keeps as much to compare with"
    )
    study = networks(0.01)
    study["kept"].loc[{"method": "one_shot"}] *= 1.0005  # another rounding of the same fraction
    assert text(evaluate(None, study, None), "beats_random", "one_shot") == "levels 4, 10"


@pytest.mark.parametrize(("lost", "expected"), [(0.0, HOLDS), (0.02, FAILS), (0.005, NOT_RESOLVED)])
def test_accuracy_is_kept_within_delta(lost: float, expected: str) -> None:
    assert word(evaluate(None, networks(0.0, lost), None), "keeps_accuracy", "one_shot") == expected


def test_nothing_pruned_is_vacuous() -> None:
    found = evaluate(None, networks(0.0, 0.0, kept=0.99), None)
    assert word(found, "keeps_accuracy", "one_shot") == NOT_RESOLVED
    reasons = found["reason"].sel({"claim": "keeps_accuracy", "method": "one_shot"}).values
    assert "vacuous" in str(reasons)


def test_one_replicate_says_nothing_of_noise() -> None:
    found = evaluate(None, networks(0.01).isel(replicate=[0]), None)
    assert word(found, "beats_shuffle", "one_shot") == NOT_RESOLVED


@pytest.mark.parametrize("good", [True, False])
def test_conditions(good: bool) -> None:
    study = conditions(2.0, 2.0, 2.0, 0.99) if good else conditions(0.5, 0.5, 0.5, 0.1)
    found = evaluate(study, None, None)
    expected = {
        "base_near_stationary": HOLDS,
        "subspace_is_coordinates": HOLDS,
        "gap_within_eps": NOT_RESOLVED,  # sampled: only a violation is definite
        "gap_covers_training": NOT_RESOLVED,
    }
    for claim, verdict in expected.items():
        assert word(found, claim, "imc_reconstructed", 0) == (verdict if good else FAILS), claim


def test_a_gap_that_may_hide_is_not_excluded() -> None:
    study = conditions(2.0, 0.5, 0.5, 0.9)
    study["status"][0] = NOT_RESOLVED
    assert word(evaluate(study, None, None), "gap_within_eps", "imc_reconstructed", 0) == NOT_RESOLVED


def dimensions(ratio: list[float]) -> xr.Dataset:
    levels = list(range(len(ratio)))
    dims = ("rule", "shell", "level")
    return xr.Dataset(
        {
            "gap_ratio_hi": (dims, np.array(ratio)[None, None]),
            "kept": (("level",), 0.8 ** np.array(levels)),
        },
        {"rule": ["gap_4l"], "shell": [0], "level": levels},
    )


def searched(ratio: list[float], growth: float = 1.0) -> xr.Dataset:
    """The same from an adversarial search whose halves agree in l up to ``growth``."""
    study = dimensions(ratio)
    study["gap_ratio_lo"] = study["gap_ratio_hi"] - 0.01
    study["region"] = ("level", ["adversarial"] * len(ratio))
    study["lipschitz"] = (("shell", "level"), np.full((1, len(ratio)), growth))
    study["lipschitz_half"] = (("shell", "level"), np.ones((1, len(ratio))))
    study["status"] = (("rule", "shell", "level"), np.full((1, 1, len(ratio)), "found", dtype=object))
    return study


def test_an_adversarial_search_lets_the_gap_hold() -> None:
    found = evaluate(None, None, searched([3.0, 2.0, 1.5]))
    assert word(found, "gap_at_every_level", "imp") == HOLDS
    assert text(found, "gap_at_every_level", "imp") == "levels 0, 1, 2"
    assert word(evaluate(None, None, searched([3.0, 2.0, 1.5], 1.2)), "gap_at_every_level", "imp") == NOT_RESOLVED
    assert word(evaluate(None, None, searched([3.0, 0.5, 1.5])), "gap_at_every_level", "imp") == FAILS
    good = conditions(2.0, 2.0, 2.0, 0.99)
    for name, value in (("lipschitz", 1.0), ("lipschitz_half", 0.99)):
        good[name] = xr.full_like(good["rho"], value)
    good["region"] = (("method", "replicate"), [["adversarial"]])
    for claim in ("gap_within_eps", "gap_covers_training"):
        assert word(evaluate(good, None, None), claim, "imc_reconstructed", 0) == HOLDS


def test_a_gap_that_may_hide_at_a_level_is_not_excluded_there() -> None:
    study = searched([3.0, 0.5, 1.5])
    study["status"].loc[{"level": 1}] = NOT_RESOLVED
    found = evaluate(None, None, study)
    assert word(found, "gap_at_every_level", "imp") == NOT_RESOLVED
    assert "could hide" in text(found, "gap_at_every_level", "imp")


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [([0.3, 0.2, 0.9], FAILS), ([3.0, 2.0, 1.5], NOT_RESOLVED), ([2.0, 0.5, 1.5], FAILS), ([], NOT_RESOLVED)],
)
def test_the_gap_at_every_level(ratio: list[float], expected: str) -> None:
    found = evaluate(None, None, dimensions(ratio) if ratio else None)
    assert word(found, "gap_at_every_level", "imp") == expected


def test_the_table_follows_its_schema() -> None:
    found = evaluate(conditions(2.0, 2.0, 2.0, 0.99), networks(0.01), dimensions([0.3, 0.2]))
    assert set(found["claim"].values.tolist()) == set(STATEMENTS)
    assert set(np.unique(found["verdict"].values)) <= {HOLDS, FAILS, NOT_RESOLVED}
    schemas.check(found.assign_coords(level=found["level"]), "preconditions")


@pytest.mark.parametrize("word_to_avoid", ["lossless", "reproduce"])
def test_no_claim_goes_beyond_the_evidence(word_to_avoid: str) -> None:
    text = " ".join([*STATEMENTS, *(statement for statement, _ in STATEMENTS.values())])
    assert word_to_avoid not in text


def test_a_run_without_results_is_refused(tmp_path: Path) -> None:
    from landscape import runs

    runs.create(tmp_path, {"kind": "imp"})
    with pytest.raises(InputError, match=r"landscape\.pruning imc"):
        preconditions.evaluate_preconditions(tmp_path, "imc")
