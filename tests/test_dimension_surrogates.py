"""Lyapunov exponents, covariant vectors, principal components and multipliers, against known answers and nulls."""

import numpy as np
import pytest
import torch
from helpers import assert_close

from landscape.dimension import cone, testbed
from landscape.dimension.kuramoto_sivashinsky import KuramotoSivashinsky
from landscape.dimension.lyapunov import Lyapunov, LyapunovOptions, covariant, descent, lyapunov
from landscape.dimension.surrogates import components, multipliers, random_walk_null
from landscape.errors import InputError

# Lyapunov exponents of the Kuramoto-Sivashinsky equation at length 22 with 15 modes.
EXPONENTS = [0.050, 0.001, 0, -0.010, -0.187, -0.252, -0.292, -0.307, -1.963, -1.968, -5.605, -5.605, -11.923, -11.923]
SYSTEM = KuramotoSivashinsky()


def measure_chaos(time: float, transient: int = 1500) -> Lyapunov:
    options = LyapunovOptions(count=14, steps=int(time / 0.1), transient=transient, every=10, step_time=0.1, keep=True)
    return lyapunov(SYSTEM.advance, SYSTEM.start(), SYSTEM.size, options)


def test_the_jacobian_is_the_derivative_of_the_flow_and_no_hessian() -> None:
    random = np.random.default_rng(0)
    state = 0.3 * random.standard_normal(SYSTEM.size)
    short = KuramotoSivashinsky(step=1e-3)
    direction = random.standard_normal(SYSTEM.size)
    size = 1e-6
    ends = [short.advance(state + s * size * direction, np.zeros((SYSTEM.size, 0)))[0] for s in (1, -1)]
    _, tangent = short.advance(state, direction[:, None])
    assert_close(tangent[:, 0], (ends[0] - ends[1]) / (2 * size), rtol=0, atol=1e-7)
    slopes = [((KuramotoSivashinsky(step=h).advance(state, np.eye(SYSTEM.size))[1]) - np.eye(30)) / h for h in (1e-5,)]
    assert_close(slopes[0], SYSTEM.jacobian(state), rtol=0, atol=0.05 * np.abs(SYSTEM.jacobian(state)).max())
    with pytest.raises(InputError, match="no gradient system"):
        cone.dense_margins(SYSTEM.jacobian(state), np.eye(SYSTEM.size))


def test_eight_physical_modes_but_a_smaller_attractor() -> None:
    run = measure_chaos(150.0)
    assert_close(run.exponent, EXPONENTS, rtol=0, atol=0.08)
    assert 3.5 < run.kaplan_yorke < 5  # this is not the dimension of the manifold
    assert not run.convergent
    found = covariant(run, settle=50)
    assert found.physical_modes(window=5) == 8
    assert found.smallest_angle(8) > 5 * found.smallest_angle(6)
    assert found.violations(5)[4, 5] > 0.1  # the physical modes are entangled


@pytest.mark.slow
def test_the_exponents_of_the_kuramoto_sivashinsky_equation() -> None:
    run = measure_chaos(6000.0)
    assert_close(run.exponent, EXPONENTS, rtol=0, atol=0.01)
    assert run.kaplan_yorke == pytest.approx(4.2, abs=0.1)
    assert covariant(run, settle=200).physical_modes(window=5) == 8


def test_a_quadratic_has_the_exponents_of_its_multipliers() -> None:
    eigenvalue = np.array([0.5, 2.0, 3.0, 6.0])
    system = testbed.rotated(testbed.Quadratic(eigenvalue))
    problem = testbed.problem(system)
    start = torch.ones(4, dtype=torch.float64)
    options = LyapunovOptions(count=4, steps=300, transient=100, step_time=0.1, keep=True)
    run = lyapunov(descent(problem, 0.1), start, 4, options)
    assert_close(run.exponent, np.log(1 - 0.1 * eigenvalue) / 0.1, rtol=1e-9)
    assert run.convergent
    assert run.kaplan_yorke == 0.0  # trivial
    vectors = covariant(run, settle=100, interval=0.1).vector[-1]
    assert_close(np.abs(system.rotation.numpy().T @ vectors), np.eye(4), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="keep=True"):
        covariant(Lyapunov(run.exponent, run.growth), settle=0)
    with pytest.raises(InputError, match="cannot be measured"):
        lyapunov(descent(problem, 0.1), start, 4, LyapunovOptions(count=5, steps=10))


def test_the_kaplan_yorke_dimension_has_its_formula() -> None:
    growth = np.zeros((1, 3))
    assert Lyapunov(np.array([0.9, 0.0, -14.5]), growth).kaplan_yorke == pytest.approx(2 + 0.9 / 14.5)
    assert np.isnan(Lyapunov(np.array([0.9, 0.5, -1.0]), growth).kaplan_yorke)


def walk(seed: int, count: int = 40, size: int = 300) -> torch.Tensor:
    steps = np.random.default_rng(seed).standard_normal((count, size)) * np.linspace(1, 0.3, count)[:, None]
    return torch.as_tensor(np.cumsum(steps, axis=0))


def test_a_random_walk_stays_within_its_null() -> None:
    null = random_walk_null(walk(0), samples=200)
    low, high = null.interval(0.95)
    inside = [low <= components(walk(seed)).participation <= high for seed in range(1, 121)]
    assert 0.88 <= np.mean(inside) <= 0.99


def test_the_null_has_its_limit() -> None:
    equal = torch.as_tensor(np.eye(200))  # all steps have the same length
    found = random_walk_null(equal, samples=20).fraction.mean(axis=0)[:4]
    assert_close(found, 6 / (np.pi * np.arange(1, 5)) ** 2, rtol=0.1)
    null = random_walk_null(walk(0), samples=20)
    assert components(walk(3)).count(0.95) < 20  # 95 % in few components, from noise alone
    line = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None] * torch.ones(5, dtype=torch.float64)
    assert components(line).participation == pytest.approx(1.0)
    assert components(line).participation < null.interval()[0]
    with pytest.raises(InputError, match="does not move"):
        components(torch.zeros(4, 3))


def test_the_multipliers_of_two_scales() -> None:
    system = testbed.rotated(testbed.two_scale(6, 4, mu=0.01, stiff=1.0))
    problem, state, states = testbed.problem(system), torch.ones(10, dtype=torch.float64), []
    for _ in range(12):
        states.append(state)
        state = state - 0.3 * problem.gradient(state)
    assert_close(multipliers(torch.stack(states), rank=2).real, [1 - 0.003, 1 - 0.3], rtol=1e-8)
    with pytest.raises(InputError, match="fewer than 5"):
        multipliers(torch.stack(states), rank=5)
    with pytest.raises(InputError, match="do not determine"):
        multipliers(torch.stack(states), rank=11)
