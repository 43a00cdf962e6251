"""Known masses, evidences, learning coefficients, and a trained network against all its eigenvalues."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from scipy.stats import ncx2
from sklearn.datasets import load_digits
from torch import Tensor, nn

from landscape import dense, operators, seeds
from landscape.operators import from_matrix
from landscape.problem import Problem
from landscape.volume import llc
from landscape.volume.benchmark import FEW_SEEDS, MOST_SEEDS, Case, Draw, of_trace, of_volume
from landscape.volume.gaussian_mass import gaussian_mass
from landscape.volume.llc import SamplerOptions
from landscape.volume.multilevel import ProbeBudget, Probes, sample
from landscape.volume.occam import occam_factor
from landscape.volume.preconditioners import Preconditioner, identity, low_rank, low_rank_diagonal, polynomial
from landscape.volume.sampling import Basin, log_volume, shoot
from landscape.volume.truths import CUTOFF
from landscape.volume.weights import log_ball

F64 = torch.float64
HIDDEN, RANK, SHRINKAGE = 32, 60, 1e-4


def cases() -> Iterator[Case]:
    """Yield all cases of this module."""
    yield from mass_cases()
    yield from evidence_cases()
    yield from learning_cases()
    yield from network_cases()


def mass_cases() -> Iterator[Case]:
    """Yield balls under Gaussian priors, whose masses are non-central chi-square probabilities."""
    for size, radius, length in ((6, 1.5, 1.0), (50, 5.0, 1.0), (500, 17.0, 0.5), (50, 5.0, 3.0)):
        anchor = torch.zeros(size, dtype=F64)
        anchor[0] = length
        basin = Basin(lambda V: V.square().sum(0), radius**2, anchor)

        def draw(seed: int, basin: Basin = basin) -> Draw:
            rays = shoot(basin, identity(), 200, seed)
            return of_volume(gaussian_mass(rays, basin, identity(), 0.8), 0, float(rays.radii.passes.mean()))

        exact = float(ncx2.logcdf((radius / 0.8) ** 2, size, (length / 0.8) ** 2))
        yield Case("gaussian_mass", f"ball at {length:g}", size, 1.0, exact, MOST_SEEDS, draw)


def evidence_cases() -> Iterator[Case]:
    """Yield Bayesian linear regression, whose evidence the Occam factor gives exactly."""
    for size in (20, 200):
        random = seeds.numpy_generator(0, "regression", size)
        X = random.standard_normal((2 * size, size)) * np.logspace(-1, 0, size)
        y = X @ random.standard_normal(size) + random.standard_normal(2 * size)
        w = np.linalg.solve(X.T @ X + np.eye(size), X.T @ y)
        cover = np.eye(2 * size) + X @ X.T
        evidence = -0.5 * (np.linalg.slogdet(cover)[1] + y @ np.linalg.solve(cover, y))
        exact = float(evidence + 0.5 * np.square(y - X @ w).sum() + 0.5 * w @ w)
        operator = from_matrix(torch.as_tensor(X.T @ X / (2 * size)))

        def draw(seed: int, operator: operators.LinearOperator = operator, size: int = size) -> Draw:
            probes = sample(operator, ProbeBudget(10, min(40, size), 100, seed))
            return of_trace(occam_factor(probes, 2 * size, 1.0), probes.num_products)

        yield Case("occam", "linear regression", size, 1e2, exact, MOST_SEEDS, draw)


def crossing(k: int, j: int, n_beta: float) -> float:
    """Return n beta E[w_1^2k w_2^2j] under the tempered posterior with localisation 1, by a fine sum."""
    x = np.exp(np.linspace(-18, 2.2, 2000))
    loss = np.outer(x ** (2 * k), x ** (2 * j))
    weight = np.exp(-n_beta * loss - 0.5 * (x[:, None] ** 2 + x**2)) * np.outer(x, x)
    return float(n_beta * (weight * loss).sum() / weight.sum())


def learning_cases() -> Iterator[Case]:
    """Yield a quadratic, normal crossings at their finite temperature, and reduced-rank regression at its limit."""
    n_beta = llc.tempered(1000)
    curvature = torch.logspace(-2, 0, 20, dtype=F64)
    exactly = Probes(20, curvature.numpy(), [], (1,), 0)
    options = SamplerOptions(chains=32, draws=300, warmup=200, step=1.0)

    def quadratic(seed: int) -> Draw:
        point = Problem.from_function(lambda w: 0.5 * (curvature * w * w).sum(), torch.zeros(20, dtype=F64))
        return _learned(llc.learning_coefficient(point, options, 1 / (n_beta * curvature + 1), seed, n_beta))

    expected = llc.quadratic_coefficient(exactly, n_beta, 1.0)
    yield Case("llc", "quadratic", 20, 1e2, expected, FEW_SEEDS, quadratic)
    for k, j in ((1, 1), (1, 2)):

        def singular(seed: int, k: int = k, j: int = j) -> Draw:
            point = Problem.from_function(lambda w: w[0] ** (2 * k) * w[1] ** (2 * j), torch.zeros(2, dtype=F64))
            chosen = SamplerOptions(chains=64, draws=1000, warmup=400, step=0.01)
            return _learned(llc.learning_coefficient(point, chosen, None, seed, n_beta))

        yield Case("llc", f"crossing {k},{j}", 2, np.inf, crossing(k, j, n_beta), 5, singular)
    yield Case("llc", "reduced rank 3x2x3, true rank 1", 12, np.inf, 3.5, 3, reduced_rank)


def reduced_rank(seed: int) -> Draw:
    """Return the coefficient of y = B A x at a rank-1 truth with inputs of unit covariance, L = |BA - T|^2 / 2.

    The limit is 7/2 (Aoyagi and Watanabe 2005: inputs 3, hidden 2, outputs 3, rank 1).
    """
    start = torch.zeros(12, dtype=F64)
    start[0] = start[6] = 1.0
    n_beta = llc.tempered(10**5)

    def loss(w: Tensor) -> Tensor:
        product = w[6:].reshape(2, 3).T @ w[:6].reshape(2, 3)
        truth = torch.zeros(3, 3, dtype=F64)
        truth[0, 0] = 1.0
        return 0.5 * (product - truth).square().sum()

    options = SamplerOptions(chains=32, draws=3000, warmup=1500, step=1e-3)
    return _learned(llc.learning_coefficient(Problem.from_function(loss, start), options, None, seed, n_beta))


def _learned(found: llc.Learning) -> Draw:
    margin = 1.96 * found.se
    return Draw(found.value, found.value - margin, found.value + margin, found.converged, found.se)


# ---- a trained network ----------------------------------------------------------------------------------------------


@cache
def network() -> tuple[Problem, np.ndarray, Tensor]:
    """Return a trained 64-32-10 network on digits, and all eigenvalues and eigenvectors of its Gauss-Newton matrix."""
    x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    x, y = x[:1000].to(F64) / 16, y[:1000].long()
    source = seeds.generator(0, "calibration network")
    model = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)).to(F64)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter.shape[-1]
            parameter.copy_(
                torch.randn(parameter.shape, generator=source, dtype=F64) * fan**-0.5 * (parameter.ndim > 1)
            )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(60):
        for rows in torch.randperm(1000, generator=source).split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    problem = Problem.from_model(model, "cross_entropy", (x, y))
    values, vectors = dense.spectrum(operators.ggn(problem))
    return problem, values.numpy(), vectors


@cache
def network_matrix(shrinkage: float) -> Tensor:
    """Return the network's curvature plus a shrinkage (relative to its largest eigenvalue), ``(n, n)``."""
    _, values, vectors = network()
    shifted = np.maximum(values, 0) + shrinkage * float(values[0])
    return (vectors * torch.as_tensor(shifted)) @ vectors.T


