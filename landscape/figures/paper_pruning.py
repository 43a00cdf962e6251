"""F5: test accuracy against the weights that are kept, for every way to prune, with the conditions of IMC pruning."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landscape.figures.imp_levels import last_epoch
from landscape.figures.page import style
from landscape.figures.paper import MARKERS, Arms, Parts, absent, need, pick, title

SHUFFLED, FORCED = "_shuffled", "_forced"


def pruning_figure(arms: Arms) -> Figure:
    """Return F5: test accuracy against the fraction of weights kept, and by how much IMC's own conditions are met.

    One row an arm. Left: iterative magnitude pruning over its levels (line) and every pruned network by its fraction of
    weights kept on a path from input to output; filled where the fraction was given, stars where the rule chose it,
    open for layer-wise shuffles of a mask. Right: the best gap over what the rule asks, and the radius up to which it
    holds over the way travelled; below 1 (hatched) the condition fails.

    Raises
    ------
    MissingResultsError
        If no arm has pruned networks beside imp's curves.
    """
    drawn = need("F5", arms, [("pruning", "kept"), ("curves", "test_accuracy")])
    with style():
        figure, axes = plt.subplots(
            len(drawn), 2, squeeze=False, figsize=(7.0, 2.6 * len(drawn)), width_ratios=(1.6, 1.0)
        )
        for row, (name, parts) in zip(axes, drawn.items(), strict=True):
            _plot_accuracy(parts, row[0])
            _plot_conditions(parts, row[1])
            row[0].set_title(name, loc="left")
        figure.suptitle(title("Accuracy and conditions of pruning", drawn, arms, "pruning"), fontsize=8)
    return figure


def _plot_accuracy(parts: Parts, ax: Axes) -> None:
    """Draw test accuracy over the kept fraction."""
    _plot_imp(parts, ax)
    networks = parts["pruning"]
    bases = dict.fromkeys(_base(m) for m in networks["method"].values.tolist() if m != "imp")
    for number, base in enumerate(bases, start=1):
        for method in (base, base + FORCED, base + SHUFFLED, base + FORCED + SHUFFLED):
            accuracy, kept = (pick(networks, name, method=method) for name in ("test_accuracy", "kept"))
            effective = pick(networks, "kept_effective", method=method)
            if accuracy is None or kept is None:
                continue
            chosen = pick(networks, "forced", method=method)
            own = chosen is not None and not bool(chosen.fillna(1.0).astype(bool).any())
            x = (kept if effective is None else effective).mean("replicate")
            face = "white" if SHUFFLED in method else f"C{number % 7}"
            count = accuracy.count("replicate")
            error = (accuracy.std("replicate", ddof=1) / count**0.5).where(count > 1, 0.0)
            ax.errorbar(
                x,
                100 * accuracy.mean("replicate"),
                100 * error.fillna(0.0),
                fmt="*" if own else MARKERS[number % len(MARKERS)],
                markersize=8 if own else 4,
                color=f"C{number % 7}",
                markerfacecolor=face,
                label=method.replace("_", " ") if method in (base, base + FORCED) else None,
            )
    ax.set_xscale("log")
    ax.invert_xaxis()
    ax.set_xlabel("fraction of weights kept, on a path")
    ax.set_ylabel("test accuracy (%)")
    ax.legend(fontsize=6, ncols=2)


def _base(method: str) -> str:
    return method.replace(SHUFFLED, "").replace(FORCED, "")


def _plot_imp(parts: Parts, ax: Axes) -> None:
    """Draw imp's levels as a line, where it is known what they keep."""
    accuracy = last_epoch(parts["curves"], "test_accuracy", "imp")
    known = (
        pick(part, "kept", method="imp", point="minimum", control="raw", curvature="hessian") for part in parts.values()
    )
    kept = max((v for v in known if v is not None), key=lambda values: values.sizes["level"], default=None)
    if accuracy is None or kept is None:
        return
    kept, accuracy = xr.align(kept.mean("replicate"), accuracy)
    error = np.nan_to_num(accuracy.std("replicate", ddof=1).values / max(accuracy.sizes["replicate"], 1) ** 0.5)
    ax.errorbar(kept, 100 * accuracy.mean("replicate"), 100 * error, fmt="o-", color="C0", markersize=3, label="imp")


def _plot_conditions(parts: Parts, ax: Axes) -> None:
    """Draw how far the conditions of every choice of IMC are met, one row a choice; 1 is the threshold."""
    conditions = parts.get("imc")
    rows = [] if conditions is None else conditions["method"].values.tolist()
    styles = {"gap_ratio": ("C0", "o", "gap / asked, at most"), "coverage": ("C1", "s", "radius / way travelled")}
    for place, method in enumerate(rows):
        for name, (colour, marker, label) in styles.items():
            values = pick(conditions, name, method=method)
            if values is None:
                continue
            values = values.isel(shell=0) if "shell" in values.dims else values
            shown = values.values.ravel()
            shown = shown[np.isfinite(shown) & (shown > 0)]
            ax.plot(shown, np.full(len(shown), place), marker, color=colour, label=label if place == 0 else None)
    if not ax.has_data():
        absent(ax, "conditions of IMC")
        return
    ax.set_xscale("log")
    low = min(0.5 * ax.get_xlim()[0], 0.5)
    ax.axvspan(low, 1.0, facecolor="none", edgecolor="0.85", hatch="////", linewidth=0, zorder=0)
    ax.axvline(1.0, color="0.4", linewidth=0.8, linestyle="--")
    ax.set_xlim(low, max(2.0, ax.get_xlim()[1]))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
    ax.set_xlabel("condition; it fails below 1")
    ax.legend(fontsize=6, loc="upper right")
