"""Figures over pruning levels: loss and accuracy, ways to reach a level, distances, curves, barriers, renewal.

Every function draws one panel from a study (``landscape.open_study``, or the file of ``study compact``). Points are
means over the replicates, error bars their standard error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from landscape import imp_claims
from landscape.decisions import HOLDS
from landscape.errors import InputError
from landscape.figures.levels import plot_level
from landscape.imp_evidence import pick

# A range of losses beyond this factor is drawn on a log axis.
WIDE = 5.0
# Method -> label, colour, marker: the same in every figure.
METHODS: dict[str, tuple[str, str, str]] = {
    "imp": ("IMP", "C0", "o"),
    "retrained": ("IMP, other data order", "C5", "."),
    "lr_rewind": ("learning-rate rewinding", "C4", "s"),
    "fine_tune": ("fine-tuning", "C1", "D"),
    "one_shot": ("one-shot", "C2", "^"),
    "random_init": ("fresh weights, IMP's mask", "C3", "v"),
    "random_mask_layerwise": ("random mask, layerwise", "0.35", "x"),
    "random_mask_global": ("random mask, global", "0.6", "+"),
}


def need(values: xr.DataArray | None, what: str) -> xr.DataArray:
    """Return what was measured.

    Raises
    ------
    InputError
        If it was not, with what to measure.
    """
    if values is None:
        raise InputError(f"not measured: {what}")
    return values


def last_epoch(study: xr.Dataset, name: str, method: str) -> xr.DataArray | None:
    """Return a training curve's value at the end, ``(level, replicate)``."""
    values = pick(study, name, method=method)
    return None if values is None else values.isel(epoch=-1).dropna("level", how="all")


def _look(method: str) -> dict[str, Any]:
    label, colour, marker = METHODS.get(method, (method, "k", "o"))
    face = {} if method in ("imp", "retrained") else {"markerfacecolor": "none"}
    return {"label": label, "color": colour, "marker": marker, "linestyle": "-" if method == "imp" else "", **face}


def _all_methods(study: xr.Dataset, name: str, ax: Axes, scale: float) -> None:
    found = {m: last_epoch(study, name, m) for m in METHODS if m in study["method"].values}
    need(found.get("imp"), f"{name} of imp (--quantities curves)")
    for method, values in found.items():
        if values is not None:
            plot_level(scale * values, ax, **_look(method))