def network_cases() -> Iterator[Case]:
    """Yield the quadratic basin of the network's curvature plus a shrinkage, and its Occam factor."""
    size = 64 * HIDDEN + HIDDEN + 10 * HIDDEN + 10

    def occam(seed: int) -> Draw:
        _, values, vectors = network()
        probes = sample(
            from_matrix(network_matrix(0.0)), ProbeBudget(4, 40, 0, seed), (values[:RANK], vectors[:, :RANK])
        )
        return of_trace(occam_factor(probes, 1000, 0.3), probes.num_products)

    values = network()[1]
    exact = -0.5 * float(np.log1p(1000 * 0.09 * np.maximum(values, 0)).sum())
    shifted = np.maximum(values, 0) + SHRINKAGE * values[0]
    condition = float(shifted[0] / shifted[-1])
    yield Case("occam", "trained network", size, condition, exact, FEW_SEEDS, occam)
    volume = log_ball(size) + 0.5 * size * np.log(2 * CUTOFF) - 0.5 * float(np.log(shifted).sum())
    for name in ("star", "low_rank", "low_rank_diagonal", "polynomial", "exact"):
        yield Case(name, "trained network", size, condition, volume, 10, network_draw(name))


def network_draw(name: str) -> Callable[[int], Draw]:
    """Return the draws of an estimator on that basin; the pairs it uses count four products each."""

    def draw(seed: int) -> Draw:
        full = network_matrix(SHRINKAGE)
        basin = Basin(lambda V: 0.5 * (V * (full @ V)).sum(0), CUTOFF, torch.zeros(len(full), dtype=F64))
        chosen, products = network_preconditioner(name, seed)
        rays = shoot(basin, chosen, 64, seed)
        return of_volume(log_volume(rays, basin, chosen), products, float(rays.radii.passes.mean()))

    return draw


def network_preconditioner(name: str, seed: int) -> tuple[Preconditioner, int]:
    """Return a preconditioner of the network's curvature and about how many products it takes for 64 directions."""
    _, values, vectors = network()
    shrinkage, n = SHRINKAGE * float(values[0]), len(values)
    top, pairs = np.maximum(values[:RANK], 0), vectors[:, :RANK]
    if name == "star":
        return identity(), 0
    if name == "exact":
        return low_rank(np.maximum(values, 0), vectors, 0.0, shrinkage), n
    if name == "low_rank":
        return low_rank(top, pairs, float(np.maximum(values[RANK:], 0).mean()), shrinkage), 4 * RANK
    if name == "low_rank_diagonal":
        rest = (vectors[:, RANK:].square() * torch.as_tensor(np.maximum(values[RANK:], 0))).sum(1)
        return low_rank_diagonal(top, pairs, rest, shrinkage), 4 * RANK + 30
    operator = from_matrix(network_matrix(0.0))
    probes = sample(operator, ProbeBudget(4, 40, 400, seed), (top, pairs))
    return polynomial(operator, probes, 12, shrinkage, pairs), 4 * RANK + probes.num_products + 64 * 13
