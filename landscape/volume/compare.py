"""Differences of sampled volumes between points that were measured along the same directions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr

from landscape.errors import InputError
from landscape.volume.weights import log_mean


class PairedDifference(NamedTuple):
    """A difference, second less first, in nats.

    Attributes
    ----------
    mean, mean_se
        Of the mean log weight: what paired directions resolve best. It compares traces, not determinants.
    log_volume, log_volume_se
        Of the log mean weight, with its jackknife error over the directions.
    """

    mean: float
    mean_se: float
    log_volume: float
    log_volume_se: float


def paired_difference(first: xr.Dataset, second: xr.Dataset) -> PairedDifference:
    """Return how the plainly sampled log volume of two results differs along their common directions.

    Parameters
    ----------
    first, second
        Results of one seed, neighbourhood and number of active parameters.

    Raises
    ------
    InputError
        If the results do not share their directions.
    """
    if not all("identity" in d.get("sampler", ()) for d in (first, second)):
        raise InputError("a paired difference needs plainly sampled volumes: measure with --estimators star")
    names = ("num_params", "neighbourhood", "cutoff", "seed")
    facts = [[int(d["num_params"]), *(d.attrs.get(name) for name in names[1:])] for d in (first, second)]
    for name, left, right in zip(names, *facts, strict=True):
        if left != right:
            raise InputError(f"the results differ in {name} ({left} and {right}), so their directions are not paired")
    n = facts[0][0]
    radii = [d["log_radius"].sel(sampler="identity").values for d in (first, second)]
    if radii[0].shape != radii[1].shape or not all(np.isfinite(r).all() for r in radii):
        raise InputError("the results have other numbers of directions, or infinite radii")
    step = n * (radii[1] - radii[0])
    k = len(step)
    whole = log_mean(n * radii[1]).value - log_mean(n * radii[0]).value
    left_out = np.array(
        [log_mean(n * np.delete(radii[1], j)).value - log_mean(n * np.delete(radii[0], j)).value for j in range(k)]
    )
    jackknife = float(np.sqrt((k - 1) * np.square(left_out - left_out.mean()).mean()))
    return PairedDifference(float(step.mean()), float(step.std(ddof=1) / np.sqrt(k)), whole, jackknife)
