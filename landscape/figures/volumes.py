"""Figures of basin volumes and of their calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.errors import InputError
from landscape.figures.levels import choose, plot_level, shade_limited
from landscape.figures.page import Panel, panels_of

LOWER_BOUND = "lower bound"


def plot_log_volume(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the log volume by sampler with its 95 % interval; an arrow marks a lower bound."""
    value = result["log_volume"].values
    low = np.where(np.isfinite(result["log_volume_lo"]), result["log_volume_lo"], value)
    bound = result["log_volume_verdict"].values == LOWER_BOUND
    high = np.where(bound, value, result["log_volume_hi"])
    places = np.arange(len(value))
    finite = np.isfinite(value)
    ax.errorbar(places[finite], value[finite], [(value - low)[finite], (high - value)[finite]], fmt="o", capsize=2)
    open_ = bound & finite
    ax.scatter(places[open_], value[open_], marker="^", s=40, color="C3", zorder=3, label="lower bound")
    if "ellipsoid_log_volume" in result:
        ax.axhline(float(result["ellipsoid_log_volume"]), color="0.4", linestyle="--", label="ellipsoid")
    ax.set_xticks(places, [str(name) for name in result["sampler"].values], rotation=20)
    ax.set_xlim(-0.5, len(value) - 0.5)
    ax.set_ylabel("log volume (nats)")
    if ax.get_legend_handles_labels()[1]:
        ax.legend()
    return ax


