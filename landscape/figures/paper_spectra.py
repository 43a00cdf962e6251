"""Figures of spectra over pruning levels: F1 the eigenvalues and gaps, F2 what changes them between levels."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.levels import plot_level
from landscape.figures.page import style
from landscape.figures.paper import MARKERS, Arms, absent, level_axis, need, pick, title
from landscape.figures.spectra import UNIT
from landscape.imp_evidence import eigenvalues, log_ratio, spectral_pair

POINTS = {"restricted": "C2", "projected": "C1", "minimum": "C0"}
NULL = "random_mask_layerwise"


def spectra_figure(arms: Arms, num_classes: int = 10) -> Figure:
    """Return F1: leading eigenvalues and relative gaps over the levels at three points.

    One row an arm. Gaps are (lambda_k - lambda_{k+1}) / lambda_{k+1} at k = C - 1, C and the outlier count; dotted:
    four standard errors of the gap over the examples, above which it is told apart from none; error bars are those of
    the replicates. Grey: the minimum under random masks of equal layer counts.

    Raises
    ------
    MissingResultsError
        If no arm has eigenvalues.
    """
    drawn = need("F1", arms, [("spectrum", "eigenvalue"), ("spectrum", "relative_gap")])
    with style():
        figure, axes = plt.subplots(len(drawn), 4, squeeze=False, figsize=(7.0, 2.0 * len(drawn) + 0.4))
        for row, (name, parts) in zip(axes, drawn.items(), strict=True):
            _top_values(parts["spectrum"], row[0])
            row[0].set_title(name, loc="left")
            for ax, cut in zip(row[1:], (num_classes - 1, num_classes, 0), strict=True):
                _gaps_over_levels(parts["spectrum"], ax, cut)
            row[1].set_ylabel(r"$(\lambda_k-\lambda_{k+1})/\lambda_{k+1}$")
        _legend_below(figure, axes[0][1])
        what = "Leading eigenvalues and gaps of the Hessian"
        figure.suptitle(title(what, drawn, arms, "spectrum", _lacking(drawn)), fontsize=8)
    return figure


def _lacking(arms: Arms) -> list[str]:
    """Return the points, and the null, that some arm does not have."""
    wanted = {**{point: ("imp", point) for point in POINTS}, "random masks": (NULL, "minimum")}
    return [
        f"{label}{f' of {name}' if name else ''}"
        for name, parts in arms.items()
        for label, (method, point) in wanted.items()
        if eigenvalues(parts["spectrum"], method, point, "raw") is None
    ]


def _legend_below(figure: Figure, ax: Axes) -> None:
    """Put the legend of one panel below the figure."""
    handles, labels = ax.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _top_values(study: xr.Dataset, ax: Axes) -> None:
    """Draw the positive leading eigenvalues at the minimum, one line a level, mean over the replicates."""
    values = pick(study, "eigenvalue", method="imp", point="minimum", control="raw", curvature="hessian")
    assert values is not None
    values = values.isel(eigen=values["eigen"].values > 0)
    values = values.mean("replicate") if "replicate" in values.dims else values
    colours = plt.get_cmap("viridis")
    levels = values["level"].values.tolist()
    for place, level in enumerate(levels):
        one = values.sel(level=level).where(values.sel(level=level) > 0)
        shade = colours(0.9 * place / max(len(levels) - 1, 1))
        ax.plot(values["eigen"], one, color=shade, label=f"{level}" if level in (levels[0], levels[-1]) else None)
    ax.set_yscale("log")
    ax.set_xlabel("rank from the top")
    ax.set_ylabel(f"eigenvalue ({UNIT})")
    ax.legend(title="level", loc="upper right", handlelength=1)


def _gaps_over_levels(study: xr.Dataset, ax: Axes, cut: int) -> None:
    """Draw the relative gap below the first ``cut`` eigenvalues (0: below the outliers), and the least clear one."""
    for marker, (point, colour) in zip(MARKERS, POINTS.items(), strict=False):
        drawn = _gap_at(study, "imp", point, cut)
        if drawn is None:
            continue
        plot_level(drawn[0], ax, point, color=colour, marker=marker)
        if drawn[1] is not None:
            ax.plot(drawn[1]["level"], drawn[1].mean("replicate"), ":", color=colour, linewidth=0.8)
    if not ax.has_data():
        absent(ax, "eigenvalues beyond this cut" if cut else "outliers: none found")
        return
    null = _gap_at(study, NULL, "minimum", cut)
    if null is not None:
        plot_level(null[0], ax, "random masks", color="0.5", marker="x", linestyle="--")
    level_axis(ax, study["level"].values)
    ax.set_yscale("log")
    ax.set_title(f"$k={cut}$" if cut else "$k$: outliers")


def _gap_at(study: xr.Dataset, method: str, point: str, cut: int) -> tuple[xr.DataArray, xr.DataArray | None] | None:
    """Return a relative gap and four of its standard errors, ``(level, replicate)``."""
    labels = {"method": method, "point": point, "control": "raw", "curvature": "hessian"}
    gap, absolute, error = (pick(study, name, **labels) for name in ("relative_gap", "gap", "gap_se"))
    count = pick(study, "outlier_count", **labels)
    if gap is None or absolute is None:
        return None
    if cut:
        if cut not in gap["eigen"].values:
            return None
        chosen = xr.full_like(gap.isel(eigen=0, drop=True), cut)
    elif count is None:
        return None
    else:
        chosen = count.where((count > 0) & (count <= int(gap["eigen"].max())))
    at = gap["eigen"] == chosen
    relative = gap.where(at).max("eigen").dropna("level", how="all")
    if not relative.size:
        return None
    if error is None:
        return relative, None
    scale = (gap / absolute.where(absolute > 0)).where(at).max("eigen")
    return relative, (4 * error.where(at).max("eigen") * scale).reindex_like(relative)


# Step of the chain from one minimum to the next: its panel's title, where it starts and where it ends.
CHAIN = (
    ("mask", ("imp", "before"), ("imp", "restricted")),
    ("displacement", ("imp", "restricted"), ("imp", "projected")),
    ("training on", ("imp", "projected"), ("fine_tune", "minimum")),
    ("rewinding", ("fine_tune", "minimum"), ("imp", "minimum")),
)
CONTROLS = {"raw": "C0", "loss_matched": "C1", "checkpoint_matched": "C2", "normalised": "C3"}


def chain_figure(arms: Arms) -> Figure:
    """Return F2: which step between two levels changes the leading eigenvalues, under every control.

    One row an arm, one column a step: the new mask at the unmoved minimum, moving onto it, training on (fine-tuning),
    and rewinding and retraining instead. The height is the mean change of the logarithm of the leading eigenvalues that
    both ends have; above 0 the step sharpens. Grey: standard deviation between trainings with two data orders.

    Raises
    ------
    MissingResultsError
        If no arm has eigenvalues.
    """
    drawn = need("F2", arms, [("spectrum", "eigenvalue")])
    with style():
        figure, axes = plt.subplots(
            len(drawn), len(CHAIN), squeeze=False, sharey="row", figsize=(7.0, 1.9 * len(drawn) + 0.4)
        )
        for row, (name, parts) in zip(axes, drawn.items(), strict=True):
            for ax, (step, start, end) in zip(row, CHAIN, strict=True):
                _plot_step(parts["spectrum"], ax, start, end)
                ax.set_title(step)
            row[0].set_title(name, loc="left", fontweight="bold")
            next((ax for ax in row if ax.has_data()), row[0]).tick_params(labelleft=True)
            row[0].set_ylabel("mean change of $\\log\\lambda$")
        _legend_below(figure, axes[0][-1])
        lacking = [
            f"{name} {what}".strip() for name, parts in drawn.items() for what in _steps_lacking(parts["spectrum"])
        ]
        what = "What changes the leading eigenvalues between levels"
        figure.suptitle(title(what, drawn, arms, "spectrum", lacking), fontsize=8)
    return figure


def _change(study: xr.Dataset, start: tuple[str, str], end: tuple[str, str], control: str) -> xr.DataArray | None:
    """Return the mean change of log eigenvalue over a step, ``(level, replicate)``; None where it is not defined."""
    if start == ("fine_tune", "minimum"):
        change = spectral_pair(study, "fine_tune", control)
        return None if change is None else -change
    if control not in ("raw", "normalised"):
        return None
    first, second = (_values(study, *place, control) for place in (start, end))
    return log_ratio(second, first)


def _values(study: xr.Dataset, method: str, point: str, control: str) -> xr.DataArray | None:
    """Return the eigenvalues of a point; the point ``before`` is the minimum of the level before."""
    if point != "before":
        return eigenvalues(study, method, point, control)
    values = eigenvalues(study, method, "minimum", control)
    return None if values is None else values.assign_coords(level=values["level"] + 1)


def _steps_lacking(study: xr.Dataset) -> list[str]:
    """Return, in words, the levels at which a step of the chain is not measured though another one is."""
    levels: dict[str, set[int]] = {}
    for step, start, end in CHAIN:
        change = _change(study, start, end, "raw")
        known = None if change is None else change.dropna("level", how="all")
        levels[step] = set() if known is None else set(known["level"].values.tolist())
    every = {level for there in levels.values() for level in there if level > 0}
    missing = {step: sorted(every - there) for step, there in levels.items() if every - there}
    return [f"{step} at {', '.join(map(str, at))}" for step, at in missing.items()]


def _plot_step(study: xr.Dataset, ax: Axes, start: tuple[str, str], end: tuple[str, str]) -> None:
    """Draw the change over one step of the chain under every control that is defined for it."""
    for number, (control, colour) in enumerate(CONTROLS.items()):
        change = _change(study, start, end, control)
        if change is not None and bool(change.notnull().any()):
            shifted = change.assign_coords(level=change["level"] + 0.08 * (number - 1.5))
            plot_level(shifted, ax, control.replace("_", " "), color=colour, marker=MARKERS[number], linewidth=0.7)
    if not ax.has_data():
        absent(ax, "\nto ".join(f"{method} {point}".replace("_", " ") for method, point in (start, end)))
        return
    floor = spectral_pair(study, "retrained", "raw")
    if floor is not None:
        spread = float(np.sqrt((floor**2).mean()))
        ax.axhspan(-spread, spread, color="0.9", zorder=0, linewidth=0)
    ax.axhline(0, color="0.4", linewidth=0.7)
    level_axis(ax, study["level"].values[study["level"].values > 0])
