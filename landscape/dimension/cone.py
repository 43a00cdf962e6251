"""The cone condition of gradient flow: a spectral gap of the averaged Hessian across a splitting, at every segment.

For two solutions with difference w, ``dw/dt = -Hbar w`` with the symmetric ``Hbar = int_0^1 H(v + s w) ds``. With any
orthogonal splitting into slow P and fast Q, the off-diagonal blocks cancel in the derivative of |Q w|^2 - |P w|^2, so
that

    kappa = lambda_min(Q Hbar Q) - lambda_max(P Hbar P) > 0

on all segments of a convex region makes the cone |Q w| <= |P w| positively invariant there, and lambda_min(Q Hbar Q) >
0 attracts to it. Coupling of the two sides and scalar shifts cost nothing, so that this is much sharper than gap > 2 l.
By convexity it is enough that kappa > 0 at every point of the region. A sampled minimum is an upper bound of the true
one.

References
----------
Constantin, Foias, Nicolaenko and Temam (1989), Integral Manifolds and Inertial Manifolds; Robinson (1993); Zelik
(2014), arXiv:1303.4457 (cone condition to manifold). The form for gradient systems is derived in the text above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape import lanczos
from landscape.dimension.combine import combination
from landscape.dimension.lipschitz import SampleOptions
from landscape.dimension.metric import Point, curvature
from landscape.dimension.rates import Array
from landscape.dimension.tensor import third_order
from landscape.errors import InputError
from landscape.operators import LinearOperator
from landscape.seeds import generator

_SYMMETRY = 1e-3
NOT_SYMMETRIC = "the Jacobian is not symmetric: this is no gradient system, and the cone gap does not apply to it"


@dataclass(frozen=True)
class Margins:
    """The two sides of the cone gap for each number of fast modes, at one point or segment.

    Attributes
    ----------
    attraction
        lambda_min(Q H Q) with the first k vectors of the basis as Q, ``(K,)`` for k = 1..K.
    ceiling
        lambda_max(P H P) over the complement, ``(K,)``.
    residual
        Norm of the residual of the vector behind ``ceiling``, ``(K,)``; zero where computed densely.
    num_products
        Cost, in Hessian-vector products.
    """

    attraction: Array
    ceiling: Array
    residual: Array
    num_products: int = 0

    @property
    def gap(self) -> Array:
        """The cone gap kappa, ``(K,)``."""
        return self.attraction - self.ceiling


@dataclass(frozen=True)
class ConeResult:
    """The cone condition over a sampled region.

    Attributes
    ----------
    dimension
        N = n - k for the largest k whose cone gap and attraction are positive at every sample; None if there is none.
    num_fast
        That k, ``gap_index``.
    gap, attraction
        Smallest cone gap and smallest attraction over the samples for k = 1..K, ``(K,)``.
    tested
        K: no claim is made about more fast modes than that.
    num_samples, num_products
        How many points or segments, and their cost.
    """

    dimension: int | None
    num_fast: int | None
    gap: Array
    attraction: Array
    tested: int
    num_samples: int
    num_products: int


def block_margins(matrix: Array) -> tuple[Array, Array]:
    """Return lambda_min of the leading k x k blocks and lambda_max of the complementary blocks, ``(..., n - 1)`` each.

    Parameters
    ----------
    matrix
        Symmetric ``(..., n, n)`` in a basis that begins with the fast directions.
    """
    size = matrix.shape[-1]
    lead = [np.linalg.eigvalsh(matrix[..., :k, :k])[..., 0] for k in range(1, size)]
    rest = [np.linalg.eigvalsh(matrix[..., k:, k:])[..., -1] for k in range(1, size)]
    return np.stack(lead, axis=-1), np.stack(rest, axis=-1)


def dense_margins(matrix: Array, basis: Array) -> Margins:
    """Return the margins of a full matrix for every k = 1..n-1.

    Parameters
    ----------
    matrix
        Symmetric ``(n, n)``, or a stack ``(samples, n, n)``: then every array of the result has a first axis of
        samples.
    basis
        Orthonormal ``(n, n)``, fast directions first.
    """
    if np.abs(matrix - np.swapaxes(matrix, -1, -2)).max() > 1e-8 * np.abs(matrix).max():
        raise InputError(NOT_SYMMETRIC)
    attraction, ceiling = block_margins(basis.T @ matrix @ basis)
    return Margins(attraction, ceiling, np.zeros_like(ceiling), int(np.prod(matrix.shape[:-1])))


@dataclass(frozen=True, eq=False)
class Compression:
    """The Hessian on the span of the fast basis and of one Krylov space of its complement.

    Attributes
    ----------
    matrix
        The Hessian on the span, ``(K + m, K + m)``, fast directions first.
    span
        The orthonormal directions themselves, ``(n, K + m)``.
    outside
        Gram matrix ``(K, K)`` of what the Hessian sends from the fast directions out of the span.
    tail
        Norm of what it sends there from the last Krylov vector.
    num_products
        Cost: K + m.
    """

    matrix: Array
    span: Tensor
    outside: Array
    tail: float
    num_products: int

    def margins(self) -> Margins:
        """Return both sides of the cone gap for k = 1..K."""
        fast = len(self.outside)
        attraction, ceiling, residual = np.empty(fast), np.empty(fast), np.empty(fast)
        for k in range(1, fast + 1):
            attraction[k - 1] = np.linalg.eigvalsh(self.matrix[:k, :k])[0]
            values, vectors = np.linalg.eigh(self.matrix[k:, k:])
            ceiling[k - 1], top = values[-1], vectors[:, -1]
            ours = top[: fast - k]
            leak = max(float(ours @ self.outside[k:, k:] @ ours), 0.0)
            residual[k - 1] = np.sqrt(leak) + self.tail * abs(top[-1])
        return Margins(attraction, ceiling, residual, self.num_products)

    def vectors(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the unit vectors ``(n,)`` behind the attraction and the ceiling of k fast directions."""
        floor = np.linalg.eigh(self.matrix[:k, :k])[1][:, 0]
        top = np.linalg.eigh(self.matrix[k:, k:])[1][:, -1]
        slow, fast = self.span[:, k:], self.span[:, :k]
        return fast @ torch.as_tensor(floor).to(fast), slow @ torch.as_tensor(top).to(slow)


