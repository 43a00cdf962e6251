"""Rates of the modes: a manifold needs a gap between rates, and only under gradient flow are these the eigenvalues.

A mode with curvature lambda decays as ``exp(-lambda t)`` under gradient flow, but is multiplied by ``|1 - eta lambda|``
in each step of gradient descent, so that at the edge of stability (eta lambda near 2) the stiffest modes are slow.
Every dynamics is brought to one scale here, the *effective rate* ``(1 - |multiplier|) / eta`` in units of curvature; a
rate of zero neither decays nor grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape.errors import InputError

Array = NDArray[np.floating[Any]]
DYNAMICS = ("flow", "gd", "heavy_ball", "precond")


@dataclass(frozen=True)
class Dynamics:
    """The dynamical system whose linear part is the curvature.

    Parameters
    ----------
    name
        ``flow``: dW/dt = -grad L. ``gd``: W - lr grad L. ``heavy_ball``: gradient descent with momentum. ``precond``:
        the spectrum is that of D^(-1/2) H D^(-1/2); a flow without ``lr``, a map with it.
    lr
        Step size in parameter^2 / nat.
    momentum
        The heavy ball's momentum, in [0, 1).
    """

    name: str = "flow"
    lr: float | None = None
    momentum: float | None = None

    def __post_init__(self) -> None:
        if self.name not in DYNAMICS:
            raise InputError(f"unknown dynamics {self.name!r}; use one of {', '.join(DYNAMICS)}")
        if self.name in ("gd", "heavy_ball") and self.lr is None:
            raise InputError(f"the dynamics {self.name} needs a learning rate (--lr)")
        if self.name == "flow" and self.lr is not None:
            raise InputError("gradient flow has no learning rate; use the dynamics gd, or leave --lr out")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise InputError(f"a learning rate must be positive and finite, not {self.lr}")
        if (self.momentum is not None) != (self.name == "heavy_ball"):
            raise InputError("heavy_ball, and no other dynamics, needs a momentum (--momentum)")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise InputError(f"the momentum must be in [0, 1), not {self.momentum}")

    @property
    def is_map(self) -> bool:
        """Whether time is discrete, so that blocks of the perturbation do not cancel and constants grow by sqrt 2."""
        return self.lr is not None


@dataclass(frozen=True)
class KnownSpectrum:
    """What is known of the n eigenvalues of the curvature.

    Parameters
    ----------
    eigenvalue
        The known ones, ``(k,)`` ascending: the ``num_bottom`` smallest and the ``k - num_bottom`` largest.
    size
        n, the number of all eigenvalues.
    num_bottom
        How many of the known ones are from the bottom; any number if all are known.
    error
        Bounds on their errors (residuals), ``(k,)``; zero where None.
    marker
        Intervals ``(m, 2)`` each of which is proven to hold an eigenvalue, for instance Ritz value -+ residual.
    """

    eigenvalue: Array
    size: int
    num_bottom: int = 0
    error: Array | None = None
    marker: Array | None = None

    def __post_init__(self) -> None:
        value, error = np.asarray(self.eigenvalue, dtype=float), self.errors
        if value.ndim != 1 or not len(value):
            raise InputError("no eigenvalue is known; ask for at least one (--largest)")
        if not (np.isfinite(value).all() and np.isfinite(error).all()):
            raise InputError("the spectrum holds NaN or infinite values")
        if (np.diff(value) < 0).any() or error.shape != value.shape or (error < 0).any():
            raise InputError("eigenvalues must be ascending, and each error a number that is not negative")
        if not 0 <= self.num_bottom <= len(value) <= self.size:
            raise InputError(f"{len(value)} eigenvalues, {self.num_bottom} from the bottom, do not fit n = {self.size}")

    @property
    def errors(self) -> Array:
        """Error bounds ``(k,)``."""
        return np.zeros(len(self.eigenvalue)) if self.error is None else np.asarray(self.error, dtype=float)

    @property
    def known(self) -> Array:
        """Intervals ``(k, 2)`` of the known eigenvalues."""
        return np.stack([self.eigenvalue - self.errors, self.eigenvalue + self.errors], axis=1)

    @property
    def hull(self) -> Array | None:
        """The interval ``(2,)`` in which all other eigenvalues lie, or None if there are none."""
        if len(self.eigenvalue) == self.size:
            return None
        low = self.known[self.num_bottom - 1, 0] if self.num_bottom else -np.inf
        high = self.known[self.num_bottom, 1] if self.num_bottom < len(self.eigenvalue) else np.inf
        return np.array([low, high])


@dataclass(frozen=True)
class Rates:
    """Effective rates of the modes, each known up to an interval.

    Attributes
    ----------
    known
        Intervals ``(k, 2)`` of the known modes.
    size
        Number of modes: n, or 2 n for the heavy ball, whose state is (W, last W).
    hull
        Intervals ``(j, 2)`` that hold the modes that are not known (j is 0, 1, or 2 for the heavy ball).
    hull_count
        How many modes each hull holds, ``(j,)``.
    marker
        Intervals ``(m, 2)`` that are proven to hold a mode.
    factor
        What the Lipschitz constant of the remainder is multiplied with in these coordinates.
    """

    known: Array
    size: int
    hull: Array
    hull_count: NDArray[np.int64]
    marker: Array
    factor: float = 1.0


def multiplier(eigenvalue: Array, dynamics: Dynamics) -> Array:
    """Return the largest multiplier of a step, ``|1 - eta lambda|`` or the root of the heavy ball, ``(k,)``.

    Notes
    -----
    Heavy ball: the larger root of ``z^2 - (1 + beta - eta lambda) z + beta``; all eta lambda in
    ``((1 - sqrt beta)^2, (1 + sqrt beta)^2)`` share ``|z| = sqrt beta``, so that there is no gap among them.
    """
    if dynamics.lr is None:
        raise InputError("gradient flow has rates, not multipliers; give a learning rate")
    return np.abs(_roots(np.asarray(eigenvalue, dtype=float), dynamics)[0])


def _roots(eigenvalue: Array, dynamics: Dynamics) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Return the larger and the smaller multiplier; without momentum the second is zero (no mode of its own)."""
    beta, lr = dynamics.momentum or 0.0, dynamics.lr or 0.0
    half = (1 + beta - lr * eigenvalue) / 2
    with np.errstate(invalid="ignore"):  # an end at infinity has no second root
        root = np.sqrt((half**2 - beta).astype(complex))
        root = np.where(half >= 0, root, -root)
        return half + root, half - root


