"""Figures of a spectrum: density, leading eigenvalues, gaps."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape import density
from landscape.errors import InputError
from landscape.figures.page import Panel, panels_of

CURVATURE_LABEL = {"hessian": "Hessian", "ggn": "Gauss-Newton", "jtj": r"$J^\top J/N$"}
UNIT = r"nat / parameter$^2$"


def _curvature(result: xr.Dataset) -> str:
    return CURVATURE_LABEL.get(result.attrs.get("curvature", ""), "curvature")


def plot_eigenvalues(result: xr.Dataset, ax: Axes, most: int = 40) -> Axes:
    """Draw the leading eigenvalues in falling order (or, where only they were measured, those from the bottom up).

    Bars are standard errors over the data. Hollow markers have not converged; grey ones sit beside a gap too narrow for
    their error bar to hold. The vertical line is the outlier count at the edge of the bulk, where one was found.
    """
    end = "top" if bool((result["eigen"] > 0).any()) else "bottom"
    top = result.isel(eigen=result["eigen"].values > 0) if end == "top" else result.sortby("eigen", ascending=False)
    top = top.isel(eigen=slice(0, most))
    rank, value = np.abs(top["eigen"].values), top["eigenvalue"].values
    error = top["eigenvalue_se"].values if "eigenvalue_se" in top else np.zeros_like(value)
    safe = top["eigenvalue_se_valid"].values if "eigenvalue_se_valid" in top else np.ones(len(rank), bool)
    done = top["converged"].values.astype(bool) if "converged" in top else np.ones(len(rank), bool)
    shown = np.nan_to_num(error)
    for kind, colour, label in ((safe, "C0", r"$\pm$ s.e. over the data"), (~safe, "0.55", "gap below 4 s.e.")):
        if kind.any():
            ax.errorbar(rank[kind], value[kind], shown[kind], fmt="none", ecolor=colour, elinewidth=0.8, label=label)
            ax.scatter(rank[kind & done], value[kind & done], s=9, color=colour, zorder=3)
            open_ = kind & ~done
            ax.scatter(rank[open_], value[open_], s=9, facecolors="white", edgecolors=colour, zorder=3)
    if (value > 0).all() and value.max() > 20 * value.min():
        ax.set_yscale("log")
    count = int(result["outlier_count"]) if "outlier_count" in result else 0
    if 0 < count < len(rank):
        ax.axvline(count + 0.5, color="C1", linewidth=0.8, linestyle="--", label=f"{count} outliers")
    ax.set_xlabel(f"rank from the {end}")
    ax.set_ylabel(f"eigenvalue ({UNIT})")
    if len(rank):
        ax.legend(loc="upper right")
    return ax


def plot_gaps(result: xr.Dataset, ax: Axes, most: int = 40) -> Axes:
    """Draw the relative gaps between successive eigenvalues; a line hangs down by four standard errors of the gap.

    A gap whose line reaches zero (grey) is not told apart from none by this sample of examples.
    """
    top = result.isel(eigen=result["eigen"].values > 0).isel(eigen=slice(0, most))
    known = np.isfinite(top["relative_gap"].values)
    rank, shown = top["eigen"].values[known], top["relative_gap"].values[known]
    scale = shown / np.where(top["gap"].values[known] > 0, top["gap"].values[known], 1.0)
    error = 4 * np.nan_to_num(top["gap_se"].values[known]) * scale if "gap_se" in top else np.zeros_like(shown)
    clear = shown > error
    for kind, color, label in ((clear, "C5", "gap above 4 s.e."), (~clear, "0.8", "gap below 4 s.e.")):
        if kind.any():
            ax.bar(rank[kind], shown[kind], width=0.7, color=color, label=label)
    ax.vlines(rank, np.maximum(shown - error, 0), shown, color="0.25", linewidth=0.7)
    ax.set_ylim(0, 1.35 * shown.max(initial=1e-12))
    ax.set_xlabel("rank $k$ from the top")
    ax.set_ylabel(r"$(\lambda_k-\lambda_{k+1})/\lambda_{k+1}$")
    if len(rank):
        ax.legend(loc="upper right")
    return ax


def plot_density(result: xr.Dataset, ax: Axes, label: str | None = None, color: str = "C0") -> Axes:
    """Draw the density over all eigenvalues on a symlog axis, with its bootstrap band over the probes.

    The height is the mass per unit of the axis. Ticks below mark the eigenvalues that were found one by one; the atom
    at zero is a number in the legend, not a peak.
    """
    curve = density.symlog_density(result)
    s, scale = curve["s"].values, curve.attrs["linear_width"]
    ax.plot(s, curve["density"], color=color, label=label)
    ax.fill_between(s, curve["density_lo"], curve["density_hi"], color=color, alpha=0.25, linewidth=0)
    ax.set_yscale("log")
    tallest = float(curve["density"].max())
    floor = max(0.3 / int(result["num_params"]), 1e-7 * tallest)
    ax.set_ylim(floor, 3 * tallest)
    if "eigenvalue" in result and result.sizes["eigen"] < int(result["num_params"]):
        marks = np.arcsinh(result["eigenvalue"].values / scale)
        ax.plot(marks, np.full(len(marks), floor * 1.3), "|", color="C1", markersize=5, label="eigenvalues")
    symlog_ticks(ax, s, scale)
    if curve.attrs["zero_fraction"] > 0:
        ax.plot([], [], " ", label=f"{curve.attrs['zero_fraction']:.1%} at zero")
    ax.set_xlabel(f"{_curvature(result)} eigenvalue ({UNIT})")
    ax.set_ylabel("density per unit of axis")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="upper right")
    return ax


def symlog_ticks(ax: Axes, s: np.ndarray, scale: float) -> None:
    """Label the asinh axis at powers of ten and at zero, thinned to what fits."""
    low, high = scale * np.sinh(s[0]), scale * np.sinh(s[-1])
    first = int(np.floor(np.log10(scale)))
    positive = [10.0**power for power in range(first, int(np.floor(np.log10(max(high, scale)))) + 1)]
    negative = [-(10.0**power) for power in range(first, int(np.floor(np.log10(max(-low, scale)))) + 1)]
    places = [v for v in [*reversed(negative), 0.0, *positive] if low <= v <= high]
    kept: list[float] = []
    for value in sorted(places, key=lambda v: (v != 0, -abs(v))):
        if all(abs(np.arcsinh(value / scale) - np.arcsinh(other / scale)) > 0.14 * np.ptp(s) for other in kept):
            kept.append(value)
    ax.set_xticks(
        [np.arcsinh(v / scale) for v in sorted(kept)],
        ["0" if v == 0 else f"${'-' if v < 0 else ''}10^{{{round(np.log10(abs(v)))}}}$" for v in sorted(kept)],
    )
    ax.set_xlim(s[0], s[-1])


def spectrum_figure(result: xr.Dataset) -> Figure:
    """Return the figure of a spectrum: density, leading eigenvalues, and gaps, as far as they were measured."""
    panels: list[Panel] = []
    if "ritz_value" in result or result.sizes.get("eigen", 0) == int(result["num_params"]):
        panels.append(plot_density)
    if result.sizes.get("eigen", 0):
        panels.append(plot_eigenvalues)
        if bool(np.isfinite(result["gap"].sel(eigen=result["eigen"] > 0)).any()):
            panels.append(plot_gaps)
    if not panels:
        raise InputError("nothing of the spectrum was measured: ask for eigenvalues or for a density")
    kept = float(result["kept"])
    title = f"{_curvature(result)} of {int(result['num_params']):,} parameters"
    title += f" ({kept:.3g} kept)" if kept < 1 else ""
    return panels_of(
        result, panels, f"{title}, {int(result['num_examples']):,} examples, loss {float(result['loss']):.3g}"
    )
