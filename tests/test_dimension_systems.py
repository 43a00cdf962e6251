"""The test bed: every answer that is known in closed form or from the theory is found."""

import numpy as np
import pytest
import torch
from helpers import assert_close

from landscape.dimension import cone, testbed
from landscape.dimension.bracket import BracketOptions, bracket, rule_table, segment_hessians
from landscape.dimension.chafee_infante import ChafeeInfante
from landscape.dimension.graphs import Split, aim_defect, quadratic_graph, reduced_training
from landscape.dimension.horizon import SpectralMeasure, finite_horizon
from landscape.dimension.known_answers import compare_rules
from landscape.dimension.lipschitz import SampleOptions, ascend, merge, sample
from landscape.dimension.rates import Dynamics, KnownSpectrum, rates
from landscape.dimension.rules import gap_dimension, heuristic_dimension
from landscape.dimension.tensor import tensor_norm
from landscape.errors import InputError
from landscape.problem import Problem

CUBIC = testbed.TwoModeCubic(mu=0.3, stiff=5.0, c=1.0)


def hessian_at(problem: Problem, theta: torch.Tensor | None = None) -> torch.Tensor:
    """Return the dense Hessian by automatic differentiation of the loss, not through the operator."""
    point = problem.theta if theta is None else theta

    def loss(t: torch.Tensor) -> torch.Tensor:
        return problem.batch_loss(problem.unflatten(t), problem.batches[0])[0]

    return torch.autograd.functional.hessian(loss, point)


def known(eigenvalue: np.ndarray, error: float = 1e-12) -> KnownSpectrum:
    return KnownSpectrum(np.sort(eigenvalue), len(eigenvalue), error=np.full(len(eigenvalue), error))


# ---- T1, T2: quadratics -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", [False, True])
def test_a_rotation_leaves_the_dimension_of_every_rule(turn: bool) -> None:
    random = np.random.default_rng(3)
    plain = testbed.Quadratic(np.sort(np.r_[random.uniform(0.1, 0.3, 14), random.uniform(2, 2.3, 10)]))
    problem = testbed.problem(testbed.rotated(plain, seed=1) if turn else plain)
    matrix = hessian_at(problem).numpy()
    spectrum = rates(known(np.linalg.eigvalsh(matrix)), Dynamics())
    assert gap_dimension(spectrum, 0.2).dimension == 14
    assert gap_dimension(spectrum, 0.2, "gap_2l_osc", 0.1).dimension == 14
    assert gap_dimension(spectrum, 0.2, "gap_4l").dimension == 14
    assert heuristic_dimension(spectrum, "largest_gap").dimension == 14
    assert heuristic_dimension(spectrum, "largest_log_gap").dimension == 14
    basis = np.linalg.eigh(matrix)[1][:, ::-1].copy()
    margins = cone.dense_margins(matrix, basis)
    assert_close(margins.gap[24 - 14 - 1], np.diff(np.sort(plain.eigenvalue))[13], rtol=1e-10)
    assert cone.collect([margins], 24).dimension == 1  # without a remainder every strict gap is a cone


def test_two_scales_have_one_gap_and_exact_counts() -> None:
    system = testbed.rotated(testbed.two_scale(6, 4, mu=0.01, stiff=1.0))
    eigenvalue = np.linalg.eigvalsh(hessian_at(testbed.problem(system)).numpy())
    found = gap_dimension(rates(known(eigenvalue), Dynamics()), 0.0)
    assert (found.dimension, found.num_admissible) == (6, 1)
    assert found.preferred
    split = finite_horizon(SpectralMeasure.exact(eigenvalue), time=10.0, tolerance=0.2)
    assert_close([split.frozen, split.active, split.slaved], [6, 0, 4], rtol=1e-12)


