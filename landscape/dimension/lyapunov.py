"""Lyapunov exponents and covariant vectors, for chaotic and edge-of-stability runs; trivial for convergent ones.

A convergent run has only negative exponents and Kaplan-Yorke dimension 0: nothing about a slow manifold can be read
from that. For a quadratic loss every distinct eigenvalue decouples, so that the number of physical modes is not unique;
the largest persistent gap between exponents goes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from landscape.dimension.metric import Point, curvature
from landscape.dimension.rates import Array
from landscape.errors import InputError
from landscape.seeds import numpy_generator

# A state and tangent vectors (n, k), advanced by one step.
Tangent = Callable[[Any, Array], tuple[Any, Array]]


@dataclass(frozen=True)
class LyapunovOptions:
    """How exponents are measured.

    Parameters
    ----------
    count
        Number k of exponents, the largest first.
    steps, transient
        Steps that count, and steps before them.
    every
        Steps between two orthonormalisations.
    step_time
        Time of one step: the integrator's, or the learning rate.
    keep
        Whether the bases are kept for covariant vectors: ``steps / every`` times n k numbers.
    seed
        Of the first tangent vectors.
    """

    count: int
    steps: int
    transient: int = 0
    every: int = 1
    step_time: float = 1.0
    keep: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Lyapunov:
    """A measured spectrum.

    Attributes
    ----------
    exponent
        ``(k,)``, descending up to sampling, per unit of time.
    growth
        Local exponents of each interval between orthonormalisations, ``(T, k)``.
    basis, triangle
        Orthonormal bases after, and R factors of, each interval, ``(T, n, k)`` and ``(T, k, k)``; None if not kept.
    """

    exponent: Array
    growth: Array
    basis: Array | None = None
    triangle: Array | None = None

    @property
    def convergent(self) -> bool:
        """Whether all exponents are negative: the run settles, and dimensions read from them are trivial."""
        return bool((self.exponent < 0).all())

    @property
    def kaplan_yorke(self) -> float:
        """Kaplan-Yorke dimension ``j + sum of the first j exponents / |exponent j + 1|``; 0 for a convergent run.

        NaN where the sum of all k exponents is still positive.
        """
        total = np.cumsum(self.exponent)
        if total[0] < 0:
            return 0.0
        last = int(np.flatnonzero(total >= 0)[-1])
        if last + 1 == len(total):
            return float("nan")
        return float(last + 1 + total[last] / abs(self.exponent[last + 1]))


def lyapunov(advance: Tangent, state: Any, size: int, options: LyapunovOptions) -> Lyapunov:
    """Return the largest Lyapunov exponents of a map, by repeated QR of its tangent dynamics.

    Parameters
    ----------
    advance
        One step of state and tangent vectors.
    size
        n.

    Notes
    -----
    Cost: ``count`` tangent products a step. Error: that of finite time, which falls as one over its root in chaotic
    runs.

    References
    ----------
    Benettin, Galgani, Giorgilli and Strelcyn (1980), Meccanica 15, 9; Shimada and Nagashima (1979).
    """
    if not 0 < options.count <= size or options.steps < options.every:
        raise InputError(f"{options.count} exponents of {size} over {options.steps} steps cannot be measured")
    random = numpy_generator(options.seed, "lyapunov")
    tangent = np.linalg.qr(random.standard_normal((size, options.count)))[0]
    growth, bases, triangles = [], [], []
    for step in range(-options.transient, options.steps):
        state, tangent = advance(state, tangent)
        if (step + 1) % options.every:
            continue
        tangent, triangle = np.linalg.qr(tangent)
        sign = np.sign(np.diag(triangle))
        if not np.isfinite(triangle).all() or not sign.all():
            raise InputError("the tangent dynamics overflow or collapse; orthonormalise more often or lower the step")
        tangent, triangle = tangent * sign, sign[:, None] * triangle
        if step >= 0:
            growth.append(np.log(np.diag(triangle)) / (options.every * options.step_time))
            if options.keep:
                bases.append(tangent)
                triangles.append(triangle)
    table = np.array(growth)
    kept = (np.array(bases), np.array(triangles)) if options.keep else (None, None)
    return Lyapunov(table.mean(axis=0), table, *kept)


def descent(point: Point, lr: float) -> Tangent:
    """Return gradient descent as a map of state and tangent vectors, ``v -> v - lr H v``; k products a step."""

    def advance(state: torch.Tensor, tangent: Array) -> tuple[torch.Tensor, Array]:
        product = curvature(point.at(state), tangent.shape[1]) @ torch.as_tensor(tangent).to(state)
        return state - lr * point.gradient(state), tangent - lr * np.asarray(product.double().cpu())

    return advance


@dataclass(frozen=True)
class Covariant:
    """Covariant Lyapunov vectors.

    Attributes
    ----------
    vector
        Unit vectors ``(T, n, k)`` at each kept time.
    growth
        Their local exponents, ``(T - 1, k)``, from one kept time to the next.
    """

    vector: Array
    growth: Array

    def violations(self, window: int = 1) -> Array:
        """Return how often each pair is reversed: the fraction of times when exponent i <= exponent j, ``(k, k)``.

        Parameters
        ----------
        window
            Kept intervals over which local exponents are averaged.
        """
        sums = np.cumsum(np.vstack([np.zeros(self.growth.shape[1]), self.growth]), axis=0)
        mean = (sums[window:] - sums[:-window]) / window
        reversed_ = (mean[:, :, None] <= mean[:, None, :]).mean(axis=0)
        return np.triu(reversed_, 1)

    def physical_modes(self, window: int = 1) -> int | None:
        """Return the first j such that no vector up to j ever trades places with one after it; None if there is none.

        References
        ----------
        Yang, Takeuchi, Ginelli, Chate and Radons (2009), Phys. Rev. Lett. 102, 074102: domination of splitting.
        """
        table = self.violations(window)
        return next((j for j in range(1, len(table)) if not table[:j, j:].any()), None)

    def smallest_angle(self, count: int) -> float:
        """Return the smallest angle ever between the spans of the first ``count`` vectors and of the rest."""
        angles = []
        for vectors in self.vector:
            first, rest = (np.linalg.qr(part)[0] for part in (vectors[:, :count], vectors[:, count:]))
            angles.append(np.arccos(min(1.0, float(np.linalg.svd(first.T @ rest, compute_uv=False)[0]))))
        return float(min(angles))


def covariant(run: Lyapunov, settle: int, interval: float = 1.0, seed: int = 0) -> Covariant:
    """Return the covariant Lyapunov vectors of a run by a backward pass through its R factors.

    Parameters
    ----------
    run
        Measured with ``keep``.
    settle
        Kept times at the end that are left out, over which the backward pass converges.
    interval
        Time between kept times, ``every * step_time``.

    References
    ----------
    Ginelli, Poggi, Turchi, Chate, Livi and Politi (2007), Phys. Rev. Lett. 99, 130601.
    """
    if run.basis is None or run.triangle is None:
        raise InputError("covariant vectors need the bases of the run; measure it with keep=True")
    times, count = len(run.basis), run.basis.shape[2]
    if not 0 <= settle < times - 1:
        raise InputError(f"{settle} of {times} kept times cannot be left out")
    mixed = np.triu(numpy_generator(seed, "covariant").standard_normal((count, count)))
    mixed /= np.linalg.norm(mixed, axis=0)
    vectors, growth = [], []
    for time in range(times - 1, 0, -1):
        if time < times - settle:
            vectors.append(run.basis[time] @ mixed)
        before = np.linalg.solve(run.triangle[time], mixed)
        norms = np.linalg.norm(before, axis=0)
        mixed = before / norms
        if time < times - settle:
            growth.append(-np.log(norms) / interval)
    vectors.append(run.basis[0] @ mixed)
    return Covariant(np.array(vectors[::-1]), np.array(growth[::-1]))
