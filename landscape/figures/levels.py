"""Numbers over pruning levels with their replicates: the axes that volumes and dimensions of a study share."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

LIMITED = 3  # times the number of parameters, below which the examples bound the rank of the curvature


def choose(study: xr.Dataset, **labels: str) -> xr.Dataset | None:
    """Return a study at labels, or None where it has nothing there; a label that it does not have is left out."""
    present = {name: value for name, value in labels.items() if name in study.dims}
    if any(value not in study[name].values for name, value in present.items()):
        return None
    return study.sel(present)


def plot_level(values: xr.DataArray, ax: Axes, label: str, sure: xr.DataArray | None = None, **style: Any) -> Axes:
    """Draw the mean of ``values (level, replicate)`` over the level, with its standard error over the replicates.

    Parameters
    ----------
    sure
        Flags of the same dims; hollow markers where any is false.
    style
        ``color``, ``marker``, ``linestyle``.
    """
    values = values.where(np.isfinite(values)).transpose("level", "replicate").dropna("level", how="all")
    if not values.size:
        return ax
    levels, mean, count = values["level"].values, values.mean("replicate").values, values.count("replicate").values
    spread = values.std("replicate", ddof=1).values if values.sizes["replicate"] > 1 else np.zeros(len(levels))
    error = np.where(count > 1, np.nan_to_num(spread) / np.sqrt(np.maximum(count, 1)), 0.0)
    bars = ax.errorbar(levels, mean, error, label=label, **{"marker": "o", **style})
    if sure is not None:
        known = values.notnull()
        good = sure.sel(level=levels).where(known, True).astype(bool).all("replicate").values
        colour = bars.lines[0].get_color()
        ax.plot(
            levels[~good], mean[~good], marker=style.get("marker", "o"), linestyle="", mfc="white", mec=colour, zorder=3
        )
    ax.set_xlabel("pruning level")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return ax


def shade_limited(found: xr.Dataset, ax: Axes) -> Axes:
    """Shade the levels at which the number of examples limits what can be compared across levels."""
    if not {"rank_bound", "num_params"} <= set(found.data_vars):
        return ax
    limited = (found["rank_bound"] < LIMITED * found["num_params"]).any("replicate")
    levels = found["level"].values[limited.values]
    if len(levels):
        ax.axvspan(levels.min() - 0.5, levels.max() + 0.5, color="0.93", zorder=0, linewidth=0)
    return ax
