"""Sharpness, flatness, learning coefficient: closed forms, invariances, refusals."""

import numpy as np
import pytest
import torch
from helpers import assert_close, check_estimate
from torch import Tensor, nn

from landscape import operators
from landscape.errors import InputError
from landscape.problem import Problem, ProblemSettings
from landscape.volume import llc, sharpness
from landscape.volume.chains import effective_size, split_r_hat
from landscape.volume.flatness import relative_flatness
from landscape.volume.llc import SamplerOptions
from landscape.volume.multilevel import Probes
from landscape.volume.neighbourhood import Neighbourhood

F64 = torch.float64


def quadratic(n: int = 6) -> tuple[Tensor, Tensor, Problem]:
    """1/2 (w - w0)' H (w - w0) at w0, all weights of size about one."""
    random = torch.Generator().manual_seed(0)
    root = torch.randn(n, n, generator=random, dtype=F64)
    H, w = root @ root.T / n, 1 + torch.rand(n, generator=random, dtype=F64)
    return H, w, Problem.from_function(lambda v: 0.5 * (v - w) @ H @ (v - w), w)


def relu_network(factor: float = 1.0, mask: bool = False) -> Problem:
    """A ReLU network one of whose hidden neurons is scaled by ``factor``, with the same function."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).to(F64)
    with torch.no_grad():
        model[0].weight[2] *= factor
        model[0].bias[2] *= factor
        model[2].weight[:, 2] /= factor
    x, y = torch.randn(30, 4, dtype=F64), torch.randint(0, 3, (30,))
    keep = {"0.weight": torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) > 0.4} if mask else None
    return Problem.from_model(model, "cross_entropy", (x, y), keep)


# ---- sharpness ------------------------------------------------------------------------------------------------------


def test_average_sharpness_of_a_quadratic() -> None:
    """rho^2 / 2 sum w_i^2 H_ii, also with a gradient, which the pairs cancel."""
    H, w, _ = quadratic()
    g = torch.linspace(-3, 3, 6, dtype=F64)
    point = Problem.from_function(lambda v: 0.5 * (v - w) @ H @ (v - w) + g @ (v - w), w)
    rise = Neighbourhood(point, "loss_relative", 1.0).excess
    found = sharpness.average_sharpness(rise, w, 0.1, num_pairs=2000)
    assert abs(found.value - 0.005 * float((w.square() * H.diagonal()).sum())) < 4 * found.se
    assert found.se < 0.05 * found.value


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_worst_sharpness_is_linear_for_small_rho(norm: str) -> None:
    H, w, _ = quadratic()
    g = torch.linspace(1, 3, 6, dtype=F64)
    point = Problem.from_function(lambda v: 0.5 * (v - w) @ H @ (v - w) + g @ (v - w), w)
    dual = (w * g).norm() if norm == "l2" else (w * g).abs().sum()
    found = sharpness.worst_sharpness(point, 1e-4, norm)
    assert_close(found.linearised, 1e-4 * float(dual))
    assert_close(found.value, found.linearised, rtol=1e-3)


def test_worst_sharpness_of_a_minimum_is_the_largest_scaled_eigenvalue() -> None:
    H, w, point = quadratic()
    top = float(torch.linalg.eigvalsh(w[:, None] * H * w)[-1])
    found = sharpness.worst_sharpness(point, 0.1, "l2", steps=60)
    assert_close(found.value, 0.005 * top, rtol=1e-3)
    assert_close(found.linearised, 0.0, atol=1e-12)


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_sharpness_does_not_see_the_scale_of_a_neuron(factor: float) -> None:
    values = []
    for point in (relu_network(), relu_network(factor)):
        rise = Neighbourhood(point, "loss_relative", 1.0).excess
        values.append(
            [
                sharpness.average_sharpness(rise, point.theta, 0.1, 10).value,
                sharpness.worst_sharpness(point, 0.05, "l2", 5).value,
                sharpness.worst_sharpness(point, 0.05, "linf", 5).value,
            ]
        )
    assert_close(values[1], values[0], rtol=1e-6)


def test_bad_perturbations_are_refused() -> None:
    _, w, point = quadratic()
    rise = Neighbourhood(point, "loss_relative", 1.0).excess
    with pytest.raises(InputError, match="rho must be positive"):
        sharpness.average_sharpness(rise, w, 0.0)
    with pytest.raises(InputError, match="unknown norm"):
        sharpness.worst_sharpness(point, 0.1, "l1")


# ---- flatness -------------------------------------------------------------------------------------------------------


def test_relative_flatness_of_linear_regression() -> None:
    """One output: kappa = |w|^2 tr(X'X) / N."""
    torch.manual_seed(0)
    model, x = nn.Linear(5, 1, bias=False).to(F64), torch.randn(40, 5, dtype=F64)
    point = Problem.from_model(model, "mse", (x, torch.zeros(40, 1, dtype=F64)))
    expected = float(point.theta.square().sum() * x.square().sum() / 40)
    found = [relative_flatness(point, operators.hessian(point), "weight", 10, seed).value for seed in range(12)]
    check_estimate(found, expected)


@pytest.mark.parametrize("mask", [False, True])
def test_relative_flatness_against_the_dense_hessian(mask: bool) -> None:
    """Sum over rows of <w_s, w_s'> times the trace of their block, over the coordinates that both keep."""
    point = relu_network(mask=mask)
    H = torch.autograd.functional.hessian(lambda v: _loss(point, v), point.theta)
    full = torch.zeros(24, 24, dtype=F64)
    places = torch.arange(24) if point.index is None else point.index[point.index < 24]
    full[places[:, None], places[None]] = H[: len(places), : len(places)]
    W = point.parameters["0.weight"]
    expected = torch.einsum("st,sitj,ij->", W @ W.T, full.view(6, 4, 6, 4), torch.eye(4, dtype=F64))
    found = [relative_flatness(point, operators.hessian(point), "0.weight", 20, seed).value for seed in range(12)]
    check_estimate(found, float(expected))


def _loss(point: Problem, theta: Tensor) -> Tensor:
    total, count = point.batch_loss(point.parameters_at(theta), point.batches[0])
    return total / count


def test_relative_flatness_does_not_see_the_scale_of_a_layer() -> None:
    torch.manual_seed(0)
    values = []
    for factor in (1.0, 3.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3)).to(F64)
        with torch.no_grad():
            model[0].weight *= factor
            model[2].weight /= factor
        point = Problem.from_model(model, "cross_entropy", (torch.randn(9, 4, dtype=F64), torch.arange(9) % 3))
        values.append(
            [relative_flatness(point, operators.hessian(point), w, 5).value for w in ("0.weight", "2.weight")]
        )
    assert_close(values[1], values[0], rtol=1e-8)


