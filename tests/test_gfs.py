"""Greedy selection against its definition, and on problems whose path is known in closed form."""

import itertools

import numpy as np
import pytest
import torch
from gfs_reference import naive_path, square

from landscape.errors import InputError, MemoryLimitError
from landscape.pruning import gfs, gfs_baselines
from landscape.pruning.gfs import SelectOptions, from_gram, from_matrix, select
from landscape.pruning.gfs_neurons import Neurons, activations


def problem(seed: int, rows: int = 5, columns: int = 9) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)), rng.normal(size=rows)


def two_layer(seed: int, outputs: int = 3, neurons: int = 8) -> tuple[Neurons, torch.Tensor, np.ndarray, np.ndarray]:
    """Return neurons and targets, and the same as an explicit matrix and vector."""
    rng = np.random.default_rng(seed)
    hidden, weights, target = (rng.normal(size=s) for s in ((30, neurons), (neurons, outputs), (30, outputs)))
    matrix = np.stack([np.outer(hidden[:, i], weights[i]).ravel() for i in range(neurons)], 1) / np.sqrt(30)
    held = Neurons(torch.tensor(hidden), torch.tensor(weights))
    return held, torch.tensor(target), matrix, target.ravel() / np.sqrt(30)


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_closed_form_equals_trying_every_candidate(seed: int, replacement: bool) -> None:
    matrix, target = problem(seed)
    path = select(from_matrix(matrix, target), SelectOptions(num_picks=9, replacement=replacement))
    picks, losses = naive_path(matrix, 9, square(target), replacement)
    assert list(path.picks) == picks
    np.testing.assert_allclose(path.loss, losses, rtol=1e-12)


def test_two_opposite_neurons_alternate() -> None:
    path = select(from_matrix(np.array([[-1.0, 1.0]]), np.zeros(1)), SelectOptions(num_picks=9))
    k = np.arange(1, 10)
    np.testing.assert_allclose(2 * path.loss * k**2, k % 2, atol=1e-12)
    assert list(path.picks[:2]) == [0, 1]  # the tie of the first step goes to the lowest index


def test_orthonormal_neurons_are_taken_in_turn() -> None:
    k = np.arange(1, 24)
    path = select(from_matrix(np.eye(7), np.full(7, 1 / 7)), SelectOptions(num_picks=23))
    np.testing.assert_allclose(path.loss, (k % 7) * (7 - k % 7) / (14 * k**2), atol=1e-15)
    assert list(path.picks) == [*range(7), *range(7), *range(7), 0, 1]


def test_selection_apportions_seats_to_the_largest_deficit() -> None:
    shares = np.array([0.5, 0.3, 0.2])
    path = select(from_matrix(np.eye(3), shares), SelectOptions(num_picks=10))
    np.testing.assert_allclose(path.weight(10), shares, atol=1e-15)
    assert path.loss[-1] < 1e-15


@pytest.mark.parametrize("seed", range(4))
def test_first_pick_is_the_best_neuron_and_no_pair_is_worse_than_the_best_pair(seed: int) -> None:
    matrix, target = problem(seed, columns=7)
    loss, path = square(target), select(from_matrix(matrix, target), SelectOptions(num_picks=2))
    assert path.loss[0] == pytest.approx(min(loss(matrix[:, j]) for j in range(7)))
    pairs = itertools.combinations_with_replacement(range(7), 2)
    assert path.loss[1] >= min(loss(matrix[:, list(p)].mean(1)) for p in pairs) - 1e-14


def test_a_target_that_is_a_neuron_is_picked_for_ever() -> None:
    matrix, _ = problem(0)
    path = select(from_matrix(matrix, matrix[:, 4].copy()), SelectOptions(num_picks=6))
    assert list(path.picks) == [4] * 6
    assert path.loss.max() < 1e-14
    assert list(path.num_distinct) == [1] * 6


