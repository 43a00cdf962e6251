"""Figures of how much pre-training a selected subnetwork needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from landscape.errors import InputError
from landscape.figures.page import Panel, panels_of
from landscape.pretraining import bounds, laws, targets, thresholds

ARM_LABEL = {"data": "data", "teacher": "teacher", "random_labels": "random labels"}


def _arms(result: xr.Dataset) -> list[str]:
    return list(dict.fromkeys(result["arm"].values.tolist()))


def _of_arm(result: xr.Dataset, arm: str) -> xr.Dataset:
    """Return the cells of an arm at the width of which there are most."""
    cells = result.isel(cell=np.flatnonzero(result["arm"].values == arm))
    widths, counts = np.unique(cells["num_neurons"].values, return_counts=True)
    return cells.isel(cell=np.flatnonzero(cells["num_neurons"].values == widths[np.argmax(counts)]))


def _largest(result: xr.Dataset) -> xr.Dataset:
    """Return the cells of the first arm with the most examples."""
    cells = _of_arm(result, _arms(result)[0])
    return cells.isel(cell=np.flatnonzero(cells["num_examples"].values == cells["num_examples"].values.max()))


def plot_selected_loss(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the loss over the number of picks at the last checkpoint, beside random neurons and the upper bounds.

    Of the first arm at the largest m, the mean over replicates.
    """
    cells = _largest(result).isel(step=-1)
    size = cells["size"].values
    curves: list[tuple[str, xr.DataArray, dict[str, Any]]] = [
        ("greedy", cells["loss"], {"color": "C0", "marker": "o"}),
        ("random, as many distinct", cells["random_loss_distinct"], {"color": "0.45", "marker": "s"}),
    ]
    if result.attrs["greedy_bounds"]:
        named = zip(("B2, B3", "B1 (printed)"), _bounds(cells), ("--", ":"), strict=False)
        curves += [(label, values, {"color": "C6", "linestyle": line}) for label, values, line in named]
    for label, values, how in curves:
        ax.plot(size, values.mean("cell").values, label=label, markersize=2.5, **how)
    ax.axhline(float(cells["dense_loss"].mean()), color="C1", linewidth=0.8, label="dense")
    ax.set_yscale("log")
    ax.set_ylim(top=30 * ax.get_ylim()[1])
    _picks_axis(ax, size)
    ax.set_ylabel("training loss (nats)")
    ax.legend(loc="upper right", fontsize=6)
    return ax


def _picks_axis(ax: Axes, size: np.ndarray) -> None:
    ax.set_xscale("log")
    ax.set_xticks(size, [str(int(k)) for k in size])
    ax.minorticks_off()
    ax.set_xlabel("picks $k$")


