"""What is known of the curvature at the base point: eigenpairs of both ends, markers of the bulk, density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape import lanczos, stochastic
from landscape.dimension.horizon import SpectralMeasure
from landscape.dimension.metric import Point, curvature
from landscape.dimension.options import DimensionOptions
from landscape.dimension.rates import Array, KnownSpectrum
from landscape.journal import Journal
from landscape.operators import LinearOperator
from landscape.seeds import generator

MARKER_DEPTH = 80


@dataclass(frozen=True, eq=False)
class Base:
    """The curvature at the base point.

    Attributes
    ----------
    eigenvalue, residual, converged, label
        The known eigenpairs, ``(k,)``: labels 1, 2, ... from the top, -1, -2, ... from the bottom.
    vectors
        Top eigenvectors, ``(n, K)``, fast directions first.
    known
        The same as intervals, with the markers of the bulk.
    density
        Nodes and weights of the spectrum; None where not asked for.
    num_products
        Cost.
    """

    eigenvalue: Array
    residual: Array
    converged: NDArray[np.bool_]
    label: NDArray[np.int64]
    vectors: Tensor
    known: KnownSpectrum
    density: SpectralMeasure | None
    num_products: int

    @property
    def top(self) -> Array:
        """The K largest eigenvalues, descending."""
        return self.eigenvalue[self.label > 0]


def sizes(options: DimensionOptions, n: int) -> tuple[int, int]:
    """Return how many eigenvalues are computed from the top and from the bottom of n."""
    fast = min(options.fast, max(n - 1, 1))
    return fast, min(options.smallest, n - fast)


def measure_base(
    point: Point, options: DimensionOptions, seed: int, journal: Journal, progress: Callable[[int], None]
) -> Base:
    """Measure the curvature at a point.

    Notes
    -----
    Cost: 4 to 10 products for each eigenpair, 80 for the markers, ``num_probes`` times 80 for the density.
    Error: each eigenvalue is within its residual of a true one, and each marker, a Ritz value with its residual, holds
    one.
    """
    operator, n = curvature(point, 1000), point.num_params
    fast, smallest = sizes(options, n)
    done = journal.load("base")
    if done is None:
        wanted = lanczos.EigenOptions(largest=fast, smallest=smallest, tolerance=options.tolerance, seed=seed)
        saver = journal.saver("eigenpairs")
        pairs = lanczos.eigenpairs(operator, wanted, journal.load("eigenpairs"), saver, progress)
        done = {name: getattr(pairs, name) for name in ("eigenvalue", "residual", "converged", "label", "eigenvector")}
        done |= {"marker": torch.as_tensor(markers(operator, seed)), "num_products": pairs.num_products}
        done["num_products"] += min(MARKER_DEPTH, n)
        if options.num_probes:
            probes = stochastic.ProbeOptions(num_probes=options.num_probes, depth=min(MARKER_DEPTH, n), seed=seed)
            saver, state = journal.saver("density"), journal.load("density")
            quadrature = stochastic.quadrature(operator, probes, None, state, saver, progress)
            done |= {"ritz_value": quadrature.ritz_value, "ritz_weight": quadrature.ritz_weight}
            done["num_products"] += quadrature.num_products
        journal.save("base", done)
    return _base(done, point)


def _base(done: dict[str, Any], point: Point) -> Base:
    value, residual, label = (np.asarray(done[name]) for name in ("eigenvalue", "residual", "label"))
    vectors = torch.linalg.qr(done["eigenvector"][:, torch.as_tensor(label > 0)].to(point.theta))[0]
    order = np.argsort(value, kind="stable")
    rounding = np.finfo(np.float64 if point.dtype == torch.float64 else np.float32).eps * np.abs(value).max()
    bottom = int((label < 0).sum())
    density = None
    if "ritz_value" in done:
        density = SpectralMeasure(done["ritz_value"].numpy(), done["ritz_weight"].numpy(), point.num_params)
    return Base(
        eigenvalue=value,
        residual=residual,
        converged=np.asarray(done["converged"]),
        label=label.astype(np.int64),
        vectors=vectors,
        known=KnownSpectrum(
            value[order], point.num_params, bottom, (residual + rounding)[order], done["marker"].numpy()
        ),
        density=density,
        num_products=int(done["num_products"]),
    )


def markers(operator: LinearOperator, seed: int = 0) -> Array:
    """Return intervals that each hold an eigenvalue, ``(m, 2)``: Ritz values of one Krylov space -+ their residuals.

    Notes
    -----
    Cost: 80 products, or n. Within the bulk residuals are wide, but they bound the holes between them.
    """
    start = torch.randn(operator.size, generator=generator(seed, "markers"), dtype=torch.float64)
    krylov = lanczos.krylov(operator, start.to(operator.device, operator.dtype), min(MARKER_DEPTH, operator.size))
    beta = np.asarray(krylov.beta, dtype=float)
    matrix = np.diag(np.asarray(krylov.alpha, dtype=float)) + np.diag(beta, 1) + np.diag(beta, -1)
    value, vector = np.linalg.eigh(matrix)
    error = krylov.residual_norm * np.abs(vector[-1]) + np.finfo(float).eps * np.abs(value).max()
    return np.stack([value - error, value + error], axis=1)


def top_vectors(operator: LinearOperator, count: int, tolerance: float, seed: int) -> Tensor:
    """Return the top eigenvectors ``(n, K)``; those of an averaged Hessian split a whole region at once."""
    options = lanczos.EigenOptions(largest=count, smallest=0, tolerance=tolerance, seed=seed)
    return torch.linalg.qr(lanczos.eigenpairs(operator, options).eigenvector)[0]