def plot_pilots(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the pilot estimates over the shrinkage of the preconditioner."""
    kinds = result["pilot_preconditioner"].values
    for kind in dict.fromkeys(kinds.tolist()):
        chosen = kinds == kind
        order = np.argsort(result["pilot_shrinkage"].values[chosen])
        shrinkage = result["pilot_shrinkage"].values[chosen][order]
        ax.plot(shrinkage, result["pilot_log_volume"].values[chosen][order], "o-", markersize=3, label=kind)
    ax.set_xscale("symlog", linthresh=max(float(result["pilot_shrinkage"].max()) * 1e-8, 1e-300))
    ax.set_xlabel(r"shrinkage (nat / parameter$^2$)")
    ax.set_ylabel("pilot log volume (nats)")
    ax.legend()
    return ax


def _width_axis(ax: Axes, sd: np.ndarray) -> None:
    """Label the widths of the priors, and nothing between them."""
    ax.set_xscale("log")
    ax.set_xticks(sd, [f"{width:.2g}" for width in sd])
    ax.minorticks_off()
    ax.set_xlabel("prior standard deviation")


def plot_log_probability(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw nats per weight of the basin under the Gaussian prior, over the prior's width."""
    bound = result["log_probability_verdict"].values == LOWER_BOUND
    sd, cost = result["prior_sd"].values, result["nats_per_weight"].values
    ax.plot(sd, cost, color="0.6", zorder=1)
    for chosen, marker, label in ((~bound, "o", "calibrated"), (bound, "v", "upper bound")):
        if chosen.any():
            ax.scatter(sd[chosen], cost[chosen], marker=marker, s=24, zorder=2, label=label)
    _width_axis(ax, sd)
    ax.set_ylabel("nats per weight")
    ax.legend()
    return ax


def plot_sections(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the published stiffness -1/2 sum log lambda over the size of the section."""
    ax.errorbar(result["section_size"], result["section_stiffness"], result["section_error"], fmt="o-", markersize=3)
    ax.set_xlabel("size $k$ of the section")
    ax.set_ylabel(r"$-\frac{1}{2}\sum_{i\leq k}\log\lambda_i$ (nats)")
    return ax


def plot_pruning(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the loss increase over the pruned fraction, as tried out, and the predicted largest fractions."""
    for number, order in enumerate(result["order"].values):
        row = result.sel(order=order)
        ax.plot(row["fraction"], row["tried_increase"], "o-", color=f"C{number}", markersize=3, label=str(order))
        ax.axvline(float(row["prunable_fraction"]), color=f"C{number}", linestyle="--", linewidth=0.8)
    ax.axhline(result.attrs["cutoff"], color="0.4", linewidth=0.8)
    ax.set_yscale("symlog", linthresh=1e-3)
    ax.set_xlabel("pruned fraction")
    ax.set_ylabel("loss increase (nats)")
    ax.legend()
    return ax


def plot_occam(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the Occam factor over the width of the prior."""
    ax.errorbar(result["prior_sd"], result["occam_factor"], 1.96 * result["occam_factor_se"], fmt="o-", markersize=3)
    _width_axis(ax, result["prior_sd"].values)
    ax.set_ylabel("Occam factor (nats)")
    return ax


def plot_sharpness(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw average and worst adaptive sharpness over the relative size of the perturbation."""
    size = result["relative_size"]
    ax.errorbar(size, result["average_sharpness"], 1.96 * result["average_sharpness_se"], fmt="o-", label="average")
    if "worst_sharpness" in result:
        ax.plot(size, result["worst_sharpness"], "s-", label="worst found")
    ax.set_xscale("log")
    ax.set_yscale("symlog", linthresh=1e-6)
    ax.set_xlabel("relative size")
    ax.set_ylabel("loss increase (nats)")
    ax.legend()
    return ax


def plot_flatness(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the relative flatness of each weight."""
    places = np.arange(result.sizes["weight"])
    ax.bar(places, result["relative_flatness"], yerr=1.96 * result["relative_flatness_se"])
    ax.set_xticks(places, [str(name) for name in result["weight"].values], rotation=60)
    ax.set_ylabel("relative flatness (nats)")
    return ax


def plot_learning(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the learning coefficient beside that of the quadratic model."""
    value, error = float(result["learning_coefficient"]), 1.96 * float(result["learning_coefficient_se"])
    ax.bar([0, 1], [value, float(result["quadratic_coefficient"])], yerr=[error, 0.0])
    ax.set_xticks([0, 1], ["sampled", "quadratic"])
    ax.set_ylabel("learning coefficient")
    return ax


MOST_PANELS = 6
# In the order of their importance, as the first few are drawn.
PANELS: dict[str, Panel] = {
    "log_volume": plot_log_volume,
    "pilot_log_volume": plot_pilots,
    "log_probability": plot_log_probability,
    "section_stiffness": plot_sections,
    "tried_increase": plot_pruning,
    "occam_factor": plot_occam,
    "average_sharpness": plot_sharpness,
    "learning_coefficient": plot_learning,
    "relative_flatness": plot_flatness,
}


def volume_figure(result: xr.Dataset) -> Figure:
    """Return the figure of a volume result: a panel for each estimator that it holds, six at most."""
    panels = [panel for name, panel in PANELS.items() if name in result][:MOST_PANELS]
    if not panels:
        raise InputError("the result holds no estimator that has a figure")
    title = (
        f"{int(result['num_params']):,} parameters, {result.attrs['neighbourhood']} <= {result.attrs['cutoff']:g}, "
        f"loss {float(result['loss']):.4g}"
    )
    return panels_of(result, panels, title)


def estimator_styles(result: xr.Dataset) -> dict[str, dict[str, Any]]:
    """Return colour and marker of each estimator: seven colours, then the same with another marker."""
    names = np.unique(result["estimator"].values).tolist()
    return {name: {"color": f"C{i % 7}", "marker": "oD"[i // 7 % 2]} for i, name in enumerate(names)}


def plot_error(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the 95 % error a weight over the dimension; filled where the estimates call themselves calibrated."""
    for number, (name, style) in enumerate(estimator_styles(result).items()):
        rows = result.isel(case=result["estimator"].values == name)
        size = rows["dimension_of_body"].values * 1.06 ** (number - 4)
        error = np.maximum(rows["error_per_weight"].values, 1e-8)
        sure = rows["calibrated_share"].values >= 0.5
        ax.scatter(size[sure], error[sure], s=12, **style)
        ax.scatter(
            size[~sure], error[~sure], s=12, marker=style["marker"], facecolors="none", edgecolors=style["color"]
        )
        ax.scatter([], [], s=12, **style, label=name)
    ax.axhline(0.005, color="0.4", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("parameters")
    ax.set_ylabel("95 % error (nats / weight)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 0.06), ncols=2, fontsize=6, columnspacing=0.5, handletextpad=0.0)
    return ax


def plot_coverage(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the coverage of the intervals of the calibrated cases that have an error; the band is 90 to 99 %."""
    rows = result.isel(case=(result["calibrated_share"].values >= 0.5) & np.isfinite(result["width_ratio"].values))
    ax.axhspan(0.90, 0.99, color="0.9")
    for name, style in estimator_styles(result).items():
        chosen = rows.isel(case=rows["estimator"].values == name)
        ax.scatter(chosen["dimension_of_body"], chosen["coverage"], s=12, **style)
    ax.set_xscale("log")
    ax.set_ylim(min(0.5, float(np.min(rows["coverage"].values, initial=1.0)) - 0.02), 1.02)
    ax.set_xlabel("parameters")
    ax.set_ylabel("coverage of 95 % intervals")
    return ax


def plot_passes(result: xr.Dataset, ax: Axes) -> Axes:
    """Draw the forward passes a direction beside those of bisection."""
    rows = result.isel(case=np.isfinite(result["passes"].values))
    ax.scatter(rows["dimension_of_body"], rows["passes"], s=12, label="secant")
    ax.scatter(rows["dimension_of_body"], rows["bisection_passes"], s=12, marker="x", label="bisection")
    ax.axhline(8, color="0.4", linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xlabel("parameters")
    ax.set_ylabel("forward passes a direction")
    ax.legend()
    return ax


def calibration_figure(result: xr.Dataset) -> Figure:
    """Return the figure of a calibration: errors, coverage and cost over the dimension."""
    return panels_of(result, [plot_error, plot_coverage, plot_passes], "bodies of known volume")


# ---- over levels ---------------------------------------------------------------------------------------------------

KL = "ggn"  # the curvature of a neighbourhood is its label in a study
POINT_STYLES: dict[str, dict[str, Any]] = {
    "minimum": {"color": "C0", "marker": "o"},
    "projected": {"color": "C1", "marker": "s"},
}


def _points(study: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """Return imp's raw results by point, over (level, replicate)."""
    found = []
    for point in POINT_STYLES:
        one = choose(study, method="imp", point=point, control="raw", curvature=KL)
        if one is not None:
            found.append((point, one))
    return found


def plot_tolerance_levels(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw the noise per weight of a ball of the basin's volume over the rms of the weights; hollow: lower bound."""
    for point, one in _points(study):
        for sampler, line in (("preconditioned", "-"), ("identity", ":")):
            if sampler in one["sampler"].values:
                chosen = one.sel(sampler=sampler)
                sure = chosen["log_volume_verdict"] != LOWER_BOUND
                style = {**POINT_STYLES[point], "linestyle": line}
                name = point if sampler == "preconditioned" else f"{point}, plain"
                plot_level(chosen["relative_noise_tolerance"], ax, name, sure, **style)
        shade_limited(one, ax)
    ax.set_yscale("log")
    ax.set_ylabel("noise tolerance / rms weight")
    ax.legend()
    return ax


def plot_occam_levels(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw the Occam factor under a prior as wide as the weights."""
    for point, one in _points(study):
        plot_level(one["occam_factor"].sel(prior_factor=1.0, method="nearest"), ax, point, **POINT_STYLES[point])
        shade_limited(one, ax)
    ax.set_ylabel("Occam factor (nats)")
    ax.legend()
    return ax


def plot_prunable_levels(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw the prunable fraction that the spectrum predicts at the minima, by order of pruning."""
    for point, one in _points(study)[:1]:
        for order, colour in (("magnitude", "C0"), ("random", "C2")):
            plot_level(one["prunable_fraction"].sel(order=order), ax, f"{order} at {point}", color=colour)
        shade_limited(one, ax)
    ax.set_ylabel("predicted prunable fraction")
    ax.legend()
    return ax


def plot_section_levels(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw how much larger the section at the minimum is than at the projected point, by size; above 0 as published."""
    points = dict(_points(study))
    if set(points) == set(POINT_STYLES):
        step = points["minimum"]["section_stiffness"] - points["projected"]["section_stiffness"]
        for number, size in enumerate(step["section_size"].values.tolist()):
            plot_level(step.sel(section_size=size) / size, ax, f"k = {size}", color=f"C{number}")
    ax.axhline(0.0, color="0.5", linewidth=0.8, linestyle="--")
    ax.set_ylabel(r"$(Q_k(\mathrm{min}) - Q_k(\mathrm{proj})) / k$ (nats)")
    ax.legend()
    return ax


def volume_levels_figure(study: xr.Dataset) -> Figure:
    """Return the volumes of a study over its levels, in units that compare across dimensions; bars are replicates.

    Grey levels have too few examples for a comparison across levels.
    """
    panels = {
        "log_volume": plot_tolerance_levels,
        "occam_factor": plot_occam_levels,
        "prunable_fraction": plot_prunable_levels,
        "section_stiffness": plot_section_levels,
    }
    chosen: list[Panel] = [panel for name, panel in panels.items() if name in study]
    if not chosen or "level" not in study.dims:
        raise InputError("this study holds no volumes over levels; measure some with --quantities volume")
    size = int(np.nanmax(study["num_examples"].values))
    return panels_of(
        study, chosen, f"imp over levels, {size:,} examples; hollow: lower bounds, grey: sample-limited across levels"
    )
