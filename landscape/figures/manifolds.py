"""Figures of the conditions of a slow manifold."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from landscape.errors import InputError
from landscape.figures.levels import choose, plot_level
from landscape.figures.page import Panel, panels_of, side_by_side


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
    ax.legend(loc="center right")
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


# ---- over levels ---------------------------------------------------------------------------------------------------

LINES = ("-", "--", ":")
Arms = Mapping[str, xr.Dataset]


def _minima(study: xr.Dataset) -> xr.Dataset:
    """Return imp's raw results at the minima, over (level, replicate)."""
    found = choose(study, method="imp", point="minimum", control="raw")
    if found is None:
        raise InputError("this study holds no dimensions at imp's minima; measure some with --quantities dimension")
    return found


def plot_gap_levels(arms: Arms, ax: Axes) -> Axes:
    """Draw the best gap over 2 l against the radius over the way travelled, a line a level (mean over replicates)."""
    for line, (arm, study) in zip(LINES, arms.items(), strict=False):
        found = _minima(study).sel(rule="gap_2l")
        levels = found["level"].values.tolist()
        for number, level in enumerate(levels):
            one = found.sel(level=level)
            share = (one["rho"] / one["distance"].max("step")).mean("replicate")
            ratio = one["gap_ratio"].mean("replicate")
            shown = np.isfinite(share.values) & np.isfinite(ratio.values) & (ratio.values > 0)
            colour = plt.get_cmap("viridis")(number / max(len(levels) - 1, 1))
            label = f"{arm} {level}".strip()
            ax.plot(share.values[shown], ratio.values[shown], line, color=colour, marker="o", markersize=2, label=label)
    ax.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel(r"radius $\rho$ / way travelled")
    ax.set_ylabel(r"gap / ($2\,\ell(\rho)$), at most")
    ax.legend(fontsize=5, ncols=2)
    return ax


def plot_coverage_levels(arms: Arms, ax: Axes) -> Axes:
    """Draw the radius of each rule over the distance that the training travels; 1 would cover it."""
    for line, (arm, study) in zip(LINES, arms.items(), strict=False):
        found = _minima(study)
        for colour, rule in (("C0", "gap_2l"), ("C1", "cone_gap")):
            share = found["radius_upper"].sel(rule=rule) / found["distance"].max("step")
            plot_level(share, ax, f"{arm} {rule}".strip(), color=colour, linestyle=line)
    ax.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
    ax.set_yscale("log")
    ax.set_ylabel("coverage of the training, at most")
    ax.legend()
    return ax


def plot_cone_levels(arms: Arms, ax: Axes) -> Axes:
    """Draw the best number of fast directions' smaller side of the cone condition, over the largest eigenvalue."""
    for line, (arm, study) in zip(LINES, arms.items(), strict=False):
        for point, colour in (("minimum", "C0"), ("projected", "C1")):
            found = choose(study, method="imp", point=point, control="raw")
            if found is None or "cone_gap" not in found:
                continue
            worst = (
                found["cone_gap"]
                .where(found["cone_gap"] < found["cone_attraction"], found["cone_attraction"])
                .max("fast")
            )
            plot_level(
                worst / found["eigenvalue"].max("eigen"), ax, f"{arm} {point}".strip(), color=colour, linestyle=line
            )
    ax.axhline(0.0, color="0.5", linewidth=0.8, linestyle="--")
    ax.set_ylabel(r"best cone margin / $\lambda_1$, at most")
    ax.legend()
    return ax


def plot_slaving_levels(arms: Arms, ax: Axes) -> Axes:
    """Draw the defect of the best approximate manifold; 1 is a constant guess."""
    for line, (arm, study) in zip(LINES, arms.items(), strict=False):
        found = _minima(study)
        if "aim_defect" in found:
            plot_level(found["aim_defect"].min("iteration"), ax, arm or "defect", color="C0", linestyle=line)
    ax.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
    ax.set_ylabel("slaving defect")
    ax.legend()
    return ax


def dimension_levels_figure(arms: Arms) -> Figure:
    """Return the conditions of a slow manifold over the levels of studies side by side, such as relu and gelu.

    Parameters
    ----------
    arms
        Name -> study (``landscape.open_study``), three at most; one name may be empty.
    """
    panels = (plot_gap_levels, plot_coverage_levels, plot_cone_levels, plot_slaving_levels)
    size = int(max(np.nanmax(study["num_examples"].values) for study in arms.values()))
    return side_by_side([partial(panel, arms) for panel in panels], f"imp over levels, {size:,} examples; sampled")
