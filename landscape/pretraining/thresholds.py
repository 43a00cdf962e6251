"""The first checkpoint at which a network, or its subnetwork of k picks, reaches a loss: the threshold of pre-training.

Along the checkpoints t of one training, with a target loss tau that may depend on k,

    t_emp      loss of the selected subnetwork, l(u_k(t)) <= tau t_suff     its upper bound from L_N and V alone (B3;
    B2 for cross entropies) <= tau: sufficient, no unknown constant t_nec      the certified lower bound on the best
    loss in the hull of the neurons <= tau: necessary t_random   the loss of a random subset of k neurons <= tau: the
    null model t_dense    the loss of the dense network <= tau: the trivial explanation t_printed  L_N <= (l(u_1) +
    D^2/2) / (k - 1): theorem 3 of Wolfe et al. (arXiv 2108.00259) made operational

t_nec <= t_emp <= t_suff holds in every run with replacement, because the losses are in that order at every checkpoint
[our derivation; it is checked, and a violation is a bug]. A threshold is an interval: the last checkpoint before and
the first after.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from landscape.errors import InputError
from landscape.pretraining import bounds
from landscape.pretraining.laws import Intervals

Floats = NDArray[np.float64]

MEANINGS = ("emp", "suff", "nec", "random", "dense", "printed")
ROUNDING = 1e-5  # of the loss without neurons: what float32 activations may do to a loss


def sufficient_loss(result: xr.Dataset) -> xr.DataArray:
    """Return the upper bound on the loss over (cell, step, size): B3 where the loss is mse, else B2."""
    harmonic = xr.apply_ufunc(
        bounds.bound_harmonic,
        result["first_loss"],
        result["dense_loss"],
        result["variance"],
        result["size"],
        result["smoothness"],
    )
    root = xr.apply_ufunc(bounds.bound_root, result["dense_loss"], result["variance"], result["size"])
    return xr.where(result["smoothness"] == 1, np.minimum(root, harmonic), harmonic)


def check_order(result: xr.Dataset) -> None:
    """Check the invariant: hull loss <= loss of the selected <= upper bound, at every checkpoint and size.

    Every selection is a point of the hull. The upper bounds hold for uniform weights with replacement only, which the
    attribute ``greedy_bounds`` says.

    Raises
    ------
    ArithmeticError
        With the worst violation.
    """
    slack = ROUNDING * np.maximum(result["empty_loss"], result["first_loss"])
    checks = {"below the best loss in the hull": result["hull_loss_lo"] - result["loss"]}
    if result.attrs["greedy_bounds"]:
        checks["above its upper bound"] = result["loss"] - sufficient_loss(result)
    for what, excess in checks.items():
        worst = float((excess - slack).max())
        if worst > 0:
            raise ArithmeticError(f"the loss of a selected subnetwork lies {what} by {worst:.3g} more than rounding")


def thresholds(result: xr.Dataset, target: ArrayLike | xr.DataArray) -> xr.Dataset:
    """Return the thresholds ``t_*_lo < t <= t_*_hi`` over (cell, size), in training steps.

    Parameters
    ----------
    result
        A ``gfs`` Dataset.
    target
        The loss tau to reach: one number, or an array over ``size`` or ``cell`` or both.

    Returns
    -------
    xarray.Dataset
        ``t_NAME_lo`` and ``t_NAME_hi``, beside the labels of the cells. A threshold reached at the first checkpoint
        has lo = 0 and the hi of the second: it lies below the first resolved step. One never reached has hi =
        infinity. ``t_suff`` is absent where no bound applies, and ``t_printed`` where the diameter was not computed.
    """
    check_order(result)
    tau = target if isinstance(target, xr.DataArray) else xr.DataArray(target)
    loss = result["loss"]
    curves = {"emp": loss, "nec": np.minimum(result["hull_loss_lo"], loss), "random": result["random_loss"]}
    curves["dense"] = result["dense_loss"]
    reached = {name: curve <= tau for name, curve in curves.items()}
    if result.attrs["greedy_bounds"]:
        reached["suff"] = np.maximum(sufficient_loss(result), loss) <= tau
    if "diameter" in result:
        size = result["size"]
        ceiling = (result["first_loss"] + result["diameter"] ** 2 / 2) / np.maximum(size - 1, 1)
        reached["printed"] = (result["dense_loss"] <= ceiling) | (size == 1)
    everywhere = loss + tau
    found: dict[str, xr.DataArray] = {}
    for name, where in reached.items():
        found[f"t_{name}_lo"], found[f"t_{name}_hi"] = first_hit(xr.DataArray(where).broadcast_like(everywhere))
    kept = [name for name in ("num_examples", "num_neurons", "batch_size", "replicate", "arm") if name in result]
    return result[kept].assign(found)


def first_hit(reached: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the ends of the interval in which a condition over ``step`` first became true."""
    step = reached["step"].values.astype(np.float64)
    if len(step) < 2 or (np.diff(step) <= 0).any():
        raise InputError("thresholds want at least two checkpoints in the order of training")
    first = reached.argmax("step")
    never = ~reached.any("step")
    lower, upper = np.concatenate([[0.0], step[:-1]]), np.concatenate([[step[1]], step[1:]])
    lo = xr.where(never, step[-1], xr.DataArray(lower[first.values], first.coords, first.dims))
    hi = xr.where(never, np.inf, xr.DataArray(upper[first.values], first.coords, first.dims))
    return lo.transpose(*first.dims), hi.transpose(*first.dims)


