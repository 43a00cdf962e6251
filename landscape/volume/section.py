"""The truncated product: the volume of the section along the k stiffest directions, as published."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.errors import InputError
from landscape.volume.weights import log_ball

SIZES = (10, 50, 100, 200)


@dataclass(frozen=True)
class Section:
    """The section along the k largest eigenvalues.

    Attributes
    ----------
    stiffness
        Q_k = -1/2 sum_{i<=k} log lambda_i in nats; free of the cutoff, and what is compared between points.
    log_volume
        log V_k + (k/2) log(2 cutoff) + Q_k, in nats.
    error
        Largest error of Q_k that the residuals allow, 1/2 sum |residual_i| / lambda_i, in nats.
    """

    size: int
    stiffness: float
    log_volume: float
    error: float


def section(eigenvalue: np.ndarray, residual: np.ndarray, size: int, cutoff: float) -> Section:
    """Return the section of ``size`` dimensions.

    Parameters
    ----------
    eigenvalue, residual
        The largest eigenvalues ``(>= size,)``, largest first, and their residuals, in nats / parameter^2.

    Raises
    ------
    InputError
        If fewer than ``size`` of them are positive.

    Notes
    -----
    This is the volume of a k-dimensional slice, not of the basin: the other n - k directions, which hold nearly all of
    the log volume, do not enter. Cost: none beyond the eigenpairs.

    References
    ----------
    Saleem, Ahuja, Prasad and Lall (2024), arXiv 2403.15022: "smaller eigenvalues, smaller product, larger volume".
    """
    top = np.asarray(eigenvalue, dtype=np.float64)[:size]
    positive = int((top > 0).sum())
    if positive < size:
        raise InputError(f"a section of {size} dimensions needs {size} positive eigenvalues, but there are {positive}")
    stiffness = -0.5 * float(np.log(top).sum())
    error = 0.5 * float((np.abs(residual[:size]) / top).sum())
    volume = log_ball(size) + 0.5 * size * float(np.log(2 * cutoff)) + stiffness
    return Section(size, stiffness, volume, error)
