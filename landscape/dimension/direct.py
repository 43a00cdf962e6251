"""Quantities of base point and states that need no further curvature: stationarity and slaving."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape.dimension.base import Base
from landscape.dimension.graphs import Split, aim_defect
from landscape.dimension.metric import Point
from landscape.dimension.slaving import TwinOptions, steady_graph, twin_runs

_ITERATIONS = 3


def stationarity(point: Point, base: Base) -> xr.Dataset:
    """Return how stationary the base point is on the fast side: the gradient there, and the step that it asks for.

    Returns
    -------
    ``fast_gradient_fraction`` |Q g| / |g| and ``newton_displacement`` |A_Q^(-1) Q g| over ``fast`` (k = 1..K
    directions); the second is NaN where an eigenvalue is not positive. Cost: one gradient.
    """
    slope = point.gradient().double()
    inside = np.asarray((base.vectors.double().T @ slope).cpu())
    norm = float(slope.norm())
    value = np.where(base.top > 0, base.top, np.nan)
    fraction = np.sqrt(np.cumsum(inside**2)) / norm if norm > 0 else np.zeros(len(inside))
    step = np.sqrt(np.cumsum((inside / value) ** 2))
    return xr.Dataset(
        {"fast_gradient_fraction": ("fast", fraction), "newton_displacement": ("fast", step)},
        {"fast": np.arange(1, len(inside) + 1)},
    )


def graph_tests(point: Point, base: Base, states: Tensor, seed: int) -> xr.Dataset:
    """Return the steady graph and the approximate-manifold defect of the states of a trajectory.

    Parameters
    ----------
    states
        ``(T, n)``; the first half is taken as transient.

    Returns
    -------
    ``steady_slope``, ``steady_shuffled`` (median over shuffles) and ``steady_p_value`` over ``fast``; ``aim_defect``
    over ``iteration`` for all fast directions of positive curvature, their number ``num_slaved``. What needs more
    states than there are is absent.

    Notes
    -----
    Cost: three gradients per state.
    """
    result = xr.Dataset()
    late = states[len(states) // 2 :]
    if len(late) >= 3:
        found = [steady_graph(late, base.vectors[:, :k], seed=seed) for k in range(1, base.vectors.shape[1] + 1)]
        columns = {
            "steady_slope": [graph.slope for graph in found],
            "steady_shuffled": [float(np.median(graph.shuffled)) for graph in found],
            "steady_p_value": [graph.p_value for graph in found],
        }
        result = xr.Dataset({name: ("fast", np.array(values)) for name, values in columns.items()})
        result = result.assign_coords(fast=np.arange(1, len(found) + 1))
    count = int((base.top > base.residual[base.label > 0]).sum())
    if count and len(late) >= 3:
        curvature = torch.as_tensor(base.top[:count]).to(states)
        defect = aim_defect(Split(point, base.vectors[:, :count], curvature), late, _ITERATIONS)
        result["aim_defect"] = ("iteration", defect)
        result["num_slaved"] = count
        result = result.assign_coords(iteration=np.arange(1, _ITERATIONS + 1))
    return result


def twins(point: Point, base: Base, options: TwinOptions, count: int) -> xr.Dataset:
    """Return twin runs from the base point, their first difference within ``count`` fast directions.

    Returns
    -------
    ``twin_ratio`` |Q w| / |P w| over ``twin_step``, ``twin_entry`` (NaN: never for good) and ``twin_decay_rate``.
    """
    found = twin_runs(point, base.vectors[:, :count], options)
    return xr.Dataset(
        {
            "twin_ratio": ("twin_step", np.minimum(found.ratio, 1e300)),
            "twin_entry": np.nan if found.entry is None else float(found.entry),
            "twin_decay_rate": found.decay_rate,
            "twin_fast": count,
        },
        {"twin_step": np.arange(len(found.time))},
    )
