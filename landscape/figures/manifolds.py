"""Figures of the conditions of a slow manifold."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from landscape.figures.page import Panel, panels_of


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
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper right")
    return ax


def dimension_figure(result: xr.Dataset) -> Figure:
    """Return the figure of the conditions of a slow manifold: gap ratios, coverage, cone, as far as measured."""
    panels: list[Panel] = [plot_gap_ratio]
    panels += [plot_coverage] if "coverage" in result else []
    panels += [plot_cone_gap] if "cone_gap" in result else []
    return panels_of(
        result,
        panels,
        f"{int(result['num_params']):,} parameters, {int(result['num_examples']):,} examples, "
        f"{result['region'].item()} samples, not certified",
    )
