"""From a problem to the volume Dataset: every estimator asked for, in one labelled object."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from landscape import cli
from landscape.problem import Problem
from landscape.spectrum.measure import rank_bound
from landscape.volume import sampled, scaling, spectral
from landscape.volume.geometry import Geometry
from landscape.volume.neighbourhood import Neighbourhood
from landscape.volume.options import Effort, VolumeOptions, check

Estimator = Callable[[Geometry], xr.Dataset]

# Sampled volumes share their directions, so they are one stage.
STAGES: dict[tuple[str, ...], Estimator] = {
    ("section",): spectral.section_table,
    ("occam",): spectral.occam_table,
    ("star", "preconditioned", "gaussian_mass"): sampled.sampled_table,
    ("prunable",): spectral.prunable_table,
    ("sharpness",): scaling.sharpness_table,
    ("flatness",): scaling.flatness_table,
    ("llc",): scaling.llc_table,
}


def measure(problem: Problem, options: VolumeOptions, effort: Effort) -> xr.Dataset:
    """Measure the volume of the basin around a problem's point.

    Returns
    -------
    The variables of ``schemas.VOLUME``; attributes ``seconds``, ``neighbourhood``, ``cutoff``, ``curvature``,
    ``num_products_this_process`` and, for an estimator that had to refuse, ``refused_NAME`` with its reason. Provenance
    is added by the callers, who know what was asked.

    Raises
    ------
    InputError
        Options that cannot be honoured, an anchor outside the basin, no positive curvature.
    """
    started = time.monotonic()
    check(options, problem.num_params)
    hood = Neighbourhood(problem, options.neighbourhood, options.cutoff)
    geometry = Geometry(problem, hood, options, effort)
    result = _facts(geometry)
    for names, estimator in STAGES.items():
        if set(names) & set(options.estimators):
            cli.log(f"{', '.join(name for name in names if name in options.estimators)} ...", effort.quiet)
            part = _stage(geometry, "_".join(names), estimator)
            result = sampled.merge(result, part)
    result["num_products"] = geometry.operator.num_products
    result.attrs |= {
        "neighbourhood": options.neighbourhood,
        "cutoff": options.cutoff,
        "seed": effort.seed,
        "curvature": geometry.kind,
        "seconds": time.monotonic() - started,
        "num_products_this_process": geometry.operator.num_products,
    }
    return result


def _stage(geometry: Geometry, name: str, estimator: Estimator) -> xr.Dataset:
    """Run one stage, or take its table from the journal of an interrupted run."""
    journal = geometry.effort.journal
    saved = journal.load(name)
    if saved is not None:
        return xr.Dataset.from_dict(saved)
    table = estimator(geometry)
    journal.save(name, table.to_dict())
    return table


def _facts(geometry: Geometry) -> xr.Dataset:
    problem = geometry.problem
    decrement, damping = geometry.newton
    facts: dict[str, Any] = {
        "loss": problem.loss(),
        "gradient_norm": float(geometry.gradient.double().norm()),
        "newton_decrement": decrement,
        "newton_damping": damping,
        "num_params": problem.num_params,
        "num_params_total": problem.num_params_total,
        "num_examples": problem.num_examples,
        "kept": problem.kept,
        "rank_bound": rank_bound(problem),
        "weight_rms": float(problem.theta.double().square().mean().sqrt()),
        "largest_eigenvalue": float(np.max(geometry.pairs[0])),
    }
    accuracy = problem.accuracy()
    return xr.Dataset(facts if accuracy is None else {**facts, "accuracy": accuracy})
