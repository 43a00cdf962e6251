"""How far a condition holds along a ray: bisection between the base point and a displacement where it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from landscape.dimension.lipschitz import Extremes, LipschitzSamples, SampleOptions, difference, extremes, samples_of
from landscape.dimension.metric import Point, curvature
from landscape.journal import Journal


class Ray:
    """Hessian differences along the ray through a displacement, each computed once.

    Parameters
    ----------
    problem
        At the base point.
    u
        Displacement ``(n,)``; scale 1 is its end.
    options
        Krylov depth and seed.
    journal
        Keeps what is done.
    """

    def __init__(
        self, problem: Point, u: Tensor, options: SampleOptions | None = None, journal: Journal | None = None
    ) -> None:
        self.problem, self.u, self.options = problem, u, options or SampleOptions()
        self.radius = float(u.double().norm())
        self.base = curvature(problem)
        self.journal = journal or Journal()
        saved: dict[Any, Any] = self.journal.load("ray") or {}
        self.found = {float(s): Extremes(low, high, v.to(u), cost) for s, (low, high, v, cost) in saved.items()}

    def at(self, scale: float) -> Extremes:
        """Return the ends of H(W* + scale u) - H(W*). Cost: 2 ``depth`` products, once."""
        if scale not in self.found:
            operator = difference(self.problem, scale * self.u, self.base)
            self.found[scale] = extremes(operator, self.options.depth, self.options.seed)
            state: dict[Any, Any] = {s: (e.low, e.high, e.vector.cpu(), e.num_products) for s, e in self.found.items()}
            self.journal.save("ray", state)
        return self.found[scale]

    def samples(self) -> LipschitzSamples:
        """Return all differences so far, as samples of kind ``ray``."""
        radii = np.array([scale * self.radius for scale in self.found])
        return samples_of(radii, list(self.found.values()), ["ray"] * len(radii))

    def failure_radius(self, fails: Callable[[Extremes], bool], tolerance: float = 1e-3) -> float:
        """Return the smallest radius found on the ray at which a condition fails; infinity if it does not at its end.

        Parameters
        ----------
        fails
            The condition, judged from the Hessian difference at one point.
        tolerance
            Relative accuracy of the radius.

        Notes
        -----
        Cost: about log2 (1 / (tolerance s)) differences where the condition fails at s of the way, at most 25, fewer
        for a second condition. Error: the condition does fail at
        the radius returned, so the radius up to which it holds is at most this; along other rays it may fail earlier.
        """
        return self.radius * smallest_failure(lambda scale: fails(self.at(scale)), tolerance)


def smallest_failure(fails_at: Callable[[float], bool], tolerance: float = 1e-3, most: int = 24) -> float:
    """Return a scale in (0, 1] at which a condition fails, but not ``tolerance`` below it; infinity if not at 1."""
    if not fails_at(1.0):
        return float("inf")
    low, high = 0.0, 1.0
    for _ in range(most):
        if high - low <= tolerance * high:
            break
        middle = (low + high) / 2
        low, high = (low, middle) if fails_at(middle) else (middle, high)
    return high
