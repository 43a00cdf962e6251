"""Cone gap, Hessian differences, third derivatives and slaving through products with the operator of a network."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from helpers import assert_close

from landscape.dimension import cone, testbed
from landscape.dimension.combine import combination
from landscape.dimension.graphs import Split, aim_defect, invariance
from landscape.dimension.lipschitz import SampleOptions, ascend, difference, extremes, kink, sample, secant
from landscape.dimension.slaving import TwinOptions, steady_graph, twin_runs
from landscape.dimension.tensor import tensor_norm, third_order
from landscape.errors import InputError
from landscape.operators import LinearOperator, from_matrix, hessian
from landscape.problem import Problem

SIZE = 6 * 4 + 4 + 4 * 3 + 3


def network(activation: type[torch.nn.Module] = torch.nn.GELU, examples: int = 40) -> Problem:
    random = torch.Generator().manual_seed(5)
    x = torch.randn(examples, 6, generator=random, dtype=torch.float64)
    y = torch.randint(0, 3, (examples,), generator=random)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), activation(), torch.nn.Linear(4, 3)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=random, dtype=torch.float64) / 2)
    ragged = [(x[:25], y[:25]), (x[25:], y[25:])]
    return Problem.from_model(model, "cross_entropy", ragged)


def dense(operator: LinearOperator) -> np.ndarray:
    return (operator @ torch.eye(operator.size, dtype=operator.dtype)).numpy()


def direction(seed: int, size: int = SIZE) -> torch.Tensor:
    v = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return v / v.norm()


def test_margins_by_products_equal_the_dense_ones() -> None:
    problem = network()
    matrix = dense(hessian(problem.at(problem.theta + 0.3 * direction(1))))
    basis = np.linalg.eigh(dense(hessian(problem)))[1][:, ::-1].copy()
    exact = cone.dense_margins(matrix, basis)
    operator = from_matrix(torch.as_tensor(matrix))
    found = cone.margins(operator, torch.as_tensor(basis[:, :8].copy()), depth=SIZE)
    assert_close(found.attraction, exact.attraction[:8], rtol=1e-9, atol=1e-11)
    assert_close(found.ceiling, exact.ceiling[:8], rtol=1e-9, atol=1e-11)
    short = cone.margins(operator, torch.as_tensor(basis[:, :8].copy()), depth=12)
    assert short.num_products == operator.num_products - found.num_products == 8 + 12
    assert (short.ceiling <= exact.ceiling[:8] + 1e-12).all()
    assert (short.ceiling + short.residual >= exact.ceiling[:8] - 1e-12).all()


def test_any_orthogonal_splitting_is_allowed() -> None:
    problem = network()
    matrix = dense(hessian(problem))
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((SIZE, 3)))[0]
    found = cone.margins(from_matrix(torch.as_tensor(matrix)), torch.as_tensor(basis), depth=SIZE)
    for k in (1, 2, 3):
        q = basis[:, :k]
        p = np.linalg.svd(q.T)[2][k:].T
        assert_close(found.attraction[k - 1], np.linalg.eigvalsh(q.T @ matrix @ q)[0], rtol=1e-9)
        assert_close(found.ceiling[k - 1], np.linalg.eigvalsh(p.T @ matrix @ p)[-1], rtol=1e-9)


def test_segments_average_the_hessian_and_count_every_node() -> None:
    problem = network()
    end = problem.theta + 0.5 * direction(2)
    operator = cone.segment(problem, problem.theta, end, nodes=5)
    fine = np.mean([dense(hessian(problem.at(problem.theta.lerp(end, (k + 0.5) / 24)))) for k in range(24)], axis=0)
    assert_close(dense(operator), fine, rtol=0, atol=1e-4)
    assert operator.num_products == 5 * SIZE
    step = end - problem.theta
    change = problem.gradient(end) - problem.gradient(problem.theta)
    assert_close(operator @ step, change, rtol=0, atol=1e-7)


def test_the_cone_result_takes_the_worst_sample() -> None:
    first = cone.Margins(np.array([5.0, 3.0, 1.0]), np.array([2.0, 2.0, 2.0]), np.zeros(3), 7)
    second = dataclasses.replace(first, attraction=np.array([5.0, 2.5, 4.0]), ceiling=np.array([4.0, 1.0, 0.5]))
    found = cone.collect([first, second], size=100)
    assert_close(found.gap, [1.0, 1.0, -1.0])
    assert (found.dimension, found.num_fast, found.num_samples, found.num_products) == (98, 2, 2, 14)
    repelled = dataclasses.replace(first, attraction=np.array([-1.0, -2.0, -3.0]), ceiling=np.full(3, -9.0))
    assert cone.collect([repelled], size=100).dimension is None  # a cone gap without attraction
    with pytest.raises(InputError, match="at least one"):
        cone.collect([], 3)
    with pytest.raises(InputError, match="NaN"):
        cone.collect([dataclasses.replace(first, ceiling=np.array([np.nan, 1.0, 1.0]))], 3)


def test_what_is_no_gradient_system_is_refused() -> None:
    shear = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.5]], dtype=torch.float64)
    with pytest.raises(InputError, match="no gradient system"):
        cone.dense_margins(shear.numpy(), np.eye(3))
    with pytest.raises(InputError, match="no gradient system"):
        cone.margins(from_matrix(shear), torch.eye(3, dtype=torch.float64)[:, :2])
    with pytest.raises(InputError, match="fast directions"):
        cone.margins(from_matrix(torch.eye(3, dtype=torch.float64)), torch.eye(3, dtype=torch.float64))


def test_a_combination_counts_every_part() -> None:
    parts = [(2.0, from_matrix(torch.eye(3, dtype=torch.float64))), (-1.0, from_matrix(torch.ones(3, 3).double()))]
    operator = combination(parts)
    assert_close(dense(operator), 2 * np.eye(3) - 1)
    assert operator.num_products == 6


def test_the_difference_of_hessians_has_the_right_ends() -> None:
    problem = network()
    u = 0.4 * direction(3)
    operator = difference(problem, u)
    expected = dense(hessian(problem.at(problem.theta + u))) - dense(hessian(problem))
    assert_close(dense(operator), expected, rtol=0, atol=1e-12)
    found = extremes(operator, depth=SIZE)
    ends = np.linalg.eigvalsh(expected)
    assert_close([found.low, found.high], [ends[0], ends[-1]], rtol=1e-9)
    assert found.num_products <= 2 * SIZE
    assert_close(abs(float(found.vector @ (operator @ found.vector))), found.norm, rtol=1e-9)
    short = extremes(operator, depth=6)
    assert ends[0] - 1e-12 <= short.low <= short.high <= ends[-1] + 1e-12


def test_adversarial_ascent_beats_isotropic_samples() -> None:
    problem = network()
    options = SampleOptions(depth=20, ascent_steps=6)
    random = sample(problem, [("isotropic", 0.5 * direction(seed)) for seed in range(5)], options)
    found, end = ascend(problem, 0.5 * direction(0), options)
    assert_close(extremes(difference(problem, end), options.depth).norm, found.norm.max(), rtol=1e-9)
    assert found.norm.max() > 1.5 * random.norm.max()
    assert_close(found.radius, np.full(len(found.radius), 0.5), rtol=1e-12)
    assert found.norm[0] == pytest.approx(random.norm[0])


def test_third_derivatives_equal_differences_of_products() -> None:
    problem, v, h = network(), direction(4), 1e-4
    ahead, behind = (hessian(problem.at(problem.theta + s * h * v)) @ v for s in (1, -1))
    assert_close(third_order(problem, v), (ahead - behind) / (2 * h), rtol=0, atol=1e-7)
    decayed = dataclasses.replace(problem, weight_decay=0.3)
    assert_close(third_order(decayed, v), third_order(problem, v))
    quadratic = testbed.problem(testbed.two_scale())
    assert float(third_order(quadratic, direction(0, 10)).norm()) == 0.0


def test_the_tensor_norm_is_the_slope_of_l_at_zero() -> None:
    problem = network()
    found = tensor_norm(problem, restarts=3, steps=200)
    samples, _ = ascend(problem, 1e-3 * found.vector, SampleOptions(depth=SIZE, ascent_steps=3))
    assert samples.norm.max() / 1e-3 == pytest.approx(found.value, rel=1e-2)
    assert found.converged


def test_kinks_show_as_a_plateau() -> None:
    radii = np.geomspace(1e-4, 1e-2, 4)
    for activation, jumps in ((torch.nn.GELU, False), (torch.nn.ReLU, True)):
        problem = network(activation)
        if jumps:  # put one unit exactly on the kink of one example, as minima of ReLU networks often are
            x = problem.batches[0][0][0]
            theta = problem.theta.clone()
            theta[24] = -(theta[:6] @ x)
            problem = problem.at(theta)
        u = direction(6)
        both = [("isotropic", float(r) * side * u) for r in radii for side in (1, -1)]
        found = sample(problem, both, SampleOptions(depth=8))
        seen = kink(found.radius, found.norm, scale=1.0, eps=2e-16)
        assert (seen.plateau is not None) == jumps
        assert seen.slope == pytest.approx(0.0 if jumps else 1.0, abs=0.15)
    noise = kink(radii, np.full(4, 1e-7), scale=1.0, eps=1e-8)
    assert np.isnan(noise.slope)
    assert noise.plateau is None  # rounding is not a kink


def test_the_secant_is_a_weaker_bound_than_the_difference() -> None:
    problem = network()
    states = problem.theta + torch.stack([0.1 * k * direction(7) for k in range(4)])
    found = secant(problem, states)
    bound = sample(problem, [("trajectory", 0.3 * direction(7))], SampleOptions(depth=SIZE)).norm[0]
    assert (found > 0).all()
    assert found.max() <= 1.05 * bound
    with pytest.raises(InputError, match="the same"):
        secant(problem, torch.stack([states[0], states[0]]))


# ---- slaving ------------------------------------------------------------------------------------------------------


WELL = testbed.DoubleWell(stiff=10.0, a=0.5)


def well_states(seed: int, count: int = 40) -> torch.Tensor:
    start = torch.randn(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return testbed.flow(testbed.problem(WELL), start, np.linspace(0, 6, count))


def well_fast() -> torch.Tensor:
    slow = WELL.slow_direction()
    return torch.stack([-slow[1], slow[0]])[:, None]


def test_twin_runs_enter_the_cone_at_the_rate_of_attraction() -> None:
    problem = testbed.problem(WELL, torch.tensor([0.9, 0.5], dtype=torch.float64))
    mixed = twin_runs(problem, well_fast(), TwinOptions(lr=0.005, steps=250, size=1e-3, kind="mixed"))
    assert mixed.entry is not None
    fast = twin_runs(problem, well_fast(), TwinOptions(lr=0.005, steps=250, size=1e-3))
    assert fast.fast[0] == pytest.approx(1e-3)
    assert fast.slow[0] == pytest.approx(0, abs=1e-12)
    assert fast.decay_rate > 0.9 * 10.0
    wrong = twin_runs(
        problem, WELL.slow_direction()[:, None], TwinOptions(lr=0.005, steps=250, size=1e-3, kind="mixed")
    )
    assert wrong.entry is None  # the slow direction is not slaved
    with pytest.raises(InputError, match="diverge"):
        twin_runs(problem, well_fast(), TwinOptions(lr=10.0, steps=50))
    with pytest.raises(InputError, match="fast or mixed"):
        twin_runs(problem, well_fast(), TwinOptions(lr=0.1, kind="slow"))


@functools.cache
def cubic_runs(count: int = 4) -> torch.Tensor:
    """Return runs of the cubic system after their fast transients, ``(R, T, n)``."""
    problem = testbed.problem(testbed.TwoModeCubic())
    starts = [(0.6, 0.3), (-0.8, 0.2), (0.3, -0.5), (-0.5, 0.6)][:count]
    runs = [testbed.flow(problem, torch.tensor(s, dtype=torch.float64), np.linspace(0, 6, 50)) for s in starts]
    return torch.stack(runs)[:, 12:]


FAST = torch.tensor([[0.0], [1.0]], dtype=torch.float64)


def test_slaved_states_lie_on_a_steady_graph_and_shuffled_ones_do_not() -> None:
    states = cubic_runs().flatten(0, 1)
    found = steady_graph(states, FAST)
    assert found.slope <= 1
    assert found.p_value == 0.01
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(0))
    shuffled = torch.stack([states[:, 0], states[order, 1]], dim=1)
    null = steady_graph(shuffled, FAST)
    assert null.slope > 1
    assert null.p_value > 0.05
    with pytest.raises(InputError, match="repeated"):
        steady_graph(torch.cat([states, states[:1]]), FAST)


def test_the_graph_is_invariant_and_a_shuffled_one_is_not() -> None:
    problem = testbed.problem(testbed.TwoModeCubic())
    found = invariance(problem, FAST, cubic_runs())
    assert found.unexplained < 0.02
    assert found.residual < 0.05
    assert found.shuffled_unexplained > 0.8
    assert found.shuffled_residual > 2 * found.residual
    with pytest.raises(InputError, match="two runs"):
        invariance(problem, FAST, cubic_runs(1))


def test_approximate_manifolds_explain_the_fast_coordinates() -> None:
    problem = testbed.problem(testbed.TwoModeCubic())
    split = Split(problem, FAST, torch.tensor([5.0], dtype=torch.float64))
    states = cubic_runs().flatten(0, 1)
    defect = aim_defect(split, states, iterations=2)
    assert defect[-1] == pytest.approx(1 - 4.4 / 5, abs=0.06)  # what is left is valley floor against manifold
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(1))
    shuffled = torch.stack([states[:, 0], states[order, 1]], dim=1)
    assert aim_defect(split, shuffled, iterations=2)[-1] > 0.8
    whole = Split(problem, FAST, torch.tensor([[5.0]], dtype=torch.float64))
    assert_close(aim_defect(whole, states, iterations=2), defect, rtol=1e-12)
    with pytest.raises(InputError, match="only positive"):
        Split(problem, FAST, torch.tensor([-1.0], dtype=torch.float64))
    with pytest.raises(InputError, match="do not change"):
        aim_defect(split, torch.tensor([[0.1, 0.0], [0.2, 0.0]], dtype=torch.float64))
