"""Bounds, certificates and estimators: never violated on random problems, exact where the answer is known."""

import itertools

import numpy as np
import pytest
import torch

from landscape.errors import InputError
from landscape.pretraining import bounds
from landscape.pruning import gfs_hull as hull
from landscape.pruning import gfs_shape
from landscape.pruning.gfs import SelectOptions, from_matrix, select
from landscape.pruning.gfs_convex import ConvexLoss, select_convex
from landscape.pruning.gfs_neurons import Neurons

SIZES = np.arange(1, 201)


def problem(seed):
    """Return neurons and a target: inside the hull, its centre, or anywhere."""
    rng = np.random.default_rng(seed)
    m, n = rng.integers(1, 6), rng.integers(2, 12)
    matrix = rng.normal(size=(m, n)) + rng.normal(size=(m, 1)) * rng.choice([0, 0.3, 3])
    kind = rng.integers(3)
    target = (matrix.mean(1), matrix @ rng.dirichlet(np.ones(n)), rng.normal(size=m))[kind]
    return matrix, target


@pytest.mark.parametrize("seed", range(40))
def test_bounds_hold_and_the_hull_loss_lies_below(seed):
    matrix, target = problem(seed)
    products = from_matrix(matrix, target)
    path, shape, spread = (
        select(products, SelectOptions(200)),
        gfs_shape.statistics(products),
        gfs_shape.diameter2(products),
    )
    for bound in (
        bounds.bound_printed(path.loss[0], shape.dense_loss, spread, SIZES),
        bounds.bound_harmonic(path.loss[0], shape.dense_loss, shape.variance, SIZES),
        bounds.bound_root(shape.dense_loss, shape.variance, SIZES),
    ):
        assert (path.loss <= bound * (1 + 1e-9) + 1e-13).all()
    assert shape.variance <= spread / 2 + 1e-12
    assert shape.radius**2 - 1e-12 <= spread <= 4 * shape.radius**2 + 1e-12
    best = hull.hull_loss(products, hull.HullOptions(tolerance=1e-9))
    assert best.lower <= path.loss.min() + 1e-12
    for size in (1, 7, 200):
        point = hull.certificate(products, path.weight(size))
        assert point.loss == pytest.approx(path.loss[size - 1], abs=1e-12)
        assert point.gap >= point.loss - best.loss - 1e-12
        assert point.lower <= best.loss + 1e-12


def test_statistics_are_those_of_the_definition():
    matrix, target = problem(3)
    shape = gfs_shape.statistics(from_matrix(matrix, target))
    mean = matrix.mean(1)
    assert shape.dense_loss == pytest.approx(((mean - target) ** 2).sum() / 2)
    assert shape.variance == pytest.approx(((matrix - mean[:, None]) ** 2).sum(0).mean())
    assert shape.radius == pytest.approx(np.linalg.norm(matrix - mean[:, None], axis=0).max())
    assert shape.first_loss == pytest.approx((((matrix - target[:, None]) ** 2).sum(0) / 2).min())
    pairs = itertools.combinations(range(matrix.shape[1]), 2)
    widest = max(((matrix[:, i] - matrix[:, j]) ** 2).sum() for i, j in pairs)
    assert gfs_shape.diameter2(from_matrix(matrix, target), block=4) == pytest.approx(widest)


def test_random_subsets_have_the_stated_mean_loss():
    rng = np.random.default_rng(0)
    matrix, target = rng.normal(size=(4, 6)), rng.normal(size=4)
    shape = gfs_shape.statistics(from_matrix(matrix, target))

    def mean_loss(subsets):
        return np.mean([((matrix[:, list(s)].mean(1) - target) ** 2).sum() / 2 for s in subsets])

    for size in range(1, 7):
        distinct = bounds.random_subset_loss(shape.dense_loss, shape.variance, size, 6)
        assert mean_loss(itertools.combinations(range(6), size)) == pytest.approx(float(distinct), abs=1e-13)
    for size in (1, 2, 3):
        repeated = bounds.random_subset_loss(shape.dense_loss, shape.variance, size)
        assert mean_loss(itertools.product(range(6), repeat=size)) == pytest.approx(float(repeated), abs=1e-13)
    assert bounds.random_subset_loss(0.5, 0.0, 1, 1) == 0.5
    with pytest.raises(InputError, match="distinct"):
        bounds.random_subset_loss(1.0, 1.0, 7, 6)


def test_harmonic_numbers():
    np.testing.assert_allclose(bounds.harmonic(np.array([1, 2, 3, 4])), [1, 3 / 2, 11 / 6, 25 / 12])


def test_a_target_on_the_mean_of_a_face_outside_the_hull_costs_at_most_the_variance_term():
    rng = np.random.default_rng(1)
    face = rng.normal(size=(3, 8))
    matrix = np.vstack([face, np.zeros(8)])
    target = np.append(face.mean(1), 2.0)  # above the middle of a flat hull
    products = from_matrix(matrix, target)
    path, shape = select(products, SelectOptions(200)), gfs_shape.statistics(products)
    assert (path.loss - shape.dense_loss <= shape.variance / (2 * SIZES) + 1e-12).all()
    best = hull.hull_loss(products)
    assert best.loss == pytest.approx(shape.dense_loss) == pytest.approx(2.0)


