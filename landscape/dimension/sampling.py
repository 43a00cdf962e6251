"""Where Hessians are sampled: along the trajectory, within a ball, along rays, and by adversarial search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.dimension.lipschitz import LipschitzSamples, SampleOptions, ascend, merge, sample
from landscape.dimension.metric import Point, curvature
from landscape.dimension.rates import Array
from landscape.errors import InputError
from landscape.journal import Journal
from landscape.seeds import generator

RAY = (1e-3, 1e-2, 1e-1)
_DEFAULT_RADII = (0.01, 0.03, 0.1, 0.3, 1.0)
Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Region:
    """What is known of where the trajectory went.

    Attributes
    ----------
    kind
        ``trajectory``, ``ball`` or ``adversarial``.
    radii
        Radii at which the rules are answered, ascending, ``(r,)``.
    states
        Displacements of the trajectory from the base point, ``(T, n)``; empty without one.
    directions
        Unit directions of the ball with their kinds.
    """

    kind: str
    radii: Array
    states: Tensor
    directions: list[tuple[str, Tensor]]

    @property
    def distance(self) -> Array:
        """|W_t - W*|, ``(T,)``."""
        return np.asarray(self.states.double().norm(dim=1).cpu())

    @property
    def outward(self) -> Tensor:
        """The unit direction of the farthest state, or the first of the ball."""
        if not len(self.states):
            return self.directions[0][1]
        far = self.states[int(self.distance.argmax())]
        return far / far.norm()

    def along_trajectory(self, count: int) -> list[tuple[str, Tensor]]:
        """Return up to ``count`` displacements spread evenly over the trajectory, its farthest state among them."""
        if not len(self.states) or count < 1:
            return []
        chosen = set(np.linspace(0, len(self.states) - 1, min(count, len(self.states))).round().astype(int).tolist())
        far = int(self.distance.argmax())
        if far not in chosen:
            chosen.remove(min(chosen, key=lambda i: abs(i - far)))
            chosen.add(far)
        return [("trajectory", self.states[i]) for i in sorted(chosen)]

    def in_ball(self, count: int) -> list[tuple[str, Tensor]]:
        """Return about ``count`` displacements: the same directions at every radius."""
        per_radius = max(1, count // len(self.radii))
        return [(kind, r * d) for r in self.radii.tolist() for kind, d in self.directions[:per_radius]]

    def displacements(self, count: int) -> list[tuple[str, Tensor]]:
        """Return the displacements of this region's kind."""
        parts = {
            "trajectory": self.along_trajectory(count),
            "ball": self.in_ball(count),
            "adversarial": self.along_trajectory(count // 2) + self.in_ball(count // 2),
        }
        return parts[self.kind]


def region_of(
    point: Point, asked: tuple[str | None, Sequence[float]], states: Tensor | None, vectors: Tensor, seed: int = 0
) -> Region:
    """Return the region to be sampled.

    Parameters
    ----------
    asked
        Its kind (None: ``trajectory`` where there is one and ``ball`` otherwise), and its radii (empty: 1 to 1/100 of
        the largest distance on the trajectory).
    states
        States of the trajectory ``(T, n)`` in the point's coordinates, none of them the base point.
    vectors
        Top eigenvectors at the base point, ``(n, K)``.
    """
    kind, radii = asked
    moved = torch.empty(0, point.num_params) if states is None else states - point.theta
    if states is not None and not len(moved):
        raise InputError("the trajectory never leaves the base point")
    travel = float(moved.double().norm(dim=1).max()) if len(moved) else 0.0
    chosen = np.sort(np.asarray(radii, dtype=float)) if len(radii) else travel * np.array(_DEFAULT_RADII)
    directions: list[tuple[str, Tensor]] = []
    slope = point.gradient()
    for i in range(8):
        random = torch.randn(point.num_params, generator=generator(seed, "isotropic", i), dtype=torch.float64)
        directions.append(("isotropic", (random / random.norm()).to(point.theta)))
        if i < vectors.shape[1]:
            directions += [("eigenvector", vectors[:, i]), ("eigenvector", -vectors[:, i])]
        if i == 0 and float(slope.norm()) > 0:
            directions.append(("gradient", -slope / slope.norm()))
    return Region(kind or ("trajectory" if states is not None else "ball"), chosen, moved, directions)


def each(
    journal: Journal, stage: str, count: int, work: Callable[[int], dict[str, Any]], progress: Progress
) -> list[dict[str, Any]]:
    """Return ``work(0)``, ..., ``work(count - 1)``; what an interrupted run has done is not done again.

    Parameters
    ----------
    work
        Returns tensors and plain values.
    progress
        Called with the number of items done.
    """
    saved = journal.load(stage)
    results: list[dict[str, Any]] = [] if saved is None else list(saved["results"])
    progress(len(results))
    save = journal.saver(stage)
    for position in range(len(results), count):
        results.append(work(position))
        progress(1)
        if save is not None:
            save(lambda: {"results": list(results)}, len(results) == count)
    return results


def lipschitz_samples(
    point: Point, region: Region, options: SampleOptions, count: int, journal: Journal, progress: Progress
) -> tuple[LipschitzSamples, Tensor]:
    """Return the Hessian differences of a region, and the displacement of the largest one.

    Notes
    -----
    Cost: :func:`num_differences` differences of 2 ``depth`` products each at most.
    """
    items = region.displacements(count)
    items += [("ray", scale * float(region.radii[-1]) * region.outward) for scale in RAY]

    base = curvature(point, options.depth * count)

    def plain(position: int) -> dict[str, Any]:
        return _pack(sample(point, [items[position]], options, base))

    parts = [_unpack(part) for part in each(journal, "differences", len(items), plain, progress)]
    largest = max(range(len(items)), key=lambda i: float(parts[i].norm[0]))
    worst = items[largest][1]
    if region.kind == "adversarial":
        starts = [float(r) * worst / worst.norm() for r in region.radii]
        starts.append(float(region.radii[-1]) * region.outward)

        def climb(position: int) -> dict[str, Any]:
            found, end = ascend(point, starts[position], options, base)
            return {**_pack(found), "end": end.cpu()}

        climbs = each(journal, "ascents", len(starts), climb, progress)
        parts += [_unpack(part) for part in climbs]
        top = max(climbs, key=lambda part: float(_unpack(part).norm.max()))
        if float(_unpack(top).norm.max()) > float(max(part.norm[0] for part in parts[: len(items)])):
            worst = top["end"].to(worst)
    return merge(parts), worst


def num_differences(region: Region, options: SampleOptions, count: int) -> int:
    """Return at most how many differences :func:`lipschitz_samples` takes."""
    climbs = (len(region.radii) + 1) * (1 + options.ascent_steps) if region.kind == "adversarial" else 0
    return len(region.displacements(count)) + len(RAY) + climbs


def _pack(samples: LipschitzSamples) -> dict[str, Any]:
    return {
        "numbers": torch.as_tensor(np.stack([samples.radius, samples.low, samples.high])),
        "kind": samples.kind.tolist(),
        "num_products": samples.num_products,
    }


def _unpack(part: dict[str, Any]) -> LipschitzSamples:
    radius, low, high = part["numbers"].numpy()
    search = np.zeros(len(radius), dtype=np.int64)
    return LipschitzSamples(radius, low, high, np.array(part["kind"], dtype=str), search, part["num_products"])
