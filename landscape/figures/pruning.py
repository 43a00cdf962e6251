"""Figures of pruned networks: accuracy against kept weights, and the conditions of IMC pruning over the radius."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.page import Panel, grid_of, log_axes, panels_of, style

MARKERS = "os^Dv<>ph*"
# Percent: networks with fewer weights are named, not drawn; one of a few weights would take most of the axis.
LEAST_KEPT = 0.1
# Inches.
LEGEND_ROW = 0.11
# Shuffles and random masks are the null that the others stand against.
NULL = ("_shuffled",)


def _accuracy(table: xr.Dataset, ax: Axes, over: str, label: str) -> Axes:
    """Draw test error over a fraction of weights, a line a method; nulls are grey, error bars are over replicates."""
    quantity = "test_accuracy" if "test_accuracy" in table else "train_accuracy"
    shown = [m for m in table["method"].values.tolist() if not m.endswith(NULL) and not m.startswith("random")]
    outside: list[str] = []
    for directory in table["directory"].values:
        for method in table["method"].values.tolist():
            rows = table.sel({"directory": directory, "method": method}).sortby(over)
            x, y = 100 * rows[over].values, 100 * (1 - rows[quantity].values)
            known = np.isfinite(x) & np.isfinite(y)
            outside += [method] if (x[known] < LEAST_KEPT).any() else []
            known &= x >= LEAST_KEPT
            if not known.any() or (method == "imp" and known.sum() == 1):
                continue  # nothing to draw, or the dense network alone, which is the dashed line
            error = 100 * rows[f"{quantity}_se"].values if f"{quantity}_se" in rows else np.full(len(y), np.nan)
            number = shown.index(method) if method in shown else -1
            color, marker = (f"C{number % 8}", MARKERS[number % len(MARKERS)]) if number >= 0 else ("0.7", ".")
            ax.errorbar(
                x[known],
                y[known],
                np.nan_to_num(error[known]),
                color=color,
                marker=marker,
                markersize=3,
                linewidth=0.8,
                linestyle="-" if number >= 0 else ":",
                label=None if method.endswith(NULL) else method,
            )
    if {"imp"} <= set(table["method"].values.tolist()) and 0 in table["level"].values:
        dense = 1 - float(table[quantity].sel({"method": "imp", "level": 0}).mean())
        ax.axhline(100 * dense, color="0.5", linewidth=0.8, linestyle="--")
    if outside:
        ax.text(0.02, 0.02, f"below {LEAST_KEPT:g} %: {', '.join(outside)}", fontsize=5, transform=ax.transAxes)
    log_axes(ax)
    ax.set_xlabel(label)
    ax.set_ylabel(f"{quantity.split('_')[0]} error (%)")
    return ax


def plot_accuracy(table: xr.Dataset, ax: Axes) -> Axes:
    """Draw test error (log; up is better) over the weights kept; the dashed line is the dense network."""
    return _accuracy(table, ax, "kept", "weights kept (%)")


def plot_accuracy_effective(table: xr.Dataset, ax: Axes) -> Axes:
    """Draw test error (log; up is better) over the weights that are kept and on a path from input to output."""
    return _accuracy(table, ax, "kept_effective", "weights kept, on a path (%)")


def comparison_figure(table: xr.Dataset) -> Figure:
    """Return the figure of a comparison; layer-wise shuffles and random masks are dotted and grey.

    The legend stands below the panels, in as many rows as the methods need.
    """
    panels: list[Panel] = [plot_accuracy]
    panels += [plot_accuracy_effective] if "kept_effective" in table else []
    most = int(np.nanmax(table["num_replicates"].values))
    with style():
        figure = grid_of(table, panels, height=2.6)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        columns = 4 if len(panels) > 1 else 2
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=5)
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + LEGEND_ROW * -(-len(labels) // columns))
        bars = "s, bars: standard error" if most > 1 else ""
        figure.suptitle(f"pruned networks, at most {most} replicate{bars}", fontsize=8)
    return figure


def plot_spectrum_and_constant(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the gaps between the computed eigenvalues at the top, and 4 l within eps, which IMC asks them to exceed."""
    known = result["eigenvalue"].where(result["eigen"] > 0).dropna("eigen").sortby("eigen")
    gap = -np.diff(known.values)
    ax.plot(known["eigen"].values[:-1], gap, marker="o", markersize=3, label=r"$\lambda_k - \lambda_{k+1}$")
    for shell in range(result.sizes["shell"]):
        value = 4 * float(result["lipschitz"][shell])
        if np.isfinite(value) and value > 0:
            radius = float(result["rho"][shell])
            ax.axhline(value, color=f"C{shell + 1}", linewidth=0.8, linestyle="--", label=rf"$4\ell({radius:.2g})$")
    ax.set_yscale("log")
    ax.set_xlabel("eigenvalue $k$ from the top")
    ax.set_ylabel("curvature")
    ax.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
    return ax


def conditions_figure(result: xr.Dataset) -> Figure:
    """Return the figure of the conditions of one choice of IMC pruning."""
    title = (
        f"{int(result['num_params']):,} parameters, {int(result['num_examples']):,} examples, sampled, reconstructed"
    )
    return panels_of(result, [plot_spectrum_and_constant], title)
