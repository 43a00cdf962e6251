"""All products of a measurement beyond the spectrum: Hessian differences, cone samples, the rays of the worst."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from landscape import cli
from landscape.dimension.answers import POINTWISE, ConeSamples
from landscape.dimension.base import Base, top_vectors
from landscape.dimension.combine import combination
from landscape.dimension.cone_sampling import ConeSampler
from landscape.dimension.lipschitz import LipschitzSamples, SampleOptions
from landscape.dimension.metric import Point, curvature
from landscape.dimension.options import DimensionOptions
from landscape.dimension.rays import Ray
from landscape.dimension.sampling import Region, lipschitz_samples, num_differences
from landscape.journal import Journal

DEFAULT_MEMORY = 8 * 2**30
_AVERAGED = 8


@dataclass(frozen=True)
class Effort:
    """How to run: the seed, the memory in bytes, where the state is kept, and whether to report progress."""

    seed: int = 0
    memory: int = DEFAULT_MEMORY
    journal: Journal = field(default_factory=Journal)
    quiet: bool = True


@dataclass(frozen=True, eq=False)
class Gathered:
    """What was sampled.

    Attributes
    ----------
    samples
        Hessian differences.
    ray
        The ray through the largest of them.
    points, segments
        Cone samples; None where the rule was not asked for.
    cone_failure
        Smallest radius, on the ray of the smallest cone gap, at which no cone gap is left.
    num_products
        Cost, that of the spectrum apart.
    """

    samples: LipschitzSamples
    ray: Ray
    points: ConeSamples | None = None
    segments: ConeSamples | None = None
    cone_failure: float | None = None
    num_products: int = 0


def gather(
    point: Point, base: Base, region: Region, rules: tuple[str, ...], options: DimensionOptions, effort: Effort
) -> Gathered:
    """Sample a region.

    Notes
    -----
    Cost: 2 ``depth`` products for each Hessian difference; ``fast + depth`` for each point and ``nodes`` times that for
    each segment; with the splitting ``average`` also the eigenpairs of a mean of 8 Hessians.
    """
    how = SampleOptions(options.depth, options.ascent_steps, effort.seed)
    count = num_differences(region, how, options.samples)
    bar: Any
    with cli.progress(count, "Hessian differences", effort.quiet, unit="sample") as bar:
        samples, worst = lipschitz_samples(point, region, how, options.samples, effort.journal, bar.update)
    ray = Ray(point, worst, how, effort.journal)
    cost = samples.num_products
    if POINTWISE not in rules:
        return Gathered(samples, ray, num_products=cost)
    basis = base.vectors
    if options.splitting == "average":
        basis, spent = _average_basis(point, region, options, effort)
        cost += spent
    number = len(region.displacements(max(options.points - 1, 1))) + (3 if region.kind == "adversarial" else 1)
    with cli.progress(number, "cone at points", effort.quiet, unit="point") as bar:
        sampler = ConeSampler(point, basis, region, how, effort.journal, bar.update)
        points, tightest = sampler.at_points(options.points, worst)
    failure, spent = sampler.failure_radius(tightest, options.radius_tolerance)
    cost += points.num_products + spent
    segments = None
    if options.nodes:
        with cli.progress(options.points, "cone over segments", effort.quiet, unit="segment") as bar:
            sampler = ConeSampler(point, basis, region, how, effort.journal, bar.update)
            segments = sampler.over_segments(options.points, options.nodes)
        cost += segments.num_products
    return Gathered(samples, ray, points, segments, failure, cost)


def _average_basis(point: Point, region: Region, options: DimensionOptions, effort: Effort) -> tuple[Tensor, int]:
    """Return the top eigenvectors of the Hessian averaged over the region, ``(n, K)``, and their cost."""
    saved = effort.journal.load("average")
    if saved is None:
        where = [torch.zeros_like(point.theta), *(u for _, u in region.displacements(_AVERAGED - 1))][:_AVERAGED]
        mean = combination([(1 / len(where), curvature(point.at(point.theta + u))) for u in where])
        vectors = top_vectors(mean, min(options.fast, point.num_params - 1), options.tolerance, effort.seed)
        saved = {"vectors": vectors.cpu(), "num_products": mean.num_products}
        effort.journal.save("average", saved)
    return saved["vectors"].to(point.theta), int(saved["num_products"])
