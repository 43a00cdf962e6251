"""At which losses a study of selections is read: one that every cell crosses, and C/k, whose slope is known beforehand.

The bound B3 turns the target C/k into L_N <= (sqrt(C) - sqrt(V/2))^2 / k, so that, while the dense loss falls as rho^t
and V stays, the threshold grows by exactly 1/(-log rho) for each factor e in k: a slope without a free constant. What
is selected follows it as far as the bound is tight.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from landscape.errors import InputError
from landscape.pretraining import laws, thresholds
from landscape.pretraining.laws import SlopeOptions

LEAST_PLACES = 3  # of k, for a slope in log k


def common_loss(cells: xr.Dataset, size: int) -> float | None:
    """Return the geometric mean of the worst last and the best first loss at one size; None if they do not cross."""
    if size not in cells["size"].values:
        raise InputError(f"no selection has {size} picks; there are {', '.join(map(str, cells['size'].values))}")
    at = cells.sel(size=size)
    last, first = float(at["loss"].isel(step=-1).max()), float(at["loss"].isel(step=0).min())
    return float(np.sqrt(last * first)) if last < first else None


def finite_constant(cells: xr.Dataset) -> float:
    """Return C = 1.1 * H V / 2 at the last checkpoint of the worst cell: the bound can reach C/k at every k."""
    return 1.1 * float((cells["variance"] * cells["smoothness"]).isel(step=-1).max()) / 2


def size_slopes(cells: xr.Dataset, constant: float | None = None) -> xr.Dataset:
    """Return the slope of t_emp against log k at the target C/k, measured and predicted, of every cell.

    Returns
    -------
    xarray.Dataset
        Over ``cell``: ``slope``, ``slope_lo``, ``slope_hi`` in steps, and ``predicted``, 1/(-log rho) with the
        contraction rho of the dense loss; NaN where fewer than three sizes are resolved or the loss does not contract.
    """
    constant = finite_constant(cells) if constant is None else constant
    found = thresholds.thresholds(cells, constant / cells["size"])
    rows = []
    for i in range(cells.sizes["cell"]):
        one = found.isel(cell=[i])
        rho = thresholds.contraction(cells["step"].values.astype(float), cells["dense_loss"].isel(cell=i).values)
        resolved = np.isfinite(one["t_emp_hi"].values[0]) & (one["t_emp_lo"].values[0] > 0)
        if not 0 < rho < 1 or resolved.sum() < LEAST_PLACES:
            rows.append([np.nan] * 4)
            continue
        data = thresholds.intervals(one, "emp", one["size"], one["replicate"])
        slope = laws.log_slope(data, SlopeOptions(num_bootstrap=1))
        rows.append([slope.value, slope.lo, slope.hi, float(-1 / np.log(rho))])
    names = ("slope", "slope_lo", "slope_hi", "predicted")
    kept = [name for name in ("arm", "num_examples", "num_neurons", "replicate") if name in cells]
    columns = dict(zip(names, np.array(rows).T, strict=True))
    return cells[kept].assign({name: ("cell", values) for name, values in columns.items()})
