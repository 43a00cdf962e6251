"""Figures of the loss on a line and on a plane."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.page import grid_of

CONTOURS = 12
UNITS = {"random": "norms of the filters", "eigenvectors": "parameter"}


def _unit(result: xr.Dataset) -> str:
    return UNITS.get(result.attrs.get("directions", ""), "parameter")


def plot_line(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the loss on a line; dotted lines are the marked points."""
    ax.plot(result["x"], result["line_loss"], "o-", markersize=2)
    for mark in result["marker_x"].values if "marker_x" in result else [0.0]:
        ax.axvline(mark, color="0.4", linestyle=":", linewidth=0.8)
    ax.set_xlabel(f"position ({_unit(result)})")
    ax.set_ylabel("mean loss (nats)")
    return ax


def plot_surface(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the loss on a plane as contours, evenly spaced in its logarithm, with the marked points numbered."""
    loss = result["surface_loss"].transpose("y", "x")
    height = np.log10(np.maximum(loss, 1e-12))
    steps = np.linspace(float(height.min()), float(height.max()) + 1e-9, CONTOURS)
    drawn = ax.contourf(result["x"], result["y"], height, steps, cmap="cividis")
    for number, (x, y) in enumerate(zip(result["marker_x"].values, result["marker_y"].values, strict=True), 1):
        ax.plot(x, y, "o", color="w", markeredgecolor="k", markersize=4)
        ax.annotate(str(number), (x, y), textcoords="offset points", xytext=(4, 3), color="w", fontsize=7)
    ax.set_xlabel(f"first axis ({_unit(result)})")
    ax.set_ylabel(f"second axis ({_unit(result)})")
    ax.figure.colorbar(drawn, ax=ax).set_label("log10 of the mean loss (nats)")
    return ax


def surface_figure(result: xr.Dataset) -> Figure:
    """Return the figure of a line or a plane."""
    return grid_of(result, [plot_surface if "surface_loss" in result else plot_line], height=2.6)
