"""Figures of spectra over pruning levels: leading eigenvalues, densities as a ridge, the chain, eigenspaces.

Every function draws one panel from a study. Points are means over the replicates, error bars their standard error.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from landscape import density
from landscape.errors import InputError
from landscape.figures.imp_levels import METHODS, need
from landscape.figures.levels import LIMITED, plot_level
from landscape.figures.spectra import UNIT, symlog_ticks
from landscape.imp_evidence import CONTROLS, cut_of, eigenvalues, logarithm, pick, spectral_pair

CHAIN = (
    ("imp", "restricted", "restricted", "C2", "s"),
    ("imp", "projected", "projected", "C1", "^"),
    ("fine_tune", "minimum", "fine-tuned minimum", "C4", "D"),
    ("imp", "minimum", "IMP minimum", "C0", "o"),
)
# Decades of density that a row of the ridge shows, and the height of a row in units of the distance of two rows.
DECADES, OVERLAP = 5.0, 1.8
DENSITY = ("ritz_value", "ritz_weight", "eigenvalue", "num_params", "rank_bound")


def plot_top_eigenvalues(study: xr.Dataset, ax: Axes, level: int, method: str = "imp") -> Axes:
    """Draw the leading positive Hessian eigenvalues of a level at its minimum and at the previous one, projected.

    A line is a replicate, as some may have fewer eigenvalues than others. Unconverged eigenvalues are left out.
    """
    for point, colour in (("minimum", "C0"), ("projected", "C1")):
        found = need(_converged(study, method, point), f"eigenvalues at {point} (--quantities spectrum)")
        if level not in found["level"].values:
            raise InputError(f"not measured: eigenvalues at {point} of level {level} (--quantities spectrum)")
        label: str | None = f"{point}, level {level}"
        for replicate in found["replicate"].values:
            values = found.sel(level=level, replicate=replicate)
            values = values.where(values > 0).dropna("eigen")
            if values.size:
                ax.plot(values["eigen"], values, ".-", color=colour, label=label, markersize=2, linewidth=0.6)
                label = None
    ax.set_yscale("log")
    ax.set_xlabel("rank from the top")
    ax.set_ylabel(f"Hessian eigenvalue ({UNIT})")
    ax.legend()
    return ax


def _converged(study: xr.Dataset, method: str, point: str) -> xr.DataArray | None:
    """Return the converged eigenvalues from the top, ``(eigen, level, replicate)``."""
    values = eigenvalues(study, method, point, "raw")
    done = pick(study, "converged", method=method, point=point, control="raw", curvature="hessian")
    if values is None or done is None:
        return values
    values = values.where(done.reindex_like(values, fill_value=0) > 0)
    return values.isel(eigen=values["eigen"].values > 0)


def plot_ridge(study: xr.Dataset, ax: Axes, point: str = "minimum", method: str = "imp") -> Axes:
    """Draw the spectral density of every level above the other, on one symlog axis, of the first replicate that has it.

    A row shows five decades of the density per unit of the axis; the ticks below it are the eigenvalues found one by
    one. The atom at zero is left out. A hatched row has too few examples: the rank that they allow is below three times
    the number of weights, so that the number of examples makes its bulk.
    """
    rows = _densities(study, method, point)
    if not rows:
        raise InputError(f"not measured: densities at {point} (--quantities spectrum --num-probes P)")
    scale = float(np.median([density.symlog_density(row).attrs["linear_width"] for row in rows.values()]))
    colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(rows)))
    ends = []
    for height, (level, row) in enumerate(rows.items()):
        curve = density.symlog_density(row, scale)
        top = float(curve["density"].max())
        shown = np.clip(1 + np.log10(np.maximum(curve["density"] / top, 1e-300)) / DECADES, 0, None) * OVERLAP
        limited = "rank_bound" in row and float(row["rank_bound"]) < LIMITED * float(row["num_params"])
        look: dict[str, Any] = {"alpha": 0.75, "linewidth": 0, "zorder": -level, "hatch": "////" if limited else None}
        ax.fill_between(curve["s"], height, height + shown, facecolor=colours[height], edgecolor="w", **look)
        ax.plot(curve["s"], height + shown, color="w", linewidth=0.6, zorder=-level)
        if "eigenvalue" in row:
            marks = np.arcsinh(row["eigenvalue"].dropna("eigen").values / scale)
            ax.plot(marks, np.full(len(marks), height + 0.04), "|", color="k", markersize=3, markeredgewidth=0.5)
        ends.append(curve["s"].values[[0, -1]])
    reach = np.array([min(low for low, _ in ends), max(high for _, high in ends)])
    symlog_ticks(ax, reach, scale)
    ax.set_yticks(range(len(rows)), [str(level) for level in rows])
    ax.set_xlabel(f"Hessian eigenvalue at {point} ({UNIT})")
    ax.set_ylabel("pruning level (log density)")
    return ax


def _densities(study: xr.Dataset, method: str, point: str) -> dict[int, xr.Dataset]:
    """Return the spectrum of every level of which a density was measured, at its first replicate that has one."""
    weight = pick(study, "ritz_weight", method=method, point=point, control="raw", curvature="hessian")
    if weight is None:
        return {}
    found = {}
    for level in weight["level"].values.tolist():
        for replicate in weight["replicate"].values.tolist():
            place: dict[str, Any] = {"level": level, "replicate": replicate}
            if bool((weight.sel(place) > 0).any()):
                place |= {"method": method, "point": point, "control": "raw", "curvature": "hessian"}
                chosen = study[[name for name in DENSITY if name in study]].sel(place)
                found[level] = chosen.assign_attrs(dtype="float32").dropna("probe", how="all")
                break
    return found


def plot_chain(study: xr.Dataset, ax: Axes, control: str = "raw", most: int = 20) -> Axes:
    """Draw the geometric mean of the leading eigenvalues along the chain from one minimum to the next, over the levels.

    Restricted to projected is what moving the point does, projected to the fine-tuned minimum what training does, and
    from there to imp's minimum what rewinding adds. Eigenvalues that one of the four does not have are left out of all.
    """
    found = {row: eigenvalues(study, row[0], row[1], control) for row in CHAIN}
    sizes = [_common(values) for values in found.values() if values is not None]
    if not sizes:
        raise InputError(f"not measured: eigenvalues under {control} (--quantities spectrum)")
    size = min(most, *sizes)
    for (_, _, label, colour, marker), values in found.items():
        if values is None:
            continue
        leading = values.sel(eigen=range(1, size + 1))
        mean = xr.apply_ufunc(np.exp, logarithm(leading.where(leading > 0)).mean("eigen"))
        plot_level(mean, ax, label=label, color=colour, marker=marker)
    ax.set_yscale("log")
    ax.set_ylabel(f"geometric mean of the top {size}\n({UNIT})")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.3)
    ax.legend(fontsize=6, ncols=2, loc="upper center", columnspacing=1.0)
    return ax


def _common(values: xr.DataArray) -> int:
    """Return how many eigenvalues from the top are known wherever any is."""
    there = values.notnull()
    everywhere = (there | ~there.any("eigen")).all([d for d in values.dims if d != "eigen"])
    return int((everywhere & (values["eigen"] > 0)).sum())


def plot_ratios(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw the two claims about flatness: the mean log ratio of the leading eigenvalues, under every control.

    Above zero imp's minimum is the flatter. Filled: fine-tuned over imp minimum; open: projected over imp minimum.
    """
    drawn = False
    for number, control in enumerate(CONTROLS):
        for method, line, face in (("fine_tune", "-", f"C{number}"), ("imp", ":", "none")):
            ratio = spectral_pair(study, method, control)
            if ratio is not None:
                what = "fine-tuned" if method == "fine_tune" else "projected"
                look: dict[str, Any] = {"color": f"C{number}", "linestyle": line, "markerfacecolor": face}
                plot_level(ratio, ax, f"{what}, {control.replace('_', ' ')}", **look)
                drawn = True
    if not drawn:
        raise InputError("not measured: eigenvalues of two points of a level (--quantities spectrum)")
    ax.axhline(0, color="0.4", linewidth=0.7)
    ax.set_ylabel("mean log ratio over IMP minimum")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.5 * (high - low))  # room for up to eight labels
    ax.legend(fontsize=5, ncols=2, loc="upper center", columnspacing=1.0)
    return ax