def plot_train_loss(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw the train loss at the end of training, over the levels, of every method."""
    _all_methods(study, "train_loss", ax, 1.0)
    ax.set_yscale("log")
    ax.set_ylabel("train loss (nats)")
    ax.legend(fontsize=6)
    return ax


def plot_test_accuracy(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw the test accuracy at the end of training, over the levels, of every method."""
    _all_methods(study, "test_accuracy", ax, 100.0)
    ax.set_ylabel("test accuracy (%)")
    return ax


def comparison_level(study: xr.Dataset) -> int:
    """Return the highest level up to 10 at which another method than imp was trained."""
    others = [m for m in METHODS if m not in ("imp", "retrained") and m in study["method"].values]
    known = [v for v in (last_epoch(study, "train_loss", m) for m in others) if v is not None]
    levels = [v for one in known for v in one["level"].values.tolist() if 0 < v <= imp_claims.RANKING_LEVEL]
    if not levels:
        raise InputError("not measured: curves of other methods than imp (--quantities curves)")
    return int(max(levels))


def _ways(study: xr.Dataset, name: str, ax: Axes, scale: float, level: int | None) -> int:
    level = comparison_level(study) if level is None else level
    found = {m: last_epoch(study, name, m) for m in METHODS if m in study["method"].values}
    shown = {m: scale * v.sel(level=level) for m, v in found.items() if v is not None and level in v["level"].values}
    for row, (method, values) in enumerate(shown.items()):
        _, colour, marker = METHODS[method]
        ax.plot(values, np.full(values.size, row), marker, color=colour, alpha=0.45, markersize=3)
        error = float(values.std(ddof=1)) / values.size**0.5 if values.size > 1 else None
        ax.errorbar(float(values.mean()), row, xerr=error, fmt="|", color=colour, markersize=9, elinewidth=0.9)
    ax.set_yticks(range(len(shown)), [METHODS[m][0] for m in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.grid(axis="y")
    return level


def plot_ways_loss(study: xr.Dataset, ax: Axes, level: int | None = None) -> Axes:
    """Draw the train loss of every way to reach a level (default: level 10): replicates, mean, standard error."""
    level = _ways(study, "train_loss", ax, 1.0, level)
    low, high = ax.get_xlim()
    if low > 0 and high > WIDE * low:  # a narrow range on a log axis has labels that overlap
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(f"train loss at level {level} (nats)")
    return ax


def plot_ways_accuracy(study: xr.Dataset, ax: Axes, level: int | None = None) -> Axes:
    """Draw the test accuracy of every way to reach a level (default: level 10)."""
    level = _ways(study, "test_accuracy", ax, 100.0, level)
    ax.set_xlabel(f"test accuracy at level {level} (%)")
    ax.set_yticklabels([])
    return ax


def plot_distances(study: xr.Dataset, ax: Axes, name: str = "shared_distance") -> Axes:
    """Draw the distances within a level's subspace: rewind point, projected previous minimum, minimum."""
    rows = {
        "rewind -> minimum": ("rewind point to minimum", "C0", "o", "-"),
        "rewind -> projected": ("rewind point to projected", "C1", "s", "-"),
        "projected -> minimum": ("projected to minimum", "C2", "^", "-"),
    }
    for pair, (label, colour, marker, line) in rows.items():
        values = need(pick(study, name, method="imp", pair=pair), "distances (--quantities connectivity)")
        plot_level(values, ax, label=label, color=colour, marker=marker, linestyle=line)
    ax.set_ylabel("r.m.s. distance (parameter)" if name == "rms_distance" else "distance (parameter)")
    ax.set_ylim(bottom=0)
    ax.legend()
    return ax


def plot_rms_distances(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw the same distances a weight (root mean square), which do not fall for want of weights."""
    return plot_distances(study, ax, "rms_distance")


def plot_projected_curve(study: xr.Dataset, ax: Axes, level: int) -> Axes:
    """Draw the train loss over the epochs of a level, and of its mask times the epochs of the level before."""
    rows: Mapping[str, tuple[str, str]] = {
        "train_loss": (f"level {level}", "C0"),
        "projected_loss": (f"level {level - 1}, projected", "C1"),
    }
    for name, (label, colour) in rows.items():
        values = need(pick(study, name, method="imp"), f"{name} (--quantities curves)")
        if level not in values["level"].values:
            raise InputError(f"not measured: {name} at level {level} (--quantities curves)")
        chosen = values.sel(level=level).dropna("replicate", how="all").transpose("epoch", "replicate")
        mean, spread = chosen.mean("replicate"), chosen.std("replicate", ddof=1 if chosen.sizes["replicate"] > 1 else 0)
        ax.plot(chosen["epoch"], mean, "o-", color=colour, label=label, markersize=2.5)
        ax.fill_between(chosen["epoch"], mean - spread, mean + spread, color=colour, alpha=0.25, linewidth=0)
    ax.set_yscale("log")
    ax.set_xlabel("epoch")
    ax.set_ylabel("train loss (nats)")
    ax.legend()
    return ax


def plot_barriers(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw the barriers in test error over the levels; the levels at which imp is matching are shaded.

    The dashed line is the delta below which a barrier counts as absent.
    """
    rows = (
        ("imp", "previous -> minimum", "to the level before", "C0", "o", "-"),
        ("imp", "dense -> minimum", "IMP to the dense minimum", "C2", "s", "-"),
        ("one_shot", "dense -> minimum", "one-shot to the dense minimum", "C1", "^", "-"),
    )
    drawn = 0
    for method, pair, label, colour, marker, line in rows:
        values = imp_claims.barrier_error(study, method, pair)
        if values is not None:
            plot_level(100 * values, ax, label=label, color=colour, marker=marker, linestyle=line)
            drawn += 1
    if not drawn:
        raise InputError("not measured: barriers (--quantities connectivity)")
    first = True
    for level, verdict in imp_claims.matching(study).items():
        if verdict.verdict == HOLDS:
            ax.axvspan(level - 0.5, level + 0.5, color="0.9", linewidth=0, label="matching" if first else None)
            first = False
    ax.axhline(100 * imp_claims.BARRIER_DELTA, color="0.4", linestyle="--", linewidth=0.7)
    ax.set_ylabel("barrier in test error (%)")
    ax.legend(fontsize=6)
    return ax


def plot_barrier_matrix(study: xr.Dataset, ax: Axes, split: str = "test") -> Axes:
    """Draw the barriers in error between imp's minima at all pairs of levels, in per cent, mean over replicates."""
    if "matrix_barrier_error" not in study:
        raise InputError("not measured: barriers between all levels (--quantities barrier_matrix)")
    values = 100 * study["matrix_barrier_error"].sel({"split": split, "method": "imp"}).mean("replicate")
    values = values.dropna("first_level", how="all").dropna("second_level", how="all")
    values = values.transpose("first_level", "second_level")
    levels = values["first_level"].values
    image = ax.imshow(values.values, cmap="cividis_r", vmin=0, origin="lower")
    middle = float(values.max()) / 2
    for i, j in np.ndindex(values.shape):
        if i != j:
            colour = "w" if values.values[i, j] > middle else "k"
            ax.text(j, i, f"{values.values[i, j]:.1f}", ha="center", va="center", fontsize=5, color=colour)
    ax.set_xticks(range(len(levels)), [str(v) for v in levels])
    ax.set_yticks(range(len(levels)), [str(v) for v in levels])
    ax.set_xlabel("pruning level")
    ax.set_ylabel("pruning level")
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.8)
    bar.set_label(f"barrier in {split} error (%)")
    return ax


def plot_renewal(study: xr.Dataset, ax: Axes) -> Axes:
    """Draw the fraction of surviving weights below the threshold that made the mask (0 at the projected point)."""
    rows = (
        ("imp", "minimum", "IMP minimum", "C0", "o", "-"),
        ("imp", "rewind", "rewind point", "C5", ".", "--"),
        ("fine_tune", "minimum", "fine-tuned minimum", "C1", "D", ""),
        ("random_mask_layerwise", "minimum", "random mask, minimum", "0.35", "x", ""),
        ("random_mask_layerwise", "rewind", "random mask, rewind point", "0.6", "+", ""),
    )
    drawn = 0
    for method, at, label, colour, marker, line in rows:
        values = pick(study, "fraction_below", method=method, at=at)
        if values is not None:
            plot_level(100 * values, ax, label=label, color=colour, marker=marker, linestyle=line)
            drawn += 1
    if not drawn:
        raise InputError("not measured: renewal of small weights (--quantities renewal)")
    ax.set_ylabel("weights below the threshold (%)")
    ax.set_ylim(top=150)  # room for the legend: no fraction is above 100 %
    ax.set_yticks([0, 25, 50, 75, 100])
    ax.legend(fontsize=6, loc="upper left")
    return ax