def test_flatness_needs_rows() -> None:
    point = relu_network()
    with pytest.raises(InputError, match="no active weight with rows"):
        relative_flatness(point, operators.hessian(point), "0.bias")


# ---- learning coefficient -------------------------------------------------------------------------------------------


def sloped(curvature: Tensor) -> Problem:
    return Problem.from_function(lambda w: 0.5 * (curvature * w * w).sum(), torch.zeros(len(curvature), dtype=F64))


def exactly(values: Tensor) -> Probes:
    return Probes(len(values), values.numpy(), [], (1,), 0)


def test_mala_on_a_quadratic() -> None:
    curvature = torch.logspace(-2, 0, 4, dtype=F64)
    n_beta = llc.tempered(1000)
    options = SamplerOptions(chains=40, draws=200, warmup=150, step=1.0)
    found = llc.learning_coefficient(sloped(curvature), options, 1 / (n_beta * curvature + 1), n_beta=n_beta)
    assert abs(found.value - llc.quadratic_coefficient(exactly(curvature), n_beta, 1.0)) < 4 * found.se < 0.4
    assert found.converged
    assert 0.8 < found.acceptance < 0.97


def test_sgld_has_the_step_error_that_is_predicted() -> None:
    curvature = torch.logspace(-1, 0, 4, dtype=F64)
    n_beta = llc.tempered(1000)
    step = 1.5 / (n_beta + 1)
    options = SamplerOptions("sgld", chains=100, draws=200, warmup=60, step=step)
    found = llc.learning_coefficient(sloped(curvature), options, n_beta=n_beta)
    ideal, finite = (llc.quadratic_coefficient(exactly(curvature), n_beta, 1.0, s) for s in (0.0, step))
    assert abs(found.value - finite) < 4 * found.se
    assert finite - ideal > 3 * found.se


def test_the_quadratic_coefficient_by_hand() -> None:
    value = llc.quadratic_coefficient(exactly(torch.tensor([0.5, 0.0], dtype=F64)), 4.0, 1.0)
    assert_close(value, 0.5 * 2 / 3)
    with pytest.raises(InputError, match="unstable"):
        llc.quadratic_coefficient(exactly(torch.tensor([1.0], dtype=F64)), 3.0, 1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "j"), [(1, 1), (1, 2), (2, 2)])