def test_no_gap_means_no_preferred_dimension() -> None:
    eigenvalue = np.linalg.eigvalsh(hessian_at(testbed.problem(testbed.rotated(testbed.no_gap(60)))).numpy())
    spectrum = rates(known(eigenvalue), Dynamics())
    assert not gap_dimension(spectrum, 0.0).preferred
    assert gap_dimension(spectrum, 0.2).status == "none"
    assert heuristic_dimension(spectrum).status == "none"


# ---- T3: two-mode cubic -----------------------------------------------------------------------------------------


def test_the_lipschitz_constant_of_the_cubic_is_found_by_ascent() -> None:
    problem = testbed.problem(CUBIC)
    start = 0.7 * torch.tensor([0.6, 0.8], dtype=torch.float64)
    found, _ = ascend(problem, start, SampleOptions(depth=2, ascent_steps=40))
    assert_close(found.norm.max(), CUBIC.lipschitz(0.7), rtol=1e-6)
    assert_close(tensor_norm(problem, restarts=2).value, CUBIC.lipschitz(1.0), rtol=1e-8)


def test_the_certified_radii_of_the_cubic() -> None:
    problem = testbed.problem(CUBIC)
    radii = np.array([0.5, 1.0, 1.5, 2.0])
    u = torch.tensor([0.8, 0.6], dtype=torch.float64)
    found = merge([ascend(problem, r * u, SampleOptions(depth=2, ascent_steps=40))[0] for r in radii])
    constants, _, _ = found.constants(radii)
    spectrum = rates(known(np.array([0.3, 5.0])), Dynamics())
    for constant, rule in ((2.0, "gap_2l"), (4.0, "gap_4l")):
        radius = gap_radius(radii, constants, 4.7 / constant)
        assert radius == pytest.approx(CUBIC.gap_radius(constant), rel=1e-3)
        slope = constants[0] / radii[0]
        assert gap_dimension(spectrum, slope * radius * 0.999, rule).dimension == 1
        assert gap_dimension(spectrum, slope * radius * 1.001, rule).status == "none"


def gap_radius(radii: np.ndarray, constants: np.ndarray, limit: float) -> float:
    return float(np.interp(limit, np.r_[0.0, constants], np.r_[0.0, radii]))


def test_the_cone_radius_of_the_cubic() -> None:
    problem, basis = testbed.problem(CUBIC), np.array([[0.0, 1.0], [1.0, 0.0]])
    worst = torch.tensor([0.0, -1.0], dtype=torch.float64)

    def gap(radius: float) -> float:
        return float(cone.dense_margins(hessian_at(problem, radius * worst).numpy(), basis).gap[0])

    assert gap(1.0) == pytest.approx(5.0 - 0.3 - 2)
    assert gap(CUBIC.cone_radius() * 0.999) > 0 > gap(CUBIC.cone_radius() * 1.001)
    assert CUBIC.cone_radius() > 2.3 * CUBIC.gap_radius()


def test_the_slow_manifold_of_the_cubic_is_not_its_valley_floor() -> None:
    problem = testbed.problem(CUBIC)
    split = Split(problem, torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([5.0], dtype=torch.float64))
    slow = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert_close(quadratic_graph(split, slow, 0.3), [1 / 4.4], rtol=1e-12)
    assert CUBIC.slow_manifold(1.0) == pytest.approx(0.22727, abs=1e-5)
    states = testbed.flow(problem, torch.tensor([0.5, 0.5], dtype=torch.float64), np.linspace(0, 12, 60))
    p, q = states[20:].T.numpy()
    assert_close(q / p**2, np.full(40, 1 / 4.4), rtol=0.02)
    defect = aim_defect(split, states, iterations=3)
    assert defect[0] < 0.9
    with pytest.raises(InputError, match="resonance"):
        quadratic_graph(split, slow, 2.5)


