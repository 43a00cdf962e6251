r"""Spectral densities from stored quadrature: smoothed curves, the cumulative distribution, counts and moments.

A stored spectrum holds, for each random probe, a discrete measure (nodes and weights that sum to 1) or all eigenvalues.
Everything here is a view of that: no bandwidth was chosen when it was measured. Error bands are bootstrap percentiles
over the probes. Eigenvalues that are zero up to rounding are an atom, reported beside the density and never smeared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.special import ndtr

from landscape.errors import InputError

BINS = 400
RESAMPLES = 200
BAND = (2.5, 97.5)
# Default widths: of the range that holds 98 % of the mass, and of the symlog axis (a fiftieth of its length).
LINEAR_SHARE, SYMLOG_SHARE = 0.01, 0.012
# Nodes below so many units of rounding of the largest |node| are zero.
ZERO_UNITS = 64.0
# A Gaussian keeps all but 1e-15 of its mass within so many widths.
REACH = 8.0


@dataclass(frozen=True)
class Measure:
    """Discrete spectral measures, one for each probe.

    Attributes
    ----------
    value, weight
        ``(P, m)``; each row of weights sums to 1.
    zero
        ``(P,)`` weight of the atom at zero, which is no longer in ``weight``.
    """

    value: np.ndarray
    weight: np.ndarray
    zero: np.ndarray


def measure_of(result: xr.Dataset) -> Measure:
    """Return the spectral measures of a stored spectrum, the zero atom taken out.

    Raises
    ------
    InputError
        If the result holds neither a quadrature nor all eigenvalues.
    """
    if "ritz_value" in result:
        weight = np.nan_to_num(result["ritz_weight"].values)
        value = np.where(weight > 0, np.nan_to_num(result["ritz_value"].values), 0.0)
    elif "eigenvalue" in result and result.sizes["eigen"] == int(result["num_params"]):
        value = result["eigenvalue"].values[None]
        weight = np.full(value.shape, 1.0 / value.shape[1])
    else:
        raise InputError("this result holds no density: measure it with --num-probes above 0, or --engine dense")
    dtype = np.dtype(result.attrs.get("dtype", "float64"))
    atom = np.abs(value) <= ZERO_UNITS * np.finfo(dtype).eps * np.abs(value).max(initial=0.0)
    return Measure(value, np.where(atom, 0.0, weight), np.where(atom, weight, 0.0).sum(1))


def density(result: xr.Dataset, bandwidth: float | None = None, bins: int = BINS, seed: int = 0) -> xr.Dataset:
    r"""Return the density smoothed by a Gaussian, on a linear axis.

    Parameters
    ----------
    bandwidth
        Width of the Gaussian in curvature units; default 1 % of the range that holds 98 % of the mass.

    Returns
    -------
    ``density``, ``density_lo``, ``density_hi`` over ``grid``, in 1 / curvature; attributes ``bandwidth`` and
    ``zero_fraction``.

    Notes
    -----
    The value in a bin is the exact mass :math:`\sum_i w_i [\Phi((b-\theta_i)/h) - \Phi((a-\theta_i)/h)]` over its
    width, so that bins and atom together have mass 1; nothing is divided by its own sum. No structure narrower than the
    bandwidth, or than the spacing of Ritz values, can be read from the curve.
    """
    measured = measure_of(result)
    low, high = _quantiles(measured, (0.01, 0.99))
    width = bandwidth or LINEAR_SHARE * max(high - low, np.finfo(float).tiny)
    edges = _edges(measured, measured.value, width, bins)
    smoothed = _smooth(measured, measured.value, edges, width, seed)
    smoothed["grid"] = ("grid", (edges[1:] + edges[:-1]) / 2)
    return smoothed.assign_attrs(bandwidth=width)


def symlog_density(
    result: xr.Dataset, linear_width: float | None = None, bins: int = BINS, seed: int = 0
) -> xr.Dataset:
    r"""Return the density on the axis :math:`s = \operatorname{asinh}(\lambda / \lambda_0)`, per unit of s.

    The axis is linear for :math:`|\lambda| \ll \lambda_0` and logarithmic beyond, so bulk and outliers are both seen.

    Parameters
    ----------
    linear_width
        :math:`\lambda_0` in curvature units; default: the median of :math:`|\lambda|` outside the zero atom.

    Returns
    -------
    ``density``, ``density_lo``, ``density_hi`` over ``grid`` (the eigenvalues at the centres of the bins) and ``s``
    over ``grid``; attributes ``linear_width``, ``bandwidth`` (in units of s) and ``zero_fraction``.
    """
    measured = measure_of(result)
    scale = linear_width or _median_magnitude(measured)
    position = np.arcsinh(measured.value / scale)
    shown = position[measured.weight > 0]
    span = float(np.ptp(shown)) if shown.size else 1.0
    width = max(SYMLOG_SHARE * span, 1e-3)
    edges = _edges(measured, position, width, bins)
    smoothed = _smooth(measured, position, edges, width, seed)
    centres = (edges[1:] + edges[:-1]) / 2
    smoothed = smoothed.assign_coords(grid=("grid", scale * np.sinh(centres)))
    smoothed["s"] = ("grid", centres)
    return smoothed.assign_attrs(linear_width=scale, bandwidth=width)


def cumulative(result: xr.Dataset, grid: np.ndarray, seed: int = 0) -> xr.Dataset:
    """Return the fraction of eigenvalues at or below each point of ``grid``, with its band; no kernel enters."""
    measured = measure_of(result)
    grid = np.asarray(grid, dtype=float)
    below = np.stack(
        [
            np.where(value[None] <= grid[:, None], weight[None], 0.0).sum(1) + np.where(grid >= 0, zero, 0.0)
            for value, weight, zero in zip(measured.value, measured.weight, measured.zero, strict=True)
        ]
    )
    return _with_band("cumulative", below, seed).assign_coords(grid=("grid", grid))


def counts_above(result: xr.Dataset, threshold: float) -> tuple[float, float]:
    """Return the estimated number of eigenvalues above a threshold, and its standard error over the probes."""
    below = cumulative(result, np.array([threshold]))
    number = int(result["num_params"])
    return number * (1 - float(below["cumulative"][0])), number * float(below["cumulative_se"][0])


def moments(result: xr.Dataset, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the moments tr A^d / n for d = 0..degree and their standard errors over the probes.

    The quadrature of depth m is exact up to degree 2 m - 1 for each probe.
    """
    measured = measure_of(result)
    powers = measured.value[:, None] ** np.arange(degree + 1)[None, :, None]
    each = (powers * measured.weight[:, None]).sum(2)
    each[:, 0] += measured.zero
    return each.mean(0), _standard_error(each)


