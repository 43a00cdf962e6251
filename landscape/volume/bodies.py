"""Bodies of known volume: ellipsoids of all sizes and conditions, and others that are not quadratic."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from landscape import dense
from landscape.volume import truths
from landscape.volume.benchmark import FEW_SEEDS, LARGE, MOST_SEEDS, Case, Draw, of_trace, of_volume, seeds_for
from landscape.volume.multilevel import ProbeBudget, sample
from landscape.volume.occam import ellipsoid
from landscape.volume.preconditioners import Preconditioner, identity, low_rank, polynomial
from landscape.volume.sampling import log_volume, shoot
from landscape.volume.truths import CUTOFF, Truth

PRODUCTS, DIRECTIONS, DEGREE = 3000, 32, 10
SIZES, CONDITIONS = (5, 50, 500, 5000, 50_000), (1.0, 1e2, 1e4)


def whitened(truth: Truth, directions: int = 100) -> Callable[[int], Draw]:
    """Return sampling along the inverse root of the curvature, whose whole spectrum n products give."""
    values, vectors = dense.spectrum(truth.operator)
    chosen = low_rank(values.numpy(), vectors, 0.0, 0.0)
    return sampled(truth, chosen, directions, truth.size)


def leading(truth: Truth, rank: int) -> Callable[[int], Draw]:
    """Return sampling along the inverse root of the curvature's leading pairs, taken from the truth."""
    vectors = truth.turn.forward(torch.eye(truth.size, rank, dtype=torch.float64))
    chosen = low_rank(truth.eigenvalue[:rank], vectors, float(truth.eigenvalue[rank:].mean()), 0.0)
    return sampled(truth, chosen, DIRECTIONS, rank)


def sampled(truth: Truth, chosen: Preconditioner, directions: int, products: int) -> Callable[[int], Draw]:
    """Return the volume along the directions of a preconditioner that is the same for all seeds."""

    def draw(seed: int) -> Draw:
        rays = shoot(truth.basin, chosen, directions, seed)
        return of_volume(log_volume(rays, truth.basin, chosen), products, float(rays.radii.passes.mean()))

    return draw


def budget_for(truth: Truth, seed: int) -> ProbeBudget:
    """Return the probes that leave room for the directions within 3,000 products, fewer where n products are exact.

    Two deep probes state the bias; the error is that of the number of starts, so all else goes to shallow ones.
    """
    condition = float(truth.eigenvalue.max() / truth.eigenvalue.min())
    depth = min(truth.size, 130 if condition > 1e3 else 40)
    number = 4 if truth.size <= LARGE else 2
    room = PRODUCTS - number * depth - DIRECTIONS * (DEGREE + 1)
    return ProbeBudget(number, depth, min(room, truth.size + 50), seed)


def by_polynomial(truth: Truth) -> Callable[[int], Draw]:
    """Return sampling along a fixed polynomial of the curvature, with the quadratic model as control variate."""

    def draw(seed: int) -> Draw:
        before = truth.operator.num_products
        probes = sample(truth.operator, budget_for(truth, seed))
        chosen = polynomial(truth.operator, probes, DEGREE)
        rays = shoot(truth.basin, chosen, DIRECTIONS, seed)
        spent = truth.operator.num_products - before
        return of_volume(log_volume(rays, truth.basin, chosen), spent, float(rays.radii.passes.mean()))

    return draw


def by_quadrature(truth: Truth) -> Callable[[int], Draw]:
    """Return the ellipsoid's volume from the multilevel log-determinant alone."""

    def draw(seed: int) -> Draw:
        probes = sample(truth.operator, budget_for(truth, seed))
        return of_trace(ellipsoid(probes, CUTOFF), probes.num_products)

    return draw


def cases() -> Iterator[Case]:
    """Yield ellipsoids and other bodies of all sizes and conditions.

    Up to 500 dimensions the spectrum is found whole; intervals of its stochastic traces are tried there all the same.
    """
    for size in SIZES:
        for condition in CONDITIONS:
            truth = truths.ellipsoid(size, condition)
            few = 100 if size <= LARGE else DIRECTIONS
            estimators = {"star": (FEW_SEEDS, sampled(truth, identity(), few, 0))}
            if size <= LARGE:
                estimators["exact"] = MOST_SEEDS, whitened(truth)
                estimators["quadrature"] = MOST_SEEDS, by_quadrature(truth)
            else:
                estimators["polynomial"] = seeds_for(size), by_polynomial(truth)
            if condition > 1 and size >= 50:
                estimators["low_rank"] = FEW_SEEDS, leading(truth, min(size // 2, 100))
            for name, (seeds, draw) in estimators.items():
                yield Case(name, truth.name, size, condition, truth.log_volume, seeds, draw)
    for size in (5, 50, 500):
        truth = truths.ellipsoid(size, 1e2, offset=0.1)
        yield Case("exact", truth.name, size, 1e2, truth.log_volume, MOST_SEEDS, whitened(truth))
    for size in (50, 500):
        for body in (truths.sheared(size, 1e2, 0.02), truths.tilted(size, 1e2, 0.8), truths.tilted(size, 1e2, 3.0)):
            yield Case("exact", body.name, size, 1e2, body.log_volume, MOST_SEEDS, whitened(body, 200))
            if size == LARGE:
                yield Case("polynomial", body.name, size, 1e2, body.log_volume, FEW_SEEDS, by_polynomial(body))
