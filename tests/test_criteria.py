import pytest
import torch

from landscape.errors import InputError
from landscape.pruning import criteria

F64 = torch.float64


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(30, 20, generator=stream, dtype=F64),
        "a.bias": torch.randn(30, generator=stream, dtype=F64),
        "b.weight": 3 * torch.randn(7, 30, generator=stream, dtype=F64),
    }


def test_only_weights_are_prunable_unless_asked(weights):
    assert criteria.prunable(weights) == ["a.weight", "b.weight"]
    assert criteria.prunable(weights, "all") == list(weights)
    assert criteria.prunable(weights, "b.*") == ["b.weight"]
    with pytest.raises(InputError, match="no parameter matches"):
        criteria.prunable(weights, "c.*")


def test_counts_follow_the_integer_rule_and_masks_nest(weights):
    mask = criteria.dense(weights, criteria.prunable(weights))
    expected = criteria.counts(810, 0.2, 8)
    assert expected[:3] == [810, 648, 518]
    for level in range(1, 9):
        scores = criteria.uniform(mask, 5, level)
        following = criteria.step(scores, mask, 0.2)
        assert criteria.num_kept(following) == expected[level]
        assert all(not bool((following[n] & ~mask[n]).any()) for n in mask)
        mask = following


def test_global_step_removes_the_smallest_magnitudes(weights):
    mask = criteria.dense(weights, criteria.prunable(weights))
    scores = criteria.magnitude(weights, mask)
    pruned = criteria.step(scores, mask, 0.3)
    gone = torch.cat([scores[n][~pruned[n]] for n in mask])
    left = torch.cat([scores[n][pruned[n]] for n in mask])
    assert float(gone.max()) <= float(left.min())
    assert criteria.threshold(scores, mask, pruned) == float(gone.max())


def test_pruned_weights_are_not_counted_again():
    mask = {"w": torch.tensor([[False, True, True, True]])}
    scores = {"w": torch.tensor([[0.0, 3.0, 1.0, 2.0]])}
    assert criteria.step(scores, mask, 1 / 3)["w"].tolist() == [[False, True, False, True]]


def test_ties_go_in_the_order_of_the_model():
    mask = {"a": torch.ones(2, 2, dtype=torch.bool), "b": torch.ones(2, 2, dtype=torch.bool)}
    scores = {"a": torch.ones(2, 2), "b": torch.ones(2, 2)}
    pruned = criteria.remove_smallest(scores, mask, 5)
    assert pruned["a"].sum() == 0
    assert pruned["b"].tolist() == [[False, True], [True, True]]


def test_layerwise_step_removes_the_fraction_of_every_tensor(weights):
    mask = criteria.dense(weights, criteria.prunable(weights))
    pruned = criteria.step(criteria.magnitude(weights, mask), mask, 0.5, "layerwise")
    assert int(pruned["a.weight"].sum()) == 300
    assert int(pruned["b.weight"].sum()) == 105


def test_random_mask_to_counts_matches_each_layer(weights):
    mask = criteria.dense(weights, criteria.prunable(weights))
    target = criteria.step(criteria.magnitude(weights, mask), mask, 0.5)
    drawn = criteria.to_counts(criteria.uniform(mask, 0, "x"), mask, target)
    assert {n: int(m.sum()) for n, m in drawn.items()} == {n: int(m.sum()) for n, m in target.items()}
    again = criteria.to_counts(criteria.uniform(mask, 0, "x"), mask, target)
    assert all(torch.equal(drawn[n], again[n]) for n in mask)
    assert not torch.equal(drawn["a.weight"], target["a.weight"])


def test_bad_steps_are_refused():
    mask = {"w": torch.ones(2, 2, dtype=torch.bool)}
    scores = {"w": torch.rand(2, 2)}
    with pytest.raises(InputError, match="between 0 and 1"):
        criteria.step(scores, mask, 1.5)
    with pytest.raises(InputError, match="cannot be removed"):
        criteria.remove_smallest(scores, mask, 5)
    with pytest.raises(InputError, match="NaN"):
        criteria.remove_smallest({"w": torch.full((2, 2), float("nan"))}, mask, 1)
    with pytest.raises(InputError, match="--scope"):
        criteria.step(scores, mask, 0.5, "row")