def plot_trajectory(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw the geometric mean of the leading eigenvalues over the epochs, a line a level, imp solid, others dashed."""
    if "epoch_eigenvalue" not in study:
        raise InputError("not measured: eigenvalues along the epochs (--quantities trajectory)")
    most = 0
    for method, line in (("imp", "-"), ("fine_tune", "--")):
        values = pick(study, "epoch_eigenvalue", method=method)
        if values is None:
            continue
        most = max(most, int(values.notnull().any([d for d in values.dims if d != "eigen"]).sum()))
        mean = xr.apply_ufunc(np.exp, logarithm(values.where(values > 0)).mean("eigen"))
        for number, level in enumerate(mean["level"].values.tolist()):
            one = mean.sel(level=level).transpose("epoch", "replicate").dropna("replicate", how="all")
            label = f"{METHODS[method][0]}, level {level}"
            error = one.std("replicate").values / max(one.sizes["replicate"] - 1, 1) ** 0.5
            look: dict[str, Any] = {"color": f"C{number}", "linestyle": line, "marker": "o", "label": label}
            ax.errorbar(one["epoch"].values, one.mean("replicate").values, error, **look)
    ax.set_yscale("log")
    ax.set_xlabel("epoch")
    ax.set_ylabel(f"geometric mean of the top {most}\n({UNIT})")
    ax.legend(fontsize=6)
    return ax


def plot_principal_angles(study: xr.Dataset, ax: Axes, method: str = "imp") -> Axes:
    """Draw the principal angles between the top eigenspaces of successive minima (cut C - 1), a line a level."""
    if "principal_cosine" not in study:
        raise InputError("not measured: eigenspaces (--quantities alignment)")
    cut = cut_of(study)
    values = need(pick(study.sel(cut=cut), "principal_cosine", method=method), "eigenspaces (--quantities alignment)")
    values = xr.apply_ufunc(lambda cosine: np.degrees(np.arccos(cosine)), values.dropna("angle", how="all"))
    colours = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, values.sizes["level"]))
    for colour, level in zip(colours, values["level"].values.tolist(), strict=True):
        one = values.sel(level=level).transpose("angle", "replicate")
        count = np.maximum(one.count("replicate").values, 1)
        error = np.nan_to_num(one.std("replicate", ddof=1).values / count**0.5) if one.sizes["replicate"] > 1 else None
        ax.errorbar(
            one["angle"].values, one.mean("replicate").values, error, fmt="o-", color=colour, label=f"level {level}"
        )
    ax.set_ylim(0, 90)
    ax.set_yticks(range(0, 91, 30))
    ax.set_xlabel(f"principal angle of the top {cut}")
    ax.set_ylabel("angle to the level before (degrees)")
    ax.legend(fontsize=6)
    return ax


def plot_overlap(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw the overlap of the top eigenspaces of successive minima over the levels, beside the null and the floor."""
    if "overlap" not in study:
        raise InputError("not measured: eigenspaces (--quantities alignment)")
    cut = cut_of(study)
    for method in ("imp", "retrained", "fine_tune", "random_mask_layerwise"):
        values = pick(study.sel(cut=cut), "overlap", method=method)
        if values is not None:
            label, colour, marker = METHODS[method]
            plot_level(values, ax, label=label, color=colour, marker=marker)
    ax.set_ylim(0, 1)
    ax.set_ylabel(f"overlap of the top {cut}")
    ax.legend(fontsize=6)
    return ax
