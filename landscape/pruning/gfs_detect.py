"""When pre-training could have stopped: criteria read off a study of selections, scored by what stopping there costs.

=============  =======================================================================================================
criterion      stops at the first checkpoint at which
=============  =======================================================================================================
``picks``      the picks of the last five checkpoints are alike: Jaccard distance of the newest to each <= 0.1
``ranks``      the ranking of the neurons by |Phi_i| is: 1 - Spearman's correlation of the newest to each <= 0.1
``bound``      the upper bound on the pruned loss, from L_N and V alone, is within a factor 2 of the dense loss
``gap``        the Frank-Wolfe gap at the selected subnetwork is at most a tenth of its loss
``accuracy``   the accuracy of the pruned network is within 2 % of that of the dense network
=============  =======================================================================================================

The first two are early-bird criteria for multisets; no criterion but the last needs the labels' accuracy. The limits
are ours. Linear mode connectivity needs two more trainings for each checkpoint: ``python -m landscape.pruning
children``.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from landscape.errors import InputError
from landscape.pretraining.thresholds import sufficient_loss
from landscape.pruning.early_bird import first_below, score

FINAL = ("tuned_test_accuracy", "tuned_accuracy", "test_accuracy", "accuracy")


def excesses(result: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return, for each criterion, what has to be at most zero, over (cell, step, size)."""
    found = {"gap": result["selection_gap"] - 0.1 * result["loss"]}
    if result.attrs["greedy_bounds"]:
        found["bound"] = sufficient_loss(result) - 2 * result["dense_loss"]
    if "pick_drift" in result:
        found["picks"] = result["pick_drift"] - 0.1
        found["ranks"] = result["score_drift"] - 0.1 + 0 * result["loss"]
    if "accuracy" in result:
        found["accuracy"] = 0.98 * result["dense_accuracy"] - result["accuracy"]
    return found


def detect(result: xr.Dataset, size: int) -> xr.Dataset:
    """Return where each criterion stops at one size, and what that costs.

    Returns
    -------
    xarray.Dataset
        Over (criterion, cell): ``detected_step`` (the last step where the criterion never held), ``detected`` (whether
        it did), ``regret`` (best final accuracy minus that of the checkpoint) and ``saved`` (fraction of the steps).

    Raises
    ------
    InputError
        If no accuracy of the pruned networks was measured, or not at this size.
    """
    final = next((name for name in FINAL if name in result and np.isfinite(result[name]).all()), None)
    if final is None:
        raise InputError("detections are scored by the accuracy of the pruned networks, which was not measured")
    if size not in result["size"].values:
        raise InputError(f"no selection has {size} picks; there are {', '.join(map(str, result['size'].values))}")
    step, accuracy = result["step"].values, result[final].sel(size=size)
    rows: dict[str, list[list[float]]] = {name: [] for name in ("detected_step", "detected", "regret", "saved")}
    criteria = excesses(result)
    for excess in criteria.values():
        at = excess.sel(size=size).transpose("cell", "step").values
        places = [first_below(values, 0.0) for values in at]
        scores = [score(p, accuracy.isel(cell=i).values, step) for i, p in enumerate(places)]
        rows["detected_step"].append([float(step[-1 if p is None else p]) for p in places])
        rows["detected"].append([p is not None for p in places])
        rows["regret"].append([s.regret for s in scores])
        rows["saved"].append([s.saved for s in scores])
    dims = ("criterion", "cell")
    return xr.Dataset({n: (dims, np.array(v)) for n, v in rows.items()}, {"criterion": list(criteria)})