def test_multi_output_products_equal_those_of_the_explicit_matrix() -> None:
    neurons, target, matrix, vector = two_layer(1)
    products = neurons.products(target)
    index, weight = np.array([5, 0, 2]), np.linspace(-1, 1, 8)
    np.testing.assert_allclose(products.norm2, (matrix**2).sum(0), rtol=1e-13)
    np.testing.assert_allclose(products.correlation, matrix.T @ vector, rtol=1e-12)
    np.testing.assert_allclose(products.columns(index), matrix.T @ matrix[:, index], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(products.combine(weight), matrix.T @ (matrix @ weight), rtol=1e-12, atol=1e-14)
    assert products.target_norm2 == pytest.approx(vector @ vector)


def test_chunks_and_the_full_gram_matrix_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    neurons, target, matrix, vector = two_layer(2)
    expected = select(from_matrix(matrix, vector), SelectOptions(num_picks=12))
    monkeypatch.setattr("landscape.pruning.gfs_neurons.CHUNK", 8 * 7)  # chunks of 7, 7, 7, 7 and 2 examples
    for products in (neurons.products(target), neurons.products(target, num_picks=12)):
        path = select(products, SelectOptions(num_picks=12))
        assert list(path.picks) == list(expected.picks)
        np.testing.assert_allclose(path.loss, expected.loss, rtol=1e-12)


def test_losses_of_float32_activations_are_those_of_the_network() -> None:
    neurons, target, _, _ = two_layer(3)
    single = Neurons(neurons.hidden.float(), neurons.output.float())
    path = select(single.products(target.float()), SelectOptions(num_picks=20))
    for size in (1, 5, 20):
        error = neurons.response(path.weight(size)) - target
        assert path.loss[size - 1] == pytest.approx(float(error.square().sum()) / 60, rel=1e-5)


def test_only_new_neurons_cost_a_column() -> None:
    matrix, target = problem(4)
    plain = from_matrix(matrix, target)
    calls = []

    def columns(index: np.ndarray) -> np.ndarray:
        calls.append(len(index))
        return plain.columns(index)

    counted = gfs.Products(plain.norm2, plain.correlation, plain.target_norm2, columns, plain.combine)
    path = select(counted, SelectOptions(num_picks=50))
    assert sum(calls) == path.num_distinct[-1] < 50


def test_line_search_is_the_best_step_over_all_neurons() -> None:
    matrix, target = problem(5)
    path = select(from_matrix(matrix, target), SelectOptions(num_picks=12, weighting="line_search"))
    loss = square(target)
    for size in range(1, 12):
        here = matrix @ path.weight(size)
        assert path.loss[size - 1] == pytest.approx(loss(here), rel=1e-10)
        grid = np.linspace(0, 1, 401)
        tried = min(loss(here + t * (matrix[:, j] - here)) for j in range(9) for t in grid)
        assert path.loss[size] <= tried + 1e-12
    assert path.weight(12).sum() == pytest.approx(1)


def test_first_order_rule_follows_the_gradient() -> None:
    matrix, target = problem(6)
    path = select(from_matrix(matrix, target), SelectOptions(num_picks=8, rule="first_order"))
    for size in range(1, 8):
        gradient = matrix.T @ (matrix @ path.weight(size) - target)
        assert path.picks[size] == int(np.argmin(gradient))
    searched = select(from_matrix(matrix, target), SelectOptions(8, weighting="line_search", rule="first_order"))
    assert searched.picks[1] == int(np.argmin(matrix.T @ (matrix[:, searched.picks[0]] - target)))
    assert (np.diff(searched.loss) <= 1e-15).all()


def test_weights_without_replacement_are_plain_averages() -> None:
    matrix, target = problem(7)
    path = select(from_matrix(matrix, target), SelectOptions(num_picks=9, replacement=False))
    assert sorted(path.picks) == list(range(9))
    np.testing.assert_allclose(path.weight(9), np.full(9, 1 / 9))
    assert path.loss[-1] == pytest.approx(square(target)(matrix.mean(1)))
    searched = select(from_matrix(matrix, target), SelectOptions(9, replacement=False, weighting="line_search"))
    assert sorted(searched.picks) == list(range(9))


def test_duplicating_every_neuron_changes_no_loss_and_ties_go_to_the_first() -> None:
    matrix, target = problem(8)
    twice = np.hstack([matrix, matrix])
    path, other = (select(from_matrix(a, target), SelectOptions(num_picks=15)) for a in (matrix, twice))
    np.testing.assert_allclose(other.loss, path.loss, rtol=1e-11)
    assert list(other.picks) == list(path.picks)


def test_one_neuron_one_example_zero_neurons_and_more_picks_than_neurons() -> None:
    alone = select(from_matrix(np.array([[2.0], [1.0]]), np.array([1.0, 1.0])), SelectOptions(num_picks=5))
    np.testing.assert_allclose(alone.loss, 0.5)
    assert list(alone.num_distinct) == [1] * 5
    scalar = select(from_matrix(np.array([[3.0, -1.0, 0.0]]), np.array([1.0])), SelectOptions(num_picks=40))
    assert scalar.loss[-1] < 1e-3
    dead = select(from_matrix(np.zeros((3, 4)), np.ones(3)), SelectOptions(num_picks=6))
    np.testing.assert_allclose(dead.loss, 1.5)
    assert list(dead.picks) == [0] * 6
    searched = select(from_matrix(np.zeros((3, 4)), np.ones(3)), SelectOptions(6, weighting="line_search"))
    np.testing.assert_allclose(searched.loss, 1.5)


def test_bad_input_is_refused_in_words() -> None:
    matrix, target = problem(9)
    with pytest.raises(InputError, match="NaN"):
        from_matrix(np.full((2, 2), np.nan), np.ones(2))
    with pytest.raises(InputError, match="without replacement"):
        select(from_matrix(matrix, target), SelectOptions(num_picks=10, replacement=False))
    for wrong in ({"num_picks": 0}, {"weighting": "greedy"}, {"rule": "best"}):
        with pytest.raises(InputError):
            SelectOptions(**wrong)
    for build in (lambda: from_matrix(matrix, target[:3]), lambda: from_gram(matrix, target, 1.0)):
        with pytest.raises(InputError, match=r"fit|square"):
            build()
    with pytest.raises(InputError, match="nothing to select"):
        from_matrix(np.zeros((2, 0)), np.ones(2))
    with pytest.raises(InputError, match="do not fit"):
        Neurons(torch.ones(3, 2), torch.ones(3, 1))
    with pytest.raises(InputError, match="no neurons"):
        Neurons(torch.ones(3, 0), torch.ones(0, 1))
    with pytest.raises(InputError, match="do not fit"):
        Neurons(torch.ones(3, 2), torch.ones(2, 1)).products(torch.ones(3, 2))


def test_activations_come_in_chunks_and_respect_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = torch.randn(11, 4), torch.randn(6, 4), torch.randn(6)
    monkeypatch.setattr("landscape.pruning.gfs_neurons.CHUNK", 6 * 4)
    torch.testing.assert_close(activations(x, weight, bias, torch.tanh), torch.tanh(x @ weight.T + bias))
    with pytest.raises(MemoryLimitError, match="GiB"):
        activations(x, weight, None, torch.relu, memory=11 * 6 * 4 - 1)


# ---- what selection is compared with ---------------------------------------------------------------------------------


def test_prefixes_are_plain_averages() -> None:
    matrix, target = problem(10)
    order = gfs_baselines.random_order(9, seed=3)
    path = gfs_baselines.prefixes(from_matrix(matrix, target), order)
    for size in range(1, 10):
        assert path.loss[size - 1] == pytest.approx(square(target)(matrix[:, order[:size]].mean(1)))
    assert sorted(order) == list(range(9))
    assert list(order) != list(gfs_baselines.random_order(9, seed=3, replicate=1))


def test_orders_by_norm_and_by_magnitude() -> None:
    matrix = np.diag([1.0, 3.0, 2.0])
    assert list(gfs_baselines.top_norm_order(from_matrix(matrix, np.ones(3)))) == [1, 2, 0]
    incoming, output = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[1.0], [6.0]])
    assert list(gfs_baselines.magnitude_order(incoming, output)) == [1, 0]


