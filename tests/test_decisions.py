import numpy as np
import pytest

from landscape import decisions
from landscape.decisions import FAILS, HOLDS, NOT_RESOLVED, Verdict
from landscape.noise import level_noises


def words(
    effect: float, noise: float, seeds: int, kind: str = "order", delta: float = 0.0, levels: int = 5
) -> list[str]:
    """Verdicts of simulated studies: 5 levels, 3 replicates, a true effect, replicate noise."""
    found = []
    for seed in range(seeds):
        draws = effect + noise * np.random.default_rng(seed).standard_normal((levels, 3))
        found.append(decisions.decide_every(draws.mean(1).tolist(), level_noises(draws), kind, delta).verdict)
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


def test_noiseless_effects_have_infinite_margins():
    assert decisions.decide(1.0, 0.0).verdict == HOLDS
    assert decisions.decide(0.0, 0.0).verdict == NOT_RESOLVED
    assert decisions.decide_every([1.0, 2.0], [0.0, 0.0]).verdict == HOLDS


def test_conditions_need_pruning_and_contrast():
    assert decisions.decide_condition([1.0, 2.0], 0.5, [1.0, 0.5]).verdict == HOLDS
    assert decisions.decide_condition([0.1, 2.0], 0.5, [1.0, 0.5]).verdict == FAILS
    assert "vacuous" in decisions.decide_condition([1.0, 2.0], 0.5, [1.0, 0.97]).reason
    assert "no contrast" in decisions.decide_condition([1.0, 1.0], 0.5, [1.0, 0.5]).reason


def test_a_verdict_over_every_level_names_them_where_it_gives_no_reason():
    verdict = decisions.decide_every([5.0, 6.0], [1.0, 1.0])
    assert decisions.over_levels(verdict, [4, 10]).reason == "levels 4, 10"
    assert decisions.over_levels(verdict, [10]).reason == "level 10"
    assert decisions.over_levels(verdict, [4, 10], [4, 10]).reason == "levels 4, 10"
    fewer = decisions.over_levels(verdict, [4, 10], [1, 4, 7, 10, 13])
    assert (fewer.verdict, fewer.reason) == (HOLDS, "only levels 4, 10 of 1, 4, 7, 10, 13")
    assert decisions.over_levels(verdict, [1, 2, 3, 4, 7, 8]).reason == "levels 1-4, 7, 8"
    open_ = decisions.decide_every([5.0, 6.0, 7.0], [1.0, float("nan"), 1.0], levels=[1, 4, 7])
    assert open_.reason == "noise unknown: one replicate and no retrained twin (level 4)"
    within = decisions.decide_every([5.0, 1.0], [1.0, 1.0])
    assert decisions.over_levels(within, [4, 10], [1, 4, 10]).reason == "some level within its noise"


def where(outcomes, conditions):
    """The verdict of "exactly where" from margins."""
    both = ([decisions.decide(m, 1.0) for m in margins] for margins in (outcomes, conditions))
    return decisions.decide_exactly_where(*both, list(range(1, len(outcomes) + 1)))


def test_exactly_where():
    found = where([9, 9, -9], [9, 9, -9])
    assert (found.verdict, found.reason) == (HOLDS, "3 of 3 levels: 1, 2, 3")
    found = where([9, -9, -9], [9, 9, -9])
    assert (found.verdict, found.reason) == (FAILS, "2 of 3 levels: 1, 3; not at 2")
    assert where([9, 0, -9], [9, 9, -9]).verdict == HOLDS
    assert "no contrast" in where([9, 9], [9, 9]).reason
    assert "no level" in where([0], [9]).reason
    overruled = decisions.unresolved(decisions.decide(9, 1.0), "not converged")
    yes, no = decisions.decide(9, 1.0), decisions.decide(-9, 1.0)
    assert decisions.decide_exactly_where([yes, no, overruled], [yes, no, no], [1, 2, 3]).verdict == HOLDS
    unknown = Verdict(1.0, float("nan"), float("nan"), NOT_RESOLVED, "noise unknown")
    assert decisions.decide_exactly_where([yes, no, unknown], [yes, no, no], [1, 2, 3]).verdict == HOLDS


def test_one_of_seven_levels_that_contradicts_at_two_noises_is_left_to_chance():
    found = where([9, 9, 9, 9, 9, 9, -2.3], [9, 9, 9, -9, 9, 9, 9])
    assert found.verdict == FAILS  # level 4 by far
    found = where([9, 9, 9, -9, 9, 9, -2.3], [9, 9, 9, -9, 9, 9, 9])
    assert found.verdict == NOT_RESOLVED
    assert found.reason == "6 of 7 levels: 1-6; not at 7, which Holm's correction leaves to chance"
    assert where([9, 9, 9, -2.1], [9, 9, 9, -2.1]).reason.endswith("Holm's correction leaves the contrast to chance")


def test_a_true_claim_about_where_seldom_fails_and_a_false_one_does():
    """Seven levels, three replicates: the outcome's margin is 2.5 noises where true, the condition's 8."""
    rng, margins = np.random.default_rng(0), np.array([1, 1, 1, 1, -1, -1, -1])

    def found(seeds, wrong=0.0):
        given = []
        for _ in range(seeds):
            draws = np.stack([2.5 * margins - wrong * (np.arange(7) == 1), 8 * margins])[..., None] * 3**-0.5
            draws = draws + rng.standard_normal((2, 7, 3))
            sides = ([decisions.decide(*pair) for pair in zip(d.mean(1), level_noises(d), strict=True)] for d in draws)
            given.append(decisions.decide_exactly_where(*sides, list(range(7))).verdict)
        return np.array(given)

    assert np.mean(found(300) == FAILS) <= 0.05
    assert np.mean(found(60, wrong=12.0) == FAILS) > 0.9
