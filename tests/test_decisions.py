import numpy as np
import pytest

from landscape import decisions
from landscape.decisions import FAILS, HOLDS, NOT_RESOLVED, Verdict


def words(
    effect: float, noise: float, seeds: int, kind: str = "order", delta: float = 0.0, levels: int = 5
) -> list[str]:
    """Verdicts of simulated studies: 5 levels, 3 replicates, a true effect, replicate noise."""
    found = []
    for seed in range(seeds):
        draws = effect + noise * np.random.default_rng(seed).standard_normal((levels, 3))
        se = decisions.pooled_se(draws)
        total = decisions.total_noise(se, float("nan"), 3)
        found.append(decisions.decide_every(draws.mean(1), [total] * levels, kind, delta).verdict)
    return found


def test_order_claim_single():
    assert decisions.decide(2.1, 1.0).verdict == HOLDS
    assert decisions.decide(1.9, 1.0).verdict == NOT_RESOLVED
    assert decisions.decide(-1.9, 1.0).verdict == NOT_RESOLVED
    assert decisions.decide(-2.1, 1.0).verdict == FAILS


def test_absence_claim_single():
    assert decisions.decide(0.3, 0.1, "absence", 0.6).verdict == HOLDS
    assert decisions.decide(-0.3, 0.1, "absence", 0.6).verdict == HOLDS
    assert decisions.decide(0.5, 0.1, "absence", 0.6).verdict == NOT_RESOLVED
    assert decisions.decide(0.7, 0.1, "absence", 0.6).verdict == NOT_RESOLVED
    assert decisions.decide(-0.9, 0.1, "absence", 0.6).verdict == FAILS


def test_planted_effects_are_found_at_every_level():
    assert np.mean([w == HOLDS for w in words(6.0, 1.0, 200)]) > 0.95
    assert np.mean([w == FAILS for w in words(-6.0, 1.0, 200)]) > 0.95


def test_no_effect_is_seldom_given_a_word():
    found = words(0.0, 1.0, 400)
    assert np.mean([w == FAILS for w in found]) < 0.07
    assert np.mean([w == HOLDS for w in found]) < 0.01


def test_planted_absence_and_presence():
    assert np.mean([w == HOLDS for w in words(0.0, 1.0, 100, "absence", 5.0)]) > 0.95
    assert np.mean([w == FAILS for w in words(9.0, 1.0, 100, "absence", 2.0)]) > 0.95
    assert np.mean([w == NOT_RESOLVED for w in words(2.0, 1.0, 100, "absence", 2.0)]) > 0.6


def test_holm_widens_the_thresholds_and_stops_at_the_first_failure():
    assert decisions.holm_widths([10.0, 2.1, 2.4]) == pytest.approx([2.428, 2.0, 2.278], abs=1e-3)
    assert decisions.holm_widths([2.01]) == [pytest.approx(2.0)]
    assert decisions.holm_widths([3.0, 3.0, 1.0])[2] == float("inf")


def test_a_level_that_just_passes_two_noises_is_not_enough_in_a_family():
    assert decisions.decide(-2.2, 1.0).verdict == FAILS
    assert decisions.decide_every([-2.2, 0, 0, 0, 0], [1.0] * 5).verdict == NOT_RESOLVED
    assert decisions.decide_every([5, 5, 5, 5, 2.2], [1.0] * 5).verdict == HOLDS
    assert decisions.decide_every([5, 5, 5, 5, 1.2], [1.0] * 5).verdict == NOT_RESOLVED
    verdict = decisions.decide_every([5, 5, -4, 5, 5], [1.0] * 5)
    assert (verdict.verdict, verdict.effect, verdict.margin) == (FAILS, -4, -4)


def test_a_missing_level_prevents_every_but_not_a_failure():
    nan = float("nan")
    assert decisions.decide_every([5, nan], [1.0, 1.0]).verdict == NOT_RESOLVED
    assert decisions.decide_every([-5, nan], [1.0, 1.0]).verdict == FAILS
    assert decisions.decide_every([], []).reason == "not measured"


def test_noise_is_the_larger_floor_combined_with_the_estimator():
    assert decisions.total_noise(3.0, 1.0, 1, 4.0) == 5.0
    assert decisions.total_noise(1.0, 6.0, 4, 4.0) == 5.0
    assert decisions.total_noise(float("nan"), 6.0, 4) == 3.0
    assert np.isnan(decisions.total_noise(float("nan"), float("nan"), 1, 1.0))
    assert decisions.decide(1.0, float("nan")).verdict == NOT_RESOLVED


def test_pooled_se_is_that_of_one_level_and_pools_several():
    draws = np.random.default_rng(0).standard_normal((1, 8))
    assert decisions.pooled_se(draws) == pytest.approx(draws.std(ddof=1) / 8**0.5)
    many = np.random.default_rng(1).standard_normal((4000, 3)) + np.arange(4000)[:, None]
    assert decisions.pooled_se(many) == pytest.approx(3**-0.5, rel=0.05)
    assert np.isnan(decisions.pooled_se(np.array([[1.0], [2.0]])))


def test_retrained_floor_counts_the_differences_themselves():
    assert decisions.retrained_sd(np.array([[3.0, -3.0], [3.0, np.nan]])) == 3.0
    assert np.isnan(decisions.retrained_sd(np.array([np.nan])))


def test_noiseless_effects_have_infinite_margins():
    assert decisions.decide(1.0, 0.0).verdict == HOLDS
    assert decisions.decide(0.0, 0.0).verdict == NOT_RESOLVED
    assert decisions.decide_every([1.0, 2.0], [0.0, 0.0]).verdict == HOLDS


def test_conditions_need_pruning_and_contrast():
    assert decisions.decide_condition([1.0, 2.0], 0.5, [1.0, 0.5]).verdict == HOLDS
    assert decisions.decide_condition([0.1, 2.0], 0.5, [1.0, 0.5]).verdict == FAILS
    assert "vacuous" in decisions.decide_condition([1.0, 2.0], 0.5, [1.0, 0.97]).reason
    assert "no contrast" in decisions.decide_condition([1.0, 1.0], 0.5, [1.0, 0.5]).reason


def test_exactly_where():
    yes, no, open_ = (Verdict(0, 0, 0, word) for word in (HOLDS, FAILS, NOT_RESOLVED))
    assert decisions.decide_exactly_where([yes, yes, no], [yes, yes, no]).verdict == HOLDS
    assert decisions.decide_exactly_where([yes, no, no], [yes, yes, no]).verdict == FAILS
    assert decisions.decide_exactly_where([yes, open_, no], [yes, yes, no]).verdict == HOLDS
    assert "no contrast" in decisions.decide_exactly_where([yes, yes], [yes, yes]).reason
    assert "no level" in decisions.decide_exactly_where([open_], [yes]).reason
