"""Cone margins at sampled points and over sampled segments of a region, one at a time, so that a run can resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.dimension.answers import ConeSamples
from landscape.dimension.cone import Margins, margins, segment, tighten
from landscape.dimension.lipschitz import SampleOptions
from landscape.dimension.metric import Point, curvature
from landscape.dimension.rates import Array
from landscape.dimension.rays import smallest_failure
from landscape.dimension.sampling import Progress, Region, each
from landscape.journal import Journal
from landscape.seeds import numpy_generator


@dataclass(frozen=True, eq=False)
class ConeSampler:
    """What all cone samples of a measurement share.

    Parameters
    ----------
    point
        The base point.
    basis
        Fast directions ``(n, K)``.
    region
        Where to sample.
    options
        Krylov depth and steps of the adversarial search.
    journal
        Keeps what is done.
    progress
        Called with the number of samples done.
    """

    point: Point
    basis: Tensor
    region: Region
    options: SampleOptions
    journal: Journal
    progress: Progress

    def at_points(self, count: int, worst: Tensor) -> tuple[ConeSamples, Tensor]:
        """Return margins at the base point and at points of the region, and the displacement with the smallest gaps.

        Parameters
        ----------
        worst
            Displacement ``(n,)`` of the largest Hessian difference, where the adversarial search begins.

        Notes
        -----
        Cost: K + m products per point; in an adversarial region :meth:`num_descents` points more.
        """
        zero = torch.zeros_like(self.point.theta)
        items = [zero, *(u for _, u in self.region.displacements(max(count - 1, 1)))]

        def plain(position: int) -> dict[str, Any]:
            operator = curvature(self.point.at(self.point.theta + items[position]))
            return _pack([margins(operator, self.basis, self.options.depth, self.options.seed)], [items[position]])

        parts = each(self.journal, "cone_points", len(items), plain, self.progress)
        lowest = min(range(1, len(items)), key=lambda i: _best(_unpack([parts[i]])))
        found = items[lowest]
        if self.region.kind == "adversarial":
            k = int(np.argmax(_unpack(parts).within(float(self.region.radii[-1]))[0])) + 1
            starts = [float(self.region.radii[-1]) * u / u.norm() for u in (worst, found)]

            def descend(position: int) -> dict[str, Any]:
                visited, end = tighten(self.point, starts[position], self.basis, k, self.options)
                return {**_pack(visited, [starts[position]] * len(visited)), "end": end.cpu()}

            descents = each(self.journal, "cone_descents", len(starts), descend, self.progress)
            found = min(descents, key=lambda part: _best(_unpack([part])))["end"].to(found)
            parts = parts + descents
        return _unpack(parts), found

    def over_segments(self, count: int, nodes: int) -> ConeSamples:
        """Return margins over segments between random pairs of points. Cost: ``nodes`` (K + m) products each."""
        ends = [torch.zeros_like(self.point.theta), *(u for _, u in self.region.displacements(max(count, 2)))]
        random = numpy_generator(self.options.seed, "segments")
        pairs = [random.choice(len(ends), size=2, replace=False) for _ in range(count)]

        def work(position: int) -> dict[str, Any]:
            first, second = (ends[i] for i in pairs[position])
            operator = segment(self.point, self.point.theta + first, self.point.theta + second, nodes)
            found = margins(operator, self.basis, self.options.depth, self.options.seed)
            return _pack([found], [max(first, second, key=lambda u: float(u.norm()))])

        return _unpack(each(self.journal, "cone_segments", count, work, self.progress))

    def failure_radius(self, u: Tensor, tolerance: float) -> tuple[float, int]:
        """Return the smallest radius along ``u (n,)`` at which no cone gap is left, and the cost.

        Infinity if there is one at ``u`` itself. Cost: about log2 (1 / (tolerance s)) points where none is left at s of
        the way, at most 25.
        """
        done: dict[Any, Any] = self.journal.load("cone_ray") or {}

        def fails_at(scale: float) -> bool:
            if scale not in done:
                operator = curvature(self.point.at(self.point.theta + scale * u))
                found = margins(operator, self.basis, self.options.depth, self.options.seed)
                done[scale] = (_best(_unpack([_pack([found], [u])])), found.num_products)
                self.journal.save("cone_ray", done)
            return bool(done[scale][0] <= 0)

        scale = smallest_failure(fails_at, tolerance)
        return float(u.double().norm()) * scale, sum(cost for _, cost in done.values())


def _best(samples: ConeSamples) -> float:
    """Return the best number of fast directions' worst margin over samples."""
    gap = (samples.attraction - samples.ceiling).min(axis=0)
    return float(np.minimum(gap, samples.attraction.min(axis=0)).max())


def _pack(found: list[Margins], where: list[Tensor]) -> dict[str, Any]:
    numbers = [np.stack([margin.attraction, margin.ceiling, margin.residual]) for margin in found]
    return {
        "radius": [float(u.double().norm()) for u in where],
        "margins": torch.as_tensor(np.stack(numbers)),
        "num_products": sum(margin.num_products for margin in found),
    }


def _unpack(parts: list[dict[str, Any]]) -> ConeSamples:
    table: Array = np.concatenate([part["margins"].numpy() for part in parts])
    radius = np.concatenate([part["radius"] for part in parts])
    return ConeSamples(radius, table[:, 0], table[:, 1], table[:, 2], sum(part["num_products"] for part in parts))
