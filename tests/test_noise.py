"""The noise of mean differences: known answers, and simulated studies whose words are counted."""

import numpy as np
import pytest
from scipy import stats

from landscape import decisions, noise
from landscape.decisions import FAILS, HOLDS, NOT_RESOLVED

# Standard deviations (%) of imp's accuracy minus that of random masks from 41 % to 5.5 % kept, about as measured.
LOUDER = np.geomspace(0.1, 2.7, 7)
TWO_SIDED = 2 * noise.ALPHA


def word_rates(sd: np.ndarray, seeds: int, effect: float | np.ndarray = 0.0, replicates: int = 3) -> np.ndarray:
    """How often a single level is given a word, ``(level,)``, over simulated studies."""
    draws = np.random.default_rng(0).standard_normal((seeds, len(sd), replicates)) * sd[:, None]
    means = draws.mean(2) + effect
    return np.mean([abs(m) > 2 * noise.level_ses(d) for m, d in zip(means, draws, strict=True)], axis=0)


def pooled_rates(sd: np.ndarray, seeds: int) -> np.ndarray:
    """The same where the variance is pooled over the levels whatever they are."""
    draws = np.random.default_rng(0).standard_normal((seeds, len(sd), 3)) * sd[:, None]
    return np.mean([abs(d.mean(1)) > 2 * noise.pooled_sd(d) / 3**0.5 for d in draws], axis=0)


def test_each_level_has_the_standard_error_of_its_own_number_of_replicates() -> None:
    draws = np.array([[0, 1, 2], [1, 2, 3], [5, np.nan, np.nan]])
    np.testing.assert_allclose(noise.level_ses(draws), [3**-0.5, 3**-0.5, 1.0])
    assert np.isnan(noise.level_ses(np.array([[1.0], [2.0]]))).all()
    assert np.isnan(noise.level_ses(np.array([[0, 1, 2], [np.nan] * 3]))[1])


def test_pooled_sd_is_that_of_one_level_and_pools_several() -> None:
    draws = np.random.default_rng(0).standard_normal((1, 8))
    assert noise.pooled_sd(draws) == pytest.approx(draws.std(ddof=1))
    np.testing.assert_allclose(noise.level_ses(draws), draws.std(ddof=1) / 8**0.5)
    many = np.random.default_rng(1).standard_normal((4000, 3)) + np.arange(4000)[:, None]
    assert noise.pooled_sd(many) == pytest.approx(1.0, rel=0.05)
    assert np.isnan(noise.pooled_sd(np.array([[1.0], [2.0]])))


def test_levels_of_unequal_variance_have_their_own_with_students_width() -> None:
    quiet, loud = np.array([-0.001, 0.0, 0.001]), np.array([-1.0, 0.0, 1.0])
    ses = noise.level_ses(np.stack([quiet, loud, [0.5, np.nan, np.nan]]))
    student = 4.526 / 2  # the quantile of Student's t with two degrees of freedom at 2.3 %, over that of the normal
    np.testing.assert_allclose(ses[:2], [0.001 * student / 3**0.5, student / 3**0.5], rtol=1e-3)
    assert np.isnan(ses[2])  # one replicate borrows a variance only from levels that share it
    assert noise.level_noises(np.stack([quiet, loud, [0.5, np.nan, np.nan]]), floor_sd=0.2)[2] == 0.2


def test_replicates_that_agree_exactly_have_no_noise() -> None:
    same, other = np.array([0.5, 0.5, 0.5]), np.array([0.0, 1.0, 2.0])
    assert noise.level_ses(np.stack([same, same + 1])).tolist() == [0.0, 0.0]
    ses = noise.level_ses(np.stack([same, other, other]))
    assert ses[0] == 0.0
    assert (ses[1:] > 1.0).all()


def test_equal_variances_are_pooled_and_words_are_near_nominal() -> None:
    seeds = 1000
    rates = word_rates(np.ones(7), seeds)
    expected = 2 * stats.t.sf(2.0, 14)  # 6.5 % instead of 4.6 %: the pooled variance has 14 degrees of freedom
    assert (abs(rates - expected) < 3.5 * (expected * (1 - expected) / seeds) ** 0.5).all()


def test_very_unequal_variances_give_no_more_words_than_nominal() -> None:
    sd = np.array([0.001, 0.001, 0.001, 1.0, 1.0])
    rates, pooled = word_rates(sd, 1000), pooled_rates(sd, 1000)
    assert (rates < TWO_SIDED + 0.015).all()
    assert (pooled[:3] == 0).all()
    assert (pooled[3:] > 0.15).all()


def test_variances_that_grow_over_the_levels_give_far_fewer_words_than_pooled() -> None:
    """Bartlett's test sees 87 % of such studies; the loudest level keeps twice its nominal rate from the others."""
    rates, pooled = word_rates(LOUDER, 1000), pooled_rates(LOUDER, 1000)
    assert rates[-1] < 0.12 < 0.3 < pooled[-1]
    assert rates[:4].min() > 0.02 > 0.01 > pooled[:4].max()


def test_an_effect_at_a_quiet_level_is_found_beside_a_loud_one() -> None:
    """The effects at 41 % and 5.5 % kept: 2.4 and 10 %, noise 0.1 and 2.7 % (pooled: 1.9 %, over root 3)."""
    sd = np.array([0.04, 0.3, 2.7])
    assert word_rates(sd, 300, np.array([1.5, 0.0, 0.0]))[0] > 0.7
    rng = np.random.default_rng(1)
    draws = np.array([1.5, 4.2, 9.0])[:, None] + sd[:, None] * np.array([-1.0, 0.1, 0.9]) * rng.uniform(
        0.9, 1.1, (3, 1)
    )
    found = [
        decisions.decide(float(d.mean()), n).verdict for d, n in zip(draws, noise.level_noises(draws), strict=True)
    ]
    assert found[0] == HOLDS
    assert decisions.decide(1.5, noise.pooled_sd(draws) / 3**0.5).verdict == NOT_RESOLVED
    assert FAILS not in found


def test_noise_is_the_larger_floor_combined_with_the_estimator() -> None:
    assert noise.total_noise(3.0, 1.0, 1, 4.0) == 5.0
    assert noise.total_noise(1.0, 6.0, 4, 4.0) == 5.0
    assert noise.total_noise(float("nan"), 6.0, 4) == 3.0
    assert np.isnan(noise.total_noise(float("nan"), float("nan"), 1, 1.0))
    assert decisions.decide(1.0, float("nan")).verdict == NOT_RESOLVED


def test_the_estimators_error_may_differ_between_levels() -> None:
    draws = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    np.testing.assert_allclose(noise.level_noises(draws, estimator_se=np.array([0.0, 1.0])), [3**-0.5, (4 / 3) ** 0.5])


def test_retrained_floor_counts_the_differences_themselves() -> None:
    assert noise.retrained_sd(np.array([[3.0, -3.0], [3.0, np.nan]])) == 3.0
    assert np.isnan(noise.retrained_sd(np.array([np.nan])))
