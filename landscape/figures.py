"""Figures: each a function from a stored Dataset to Axes, so that a figure never needs the network again.

``python -m landscape.figures RESULT.nc --out FILE`` draws the figure that belongs to a result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape import density
from landscape.errors import InputError
from landscape.store import atomic_path

STYLE = str(Path(__file__).with_name("paper.mplstyle"))
CURVATURE_LABEL = {"hessian": "Hessian", "ggn": "Gauss-Newton", "jtj": r"$J^\top J/N$"}
UNIT = r"nat / parameter$^2$"


def _curvature(result: xr.Dataset) -> str:
    return CURVATURE_LABEL.get(result.attrs.get("curvature", ""), "curvature")


def plot_eigenvalues(result: xr.Dataset, ax: Axes, most: int = 40) -> Axes:
    """Draw the leading eigenvalues in falling order, with their standard error over the data.

    Hollow markers have not converged; grey ones sit beside a gap too narrow for their error bar to hold. The vertical
    line is the outlier count at the edge of the bulk, where one was found.
    """
    top = result.isel(eigen=result["eigen"].values > 0)
    top = top.isel(eigen=slice(0, most))
    rank, value = top["eigen"].values, top["eigenvalue"].values
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
    ax.set_xlabel("rank from the top")
    ax.set_ylabel(f"eigenvalue ({UNIT})")
    if len(rank):
        ax.legend(loc="upper right")
    return ax


def plot_gaps(result: xr.Dataset, ax: Axes, most: int = 40) -> Axes:
    """Draw the relative gaps between successive eigenvalues, with bars of four standard errors of the gap.

    A gap whose bar reaches zero is not told apart from none by this sample of examples.
    """
    top = result.isel(eigen=result["eigen"].values > 0).isel(eigen=slice(0, most))
    known = np.isfinite(top["gap"].values)
    rank, gap, value = top["eigen"].values[known], top["gap"].values[known], top["eigenvalue"].values[known]
    scale = np.maximum(value - gap, np.finfo(float).tiny)
    shown = gap / scale
    error = 4 * np.nan_to_num(top["gap_se"].values[known]) / scale if "gap_se" in top else np.zeros_like(gap)
    ax.bar(rank, shown, width=0.7, color="C5", label="gap")
    bars = np.minimum(error, 2 * shown.max(initial=0))
    ax.errorbar(rank, shown, bars, fmt="none", ecolor="0.2", elinewidth=0.6, label="4 s.e.")
    ax.set_ylim(0, 1.3 * shown.max(initial=1e-12))
    ax.set_xlabel("rank $k$ from the top")
    ax.set_ylabel(r"$(\lambda_k-\lambda_{k+1})/\lambda_{k+1}$")
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
    _symlog_ticks(ax, s, scale)
    if curve.attrs["zero_fraction"] > 0:
        ax.plot([], [], " ", label=f"{curve.attrs['zero_fraction']:.1%} at zero")
    ax.set_xlabel(f"{_curvature(result)} eigenvalue ({UNIT})")
    ax.set_ylabel("density per unit of axis")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="upper right")
    return ax


def _symlog_ticks(ax: Axes, s: np.ndarray, scale: float) -> None:
    """Label the asinh axis at powers of ten and at zero, thinned to what fits."""
    low, high = scale * np.sinh(s[0]), scale * np.sinh(s[-1])
    first = int(np.floor(np.log10(scale)))
    positive = [10.0**power for power in range(first, int(np.floor(np.log10(max(high, scale)))) + 1)]
    negative = [-(10.0**power) for power in range(first, int(np.floor(np.log10(max(-low, scale)))) + 1)]
    places = [v for v in [*reversed(negative), 0.0, *positive] if low <= v <= high]
    kept: list[float] = []
    for value in sorted(places, key=lambda v: (v != 0, -abs(v))):
        if all(abs(np.arcsinh(value / scale) - np.arcsinh(other / scale)) > 0.09 * np.ptp(s) for other in kept):
            kept.append(value)
    ax.set_xticks(
        [np.arcsinh(v / scale) for v in sorted(kept)],
        ["0" if v == 0 else f"${'-' if v < 0 else ''}10^{{{round(np.log10(abs(v)))}}}$" for v in sorted(kept)],
    )
    ax.set_xlim(s[0], s[-1])


def spectrum_figure(result: xr.Dataset) -> Figure:
    """Return the figure of a spectrum: density, leading eigenvalues, and gaps, as far as they were measured."""
    panels: list[Callable[[xr.Dataset, Axes], Axes]] = []
    if "ritz_value" in result or result.sizes.get("eigen", 0) == int(result["num_params"]):
        panels.append(plot_density)
    if result.sizes.get("eigen", 0) and bool((result["eigen"] > 0).any()):
        panels.append(plot_eigenvalues)
        if bool(np.isfinite(result["gap"].sel(eigen=result["eigen"] > 0)).any()):
            panels.append(plot_gaps)
    if not panels:
        raise InputError("nothing of the spectrum was measured: ask for eigenvalues or for a density")
    with style():
        figure, axes = plt.subplots(1, len(panels), squeeze=False, figsize=(2.25 * len(panels) + 0.2, 2.4))
        for letter, ax, panel in zip("abc", axes[0], panels, strict=False):
            panel(result, ax)
            ax.set_title(letter, loc="left", fontweight="bold")
        kept = float(result["kept"])
        figure.suptitle(
            f"{_curvature(result)} of {int(result['num_params']):,} parameters"
            + (f" ({kept:.3g} kept)" if kept < 1 else "")
            + f", {int(result['num_examples']):,} examples, loss {float(result['loss']):.3g}",
            fontsize=8,
        )
    return figure


def plot_gap_ratio(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw over the radius how much of what each gap rule asks the best known gap offers; above 1 it is admissible.

    Ticks below mark the distances of the trajectory's states. Sampled Hessians make each curve an upper bound.
    """
    radius = result["rho"].values
    for rule in result["rule"].values:
        ratio = result["gap_ratio_lo"].sel(rule=rule).values
        shown = np.isfinite(ratio) & (ratio > 0)
        if shown.any():
            ax.plot(radius[shown], ratio[shown], marker="o", markersize=3, label=str(rule))
    ax.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
    if "distance" in result:
        distance = result["distance"].values
        ax.plot(distance, np.full(len(distance), 0.03), "|", color="0.3", transform=ax.get_xaxis_transform())
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(r"radius $\rho$")
    ax.set_ylabel(r"gap / ($c\,\ell(\rho)$), at most")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="upper right")
    return ax