@pytest.mark.parametrize("seed", range(11, 16))
def test_backward_elimination_drops_what_is_missed_least(seed: int) -> None:
    matrix, target = problem(seed, columns=6)
    order = gfs_baselines.backward_order(from_matrix(matrix, target).with_gram(block=4))
    left, loss = list(range(6)), square(target)
    for size in range(6, 1, -1):
        values = [loss(matrix[:, [i for i in left if i != j]].mean(1)) for j in left]
        dropped = left.pop(int(np.argmin(values)))
        assert order[size - 1] == dropped
    assert order[0] == left[0]


def test_refits_solve_their_least_squares_problems() -> None:
    matrix, target = problem(12, rows=6)
    index = np.array([0, 1, 2, 5])
    weight, loss = gfs_baselines.refit(from_matrix(matrix, target), index)
    expected = np.linalg.lstsq(matrix[:, index], target, rcond=None)[0]
    assert expected.min() < 0 < expected.max()
    np.testing.assert_allclose(weight, expected)
    assert loss == pytest.approx(square(target)(matrix[:, index] @ expected))
    weight, loss = gfs_baselines.refit(from_matrix(matrix, target), index, nonnegative=True)
    slope = matrix[:, index].T @ (matrix[:, index] @ weight - target)
    assert (weight >= 0).all()
    assert (slope >= -1e-9).all()
    assert abs(slope @ weight) < 1e-9
    assert gfs_baselines.refit(from_matrix(np.zeros((2, 2)), np.ones(2)), np.array([0, 1]))[1] == 1.0
    with pytest.raises(InputError, match="distinct"):
        gfs_baselines.refit(from_matrix(matrix, target), np.array([1, 1]))


def test_matching_pursuit_reaches_zero_once_it_spans_the_target() -> None:
    matrix, target = problem(13, rows=4)
    picks, losses = gfs_baselines.matching_pursuit(from_matrix(matrix, target), 9)
    assert len(set(picks)) == len(picks) >= 4
    assert losses[3] < 1e-12
    aligned = np.abs(matrix.T @ target) / np.linalg.norm(matrix, axis=0)
    assert picks[0] == int(np.argmax(aligned))
    assert (np.diff(losses) <= 1e-12).all()
    none, _ = gfs_baselines.matching_pursuit(from_matrix(np.zeros((2, 3)), np.ones(2)), 3)
    assert len(none) == 0
