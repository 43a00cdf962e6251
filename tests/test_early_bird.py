"""Early detection: the released rule, the cases in which it means nothing, and the score of a detection."""

import numpy as np
import pytest
import torch

from landscape.errors import InputError
from landscape.pruning import early_bird as eb
from landscape.pruning.early_bird import StableOptions, first_stable


def random_masks(pruned, count=8, size=2000):
    rng = np.random.default_rng(0)
    return [eb.rank_mask(rng.random(size), pruned) for _ in range(count)]


def test_identical_masks_trigger_at_the_fifth_call():
    mask = np.array([1, 0, 1, 1, 0, 1, 0, 1, 1, 1], dtype=bool)
    assert first_stable([mask] * 4) is None
    assert first_stable([mask] * 9) == 4
    other = mask.copy()
    other[:2] = ~other[:2]
    assert first_stable([mask] * 3 + [other] * 6) == 7


def test_the_newest_mask_is_compared_with_each_of_the_four_before():
    drift = [np.arange(40) < n for n in range(1, 20)]  # one bit a step, 0.025: 0.1 over four steps
    assert first_stable(drift) == 4
    assert first_stable(drift, options=StableOptions(tolerance=0.09)) is None


def test_complementary_masks_are_at_distance_one():
    mask = np.random.default_rng(0).random(50) < 0.5
    assert eb.hamming(mask, ~mask) == 1.0
    assert eb.hamming(mask, mask) == 0.0


def test_unrelated_masks_trigger_where_little_is_pruned_unless_chance_is_divided_out():
    assert first_stable(random_masks(0.04)) == 4
    assert first_stable(random_masks(0.3)) is None
    assert first_stable(random_masks(0.04), eb.relative_hamming) is None
    assert first_stable(random_masks(0.04), eb.jaccard_distance, StableOptions(tolerance=0.05)) is None
    for pruned in (0.04, 0.3, 0.7):
        one, two = random_masks(pruned, 2, 100_000)
        assert eb.hamming(one, two) == pytest.approx(2 * pruned * (1 - pruned), rel=0.05)
        assert eb.relative_hamming(one, two) == pytest.approx(1, rel=0.05)


def test_equal_scales_keep_nothing_by_threshold_and_the_right_number_by_rank():
    scales = np.full(10, 0.5)
    assert eb.threshold_mask(scales, 0.3).sum() == 0
    assert list(eb.rank_mask(scales, 0.3)) == [False] * 3 + [True] * 7
    distinct = np.random.default_rng(1).permutation(10) / 10
    assert eb.threshold_mask(distinct, 0.3).sum() == 6  # the released code drops one more than it says
    assert eb.rank_mask(distinct, 0.3).sum() == 7
    with pytest.raises(InputError, match="between 0 and 1"):
        eb.rank_mask(scales, 1.0)


def test_a_mask_that_is_stable_because_nothing_moves_waits_for_the_loss():
    masks, loss = [np.array([True, False])] * 10, np.array([1, 1, 1, 1, 1, 0.9, 0.8, 0.7, 0.4, 0.3])
    assert first_stable(masks, loss=loss) == 4
    assert first_stable(masks, options=StableOptions(progress=0.5), loss=loss) == 8
    with pytest.raises(InputError, match="losses"):
        first_stable(masks, loss=loss[:3])


def test_pick_multisets_ranks_and_counts_have_their_distances():
    assert eb.jaccard_distance([0.5, 0.5, 0.0], [0.5, 0.25, 0.25]) == pytest.approx(1 - 0.75 / 1.25)
    assert eb.jaccard_distance([1, 0, 1], [1, 0, 1]) == 0.0
    assert eb.rank_distance([1, 2, 3, 4], [10, 20, 30, 45]) == pytest.approx(0)
    assert eb.rank_distance([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(2)
    assert eb.rank_distance([1, 1, 1], [1, 2, 3]) == 1.0
    assert eb.count_distance([4, 8], [2, 8]) == pytest.approx(0.25)
    with pytest.raises(InputError, match="cannot be compared"):
        eb.hamming([1, 0], [1, 0, 1])


def test_scales_are_those_of_the_batchnorm_layers():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3), torch.nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
    scales = eb.channel_scales(model.state_dict())
    assert list(scales) == ["1"]
    np.testing.assert_allclose(scales["1"], [1, 2, 0.5])
    with pytest.raises(InputError, match="BatchNorm"):
        eb.channel_scales(torch.nn.Linear(2, 2).state_dict())


def test_detections_are_scored_by_regret_and_saved_steps():
    accuracy, step = [0.5, 0.8, 0.95, 0.9], [0, 10, 20, 40]
    found = eb.score(1, accuracy, step)
    assert found.regret == pytest.approx(0.15)
    assert found.saved == 0.75
    missed = eb.score(None, accuracy, step)
    assert (missed.regret, missed.saved) == (pytest.approx(0.05), 0.0)
    assert eb.first_below([3.0, 2.0, 0.5, 0.7], 1.0) == 2
    assert eb.first_below([3.0, 2.0], 1.0) is None
    with pytest.raises(InputError, match="accuracies"):
        eb.score(0, [1.0], step)