def _smooth(measured: Measure, position: np.ndarray, edges: np.ndarray, width: float, seed: int) -> xr.Dataset:
    """Return the mass of each bin over its width, for Gaussians of one width at the positions of the nodes."""
    rows = []
    for place, weight in zip(position, measured.weight, strict=True):
        used = weight > 0
        heights = ndtr((edges[:, None] - place[None, used]) / width) @ weight[used]
        rows.append(np.diff(heights) / np.diff(edges))
    return _with_band("density", np.stack(rows), seed).assign_attrs(zero_fraction=float(measured.zero.mean()))


def _with_band(name: str, rows: np.ndarray, seed: int) -> xr.Dataset:
    """Return the mean over probes ``(P, bins)``, its standard error, and the bootstrap band."""
    probes = len(rows)
    draws = np.random.default_rng(np.random.SeedSequence(seed)).integers(probes, size=(RESAMPLES, probes))
    shares = np.stack([np.bincount(draw, minlength=probes) for draw in draws]) / probes
    low, high = np.percentile(shares @ rows, BAND, axis=0)
    mean = rows.mean(0)
    parts = {name: mean, f"{name}_se": _standard_error(rows), f"{name}_lo": low, f"{name}_hi": high}
    return xr.Dataset({key: ("grid", value) for key, value in parts.items()})


def _standard_error(rows: np.ndarray) -> np.ndarray:
    """Return the standard error of the mean over the first axis; zero for one exact row."""
    if len(rows) == 1:
        return np.zeros(rows.shape[1:])
    return np.asarray(rows.std(0, ddof=1) / np.sqrt(len(rows)))


def _edges(measured: Measure, position: np.ndarray, width: float, bins: int) -> np.ndarray:
    """Return bin edges that hold all but 1e-15 of the smoothed mass."""
    shown = position[measured.weight > 0]
    low, high = (shown.min(), shown.max()) if shown.size else (0.0, 0.0)
    return np.linspace(low - REACH * width, high + REACH * width, bins + 1)


def _quantiles(measured: Measure, levels: tuple[float, ...]) -> list[float]:
    """Return quantiles of the measure without its zero atom, averaged over probes."""
    value, weight = measured.value.ravel(), measured.weight.ravel()
    order = np.argsort(value)
    mass = np.cumsum(weight[order])
    if mass[-1] <= 0:
        return [0.0] * len(levels)
    return [float(value[order][np.searchsorted(mass, level * mass[-1])]) for level in levels]


def _median_magnitude(measured: Measure) -> float:
    magnitude = Measure(np.abs(measured.value), measured.weight, measured.zero)
    return _quantiles(magnitude, (0.5,))[0] or 1.0
