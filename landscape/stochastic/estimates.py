r"""Traces of functions of an operator from its quadrature, with standard errors.

A probe u that is uniform on the sphere of R^n has, for B = f(A) minus its mean eigenvalue,

.. math:: \operatorname{Var}(n\, u^\top f(A) u) = \frac{2 n}{n + 2} \operatorname{tr} B^2 ,

and tr B^2 comes from the same quadrature. This knows much more of the error than the scatter of a few probes, which is
badly skewed where outliers dominate: the usual intervals of 10 probes then cover 87 % instead of 95 %. By the fourth
moment, the variance has :math:`P (\operatorname{tr} B^2)^2 / \operatorname{tr} B^4 \ge P` degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.stats

from landscape.density import ZERO_UNITS
from landscape.errors import InputError
from landscape.stochastic.probes import Quadrature

Function = Callable[[np.ndarray], np.ndarray]

CONFIDENCE = 0.95
# From this depth on the square of a function counts as resolved by the quadrature where no degree is known.
DEEP = 10


@dataclass(frozen=True)
class Estimate:
    """An estimate with its standard error over the probes.

    Attributes
    ----------
    value, se
        Where all eigenvalues are known the error is zero; one probe alone has none (NaN) where the depth is too small
        for the variance that theory gives.
    freedom
        Degrees of freedom of the standard error.
    """

    value: float
    se: float
    freedom: float = math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval by Student's t."""
        half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, self.freedom)) * self.se
        return self.value - half, self.value + half


def samples(quadrature: Quadrature, function: Function) -> np.ndarray:
    """Return each probe's estimate of tr f(A), ``(P,)``; f works elementwise on arrays of eigenvalues."""
    value, weight = _used(quadrature)
    return np.asarray(quadrature.size * (weight * function(value)).sum(1))


def trace_of(quadrature: Quadrature, function: Function, degree: int | None = None) -> Estimate:
    """Estimate tr f(A).

    Parameters
    ----------
    function
        f, elementwise on arrays of eigenvalues.
    degree
        Its degree where it is a polynomial. Where the quadrature is too shallow for the square of f (depth up to the
        degree, or below 10 if there is none), the error is the scatter of the probes.
    """
    mean = float(samples(quadrature, function).mean())
    return Estimate(mean, *_error(quadrature, function, degree))


def trace(quadrature: Quadrature) -> Estimate:
    """Estimate tr A; the quadrature is exact here, so this is the mean of n u'Au over the probes."""
    return trace_of(quadrature, lambda value: value, degree=1)


def frobenius_norm(quadrature: Quadrature) -> Estimate:
    """Estimate the Frobenius norm, the root of tr A^2 (exact in the quadrature from depth 2 on).

    The bias of the root of an estimate, first order in 1 / P, is taken out.
    """
    square = trace_of(quadrature, np.square, degree=2)
    if square.value == 0:
        return square
    root = math.sqrt(square.value)
    se = square.se / (2 * root)
    return replace(square, value=root + np.nan_to_num(se) ** 2 / (2 * root), se=se)


def participation_ratio(quadrature: Quadrature) -> Estimate:
    """Estimate (tr A)^2 / tr A^2: how many equal eigenvalues would have the same two moments; 0 for A = 0.

    The error is that of the linearised ratio.
    """
    first, square = trace(quadrature), trace_of(quadrature, np.square, degree=2)
    if square.value == 0:
        return replace(square, value=0.0)
    ratio, slope = first.value**2 / square.value, first.value / square.value
    se, freedom = _error(quadrature, lambda value: 2 * slope * value - slope**2 * value**2, degree=2)
    return Estimate(ratio, se, freedom)


def log_det(quadrature: Quadrature, scale: float) -> Estimate | None:
    """Estimate log det(1 + scale A) in nats; None where a Ritz value shows that the logarithm does not exist."""
    if 1 + scale * float(np.nanmin(quadrature.ritz_value.numpy())) <= 0:
        return None
    return trace_of(quadrature, lambda value: np.log1p(scale * value))


def effective_dimension(quadrature: Quadrature, shift: float) -> Estimate:
    """Estimate the sum of lambda / (lambda + shift) over the positive eigenvalues.

    MacKay 1992, doi 10.1162/neco.1992.4.3.448; negative curvature determines no parameter and counts as zero.
    """
    if shift <= 0:
        raise InputError(f"the shift of an effective dimension must be positive, but is {shift}")
    return trace_of(quadrature, lambda value: np.maximum(value, 0) / (np.maximum(value, 0) + shift))


def zero_fraction(quadrature: Quadrature, tolerance: float | None = None, rank_bound: int | None = None) -> Estimate:
    """Estimate the fraction of eigenvalues that vanish up to rounding.

    Parameters
    ----------
    tolerance
        The |eigenvalue| up to which it counts as zero; default 64 units of rounding of the largest.
    rank_bound
        A known bound on the rank: at least 1 - rank_bound / n of the eigenvalues are zero, whatever the probes say.
    """
    magnitude = np.nan_to_num(np.abs(quadrature.ritz_value.numpy()))
    width = ZERO_UNITS * quadrature.eps * float(magnitude.max()) if tolerance is None else tolerance
    found = trace_of(quadrature, lambda value: (np.abs(value) <= width) / quadrature.size)
    least = 0.0 if rank_bound is None else 1 - rank_bound / quadrature.size
    return replace(found, value=max(found.value, least))


def _used(quadrature: Quadrature) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights as arrays; a node of weight zero is put where the function exists."""
    value, weight = quadrature.ritz_value.numpy(), quadrature.ritz_weight.numpy()
    heaviest = np.take_along_axis(value, weight.argmax(1)[:, None], 1)
    return np.where(weight > 0, value, heaviest), weight


def _error(quadrature: Quadrature, function: Function, degree: int | None) -> tuple[float, float]:
    """Return the standard error of tr f(A), and its degrees of freedom."""
    value, weight = (part[:, quadrature.num_exact :] for part in _used(quadrature))
    size, count = quadrature.size - quadrature.num_exact, len(value)
    if size == 0:
        return 0.0, math.inf
    mass = quadrature.size * weight  # of the eigenvalues that the probes stand for
    rows = (mass * function(value)).sum(1)
    needed = DEEP if degree is None else degree + 1
    if value.shape[1] < min(needed, size) and not np.isnan(quadrature.ritz_value[:, -1].numpy()).all():
        if count == 1:
            return math.nan, 1.0
        return float(rows.std(ddof=1)) / math.sqrt(count), count - 1.0
    spread = function(value) - rows.mean() / size
    second, fourth = ((mass * spread**power).sum(1).mean() for power in (2, 4))
    se = math.sqrt(2 * size / (size + 2) * second / count)
    return se, count * max(1.0, float(second**2 / fourth)) if fourth > 0 else math.inf