def intervals(
    found: xr.Dataset, name: str, along: xr.DataArray, replicate: xr.DataArray, axis: str = "steps"
) -> Intervals:
    """Return one kind of threshold as data for the laws.

    Parameters
    ----------
    name
        ``emp``, ``suff``, ``nec``, ``random``, ``dense`` or ``printed``.
    along
        What it depends on: the number of examples of the cells, or the size k.
    replicate
        Training repeat of the cells.
    axis
        ``steps``, ``epochs`` (needs ``num_examples`` and ``batch_size`` in ``found``) or ``samples`` (``batch_size``).
    """
    unit = axis_unit(found, axis)
    lo, hi = found[f"t_{name}_lo"] * unit, found[f"t_{name}_hi"] * unit
    columns = [array.values.ravel() for array in xr.broadcast(along.astype(float), lo, hi, replicate)]
    return Intervals(*columns)


def axis_unit(found: xr.Dataset, axis: str) -> xr.DataArray | float:
    """Return what one training step is worth on an axis: 1 step, batch / m epochs, or batch samples."""
    if axis == "steps":
        return 1.0
    if axis == "samples":
        return found["batch_size"].astype(float)
    if axis == "epochs":
        return found["batch_size"] / found["num_examples"]
    raise InputError(f"unknown axis {axis!r}; use steps, epochs or samples")


def accuracy_threshold(accuracy: xr.DataArray, num_examples: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the published criterion as an interval: when the pruned network beats the best one of all data.

    The red line of figure 2 of Wolfe et al.: for each m, the first checkpoint whose pruned training accuracy exceeds
    the best over all checkpoints at the largest m.

    Parameters
    ----------
    accuracy
        Training accuracy of the pruned networks over (cell, step), for one size.
    num_examples
        m of the cells.
    """
    full = accuracy.where(num_examples == num_examples.max(), drop=True)
    return first_hit(accuracy > float(full.max()))


def settling_time(accuracy: xr.DataArray, within: float = 0.02) -> tuple[xr.DataArray, xr.DataArray]:
    """Return when the pruned accuracy over ``step`` first reaches (1 - within) of its last value, as an interval."""
    return first_hit(accuracy >= (1 - within) * accuracy.isel(step=-1, drop=True))


def contraction(step: Floats, loss: Floats, window: tuple[float, float] = (1e-3, 0.5)) -> float:
    """Return rho, the factor per step by which the dense loss falls: exp of the slope of log loss against the step.

    Parameters
    ----------
    step, loss
        Along the checkpoints of one training.
    window
        Only losses between these fractions of the first are used, where the fall is most nearly geometric.

    Returns
    -------
    float
        NaN where fewer than two checkpoints lie in the window. Theorem 10 would have 1 - sqrt(rho) = c d / m for
        gradient descent and theorem 3 would have 1 - rho = c d / m^2 for single-sample steps, which give c.
    """
    used = (loss >= window[0] * loss[0]) & (loss <= window[1] * loss[0])
    if used.sum() < 2:
        return float("nan")
    return float(np.exp(np.polyfit(step[used], np.log(loss[used]), 1)[0]))


def printed_time(num_examples: ArrayLike, size: ArrayLike, strength: float, order: int = 2) -> Floats:
    """Return the formula as printed, -log k / log(1 - c d / m^order), in steps.

    Order 2 is theorem 3 (one example a step), order 1 theorem 10 (gradient descent), which absorbs a factor 1/2.

    Parameters
    ----------
    strength
        c d; c is an unspecified constant of the theorem.
    """
    m, k = np.asarray(num_examples, dtype=np.float64), np.asarray(size, dtype=np.float64)
    if strength >= m.min() ** order:
        raise InputError(f"the printed formula wants c d < m^{order}")
    return -np.log(k) / np.log1p(-strength / m**order)