def plot_rivals(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the loss of other choices of k neurons over that of the greedy one, at the last checkpoint.

    Of the first arm at the largest m, the mean over replicates; below the line a rival is better.
    """
    cells = _largest(result).isel(step=-1)
    size = cells["size"].values
    for number, name in enumerate(cells["rival"].values):
        ratio = (cells["rival_loss"].sel(rival=name) / cells["loss"]).mean("cell").values
        ax.plot(size, ratio, color=f"C{number % 7}", label=str(name).replace("_", " "))
    ax.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
    ax.set_yscale("log")
    ax.set_ylim(0.7 * ax.get_ylim()[0], 30 * ax.get_ylim()[1])
    _picks_axis(ax, size)
    ax.set_ylabel("loss / loss of greedy")
    ax.legend(loc="upper right", fontsize=6, ncol=2, columnspacing=0.8, handlelength=1.2)
    return ax


def _bounds(cells: xr.Dataset) -> list[xr.DataArray]:
    """Return the lower of B2 and B3, and the printed bound where the diameter is known."""
    found = [thresholds.sufficient_loss(cells)]
    if "diameter" in cells:
        square = cells["diameter"] ** 2
        found.append(
            xr.apply_ufunc(bounds.bound_printed, cells["first_loss"], cells["dense_loss"], square, cells["size"])
        )
    return found


def plot_slack(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw loss over upper bound (B3 for mse, B2 otherwise) along pre-training and picks; 1 means that it is reached.

    Of the first arm at the largest m, the mean over replicates; the contour is where half the bound is used.
    """
    cells = _largest(result)
    ratio = (cells["loss"] / thresholds.sufficient_loss(cells)).mean("cell").transpose("size", "step")
    step = np.arange(result.sizes["step"])
    drawn = ax.pcolormesh(step, np.log2(result["size"].values), ratio.values, cmap="cividis", vmin=0, vmax=1)
    if ratio.min() < 0.5 < ratio.max():
        ax.contour(step, np.log2(result["size"].values), ratio.values, levels=[0.5], colors="white", linewidths=0.8)
    ax.figure.colorbar(drawn, ax=ax, label="loss / upper bound")
    shown = np.flip(step)[::6]
    ax.set_xticks(shown, [str(int(result["step"].values[i])) for i in shown])
    ax.set_yticks(np.log2(result["size"].values), [str(int(k)) for k in result["size"].values])
    ax.set_xlabel("training step $t$")
    ax.set_ylabel("picks $k$")
    return ax


def plot_size_slopes(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the slope of the threshold against log k over that predicted from the dense curve; the line is equality.

    One marker a cell, at the target C/k, with its 95 % interval; no constant is fitted.
    """
    ends = []
    for number, arm in enumerate(_arms(result)):
        found = targets.size_slopes(_of_arm(result, arm))
        found = found.isel(cell=np.flatnonzero(np.isfinite(found["slope"].values)))
        if not found.sizes["cell"]:
            continue
        x, y = found["predicted"].values, found["slope"].values
        error = [np.clip(y - found["slope_lo"].values, 0, 10 * y), np.clip(found["slope_hi"].values - y, 0, 10 * y)]
        ax.errorbar(x, y, error, fmt="o", color=f"C{number}", markersize=2.5, elinewidth=0.5, label=ARM_LABEL[arm])
        ends += [*x, *y]
    if ends:
        limits = [0.7 * min(ends), 1.4 * max(ends)]
        ax.plot(limits, limits, color="0.5", linewidth=0.8, linestyle="--")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.legend(loc="upper left")
    ax.set_xlabel(r"predicted $1/(-\log\rho)$ (steps)")
    ax.set_ylabel(r"slope of $t_{emp}$ in $\log k$ (steps)")
    return ax


def plot_examples_law(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the threshold of the largest selection over the number of examples, as intervals, with fitted laws.

    The target of an arm is the loss that all its cells cross. The legend gives the exponent of m with its 95 %
    interval; lines are the power (solid) and the logarithm (dashed).
    """
    for number, arm in enumerate(_arms(result)):
        cells = _of_arm(result, arm)
        size = int(cells["size"].values[-1])
        target = targets.common_loss(cells, size)
        if target is None:
            continue
        found = thresholds.thresholds(cells.sel(size=[size]), target).isel(size=0)
        data = thresholds.intervals(found, "emp", found["num_examples"], found["replicate"])
        closed = np.isfinite(data.hi)
        shift = 1.03 ** (data.replicate - data.replicate.mean() + 5 * (number - (len(_arms(result)) - 1) / 2))
        ax.vlines(
            (data.x * shift)[closed], np.maximum(data.lo, 0.7)[closed], data.hi[closed], color=f"C{number}", lw=1.2
        )
        ax.scatter((data.x * shift)[~closed], data.lo[~closed], marker="^", s=8, color=f"C{number}")
        label = ARM_LABEL[arm]
        if len(np.unique(data.x)) > 2 and data.informative:
            slope = laws.exponent(data)
            label += f", $p$ = {slope.value:.2f} ({slope.lo:.2f}, {slope.hi:.2f})"
            x = np.geomspace(data.x.min(), data.x.max(), 50)
            for name, line in (("power", "-"), ("logarithm", "--")):
                t = laws.curve(laws.fit(name, data), data, x)
                ax.plot(x, t, color=f"C{number}", linestyle=line, linewidth=0.8, label=label if line == "-" else None)
    sizes = np.unique(result["num_examples"].values)
    ax.set_xscale("log")
    ax.set_xticks(sizes, [f"{m / 1000:g}k" for m in sizes])
    ax.minorticks_off()
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter(ScalarFormatter())
    ax.set_ylim(top=6 * ax.get_ylim()[1])
    ax.set_xlabel("training examples $m$")
    ax.set_ylabel(r"threshold $t_{emp}$ (steps)")
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="upper left", fontsize=5.5)
    return ax


def gfs_figure(result: xr.Dataset) -> Figure:
    """Return the figure of a study of selections: losses and bounds, and its laws as far as it has several cells."""
    panels: list[Panel] = [plot_selected_loss]
    panels += [plot_rivals] if "rival_loss" in result else []
    if result.sizes["step"] > 1 and result.sizes["size"] > 1 and result.attrs["greedy_bounds"]:
        panels.append(plot_slack)
        if result.sizes["size"] >= targets.LEAST_PLACES:
            panels.append(plot_size_slopes)
    if result.sizes["step"] > 1 and len(np.unique(result["num_examples"].values)) > 1:
        panels.append(plot_examples_law)
    if not result.sizes["cell"]:
        raise InputError("the result holds no cell")
    widths = ", ".join(str(n) for n in np.unique(result["num_neurons"].values))
    m = np.unique(result["num_examples"].values)
    examples = f"{m[0]:,}" if len(m) == 1 else f"{m[0]:,} to {m[-1]:,}"
    return panels_of(result, panels, f"{result.sizes['cell']} pre-trainings of {widths} neurons on {examples} examples")
