"""Bodies of known volume: ellipsoids of all sizes and conditions, and others that are not quadratic."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from landscape.volume import truths
from landscape.volume.benchmark import FEW_SEEDS, LARGE, MOST_SEEDS, Case, Draw, of_trace, of_volume, seeds_for
from landscape.volume.multilevel import ProbeBudget, sample
from landscape.volume.occam import ellipsoid
from landscape.volume.preconditioners import identity, low_rank, polynomial
from landscape.volume.sampling import log_volume, shoot
from landscape.volume.truths import CUTOFF, Truth

PRODUCTS, DIRECTIONS, DEGREE = 3000, 32, 20
SIZES, CONDITIONS = (5, 50, 500, 5000, 50_000), (1.0, 1e2, 1e4)


def plain(truth: Truth, directions: int = 100) -> Callable[[int], Draw]:
    """Return star-shaped sampling."""

    def draw(seed: int) -> Draw:
        rays = shoot(truth.basin, identity(), directions, seed)
        return of_volume(log_volume(rays, truth.basin, identity()), 0, float(rays.radii.passes.mean()))

    return draw


def whitened(truth: Truth, directions: int = 100, rank: int | None = None) -> Callable[[int], Draw]:
    """Return sampling along the exact inverse root of the curvature, or along that of its leading pairs."""
    n = truth.size
    vectors = truth.turn.forward(torch.eye(n, rank or n, dtype=torch.float64))
    bulk = float(truth.eigenvalue[rank:].mean()) if rank else 0.0
    chosen = low_rank(truth.eigenvalue[: rank or n], vectors, bulk, 0.0)

    def draw(seed: int) -> Draw:
        rays = shoot(truth.basin, chosen, directions, seed)
        return of_volume(log_volume(rays, truth.basin, chosen), rank or n, float(rays.radii.passes.mean()))

    return draw


def budget_for(truth: Truth, seed: int) -> ProbeBudget:
    """Return the probes that leave room for the directions within 3,000 products, fewer where n products are exact."""
    condition = float(truth.eigenvalue.max() / truth.eigenvalue.min())
    depth = min(truth.size, 130 if condition > 1e3 else 40)
    products = min(PRODUCTS, 4 * depth + DIRECTIONS * (DEGREE + 1) + 50 + truth.size)
    return ProbeBudget(4, depth, products - 4 * depth - DIRECTIONS * (DEGREE + 1) - 50, seed)


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
    """Yield ellipsoids and other bodies of all sizes and conditions."""
    for size in SIZES:
        for condition in CONDITIONS:
            truth = truths.ellipsoid(size, condition)
            estimators = {"star": plain(truth, 100 if size <= LARGE else 32), "polynomial": by_polynomial(truth)}
            if size <= LARGE:
                estimators["exact"] = whitened(truth)
                estimators["quadrature"] = by_quadrature(truth)
            if condition > 1 and size >= 50:
                estimators["low_rank"] = whitened(truth, 32, min(size // 2, 100))
            for name, draw in estimators.items():
                seeds = seeds_for(size) if name in ("polynomial", "quadrature") else FEW_SEEDS
                yield Case(name, truth.name, size, condition, truth.log_volume, seeds, draw)
    for size in (5, 50, 500):
        truth = truths.ellipsoid(size, 1e2, offset=0.1)
        yield Case("exact", truth.name, size, 1e2, truth.log_volume, MOST_SEEDS, whitened(truth))
    for size in (50, 500):
        for body in (truths.sheared(size, 1e2, 0.02), truths.tilted(size, 1e2, 0.8), truths.tilted(size, 1e2, 3.0)):
            yield Case("exact", body.name, size, 1e2, body.log_volume, MOST_SEEDS, whitened(body, 200))
            yield Case("polynomial", body.name, size, 1e2, body.log_volume, FEW_SEEDS, by_polynomial(body))
