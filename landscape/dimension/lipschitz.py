"""Lipschitz constants of the remainder: how much the Hessian changes within a radius of the base point.

Around W* the gradient flow of u = W - W* is ``du/dt + A u = F(u)`` with A = H(W*), and ``DF(u) = -(H(W* + u) -
H(W*))``, so that F has the Lipschitz constant ``l(rho) = sup over |u| <= rho of |H(W* + u) - H(W*)|`` on a ball. Scalar
shifts are harmless: ``l_osc`` is half of the range of all eigenvalues of the difference, and never larger. Every
sampled supremum is a lower bound of the true one and carries its region and its number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape import lanczos
from landscape.dimension.combine import combination
from landscape.dimension.metric import Point, curvature
from landscape.dimension.rates import Array
from landscape.dimension.tensor import third_order
from landscape.errors import InputError
from landscape.operators import LinearOperator
from landscape.seeds import generator

REGIONS = ("trajectory", "ball", "adversarial")
ROUNDING = 1e-5  # relative, of the length of a displacement in float32


@dataclass(frozen=True)
class Extremes:
    """The two ends of the spectrum of a Hessian difference, as Ritz values.

    Attributes
    ----------
    low, high
        At least the smallest and at most the largest eigenvalue, in units of curvature.
    vector
        Unit Ritz vector ``(n,)`` of the end with the larger modulus.
    num_products
        Cost; a product with a difference counts as two.
    """

    low: float
    high: float
    vector: Tensor
    num_products: int

    @property
    def norm(self) -> float:
        """The larger modulus, a lower bound of |H(W* + u) - H(W*)|."""
        return max(-self.low, self.high, 0.0)


@dataclass(frozen=True)
class LipschitzSamples:
    """Sampled Hessian differences, in any order.

    Attributes
    ----------
    radius
        |u| of each sample, ``(s,)``.
    low, high
        Ends of the spectrum of H(W* + u) - H(W*), ``(s,)``.
    kind
        Where the sample is from: ``trajectory``, ``isotropic``, ``eigenvector``, ``gradient``, ``ray`` or
        ``adversarial``.
    search
        Number of the search that each sample is from, ``(s,)``: a displacement of its own, or an ascent.
    num_products
        Cost of all of them.
    """

    radius: Array
    low: Array
    high: Array
    kind: NDArray[np.str_]
    search: NDArray[np.int64]
    num_products: int = 0

    @property
    def norm(self) -> Array:
        """L of each sample, ``(s,)``."""
        return np.maximum(np.maximum(-self.low, self.high), 0.0)

    def select(self, region: str) -> LipschitzSamples:
        """Return the samples of a region: ``trajectory``; ``ball`` has all but those; ``adversarial`` has all."""
        if region not in REGIONS:
            raise InputError(f"unknown region {region!r}; use one of {', '.join(REGIONS)}")
        keep = {
            "trajectory": self.kind == "trajectory",
            "ball": ~np.isin(self.kind, ["trajectory", "adversarial"]),
            "adversarial": np.ones(len(self.kind), dtype=bool),
        }[region]
        return self._only(keep)

    def halves(self) -> tuple[LipschitzSamples, LipschitzSamples]:
        """Return the samples of every second search and those of the others, to see whether independent ones agree."""
        rank = np.unique(self.search, return_inverse=True)[1]
        return self._only(rank % 2 == 0), self._only(rank % 2 == 1)

    def _only(self, keep: NDArray[np.bool_]) -> LipschitzSamples:
        return replace(
            self,
            radius=self.radius[keep],
            low=self.low[keep],
            high=self.high[keep],
            kind=self.kind[keep],
            search=self.search[keep],
        )

    def constants(self, radii: Array) -> tuple[Array, Array, NDArray[np.int64]]:
        """Return l, l_osc and the number of samples within each radius, ``(r,)``; NaN where there is no sample.

        Notes
        -----
        Lower bounds: the maximum over the samples with ``|u| <= rho``. u = 0, where the difference vanishes, is one of
        them for l_osc: l_osc = (sup lambda_max - inf lambda_min) / 2 with sup >= 0 >= inf.
        """
        inside = self.radius[None] <= np.asarray(radii, dtype=float)[:, None] * (1 + ROUNDING)
        number = inside.sum(axis=1)
        top = np.where(inside, self.high, 0.0).max(axis=1, initial=0.0)
        bottom = np.where(inside, self.low, 0.0).min(axis=1, initial=0.0)
        empty = number == 0
        largest = np.where(empty, np.nan, np.maximum(top, -bottom))
        return largest, np.where(empty, np.nan, (top - bottom) / 2), number


@dataclass(frozen=True)
class SampleOptions:
    """How Hessian differences are sampled.

    Parameters
    ----------
    depth
        Lanczos steps per difference (two products each).
    ascent_steps
        Steps of the adversarial ascent per start.
    seed
        Of the Lanczos starts and isotropic directions.
    """

    depth: int = 30
    ascent_steps: int = 8
    seed: int = 0


def difference(problem: Point, u: Tensor, base: LinearOperator | None = None) -> LinearOperator:
    """Return H(W* + u) - H(W*) as an operator; a product costs two. Both sides use the same examples."""
    return combination([(1.0, curvature(problem.at(problem.theta + u))), (-1.0, base or curvature(problem))])


def extremes(operator: LinearOperator, depth: int = 30, seed: int = 0) -> Extremes:
    """Return both ends of the spectrum of a symmetric operator from one Krylov space.

    Notes
    -----
    Cost: ``depth`` products. Error: Ritz values lie inside the spectrum, so both ends are approached from within; zero,
    which is an eigenvalue whenever the difference has a null space, needs no step.
    """
    before = operator.num_products
    start = torch.randn(operator.size, generator=generator(seed, "difference"), dtype=torch.float64)
    krylov = lanczos.krylov(operator, start.to(operator.device, operator.dtype), min(depth, operator.size))
    alpha, beta = (np.asarray(part.double().cpu()) for part in (krylov.alpha, krylov.beta))
    if not (np.isfinite(alpha).all() and np.isfinite(beta).all()):
        raise InputError("a Hessian product holds NaN or infinite values at a sampled point")
    values, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    side = 0 if -values[0] > values[-1] else -1
    vector = krylov.basis.T @ torch.as_tensor(vectors[:, side]).to(krylov.basis)
    return Extremes(float(values[0]), float(values[-1]), vector / vector.norm(), operator.num_products - before)


def sample(
    problem: Point,
    displacements: Sequence[tuple[str, Tensor]],
    options: SampleOptions | None = None,
    base: LinearOperator | None = None,
) -> LipschitzSamples:
    """Return the Hessian differences at given displacements.

    Parameters
    ----------
    displacements
        (kind, u) with u ``(n,)`` from the problem's point.
    base
        The Hessian at the problem's point, if it is there already.

    Notes
    -----
    Cost: 2 ``depth`` products per displacement.
    """
    options = options or SampleOptions()
    base, found = base or curvature(problem, options.depth * len(displacements)), []
    for _, u in displacements:
        found.append(extremes(difference(problem, u, base), options.depth, options.seed))
    radius = np.array([float(u.double().norm()) for _, u in displacements])
    return samples_of(radius, found, [kind for kind, _ in displacements])


def samples_of(radius: Array, found: Sequence[Extremes], kind: Sequence[str]) -> LipschitzSamples:
    """Return extremes at given radii as samples, each a search of its own."""
    return LipschitzSamples(
        radius=radius,
        low=np.array([end.low for end in found]),
        high=np.array([end.high for end in found]),
        kind=np.array(kind, dtype=str),
        search=np.arange(len(found)),
        num_products=sum(end.num_products for end in found),
    )


def ascend(
    problem: Point, u: Tensor, options: SampleOptions | None = None, base: LinearOperator | None = None
) -> tuple[LipschitzSamples, Tensor]:
    """Search the sphere through ``u (n,)`` for the largest |H(W* + u) - H(W*)|.

    Lanczos finds v at the present u; ``T(W* + u)[v, v, .]``, the gradient of v' H v in u, is the next direction; a step
    that does not raise the norm is shortened.

    Returns
    -------
    Every point visited as a sample of kind ``adversarial``, and the displacement ``(n,)`` of the largest.

    Notes
    -----
    Cost: per step 2 ``depth`` products and one third derivative (about two products).
    """
    options = options or SampleOptions()
    radius, base = u.norm(), base or curvature(problem)
    if not float(radius) > 0:
        raise InputError("the adversarial search needs a displacement that is not zero")
    best = extremes(difference(problem, u, base), options.depth, options.seed)
    visited, share = [best], 1.0
    direction = _uphill(problem, u, best)
    for _ in range(options.ascent_steps):
        if direction is None or share < 1 / 64:
            break
        trial = (1 - share) * u / radius + share * direction
        trial = radius * trial / trial.norm()
        found = extremes(difference(problem, trial, base), options.depth, options.seed)
        visited.append(found)
        if found.norm > best.norm:
            u, best, share = trial, found, min(1.0, 2 * share)
            direction = _uphill(problem, u, best)
        else:
            share /= 2
    return samples_of(np.full(len(visited), float(radius.double())), visited, ["adversarial"] * len(visited)), u


def _uphill(problem: Point, u: Tensor, found: Extremes) -> Tensor | None:
    """Return the unit direction in which the larger end grows, or None where the third derivative vanishes."""
    slope = third_order(problem.at(problem.theta + u), found.vector)
    slope = slope if found.high >= -found.low else -slope
    norm = slope.norm()
    return slope / norm if float(norm) > 0 else None


def merge(parts: Sequence[LipschitzSamples]) -> LipschitzSamples:
    """Return all samples together; each part counts as one search."""
    return LipschitzSamples(
        radius=np.concatenate([part.radius for part in parts]),
        low=np.concatenate([part.low for part in parts]),
        high=np.concatenate([part.high for part in parts]),
        kind=np.concatenate([part.kind for part in parts]),
        search=np.repeat(np.arange(len(parts)), [len(part.radius) for part in parts]),
        num_products=sum(part.num_products for part in parts),
    )


def secant(problem: Point, states: Tensor) -> Array:
    """Return |F(u') - F(u)| / |u' - u| for consecutive states ``(T, n)``, ``(T - 1,)``: the weakest lower bound of l.

    Notes
    -----
    Cost: one gradient per state and one product per pair. A monitor, which needs no eigenvalues.
    """
    operator = curvature(problem)
    gradients = [problem.gradient(state) for state in states]
    found = []
    for t in range(len(states) - 1):
        step = states[t + 1] - states[t]
        if not float(step.norm()) > 0:
            raise InputError(f"states {t} and {t + 1} of the trajectory are the same; leave one out")
        change = operator @ step - (gradients[t + 1] - gradients[t])
        found.append(float(change.norm() / step.norm()))
    return np.array(found)


@dataclass(frozen=True)
class Kink:
    """How l(rho) behaves towards radius zero: with slope 1 where the Hessian is Lipschitz, flat where it jumps.

    Attributes
    ----------
    slope
        Log-log slope over the smallest decade of radii; NaN where fewer than two samples exceed the noise.
    plateau
        l at the smallest radius if the slope is below one half, else None.
    noise
        Level below which a difference of two products is rounding: 100 eps |H|.
    """

    slope: float
    plateau: float | None
    noise: float


def kink(radius: Array, lipschitz: Array, scale: float, eps: float) -> Kink:
    """Return whether l(rho) goes to zero with rho, as for smooth activations, or to a plateau, as across ReLU kinks.

    Parameters
    ----------
    radius, lipschitz
        Samples of l along the same directions at several radii, ``(s,)``; the smallest radii show most.
    scale
        Norm of the Hessian at the base point.
    eps
        Rounding unit of the products' dtype.
    """
    noise = 100 * eps * scale
    radii, group = np.unique(radius, return_inverse=True)
    largest = np.zeros(len(radii))
    np.maximum.at(largest, group, lipschitz)
    radius, lipschitz = radii, np.maximum.accumulate(largest)
    seen = (lipschitz > noise) & (radius > 0)
    if seen.sum() < 2:
        return Kink(float("nan"), None, noise)
    radius, lipschitz = radius[seen], lipschitz[seen]
    low = radius <= 10 * radius[0] * (1 + 1e-9)
    if low.sum() < 2 or np.ptp(radius[low]) == 0:
        return Kink(float("nan"), None, noise)
    slope = float(np.polyfit(np.log(radius[low]), np.log(lipschitz[low]), 1)[0])
    return Kink(slope, float(lipschitz[0]) if slope < 0.5 else None, noise)
