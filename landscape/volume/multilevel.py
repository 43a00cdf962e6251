"""Traces of functions of the curvature from many shallow and few deep random probes.

A probe u, uniform on the sphere, gives tr f(A) = n E[u' f(A) u], and a Lanczos run of depth m from u gives u' f(A) u by
Gauss quadrature. Most of the noise is in u and is seen by a shallow run already; most of the error of a shallow run is
a bias that a few deep runs can tell. So the deep mean is written as a telescoping sum over depths, each difference
averaged over all probes that are deep enough (Giles 2008; the leading blocks of a deep run are its shallow runs, so
differences are free). Sampling error and quadrature bias are stated apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from landscape import lanczos, seeds
from landscape.errors import InputError
from landscape.operators import LinearOperator

Function = Callable[[np.ndarray], np.ndarray]
SHALLOWEST, RATIO = 3, 2.5


@dataclass(frozen=True)
class ProbeBudget:
    """How much is spent on the probes.

    Parameters
    ----------
    num_probes
        Probes of full depth, at least 2.
    depth
        The full depth.
    shallow_products
        Products spent on shallower probes, shared between the depths so that the variance of tr log A is least.
    seed
        Of the random starts.
    """

    num_probes: int = 10
    depth: int = 80
    shallow_products: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_probes < 2 or self.depth < 1:
            raise InputError("a trace with an error bar needs at least 2 probes and depth 1")


@dataclass(frozen=True)
class Trace:
    """A stochastic trace.

    Attributes
    ----------
    value
        The estimate.
    se
        Standard error of its sampling, and ``df`` the degrees of freedom of that error.
    bias
        Estimated error of the quadrature at the full depth (what infinite depth would add); not added to ``value``.
    """

    value: float
    se: float = 0.0
    df: float = np.inf
    bias: float = 0.0


@dataclass(frozen=True, eq=False)
class Probes:
    """Lanczos recurrences from random starts, in the complement of known eigenvectors.

    Attributes
    ----------
    size
        Dimension n of the operator.
    known
        Eigenvalues that were taken out of the probes and enter traces exactly, ``(k,)``.
    runs
        ``(alpha (m,), beta (m-1,))`` of each probe in the complement.
    depths
        The ladder of depths, increasing.
    num_products
        Products spent.
    resolution
        Relative rounding of the products: eigenvalues below it times the largest cannot be told from zero.
    """

    size: int
    known: np.ndarray
    runs: list[tuple[np.ndarray, np.ndarray]]
    depths: tuple[int, ...]
    num_products: int
    resolution: float = np.finfo(np.float64).eps
    _nodes: dict[int, list[tuple[np.ndarray, np.ndarray]]] = field(default_factory=dict, repr=False)

    def quadrature(self, depth: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return nodes and weights (they sum to 1) of each probe at a depth, or at its own if it is shallower."""
        if depth not in self._nodes:
            self._nodes[depth] = [_gauss(alpha[:depth], beta[: depth - 1]) for alpha, beta in self.runs]
        return self._nodes[depth]

    @property
    def levels(self) -> np.ndarray:
        """For each probe, the index of its depth on the ladder; a run that broke down is exact and counts as deep."""
        lengths = np.array([len(alpha) for alpha, _ in self.runs])
        return np.where(self._exact, len(self.depths) - 1, np.searchsorted(self.depths, lengths))

    @property
    def _exact(self) -> np.ndarray:
        """Which runs span the whole space or broke down early: their quadrature has no error."""
        full = self.size - len(self.known)
        return np.array([len(alpha) not in self.depths or len(alpha) == full for alpha, _ in self.runs])

    def measure(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean spectral measure of the full-depth probes: nodes, and weights that sum to 1."""
        top = len(self.depths) - 1
        deep = [pair for pair, level in zip(self.quadrature(self.depths[-1]), self.levels, strict=True) if level == top]
        return np.concatenate([n for n, _ in deep]), np.concatenate([w for _, w in deep]) / len(deep)

    def trace(self, function: Function) -> Trace:
        """Return the trace of a function of the curvature, on the whole space.

        Parameters
        ----------
        function
            Real function of an array of eigenvalues; it is called at Ritz values and at the known eigenvalues.
        """
        scale = self.size - len(self.known)
        exact = float(np.sum(function(self.known))) if len(self.known) else 0.0
        if not scale:
            return Trace(exact)
        levels, values = self.levels, self._values(function)
        differences = np.diff(values, axis=1, prepend=0.0)
        reached = levels[:, None] >= np.arange(len(self.depths))
        contributions = (differences * reached / reached.sum(0)).sum(1)
        groups = [contributions[levels == level] for level in np.unique(levels)]
        variances = np.array([len(g) * g.var(ddof=1) for g in groups if len(g) > 1])
        df = np.array([len(g) - 1 for g in groups if len(g) > 1])
        total = variances.sum()
        welch = total**2 / (variances**2 / df).sum() if total > 0 else np.inf
        bias = self._bias(function)
        return Trace(
            exact + scale * float(contributions.sum()), scale * float(np.sqrt(total)), float(welch), scale * bias
        )

    def level_variances(self, function: Function) -> np.ndarray:
        """Return the variance that each difference of the ladder has over the probes, ``(levels,)``, up to a factor.

        Depth m knows u' q(A) u exactly for polynomials q of degree below 2 m, and over random u that varies in
        proportion to the variance of q over the spectrum. So a level's share is what the best polynomial of its degree
        explains of the function beyond the one below: no noise of a few probes enters.
        """
        nodes, weights = self.measure()
        low, high = nodes.min(), nodes.max()
        scaled = (2 * nodes - low - high) / (high - low) if high > low else np.zeros_like(nodes)
        basis = np.polynomial.chebyshev.chebvander(scaled, 2 * self.depths[-1] - 1)
        roots = np.sqrt(weights)
        squares = (np.linalg.qr(roots[:, None] * basis)[0].T @ (roots * function(nodes))) ** 2
        ends = [1, *(2 * depth for depth in self.depths)]
        return np.array([squares[start:end].sum() for start, end in itertools.pairwise(ends)])

    def _values(self, function: Function) -> np.ndarray:
        """Return u' f(A) u of each probe at each depth of the ladder, ``(probes, levels)``."""
        return np.array([[_apply(function, pair) for pair in self.quadrature(depth)] for depth in self.depths]).T

    def _bias(self, function: Function) -> float:
        """Extrapolate the mean of the deep probes from a third, two thirds and all of their depth (Aitken)."""
        deep = (self.levels == len(self.depths) - 1) & ~self._exact
        depth = self.depths[-1]
        if not deep.any() or depth < 3:
            return 0.0
        at: list[float] = [
            float(np.mean([_apply(function, p) for p, chosen in zip(self.quadrature(m), deep, strict=True) if chosen]))
            for m in (depth // 3, 2 * depth // 3, depth)
        ]
        first, second = at[1] - at[0], at[2] - at[1]
        ratio = min(abs(second / first), 0.9) if first else 0.0
        return float(second * ratio / (1 - ratio))


def _gauss(alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nodes, vectors = scipy.linalg.eigh_tridiagonal(alpha, beta)
    return nodes, vectors[0] ** 2


def _apply(function: Function, pair: tuple[np.ndarray, np.ndarray]) -> float:
    return float(pair[1] @ function(pair[0]))


def ladder(depth: int) -> tuple[int, ...]:
    """Return the depths of the ladder, from 3 up, each about 2.5 times the one below it."""
    steps = max(0, round(np.log(depth / SHALLOWEST) / np.log(RATIO)))
    return tuple(int(rung) for rung in np.geomspace(depth, SHALLOWEST, steps + 1)[::-1].round())


def sample(operator: LinearOperator, budget: ProbeBudget, known: tuple[np.ndarray, Tensor] | None = None) -> Probes:
    """Run Lanczos from random starts.

    Parameters
    ----------
    operator
        The curvature A.
    known
        Eigenvalues ``(k,)`` and orthonormal vectors ``(n, k)`` that are taken out of the probes. The vectors need not
        be exact for the complement to be right, but the trace then lacks what couples the two.

    Notes
    -----
    Cost: ``num_probes * depth + shallow_products`` products, fewer where runs break down.
    """
    values, vectors = known if known is not None else (np.zeros(0), None)
    target = operator if vectors is None else complement(operator, vectors)
    depth = min(budget.depth, operator.size - len(values))
    before = operator.num_products
    if depth < 1:
        return Probes(operator.size, values, [], (1,), 0, torch.finfo(operator.dtype).eps)
    starts = _Starts(operator, vectors, budget.seed)
    runs = [_run(target, starts.draw(), depth) for _ in range(budget.num_probes)]
    probes = Probes(operator.size, values, runs, ladder(depth), 0)
    for level, number in _plan(probes, budget.shallow_products):
        runs += [_run(target, starts.draw(), probes.depths[level]) for _ in range(number)]
    spent = operator.num_products - before
    return Probes(operator.size, values, runs, probes.depths, spent, torch.finfo(operator.dtype).eps)


def _plan(probes: Probes, products: int) -> list[tuple[int, int]]:
    """Share products between the ladder's depths: the number at a depth goes as sqrt(variance / depth).

    A single probe of its depth would have no error bar, so it is left out; what remains goes to the shallowest.
    """
    depths = np.array(probes.depths, dtype=np.float64)
    if products < depths[0]:
        return []
    smallest = max(float(probes.measure()[0].max()), 0.0) * 1e-6 + np.finfo(float).tiny
    variances = probes.level_variances(lambda value: np.log(np.maximum(value, smallest)))
    share = np.sqrt(np.maximum(variances, 0.0) / depths)
    if not share.any():
        return []
    numbers = np.floor(products * share / (share @ depths)).astype(int)
    numbers[numbers == 1] = 0
    numbers[0] += (products - int(numbers @ depths)) // int(depths[0])
    return [(level, int(number)) for level, number in enumerate(numbers) if number > 1]


@dataclass
class _Starts:
    """Random starts, each from a stream of its own, so that the first ones do not depend on how many are drawn."""

    operator: LinearOperator
    vectors: Tensor | None
    seed: int
    drawn: int = 0

    def draw(self) -> Tensor:
        """Return a Gaussian vector ``(n,)`` in the complement of the known vectors."""
        source = seeds.generator(self.seed, "volume probe", self.drawn)
        self.drawn += 1
        start = torch.randn(self.operator.size, generator=source, dtype=torch.float64)
        start = start.to(device=self.operator.device, dtype=self.operator.dtype)
        return start if self.vectors is None else start - self.vectors @ (self.vectors.T @ start)


def complement(operator: LinearOperator, vectors: Tensor) -> LinearOperator:
    """Return Q A Q with Q = I - U U' for orthonormal columns ``U (n, k)``."""

    def project(block: Tensor) -> Tensor:
        return block - vectors @ (vectors.T @ block)

    def apply(block: Tensor) -> Tensor:
        return project(operator.apply(project(block)))

    return LinearOperator(apply, operator.size, operator.dtype, operator.device, operator.counter)


def _run(operator: LinearOperator, start: Tensor, depth: int) -> tuple[np.ndarray, np.ndarray]:
    run = lanczos.krylov(operator, start, depth)
    return np.asarray(run.alpha, dtype=np.float64), np.asarray(run.beta, dtype=np.float64)
