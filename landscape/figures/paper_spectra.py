"""Figures of spectra over pruning levels: F1 the eigenvalues and gaps, F2 what changes them between levels."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.levels import plot_level
from landscape.figures.page import style
from landscape.figures.paper import MARKERS, Studies, count_text, level_axis, need, pick
from landscape.figures.spectra import UNIT

POINTS = {"restricted": "C2", "projected": "C1", "minimum": "C0"}
HOW_SPECTRUM = "--quantities spectrum --points minimum,projected,restricted"
NULL = "random_mask_layerwise"


def spectra_figure(studies: Studies, num_classes: int = 10) -> Figure:
    """Return F1: leading eigenvalues and relative gaps over the levels at three points.

    One row an arm. Gaps are (lambda_k - lambda_{k+1}) / lambda_{k+1} at k = C - 1, C and the outlier count; dotted:
    four standard errors of the gap over the examples, above which it is told apart from none; error bars are those of
    the replicates. Grey: the minimum under random masks of equal layer counts.

    Raises
    ------
    MissingResultsError
        If no arm has spectra at the minimum and projected.
    """
    arms = need("F1", studies, {"eigenvalue": HOW_SPECTRUM, "relative_gap": HOW_SPECTRUM})
    with style():
        figure, axes = plt.subplots(len(arms), 4, squeeze=False, figsize=(7.0, 2.0 * len(arms) + 0.4))
        for row, (name, study) in zip(axes, arms.items(), strict=True):
            _top_values(study, row[0])
            row[0].set_title(name, loc="left")
            for ax, cut in zip(row[1:], (num_classes - 1, num_classes, 0), strict=True):
                _gaps_over_levels(study, ax, cut)
            row[1].set_ylabel(r"$(\lambda_k-\lambda_{k+1})/\lambda_{k+1}$")
        handles, labels = axes[0][1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.suptitle(f"Leading eigenvalues and gaps of the Hessian; {count_text(arms.values())}", fontsize=8)
    return figure


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
    null = _gap_at(study, NULL, "minimum", cut)
    if null is not None:
        plot_level(null[0], ax, "random masks", color="0.5", marker="x", linestyle="--")
    level_axis(ax, study)
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


CHAIN = {
    "pruned": "mask alone",
    "moved": "displacement",
    "trained": "training on",
    "rewound": "rewinding",
}
CONTROLS = {"raw": "C0", "loss_matched": "C1", "checkpoint_matched": "C2", "normalised": "C3"}


def log_eigenvalues(study: xr.Dataset, method: str, point: str, control: str) -> xr.DataArray | None:
    """Return the logarithms of the positive leading eigenvalues, ``(eigen, level, replicate)``.

    Under ``normalised`` they are those of J'J over the spread of the outputs.
    """
    kind = "jtj" if control == "normalised" else "hessian"
    labels = {"method": method, "point": point, "control": "raw", "curvature": kind}
    values = pick(study, "eigenvalue", **labels)
    if values is None:
        return None
    if control == "normalised":
        spread = pick(study, "output_spread", **labels)
        if spread is None:
            return None
        values = values / spread
    values = values.isel(eigen=values["eigen"].values > 0)
    logarithm: xr.DataArray = np.log(values.where(values > 0))  # type: ignore[assignment]
    return logarithm