def test_nonlinear_galerkin_follows_where_flat_galerkin_does_not() -> None:
    problem = testbed.problem(CUBIC)
    split = Split(problem, torch.tensor([[0.0], [1.0]], dtype=torch.float64), torch.tensor([5.0], dtype=torch.float64))
    start = torch.tensor([0.5, 0.25 / 4.4], dtype=torch.float64)
    flat = reduced_training(split, start, lr=0.02, steps=400)
    curved = reduced_training(split, start, lr=0.02, steps=400, iterations=3)
    assert flat.distance[-1] > 0.05  # its fast coordinate stays where it was
    assert curved.distance[-1] < 0.01
    assert abs(curved.loss_gap[-1]) < flat.loss_gap[-1] / 10


# ---- T4, T4b ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "conserved"), [(1.0, 0.5), (-2.0, 3.0), (0.5, -1.0)])
def test_the_factorisation_has_one_slaved_and_one_frozen_mode(m: float, conserved: float) -> None:
    system = testbed.Factorisation(m, conserved)
    problem = testbed.problem(system)
    eigenvalue = np.linalg.eigvalsh(hessian_at(problem).numpy())
    assert_close(eigenvalue, [0.0, system.fast_rate()], rtol=1e-12, atol=1e-12)
    split = finite_horizon(SpectralMeasure.exact(eigenvalue), time=100.0)
    assert (split.frozen, split.active, split.slaved) == (1, 0, 1)
    start = 1.2 * system.base + 0.1
    states = testbed.flow(problem, start, np.linspace(0, 10, 20))
    assert_close(states[:, 0] ** 2 - states[:, 1] ** 2, np.full(20, float(start[0] ** 2 - start[1] ** 2)), rtol=1e-6)


def test_negative_curvature_is_slow() -> None:
    system = testbed.DoubleWell(stiff=10.0, a=0.5)
    problem, slow = testbed.problem(system), system.slow_direction()
    for p, expected in ((0.0, -1.0), (1.0, 2.0), (-1.0, 2.0)):
        assert_close(slow @ hessian_at(problem, p * slow) @ slow, expected, rtol=1e-12)
    basis = torch.stack([torch.stack([-slow[1], slow[0]]), slow], dim=1).numpy()
    points = [hessian_at(problem, p * slow).numpy() for p in np.linspace(-1.2, 1.2, 13)]
    found = cone.collect([cone.dense_margins(np.stack(points), basis)], 2)
    assert found.dimension == 1
    assert found.attraction[0] == pytest.approx(10.0)
    assert found.gap[0] == pytest.approx(11.0)  # at the saddle: the negative curvature widens the gap


# ---- T5: Chafee-Infante -----------------------------------------------------------------------------------------


def test_chafee_infante_derivatives_agree_with_automatic_ones() -> None:
    system = ChafeeInfante(7.0, size=8)
    b = np.random.default_rng(0).standard_normal(8) / 3
    problem = testbed.problem(system, torch.as_tensor(b))
    assert_close(problem.gradient(), system.gradient(b), rtol=1e-12)
    assert_close(hessian_at(problem), system.hessian(b), rtol=1e-11, atol=1e-11)
    start, end = np.zeros((1, 8)), b[None]
    fine = np.mean([system.hessian((k + 0.5) / 2000 * b) for k in range(2000)], axis=0)
    assert_close(segment_hessians(system, start, end)[0], fine, rtol=1e-6, atol=1e-6)


def test_chafee_infante_states_converge_to_verified_equilibria() -> None:
    system = ChafeeInfante(5.0)
    start = np.random.default_rng(0).standard_normal((2, 24)) / np.arange(1, 25) ** 2
    states = system.trajectories(start, 20.0)
    assert np.abs(system.gradient(states[-1])).max() < 1e-6
    energies = [float(system(torch.as_tensor(state))) for state in states[:, 0]]
    assert (np.diff(energies) < 1e-12).all()
    assert system.equilibrium(states[-1, 0]) is not None


@pytest.mark.parametrize(("a", "dimension"), [(2.0, 1), (5.0, 2), (10.0, 3)])
def test_the_bracket_resolves_chafee_infante(a: float, dimension: int) -> None:
    for seed in range(3):
        found = bracket(ChafeeInfante(a), BracketOptions(num_pairs=500, seed=seed))
        assert (found.lower, found.upper, found.dimension) == (dimension,) * 3


