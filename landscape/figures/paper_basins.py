"""Figures of basins over pruning levels: F3 calibrated volumes and test error, F4 the conditions of a slow manifold."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.imp_levels import last_epoch
from landscape.figures.levels import plot_level
from landscape.figures.manifolds import plot_gap_levels
from landscape.figures.page import side_by_side, style
from landscape.figures.paper import LINES, MARKERS, Arms, Parts, absent, level_axis, need, pick, title
from landscape.figures.volumes import LOWER_BOUND, plot_prunable_levels, plot_tolerance_levels

KL = "ggn"  # the curvature of a neighbourhood is its label in a study
RULE = "gap_2l"


def basins_figure(arms: Arms) -> Figure:
    """Return F3: volumes in units that compare across levels, and test error beside them across methods at one level.

    One row an arm: noise that a weight tolerates over the rms of the weights (hollow: a lower bound; grey: levels at
    which the examples bound the rank of the curvature), the prunable fraction that the spectrum predicts, and test
    error against the noise tolerance over methods at the highest level that most methods have.

    Raises
    ------
    MissingResultsError
        If no arm has calibrated volumes and training curves.
    """
    drawn = need("F3", arms, [("volume", "relative_noise_tolerance"), ("curves", "test_accuracy")])
    with style():
        figure, axes = plt.subplots(len(drawn), 3, squeeze=False, figsize=(7.0, 2.2 * len(drawn) + 0.2))
        for row, (name, parts) in zip(axes, drawn.items(), strict=True):
            plot_tolerance_levels(parts["volume"], row[0])
            if "prunable_fraction" in parts["volume"]:
                plot_prunable_levels(parts["volume"], row[1])
            else:
                absent(row[1], "prunable fractions")
            _plot_error_against_tolerance(parts, row[2])
            row[0].set_title(name, loc="left")
        figure.suptitle(title("Basin volume over the levels", drawn, arms, "volume"), fontsize=8)
    return figure


def _tolerance(parts: Parts, method: str) -> tuple[xr.DataArray, xr.DataArray] | None:
    """Return the noise tolerance at a method's minima, and whether it is calibrated, ``(level, replicate)``."""
    labels = {"method": method, "point": "minimum", "control": "raw", "curvature": KL, "sampler": "preconditioned"}
    value = pick(parts["volume"], "relative_noise_tolerance", **labels)
    verdict = pick(parts["volume"], "log_volume_verdict", **labels)
    if value is None or verdict is None:
        return None
    return value, verdict.reindex_like(value) != LOWER_BOUND


def _plot_error_against_tolerance(parts: Parts, ax: Axes) -> None:
    """Draw test error against noise tolerance, a point a replicate, a colour a method, at one level above 0."""
    found = {method: _tolerance(parts, method) for method in parts["volume"]["method"].values.tolist()}
    known = {method: values for method, values in found.items() if values is not None}
    count = {
        level: sum(level in value["level"].values for value, _ in known.values())
        for level in parts["volume"]["level"].values.tolist()
        if level > 0
    }
    best = max(count, key=lambda level: (count[level], level), default=None)
    if best is None or count[best] < 2:
        absent(ax, "volumes of two methods\nat one level")
        return
    for number, (method, (value, sure)) in enumerate(known.items()):
        accuracy = last_epoch(parts["curves"], "test_accuracy", method)
        if accuracy is None or best not in value["level"].values or best not in accuracy["level"].values:
            continue
        value, error, sure = xr.align(value.sel(level=best), 1 - accuracy.sel(level=best), sure.sel(level=best))
        face = np.where(sure.values.astype(bool), f"C{number % 7}", "white")
        ax.scatter(
            value,
            100 * error,
            s=14,
            c=face,
            edgecolors=f"C{number % 7}",
            marker=MARKERS[number % len(MARKERS)],
            label=method.replace("_", " "),
        )
    ax.set_xlabel("noise tolerance / rms weight")
    ax.set_ylabel(f"test error at level {best} (%)")
    ax.legend(fontsize=6)


def manifold_figure(arms: Arms) -> Figure:
    """Return F4: the gap that a slow manifold needs against what the Hessian's change allows, for every arm.

    Left: best gap over 2 l(rho) against the radius, in units of the way that the training travelled (1: all of it);
    above 1 the condition is met. Then, over the levels, the number of fast directions at the smallest radius (hatched:
    levels at which no arm has an answer) and the first step from which the training stays inside the radius.

    Raises
    ------
    MissingResultsError
        If no arm has dimensions.
    """
    drawn = need("F4", arms, [("dimension", "gap_ratio"), ("dimension", "distance")])
    results = {name: parts["dimension"] for name, parts in drawn.items()}

    def over_levels(name: str, label: str) -> Callable[[Axes], Axes]:
        return lambda ax: _plot_answer(results, ax, name, label)

    panels = [
        lambda ax: plot_gap_levels(results, ax),
        over_levels("num_fast", "fast directions $n - N$"),
        over_levels("entry_step", "entry step"),
    ]
    return side_by_side(panels, title("Conditions of a slow manifold, sampled", drawn, arms, "dimension"))


def _plot_answer(results: dict[str, xr.Dataset], ax: Axes, name: str, label: str) -> Axes:
    """Draw the answer of a rule over the levels, and hatch the levels at which no arm has one."""
    answered: set[int] = set()
    levels = np.unique(np.concatenate([study["level"].values for study in results.values()]))
    for line, marker, (arm, study) in zip(LINES, MARKERS, results.items(), strict=False):
        values = pick(study, name, method="imp", point="minimum", control="raw", rule=RULE)
        if values is None:
            continue
        values = values.isel(shell=0) if "shell" in values.dims else values
        values = values.dropna("level", how="all")
        if values.size:
            plot_level(values, ax, arm or RULE, linestyle=line, marker=marker, color="C0" if line == "-" else "C1")
            answered |= set(values["level"].values.tolist())
    empty = [level for level in levels.tolist() if level not in answered]
    for level in empty:
        said = "no answer" if level == empty[0] else None
        ax.axvspan(level - 0.4, level + 0.4, facecolor="none", edgecolor="0.7", hatch="////", linewidth=0, label=said)
    level_axis(ax, levels)
    ax.set_ylabel(label)
    if not answered:
        ax.set_yticks([])
    ax.legend()
    return ax
