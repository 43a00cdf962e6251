r"""Stochastic Lanczos quadrature: traces of functions of an operator from random probes, with error bars.

For a random unit vector u the Lanczos process gives nodes and weights with
:math:`u^\top f(A) u \approx \sum_i w_i f(\theta_i)`, exactly for polynomials of degree 2 m - 1 at depth m; the mean
over probes times n estimates tr f(A) (Ubaru, Chen and Saad 2017, doi 10.1137/16M1104974).

Probes are uniform on the sphere (Gaussian, normalised): their distribution does not depend on the basis, so the error
of every estimate depends on the spectrum alone, and what remains of a probe after deflation is uniform on the sphere of
the complement, so that deflation adds no bias. They are drawn on the CPU in float64, each from a stream of its own: all
devices agree, and more probes leave the first ones as they are.
"""

from landscape.stochastic.estimates import (
    Estimate,
    effective_dimension,
    frobenius_norm,
    log_det,
    participation_ratio,
    samples,
    trace,
    trace_of,
    zero_fraction,
)
from landscape.stochastic.probes import WORK_VECTORS, ProbeOptions, Quadrature, exact_quadrature, quadrature

__all__ = [
    "WORK_VECTORS",
    "Estimate",
    "ProbeOptions",
    "Quadrature",
    "effective_dimension",
    "exact_quadrature",
    "frobenius_norm",
    "log_det",
    "participation_ratio",
    "quadrature",
    "samples",
    "trace",
    "trace_of",
    "zero_fraction",
]