def test_normal_crossings(k: int, j: int) -> None:
    """L = a^2k b^2j, against the integral at this temperature (its limit is min(1/2k, 1/2j))."""
    n_beta = llc.tempered(1000)
    point = Problem.from_function(lambda w: w[0] ** (2 * k) * w[1] ** (2 * j), torch.zeros(2, dtype=F64))
    options = SamplerOptions(chains=32, draws=6000, warmup=1000, step=0.01)
    found = llc.learning_coefficient(point, options, n_beta=n_beta)
    x = np.exp(np.linspace(-18, 2.2, 2000))
    loss = np.outer(x ** (2 * k), x ** (2 * j))
    weight = np.exp(-n_beta * loss - 0.5 * (x[:, None] ** 2 + x**2)) * np.outer(x, x)
    expected = n_beta * (weight * loss).sum() / weight.sum()
    assert abs(found.value - expected) < 0.02
    assert found.converged


def test_dead_coordinates_do_not_count() -> None:
    curvature = torch.tensor([1.0, 0.5], dtype=F64)
    padded = torch.cat([curvature, torch.zeros(20, dtype=F64)])
    n_beta = llc.tempered(1000)
    values = [llc.quadratic_coefficient(exactly(c), n_beta, 1.0) for c in (curvature, padded)]
    assert_close(values[0], values[1])


def test_points_that_are_no_minimum_are_refused() -> None:
    llc.check_minimum(1e-4, 100.0)
    with pytest.raises(InputError, match="not a minimum"):
        llc.check_minimum(0.1, 100.0)
    with pytest.raises(InputError, match="not a minimum"):
        llc.check_minimum(float("nan"), 100.0)


def test_a_drift_downhill_is_not_converged() -> None:
    """A slope without a minimum gives a negative coefficient, which is not believed."""
    point = Problem.from_function(lambda w: w.sum(), torch.zeros(2, dtype=F64))
    found = llc.learning_coefficient(point, SamplerOptions(draws=50, warmup=50), n_beta=50.0)
    assert found.value < 0
    assert not found.converged


def test_the_same_seed_gives_the_same_chain() -> None:
    point, options = sloped(torch.ones(2, dtype=F64)), SamplerOptions(draws=20, warmup=5)
    first, second, other = (llc.learning_coefficient(point, options, seed=s, n_beta=9.0).value for s in (3, 3, 4))
    assert first == second != other


def test_batches_are_drawn_in_proportion_to_their_size() -> None:
    """A ragged last batch of one example must not weigh as much as a full one: the mean of 9 zeros and one 1 is 0.1."""
    x = torch.ones(10, 1, dtype=F64)
    y = torch.cat([torch.zeros(9, 1), torch.ones(1, 1)]).to(F64)
    model = nn.Linear(1, 1, bias=False).to(F64)
    with torch.no_grad():
        model.weight.fill_(0.1)
    point = Problem.from_model(model, "mse", (x, y), settings=ProblemSettings(batch_size=9))
    options = SamplerOptions("sgld", chains=100, draws=300, warmup=100, step=0.1)
    found = llc.learning_coefficient(point, options, torch.full((1,), 1 / 40.0, dtype=F64), n_beta=4.0)
    expected = llc.quadratic_coefficient(exactly(torch.ones(1, dtype=F64)), 4.0, 1.0)
    assert abs(found.value - expected) < 0.15 * expected + 4 * found.se


def test_chain_diagnostics() -> None:
    random = np.random.default_rng(0)
    draws = random.standard_normal((4, 2000))
    assert abs(split_r_hat(draws) - 1) < 0.01
    assert split_r_hat(draws + 3 * np.arange(4)[:, None]) > 1.5
    assert abs(effective_size(draws) / 8000 - 1) < 0.2
    slow = np.zeros((4, 20_000))
    for i in range(1, 20_000):
        slow[:, i] = 0.9 * slow[:, i - 1] + random.standard_normal(4)
    assert abs(effective_size(slow) / (80_000 * 0.1 / 1.9) - 1) < 0.25


def test_bad_sampler_options_are_refused() -> None:
    with pytest.raises(InputError, match="unknown sampler"):
        SamplerOptions("hmc")
    with pytest.raises(InputError, match="at least 2 chains"):
        SamplerOptions(chains=1)
    with pytest.raises(InputError, match="must be positive"):
        SamplerOptions(localisation=0.0)
    with pytest.raises(InputError, match="at least 3 examples"):
        llc.tempered(2)
