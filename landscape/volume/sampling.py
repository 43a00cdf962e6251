"""Log volumes by sampling directions: V = V_n det P E_u[r(P u)^n], u uniform on the sphere, r in units of |P u|.

The directions come from streams that are named by the seed and their number, so that compared points share them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape import seeds
from landscape.volume.multilevel import Trace
from landscape.volume.neighbourhood import Excess
from landscape.volume.preconditioners import Preconditioner
from landscape.volume.radial import Radii, RayOptions, join, radii
from landscape.volume.weights import CALIBRATED, LogMean, controlled_log_mean, log_ball, log_mean, quantile

BLOCK_NUMBERS, BLOCK = 2**24, 16
ROUNDING = 1e-13
MARKOV = float(np.log(40.0))


@dataclass(frozen=True, eq=False)
class Basin:
    """A neighbourhood reduced to what sampling needs.

    Parameters
    ----------
    excess
        ``(n, k)`` displacements -> ``(k,)`` excess.
    threshold
        The excess on the boundary.
    anchor
        The point itself, ``(n,)``: gives n, dtype, device, and the centre of the prior.
    """

    excess: Excess
    threshold: float
    anchor: Tensor

    @property
    def size(self) -> int:
        """The dimension n."""
        return self.anchor.shape[0]


@dataclass(frozen=True)
class Rays:
    """Radii along directions v = P u.

    Attributes
    ----------
    radii
        In units of |v|.
    log_norm
        log |v|, ``(k,)``.
    overlap
        (v . anchor) / |v|, ``(k,)``.
    log_reference
        log radius of the reference ellipsoid in units of |v|, ``(k,)``, or None without a reference.
    """

    radii: Radii
    log_norm: np.ndarray
    overlap: np.ndarray
    log_reference: np.ndarray | None = None


@dataclass(frozen=True)
class LogVolume:
    """A log volume or log probability, in nats.

    Attributes
    ----------
    value
        The estimate, and ``[low, high]`` its 95 % interval: sampling and determinant errors together (Student's t),
        widened on both sides by the quadrature bias. For a ``lower bound`` the sampling error is unknown: ``high`` is
        infinite, and ``low`` lies log 40 below the value (the mean of positive weights exceeds 40 times its expectation
        in at most 2.5 % of cases, Markov), and lower by the determinant's error.
    sampling
        The mean over directions.
    determinant
        log |det P| with its sampling error and its quadrature bias.
    """

    value: float
    low: float
    high: float
    sampling: LogMean
    determinant: Trace
    preconditioner: str
    shrinkage: float

    @property
    def verdict(self) -> str:
        """``calibrated`` or ``lower bound``: whether the directions sampled carry the mean."""
        return self.sampling.verdict


def unit_directions(n: int, numbers: range, seed: int, stream: str) -> Tensor:
    """Return directions uniform on the sphere in R^n, ``(n, len(numbers))`` float64 on the CPU."""
    columns = []
    for number in numbers:
        source = seeds.generator(seed, "direction", stream, number)
        draw = torch.randn(n, generator=source, dtype=torch.float64)
        columns.append(draw / draw.norm())
    return torch.stack(columns, dim=1)


def blocks(num: int, width: int) -> Iterator[range]:
    """Yield the numbers from 0 to num - 1: the first alone, the others ``width`` at a time."""
    yield range(1)
    for start in range(1, num, width):
        yield range(start, min(start + width, num))


def shoot(
    basin: Basin,
    preconditioner: Preconditioner,
    num: int,
    seed: int,
    stream: str = "final",
    options: RayOptions | None = None,
) -> Rays:
    """Find the radii along ``num`` directions.

    Notes
    -----
    Cost: 5 to 8 forward passes a direction, and the preconditioner's products. Each block of directions starts from the
    median radius and slope of the block before; the first is a single direction, which alone pays for a far start.
    """
    guess, slope, found, norms, overlaps, references = None, 2.0, [], [], [], []
    reference = preconditioner.reference
    for numbers in blocks(num, max(1, min(BLOCK, BLOCK_NUMBERS // basin.size))):
        u = unit_directions(basin.size, numbers, seed, stream)
        v = preconditioner.apply(u.to(basin.anchor))
        block = radii(basin.excess, v, basin.threshold, options, guess, slope)
        reached = np.isfinite(block.log_radius)
        if reached.any():
            guess, slope = float(np.median(block.log_radius[reached])), float(np.median(block.slope[reached]))
        norm = v.double().norm(dim=0)
        found.append(block)
        norms.append(norm.log().cpu().numpy())
        overlaps.append(((basin.anchor.double() @ v.double()) / norm).cpu().numpy())
        if reference is not None:
            bend = (v * (reference.operator @ v)).double().sum(0)
            references.append(0.5 * np.log(2 * basin.threshold) - 0.5 * bend.log().cpu().numpy())
    log_reference = np.concatenate(references) if references else None
    return Rays(join(found), np.concatenate(norms), np.concatenate(overlaps), log_reference)


def combine(offset: float, sampling: LogMean, determinant: Trace, preconditioner: Preconditioner) -> LogVolume:
    """Return ``offset + determinant + sampling`` with its interval."""
    value = offset + determinant.value + sampling.value
    if sampling.verdict != CALIBRATED:
        slack = MARKOV + quantile(determinant.df) * determinant.se + abs(determinant.bias)
        return LogVolume(
            value, value - slack, np.inf, sampling, determinant, preconditioner.name, preconditioner.shrinkage
        )
    variances = np.array([sampling.se**2, determinant.se**2])
    total = variances.sum()
    df = np.inf
    if 0 < total < np.inf:
        df = total**2 / (variances**2 / np.array([max(sampling.num - 1, 1), determinant.df])).sum()
    rounding = ROUNDING * (abs(offset) + abs(determinant.value) + abs(sampling.value))
    margin = quantile(df) * np.sqrt(total) + abs(determinant.bias) + rounding
    low, high = value - margin, value + margin
    return LogVolume(value, low, high, sampling, determinant, preconditioner.name, preconditioner.shrinkage)


def log_volume(rays: Rays, basin: Basin, preconditioner: Preconditioner) -> LogVolume:
    """Return the log volume that the radii along ``v = P u`` imply.

    Notes
    -----
    Plain: log V_n + log |det P| + log mean r^n. With a reference ellipsoid E, whose volume is
    V_n (2 t)^(n/2) det(A + s)^(-1/2): log V(E) + log (mean r^n / mean r_E^n), the control variate. The latter is taken
    where it is calibrated by its own, stricter, standard; otherwise the plain value, which is low rather than high.
    """
    n = basin.size
    log_weights = n * rays.radii.log_radius
    plain = combine(log_ball(n), log_mean(log_weights), preconditioner.log_det, preconditioner)
    if rays.log_reference is None or preconditioner.reference is None:
        return plain
    log_det = preconditioner.reference.log_det
    half = Trace(-0.5 * log_det.value, 0.5 * log_det.se, log_det.df, -0.5 * log_det.bias)
    ratio = controlled_log_mean(log_weights, n * rays.log_reference)
    offset = log_ball(n) + 0.5 * n * np.log(2 * basin.threshold)
    controlled = combine(offset, ratio, half, preconditioner)
    return controlled if controlled.verdict == CALIBRATED else plain