def compress(operator: LinearOperator, basis: Tensor, depth: int = 30, seed: int = 0) -> Compression:
    """Return the Hessian compressed to what the cone gap needs.

    Parameters
    ----------
    operator
        The Hessian at a point, or averaged over a segment (:func:`segment`).
    basis
        Orthonormal ``(n, K)``, K < n, fast directions first; for instance the top eigenvectors at the base point.
    depth
        Lanczos steps m on the complement.

    Notes
    -----
    Cost: K + m products; K + m vectors of memory, twice.
    """
    size, fast = basis.shape
    if not 0 < fast < size:
        raise InputError(f"{fast} fast directions do not split R^{size}; choose 1 to {size - 1} (--fast)")
    before = operator.num_products
    product = operator @ basis
    lead = _small(basis.T @ product)
    _check_symmetric(lead)

    def project(block: Tensor) -> Tensor:
        return block - basis @ (basis.T @ block)

    deflated = LinearOperator(lambda block: project(operator @ project(block)), size, operator.dtype, operator.device)
    start = torch.randn(size, generator=generator(seed, "cone"), dtype=torch.float64)
    start = project(start.to(operator.device, operator.dtype))
    krylov = lanczos.krylov(deflated, start, min(depth, size - fast))
    other = krylov.basis.T
    beta = np.asarray(krylov.beta, dtype=float)
    inner = np.diag(np.asarray(krylov.alpha, dtype=float)) + np.diag(beta, 1) + np.diag(beta, -1)
    cross = _small(product.T @ other)
    matrix = np.block([[(lead + lead.T) / 2, cross], [cross.T, inner]])
    outside = project(product)
    outside = outside - other @ (other.T @ outside)
    cost = operator.num_products - before
    return Compression(
        matrix, torch.cat([basis, other], dim=1), _small(outside.T @ outside), krylov.residual_norm, cost
    )


def margins(operator: LinearOperator, basis: Tensor, depth: int = 30, seed: int = 0) -> Margins:
    """Return the cone margins of a Hessian for k = 1..K fast directions, all from one compression (:func:`compress`).

    Notes
    -----
    Cost: K + m products for all k together.
    Error: ``attraction`` is exact; ``ceiling`` is a Ritz value, at most the true lambda_max(P H P) and within
    ``residual`` of an eigenvalue of P H P; so a negative gap is definite, a positive one holds up to the Lanczos error.
    """
    return compress(operator, basis, depth, seed).margins()


def _small(matrix: Tensor) -> Array:
    return np.asarray(matrix.double().cpu())


def _check_symmetric(matrix: Array) -> None:
    if not np.isfinite(matrix).all():
        raise InputError("a Hessian product holds NaN or infinite values at a sampled point")
    if np.abs(matrix - matrix.T).max() > _SYMMETRY * np.abs(matrix).max():
        raise InputError(NOT_SYMMETRIC)


