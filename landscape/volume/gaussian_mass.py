"""Probability of the basin under a Gaussian prior N(0, sd^2 I): the local volume, and code lengths across levels.

With displacement rho w from the anchor c, |w| = 1, the mass is an integral over directions of
``I(w) = int_0^r(w) rho^(n-1) exp(-|c + rho w|^2 / (2 sd^2)) d rho / (2 pi sd^2)^(n/2)``. An infinite radius is no
obstacle here: it is integrated to infinity.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln, logsumexp, roots_legendre

from landscape.errors import InputError
from landscape.volume.preconditioners import Preconditioner
from landscape.volume.sampling import Basin, LogVolume, Rays, combine
from landscape.volume.weights import log_ball, log_mean

NODES, DROP = 80, 45.0  # quadrature nodes a panel; the integrand is cut where it has fallen by this many nats


def log_radial_integral(log_radius: np.ndarray, n: int, sd: float, overlap: np.ndarray | float = 0.0) -> np.ndarray:
    """Return log int_0^r rho^(n-1) exp(-(rho^2 + 2 rho b) / (2 sd^2)) d rho.

    Parameters
    ----------
    log_radius
        log r, ``(k,)``; +inf integrates to infinity.
    overlap
        b, the component of the anchor along the ray, ``(k,)`` or a number.

    Notes
    -----
    The log integrand g is concave with its peak at p = (-b + sqrt(b^2 + 4 (n-1) sd^2)) / 2. Two Gauss-Legendre panels
    of 80 nodes cover, on either side of min(p, r), where g is within 45 nats of its largest value. Everything stays in
    the log domain, so nothing overflows or cancels (error below 1e-9 against the incomplete gamma function, also at
    n = 1e6).
    """
    log_radius, overlap = np.broadcast_arrays(np.asarray(log_radius, dtype=np.float64), np.asarray(overlap, float))
    a, b, power = sd**-2.0, overlap * sd**-2.0, n - 1
    root = np.sqrt(b**2 + 4 * a * power)
    # The conjugate form has no cancellation where b is large and positive.
    peak = np.where(b > 0, 2 * power / np.where(b > 0, b + root, 1.0), (root - b) / (2 * a))
    radius = np.exp(np.minimum(log_radius, np.log(np.maximum(peak, sd)) + 700.0 / max(n, 2) + 50.0))
    centre = np.minimum(peak, radius)
    left = np.where(centre > 0, np.minimum(_reach(centre, power, a, b, -1), centre), 0.0)
    right = np.clip(np.minimum(_reach(centre, power, a, b, 1), radius - centre), 0.0, None)
    parts = [_panel(centre - left, left, power, a, b), _panel(centre, right, power, a, b)]
    return np.asarray(np.logaddexp(*parts))


def _reach(centre: np.ndarray, power: int, a: float, b: np.ndarray, side: int) -> np.ndarray:
    """Return the distance from ``centre`` at which the log integrand has fallen by DROP, by bisection in its log."""
    base = np.where(centre > 0, centre, 1.0)
    slope = np.where(centre > 0, power / base, 0.0) - a * centre - b
    low, high = np.full(centre.shape, -80.0), np.full(centre.shape, 0.5 * np.log(2 * DROP / a))
    for _ in range(60):
        middle = 0.5 * (low + high)
        t = np.exp(middle)
        share = np.clip(side * t / base, -1 + 1e-15, None)
        fall = -side * slope * t + np.where(centre > 0, power * (share - np.log1p(share)), 0.0) + 0.5 * a * t**2
        far = (fall >= DROP) | (side * t <= -base) & (centre > 0)
        low, high = np.where(far, low, middle), np.where(far, middle, high)
    return np.asarray(np.exp(high))


def _panel(start: np.ndarray, width: np.ndarray, power: int, a: float, b: np.ndarray) -> np.ndarray:
    """Return the log of the integral over [start, start + width]; -inf for an empty panel."""
    nodes, weights = roots_legendre(NODES)
    rho = start[..., None] + width[..., None] * 0.5 * (1 + nodes)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_rho = np.where(rho > 0, np.log(rho), -np.inf)
        value = (power * log_rho if power else 0.0) - 0.5 * a * rho**2 - b[..., None] * rho
        result = logsumexp(value + np.log(0.5 * weights), axis=-1) + np.log(width)
    return np.where(width > 0, result, -np.inf)


def gaussian_mass(rays: Rays, basin: Basin, preconditioner: Preconditioner, prior_sd: float) -> LogVolume:
    """Return log P(basin) under the prior N(0, prior_sd^2 I) on the active coordinates.

    Parameters
    ----------
    rays
        Radii along v = P u; the same draws serve the volume.
    prior_sd
        In units of the parameters; the reference studies use the rms of the weights.

    Notes
    -----
    log P = log(n V_n) - (n/2) log(2 pi sd^2) + log |det P| + log mean_j exp(log I_j - n log |v_j|). A basin that
    nothing bounds has log P = 0, up to the sampling error of the directions.

    Calibrated on balls of 6 to 500 parameters about an anchor that lies up to 1.25 prior widths off the prior's centre
    (95 % error 0.2 nats from 200 directions); a lower bound, 0.4 nats low, at 3.75 widths in 50 dimensions.

    References
    ----------
    Scherlis and Belrose (2025), "Estimating the probability of sampling a trained neural network at random". They
    replace the radial integral by a Laplace approximation with an error function; ours is exact to rounding.
    """
    if not 0 < prior_sd < np.inf:
        raise InputError(f"the prior's standard deviation must be positive, not {prior_sd}")
    n = basin.size
    centre = float(basin.anchor.double().square().sum()) / prior_sd**2
    log_radius = rays.radii.log_radius + rays.log_norm
    inner = log_radial_integral(log_radius, n, prior_sd, rays.overlap) - 0.5 * centre
    offset = log_ball(n) + np.log(n) - 0.5 * n * np.log(2 * np.pi * prior_sd**2)
    return combine(offset, log_mean(inner - n * rays.log_norm), preconditioner.log_det, preconditioner)


def code_length(log_probability: float, num_prunable: int, num_kept: int) -> float:
    """Return the spike-and-slab code length of a masked basin, log binom(D, d) - log P, in nats.

    Parameters
    ----------
    log_probability
        log P of the basin under the Gaussian slab on the kept coordinates.
    num_prunable, num_kept
        Prunable parameters D of the whole network and those d that the mask keeps.

    Notes
    -----
    The mask is drawn uniformly among those that keep d weights and the kept weights from the slab: one distribution on
    R^D, so levels compare (our derivation, after the PAC-Bayes prior of Sakamoto and Sato 2022).
    """
    if not 0 <= num_kept <= num_prunable:
        raise InputError(f"{num_kept} kept weights of {num_prunable} make no mask")
    masks = gammaln(num_prunable + 1) - gammaln(num_kept + 1) - gammaln(num_prunable - num_kept + 1)
    return float(masks - log_probability)
