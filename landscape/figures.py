"""Figures: each a function from a stored Dataset to Axes, so that a figure never needs the network again.

``python -m landscape.figures RESULT.nc --out FILE`` draws the figure that belongs to a result.
"""

from __future__ import annotations

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
    ax.errorbar(rank, shown, np.minimum(error, 2 * shown.max(initial=0)), fmt="none", ecolor="0.2", elinewidth=0.6, label="4 s.e.")
    ax.set_ylim(0, 1.3 * shown.max(initial=1e-12))
    ax.set_xlabel("rank $k$ from the top")
    ax.set_ylabel(r"$(\lambda_k-\lambda_{k+1})/\lambda_{k+1}$")
    ax.legend(loc="upper right")
    return ax


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