def test_the_bracket_is_never_resolved_to_a_wrong_dimension() -> None:
    random = np.random.default_rng(11)
    resolved = 0
    for seed in range(20):
        system = ChafeeInfante(float(random.uniform(1, 16)))
        found = bracket(system, BracketOptions(num_pairs=300, seed=seed))
        assert found.lower == system.true_dimension()
        assert found.dimension in (None, system.true_dimension())
        resolved += found.dimension is not None
    assert resolved >= 8


def test_starts_far_from_the_origin_alone_give_too_small_a_dimension() -> None:
    with pytest.raises(InputError, match="1e-3"):
        BracketOptions(sizes=(1.0, 0.1))


def test_every_rule_beside_the_right_answer() -> None:
    table = {a: rule_table(ChafeeInfante(a)) for a in (2.0, 5.0, 10.0)}
    rows = {rule: tuple(table[a][rule] for a in table) for rule in table[2.0]}
    assert rows["true"] == rows["cone_segment"] == (1, 2, 3)
    assert rows["theory"] == (3, 8, 15)
    assert rows["gap_2l"] == (4, 14, None)
    assert rows["gap_2l_osc"] == (2, 7, 15)
    assert rows["gap_4l"] == (8, None, None)
    assert rows["slq_plateau"] == (0, 0, 0)


def test_a_sample_of_displacements_keeps_its_kinds() -> None:
    problem = testbed.problem(CUBIC)
    u = torch.tensor([0.3, 0.4], dtype=torch.float64)
    found = sample(problem, [("trajectory", u), ("isotropic", 2 * u)], SampleOptions(depth=2))
    dense = (hessian_at(problem, u) - hessian_at(problem)).numpy()
    assert_close([found.low[0], found.high[0]], np.linalg.eigvalsh(dense), rtol=1e-10)
    constants, oscillation, number = found.constants(np.array([0.1, 0.5, 1.0]))
    assert np.isnan(constants[0])
    assert number.tolist() == [0, 1, 2]
    assert_close(constants[2], 2 * constants[1], rtol=1e-10)
    assert_close(oscillation[1], np.ptp(np.linalg.eigvalsh(dense)) / 2, rtol=1e-10)
    assert oscillation[1] < 0.9 * constants[1]
    assert found.select("trajectory").radius.tolist() == [0.5]
    assert found.num_products == 8
    halves = merge([found, found, found.select("trajectory")]).halves()
    assert [part.radius.tolist() for part in halves] == [[0.5, 1.0, 0.5], [0.5, 1.0]]


def test_every_rule_on_every_system() -> None:
    """Only the cone gap over segments is right wherever there is an answer; each other rule is wrong in its own way."""
    found = compare_rules(BracketOptions(num_pairs=500))
    known = found["true_dimension"].notnull()
    assert bool(found["right"].sel(rule="cone_segment")[known].all())
    share = found["right"].where(known).sum("system").to_series()
    assert share["cone_segment"] > share["cone_pointwise"] - 1 > share["gap_2l"] > share["gap_4l"]
    cubic = found["dimension"].sel(system=[f"cubic within {r:g}" for r in (0.4, 0.9, 1.5, 2.8)])
    for rule, number in (("gap_4l", 1), ("gap_2l", 2), ("cone_pointwise", 3), ("cone_segment", 3)):
        assert int(cubic.sel(rule=rule).notnull().sum()) == number  # the radii 0.509, 1.018 and 2.35
    well = found["dimension"].sel(system="double well")
    assert well.sel(rule="cone_segment") == 1  # the saddle's negative curvature stays slow
    nothing = found["dimension"].sel(system="no gap, 30 modes", rule=["largest_gap", "largest_log_gap"])
    assert bool(nothing.isnull().all())
    assert found["dimension"].sel(rule="slq_plateau", system="Chafee-Infante, a = 5") == 0