def effective_rate(eigenvalue: Array, dynamics: Dynamics) -> Array:
    """Return the effective rates of modes with curvature ``eigenvalue (k,)``, in units of curvature.

    Gradient flow: lambda itself. Maps: ``(1 - |multiplier|) / eta``, for the heavy ball of its slower root.
    """
    if dynamics.lr is None:
        return np.asarray(eigenvalue, dtype=float)
    return (1 - multiplier(eigenvalue, dynamics)) / dynamics.lr


def rates(spectrum: KnownSpectrum, dynamics: Dynamics) -> Rates:
    """Return the effective rates of a known spectrum under a dynamics, with what stays unknown.

    Notes
    -----
    Errors: an interval of eigenvalues goes to the interval of all rates over it, so that whatever is proven of the
    rates holds for the exact spectrum. ``factor`` is sqrt 2 for maps (the blocks |Q w| and |P w| are estimated one by
    one) and for the heavy ball also the conditioning of the eigenbasis of its 2 x 2 blocks, infinite at critical
    damping.
    """
    pieces = [spectrum.known, np.empty((0, 2)) if spectrum.hull is None else spectrum.hull[None]]
    pieces.append(np.empty((0, 2)) if spectrum.marker is None else np.asarray(spectrum.marker, dtype=float))
    rest = spectrum.size - len(spectrum.eigenvalue)
    images = [_image(piece, dynamics) for piece in pieces]
    if dynamics.name == "heavy_ball":
        images = [np.concatenate([image, _fast_image(p, dynamics)]) for image, p in zip(images, pieces, strict=True)]
    copies = 2 if dynamics.name == "heavy_ball" else 1
    return Rates(
        known=images[0],
        size=copies * spectrum.size,
        hull=images[1],
        hull_count=np.full(len(images[1]), rest, dtype=np.int64),
        marker=images[2],
        factor=_factor(np.concatenate(pieces[:2]), dynamics),
    )


def _image(interval: Array, dynamics: Dynamics) -> Array:
    """Return the intervals of effective rates over intervals of eigenvalues ``(k, 2)``; the rate peaks in one place."""
    ends = effective_rate(interval, dynamics)
    if dynamics.lr is None:
        return ends
    middle = (1 + (dynamics.momentum or 0.0)) / dynamics.lr
    inside = (interval[:, 0] < middle) & (interval[:, 1] > middle)
    peak = effective_rate(np.array([middle]), dynamics)[0]
    return np.stack([ends.min(axis=1), np.where(inside, peak, ends.max(axis=1))], axis=1)


def _fast_image(interval: Array, dynamics: Dynamics) -> Array:
    """Return the same for the second root of the heavy ball, ``|z| = beta / |larger root|``: it has a trough there."""
    lr, beta = dynamics.lr or 0.0, dynamics.momentum or 0.0
    ends = (1 - beta / np.maximum(multiplier(interval, dynamics), np.sqrt(beta) + 1e-300)) / lr
    middle = (1 + beta) / lr
    inside = (interval[:, 0] < middle) & (interval[:, 1] > middle)
    return np.stack([np.where(inside, (1 - np.sqrt(beta)) / lr, ends.min(axis=1)), ends.max(axis=1)], axis=1)


def _factor(interval: Array, dynamics: Dynamics) -> float:
    """Return the factor of the Lipschitz constant: 1 for a flow, sqrt 2 for a map, more for the heavy ball.

    The heavy ball's step on one mode is M = [[s, -beta], [1, 0]] with s = 1 + beta - eta lambda; with eigenvectors
    (z, 1) / sqrt(1 + |z|^2) as the columns of S, the remainder enters as S^(-1) e1 eta F(e1' S y).
    """
    if dynamics.name != "heavy_ball":
        return float(np.sqrt(2)) if dynamics.is_map else 1.0
    beta, lr = dynamics.momentum or 0.0, dynamics.lr or 0.0
    if not np.isfinite(interval).all():
        return float("inf")
    side = np.sign(np.abs(1 + beta - lr * interval) - 2 * np.sqrt(beta))
    crosses_zero = np.sign(1 + beta - lr * interval).prod(axis=1) < 0
    if (side == 0).any() or (side[:, 0] != side[:, 1]).any() or (crosses_zero & (side[:, 0] > 0)).any():
        return float("inf")
    large, small = _roots(interval.ravel(), dynamics)
    a, b = 1 + np.abs(large) ** 2, 1 + np.abs(small) ** 2
    column = np.sqrt(a + b).max() / np.abs(large - small).min()
    row = np.sqrt(np.abs(large) ** 2 / a + np.abs(small) ** 2 / b).max()
    return float(np.sqrt(2) * column * row)
