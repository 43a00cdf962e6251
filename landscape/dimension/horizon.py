"""The split of the modes over a finite training time, and the effective numbers of modes that go with it.

An inertial manifold discards *slaved* modes, which have decayed; intrinsic-dimension and lottery-ticket arguments
discard *frozen* ones, which have not moved yet. Over a training time T (flow time, learning rate times steps) a mode is
slaved if lambda T > ln(1/eps), frozen if |lambda| T < eps, and active otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.dimension.rates import Array
from landscape.errors import InputError


@dataclass(frozen=True)
class SpectralMeasure:
    """A spectrum as weights on values: every eigenvalue once, or the nodes of a stochastic quadrature.

    Parameters
    ----------
    value, weight
        ``(probes, nodes)``; the weights of a probe sum to 1. Exact spectra have one probe.
    size
        n, the number of eigenvalues.
    """

    value: Array
    weight: Array
    size: int

    @classmethod
    def exact(cls, eigenvalue: Array) -> SpectralMeasure:
        """Return the measure of n known eigenvalues ``(n,)``."""
        value = np.asarray(eigenvalue, dtype=float)
        if value.ndim != 1 or not len(value) or not np.isfinite(value).all():
            raise InputError("a spectrum is a list of finite eigenvalues")
        return cls(value[None], np.full((1, len(value)), 1 / len(value)), len(value))

    def total(self, values: Array) -> tuple[float, float]:
        """Return n times the mean of a function over the spectrum and its standard error over probes (0 if exact).

        Parameters
        ----------
        values
            The function at every node, ``(probes, nodes)``.
        """
        known = self.weight > 0
        sums = self.size * np.where(known, self.weight * np.where(known, values, 0.0), 0.0).sum(axis=1)
        error = sums.std(ddof=1) / np.sqrt(len(sums)) if len(sums) > 1 else 0.0
        return float(sums.mean()), float(error)


@dataclass(frozen=True)
class Split:
    """Numbers of modes over a finite time, with standard errors (zero for an exact spectrum).

    Attributes
    ----------
    frozen, active, slaved
        They add up to n. Escaping modes (lambda T <= -eps) are among the active ones, and also counted alone.
    """

    frozen: float
    active: float
    slaved: float
    escaping: float
    frozen_se: float = 0.0
    active_se: float = 0.0
    slaved_se: float = 0.0
    escaping_se: float = 0.0


def finite_horizon(spectrum: SpectralMeasure, time: float, tolerance: float = 0.01) -> Split:
    """Return how many modes are frozen, active and slaved after a training time.

    Parameters
    ----------
    time
        T in parameter^2 / nat: learning rate times number of steps, divided by 1 - momentum.
    tolerance
        eps: a frozen mode has moved by less than this fraction, a slaved one has less than this fraction left.

    Notes
    -----
    Error: with quadrature nodes the counts are estimates; a Gauss quadrature of m nodes blurs counts by up to the
    weight of one node, besides the standard error over probes.
    """
    if not (0 < time < np.inf and 0 < tolerance < 1):
        raise InputError(f"the time must be positive and the tolerance in (0, 1), not {time} and {tolerance}")
    scaled = spectrum.value * time
    slaved = scaled > np.log(1 / tolerance)
    frozen = ~slaved & (np.abs(scaled) < tolerance)
    parts = {"frozen": frozen, "active": ~(slaved | frozen), "slaved": slaved, "escaping": scaled <= -tolerance}
    totals = {name: spectrum.total(part.astype(float)) for name, part in parts.items()}
    return Split(
        **{name: value for name, (value, _) in totals.items()}, **{f"{n}_se": e for n, (_, e) in totals.items()}
    )


def effective_number(spectrum: SpectralMeasure, alpha: float) -> tuple[float, float]:
    """Return N_eff(alpha) = sum of lambda+ / (lambda+ + alpha), and its standard error.

    It counts the stiff directions; ``n - effective_number(1 / T)`` is the smooth count of modes still slow at time T.

    References
    ----------
    MacKay (1992), Neural Computation 4, 415; Maddox, Benton and Wilson (2020), arXiv:2003.02139.
    """
    if not 0 < alpha < np.inf:
        raise InputError(f"alpha must be positive and finite, not {alpha}")
    positive = np.maximum(spectrum.value, 0.0)
    return spectrum.total(positive / (positive + alpha))


def training_dimension(spectrum: SpectralMeasure, distance: float, excess_loss: float) -> tuple[float, float]:
    """Return the dimension of a random subspace that hits a sublevel set of a quadratic well, with standard error.

    D* = n - sum of r_i^2 / (R^2 + r_i^2) with r_i^2 = 2 eps / lambda_i, which is N_eff(2 eps / R^2).

    Parameters
    ----------
    distance
        R, from where the subspace starts to the minimum.
    excess_loss
        eps, the loss above the minimum that counts as trained, in nats.

    References
    ----------
    Larsen, Fort, Becker and Ganguli (2022), arXiv:2107.05802: a random subspace meets the set if its dimension plus the
    squared Gaussian width of the set, seen from the start, exceeds n. The width of a well is the formula above.
    """
    if not (0 < distance < np.inf and 0 < excess_loss < np.inf):
        raise InputError(f"distance and excess loss must be positive and finite, not {distance} and {excess_loss}")
    return effective_number(spectrum, 2 * excess_loss / distance**2)
