"""The plateau rule of the public FedDUAP code: a historical baseline with known failures, not a gap criterion.

Reimplemented from its published logic (PaddleFL, ``mobile/fedDUAP``; also FedPepTAO's ``get_ratio``): no Lipschitz
constant enters. The threshold moves up from ``start`` in steps of 0.1; where the share of the spectrum above it changes
by less than 0.005 three times in a row, that share is the answer; if the share falls below half of its first value, the
step is halved and the search begins anew. Halving makes the three changes small by itself, so that on spectra whose
mass lies mostly below the gap the answer is close to the share of positive eigenvalues.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from landscape.dimension.rates import Array
from landscape.errors import InputError

_STEP, _CHANGE, _REPEATS, _HALVINGS = 0.1, 0.005, 3, 40


def share_above(value: Array, weight: Array, threshold: Array) -> Array:
    """Return the share of a smoothed spectrum above thresholds ``(t,)``: Gaussians of variance 1e-5 max(1, range).

    Parameters
    ----------
    value, weight
        Quadrature nodes and weights, any equal shape; probes are averaged. Eigenvalues have equal weights.
    """
    value, weight = np.ravel(value), np.ravel(weight)
    known = np.isfinite(value) & (weight > 0)
    if not known.any():
        raise InputError("the plateau rule needs quadrature nodes and weights, or all eigenvalues")
    value, weight = value[known], weight[known]
    width = np.sqrt(1e-5 * max(1.0, float(np.ptp(value))))
    return ndtr((value - np.atleast_1d(threshold)[:, None]) / width) @ weight / weight.sum()


def slq_plateau(value: Array, weight: Array, start: float = 0.0) -> float:
    """Return the share of the spectrum above the plateau, in [0, 1] (the code's "pruning rate" or "remaining ratio").

    Parameters
    ----------
    start
        First threshold (``imc_t`` in the public code), in units of curvature.

    Notes
    -----
    Known failures: two clusters with 30 % of the mass above the gap give more than 0.99; a uniform spectrum, which has
    no gap, gives values from 0.76 to 0.99 that depend on its size; a symmetric bulk with ten outliers gives 0.25 to
    0.5.
    """
    first = float(share_above(value, weight, np.array([start]))[0])
    step = _STEP
    for _ in range(_HALVINGS):
        threshold, last, repeats = start, first, 0
        while last >= first / 2:
            threshold += step
            share = float(share_above(value, weight, np.array([threshold]))[0])
            repeats = repeats + 1 if abs(last - share) < _CHANGE else 0
            last = share
            if repeats == _REPEATS and share >= first / 2:
                return share
        step /= 2
    return first