def tighten(problem: Point, u: Tensor, basis: Tensor, k: int, options: SampleOptions) -> tuple[list[Margins], Tensor]:
    """Search the sphere through ``u (n,)`` for the smallest pointwise cone gap of k fast directions.

    The gradient of the gap in u is T[q, q, .] - T[p, p, .] with the vectors behind its two sides; a step that does not
    lower the gap is shortened.

    Returns
    -------
    The margins at every point visited, and the displacement of the smallest gap.

    Notes
    -----
    Cost: per step K + m products and two third derivatives (about two products each).
    """
    radius = u.norm()
    if not float(radius) > 0:
        raise InputError("the adversarial search needs a displacement that is not zero")

    def look(point: Tensor) -> Compression:
        return compress(curvature(problem.at(problem.theta + point)), basis, options.depth, options.seed)

    def downhill(point: Tensor, found: Compression) -> Tensor | None:
        there, (q, p) = problem.at(problem.theta + point), found.vectors(k)
        slope = third_order(there, p) - third_order(there, q)
        return slope / slope.norm() if float(slope.norm()) > 0 else None

    found = look(u)
    visited, share = [found.margins()], 1.0
    lowest, direction = visited[0].gap[k - 1], downhill(u, found)
    for _ in range(options.ascent_steps):
        if direction is None or share < 1 / 64:
            break
        trial = (1 - share) * u / radius + share * direction
        trial = radius * trial / trial.norm()
        found = look(trial)
        visited.append(found.margins())
        if visited[-1].gap[k - 1] < lowest:
            u, lowest, share = trial, visited[-1].gap[k - 1], min(1.0, 2 * share)
            direction = downhill(u, found)
        else:
            share /= 2
    return visited, u


def segment(problem: Point, start: Tensor, end: Tensor, nodes: int = 3) -> LinearOperator:
    """Return the Hessian averaged over the segment from ``start (n,)`` to ``end (n,)`` by Gauss-Legendre quadrature.

    Notes
    -----
    Cost: ``nodes`` products each. Exact where the Hessian is a polynomial of degree < 2 ``nodes`` along the segment;
    one node is the midpoint.
    """
    position, weight = np.polynomial.legendre.leggauss(nodes)
    points = [start + (1 + s) / 2 * (end - start) for s in position.tolist()]
    return combination(
        [(w / 2, curvature(problem.at(point))) for w, point in zip(weight.tolist(), points, strict=True)]
    )


def collect(samples: Sequence[Margins], size: int) -> ConeResult:
    """Return the cone condition over samples: the minimum over them for each k, and the largest k that passes.

    Parameters
    ----------
    size
        n, so that N = n - k.

    Notes
    -----
    Error: the minimum over samples is an upper bound of the one over the region, so that N is optimistic.
    """
    if not samples:
        raise InputError("the cone condition needs at least one sampled point")
    gap = np.min([np.atleast_2d(sample.gap).min(axis=0) for sample in samples], axis=0)
    attraction = np.min([np.atleast_2d(sample.attraction).min(axis=0) for sample in samples], axis=0)
    if not (np.isfinite(gap).all() and np.isfinite(attraction).all()):
        raise InputError("a cone margin is NaN or infinite: a sampled point is outside the domain of the loss")
    good = np.flatnonzero((gap > 0) & (attraction > 0))
    best = int(good[-1]) + 1 if len(good) else None
    return ConeResult(
        dimension=None if best is None else size - best,
        num_fast=best,
        gap=gap,
        attraction=attraction,
        tested=len(gap),
        num_samples=sum(len(np.atleast_2d(sample.gap)) for sample in samples),
        num_products=sum(sample.num_products for sample in samples),
    )


def fast_basis(
    operator: LinearOperator, count: int, tolerance: float = 1e-4, seed: int = 0
) -> tuple[Array, Tensor, Array]:
    """Return the ``count`` largest eigenvalues ``(K,)`` descending, their vectors ``(n, K)``, and their residuals.

    For a splitting that serves a whole trajectory, hand over the average of its Hessians.
    """
    options = lanczos.EigenOptions(largest=count, smallest=0, tolerance=tolerance, seed=seed)
    pairs = lanczos.eigenpairs(operator, options)
    order = torch.argsort(pairs.eigenvalue, descending=True)
    vectors, _ = torch.linalg.qr(pairs.eigenvector[:, order])
    return _small(pairs.eigenvalue[order]), vectors, _small(pairs.residual[order])