CROSS = np.hstack([np.eye(4), -np.eye(4)])
INSIDE = np.array([0.1, -0.05, 0.07, 0.02])
RADIUS = (1 - np.abs(INSIDE).sum()) / 2  # of the ball around INSIDE in the cross-polytope of R^4


def test_interior_target_has_the_fast_rate():
    path = select(from_matrix(CROSS, INSIDE), SelectOptions(200))
    assert gfs_shape.diameter2(from_matrix(CROSS, INSIDE)) == pytest.approx(4)
    assert (path.loss <= bounds.bound_interior(4.0, RADIUS, SIZES) + 1e-15).all()


def test_line_search_has_the_linear_rate_in_the_interior():
    path = select(from_matrix(CROSS, INSIDE), SelectOptions(40, weighting="line_search"))
    factor = bounds.line_search_factor(4.0, RADIUS)
    assert (path.loss <= path.loss[0] * factor ** np.arange(40) + 1e-15).all()
    assert path.loss[-1] < select(from_matrix(CROSS, INSIDE), SelectOptions(40)).loss[-1] / 10


def test_radius_is_bracketed():
    path = select(from_matrix(CROSS, INSIDE), SelectOptions(60))
    upper, lower = hull.radius_upper(from_matrix(CROSS, INSIDE), path), hull.radius_lower(CROSS, INSIDE)
    assert lower <= RADIUS + 1e-9 <= upper + 2e-9
    assert lower > RADIUS / 2.5
    assert upper < 2 * RADIUS
    flat = np.vstack([CROSS, np.zeros(8)])  # relative to its affine hull the radius is the same
    assert hull.radius_lower(flat, np.append(INSIDE, 0.0)) == pytest.approx(lower)
    assert hull.radius_lower(flat, np.append(INSIDE, 0.1)) == 0.0
    outside = np.array([0.9, 0.4, 0.0, 0.0])
    assert hull.radius_lower(CROSS, outside) == 0.0
    assert hull.radius_upper(from_matrix(CROSS, outside), select(from_matrix(CROSS, outside), SelectOptions(60))) <= 0


def test_membership_by_linear_programming():
    assert hull.contains(CROSS, INSIDE)
    assert not hull.contains(CROSS, 1.2 * np.array([0.5, 0.5, 0.0, 0.0]))
    assert hull.contains(CROSS, np.array([0.5, 0.5, 0.0, 0.0]))
    matrix = np.array([[1.0, 0.5], [0.2, 2.0], [-1.0, -0.1]])
    assert hull.margin(matrix, np.array([1, 1, 0])) == pytest.approx(2 / 3, rel=0.2)
    assert hull.margin(matrix, np.array([0, 1, 0])) < 0


@pytest.mark.parametrize("seed", range(6))
def test_hull_loss_equals_a_least_squares_solution_on_the_simplex(seed):
    from scipy.optimize import nnls

    rng = np.random.default_rng(seed)
    matrix, target = rng.normal(size=(8, 40)) + 1.0, rng.normal(size=8)
    matrix[:, 20:] = matrix[:, :20]  # duplicates make the vertices dependent
    heavy = 1e5
    weight, _ = nnls(np.vstack([matrix, np.full(40, heavy)]), np.append(target, heavy))
    best = hull.hull_loss(from_matrix(matrix, target), hull.HullOptions(tolerance=1e-8))
    assert best.loss == pytest.approx(((matrix @ weight - target) ** 2).sum() / 2, rel=1e-6, abs=1e-9)
    assert best.gap <= 1e-8 * best.loss + 1e-10
    assert best.weight.min() >= 0
    assert best.weight.sum() == pytest.approx(1)
    early = hull.hull_loss(from_matrix(matrix, target), hull.HullOptions(max_steps=2))
    assert early.lower <= best.loss <= early.loss + 1e-12


def test_hull_loss_of_a_target_inside_is_zero():
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(5, 60))
    best = hull.hull_loss(from_matrix(matrix, matrix @ rng.dirichlet(np.ones(60))))
    assert best.loss < 1e-10


@pytest.mark.parametrize("name", ["bce", "cross_entropy", "mse"])
def test_convex_hull_loss_is_certified(name):
    rng = np.random.default_rng(4)
    outputs = 1 if name == "bce" else 3
    neurons = Neurons(torch.tensor(rng.normal(size=(40, 15))), torch.tensor(rng.normal(size=(15, outputs))))
    target = {
        "bce": torch.tensor(rng.integers(0, 2, size=(40, 1))),
        "cross_entropy": torch.tensor(rng.integers(0, 3, size=40)),
        "mse": torch.tensor(rng.normal(size=(40, outputs))),
    }[name]
    loss = ConvexLoss(name, target, torch.zeros(40, outputs))
    path = select_convex(neurons, loss, SelectOptions(30))
    best = hull.hull_loss_convex(neurons, loss, path.weight(30), hull.HullOptions(1e-5, 3000))
    assert best.gap <= 1e-5 * best.loss
    assert best.lower <= best.loss <= path.loss.min()
    assert loss.value(neurons.response(best.weight)) == pytest.approx(best.loss)
    for _ in range(200):
        assert loss.value(neurons.response(rng.dirichlet(np.ones(15) / 5))) >= best.lower
    if name == "mse":
        assert best.loss == pytest.approx(hull.hull_loss(neurons.products(target)).loss, rel=1e-3)