def plot_coverage(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw along the training by how much the radius of each rule covers the distance of the state; 1 is the region."""
    for rule in result["rule"].values:
        coverage = result["coverage"].sel(rule=rule).values
        shown = np.isfinite(coverage) & (coverage > 0)
        if shown.any():
            ax.plot(result["step"].values[shown], coverage[shown], marker="o", markersize=3, label=str(rule))
    ax.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
    ax.set_yscale("log")
    ax.set_xlabel("training step")
    ax.set_ylabel(r"coverage $\rho / |W_t - W^*|$, at most")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="upper left")
    return ax


def plot_cone_gap(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the smallest sampled cone gap and rate of attraction over the number of fast directions."""
    for name, label in (("cone", "points"), ("segment", "segments")):
        if f"{name}_gap" in result:
            ax.plot(result["fast"], result[f"{name}_gap"], marker="o", markersize=3, label=f"cone gap, {label}")
            ax.plot(result["fast"], result[f"{name}_attraction"], linestyle=":", label=f"attraction, {label}")
    ax.axhline(0.0, color="0.5", linewidth=0.8, linestyle="--")
    ax.set_xlabel("fast directions $n - N$")
    ax.set_ylabel("smallest sampled value")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="upper right")
    return ax


def dimension_figure(result: xr.Dataset) -> Figure:
    """Return the figure of the conditions of a slow manifold: gap ratios, coverage, cone, as far as measured."""
    panels: list[Callable[[xr.Dataset, Axes], Axes]] = [plot_gap_ratio]
    panels += [plot_coverage] if "coverage" in result else []
    panels += [plot_cone_gap] if "cone_gap" in result else []
    with style():
        figure, axes = plt.subplots(1, len(panels), squeeze=False, figsize=(2.25 * len(panels) + 0.2, 2.4))
        for letter, ax, panel in zip("abc", axes[0], panels, strict=False):
            panel(result, ax)
            ax.set_title(letter, loc="left", fontweight="bold")
        figure.suptitle(
            f"{int(result['num_params']):,} parameters, {int(result['num_examples']):,} examples, "
            f"{result['region'].item()} samples, not certified",
            fontsize=8,
        )
    return figure


def style() -> contextlib.AbstractContextManager[None]:
    """Return the context in which figures have the project's style."""
    return plt.style.context(STYLE)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure (PNG, PDF or SVG by its suffix), complete or not at all, and close it."""
    target = Path(path)
    try:
        with atomic_path(target) as temporary:
            figure.savefig(temporary, metadata={"Date": None} if target.suffix == ".svg" else None)
    except ValueError as error:
        raise InputError(f"cannot write {target}: {error}") from error
    finally:
        plt.close(figure)
    return target
