"""From a problem and its trajectory to the dimension Dataset: spectrum, Hessian differences, cone, answers, slaving."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape import cli
from landscape.dimension import answers, direct
from landscape.dimension.answers import POINTWISE, SEGMENT, Evidence
from landscape.dimension.base import Base, measure_base, sizes
from landscape.dimension.gather import Effort, Gathered, gather
from landscape.dimension.horizon import effective_number, finite_horizon, training_dimension
from landscape.dimension.lipschitz import LipschitzSamples, kink, secant
from landscape.dimension.metric import Point, preconditioned
from landscape.dimension.options import DimensionOptions, check, check_inputs, dynamics_of, rules_of
from landscape.dimension.rates import Dynamics, effective_rate, rates
from landscape.dimension.rules import LIPSCHITZ_RULES
from landscape.dimension.sampling import Region, region_of
from landscape.dimension.slaving import TwinOptions
from landscape.dimension.tensor import tensor_norm
from landscape.dimension.trajectory import Trajectory
from landscape.errors import MemoryLimitError
from landscape.problem import Problem

_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Training:
    """What is known of the training: its states, and the diagonal of its preconditioner ``(n,)``."""

    trajectory: Trajectory | None = None
    diagonal: Tensor | None = None


def measure(
    problem: Problem, options: DimensionOptions, effort: Effort, training: Training | None = None
) -> xr.Dataset:
    """Measure the conditions of a slow manifold around a problem's point.

    Returns
    -------
    The variables of ``schemas.DIMENSION``. Provenance is added by the callers.

    Raises
    ------
    InputError
        Options that cannot be honoured, a trajectory that does not move, products that are not finite.
    MemoryLimitError
        If the fast directions do not fit the memory.
    """
    started, training = time.monotonic(), training or Training()
    check(options)
    check_inputs(options, training.trajectory is not None, training.diagonal is not None)
    dynamics = dynamics_of(options)
    rules = rules_of(options, dynamics)
    _check_memory(problem, options, effort.memory)
    point, moved = _coordinates(problem, training)
    bar: Any
    with cli.progress(0, "eigenpairs", effort.quiet, unit="product") as bar:
        base = measure_base(point, options, effort.seed, effort.journal, bar.update)
    states = None if moved is None else moved.states
    region = region_of(point, (options.region, options.radius), states, base.vectors, effort.seed)
    gathered = gather(point, base, region, rules, options, effort)
    chosen = gathered.samples.select(region.kind)
    known = rates(base.known, dynamics)
    evidence = Evidence(base, known, chosen, gathered.points, gathered.segments, options.retain)
    if gathered.segments is not None:
        rules = tuple(name for rule in rules for name in ((rule, SEGMENT) if rule == POINTWISE else (rule,)))
    parts = [
        answers.tabulate(rules, region.radii, evidence),
        _bounds(gathered, evidence, rules, region, moved, options.radius_tolerance),
        _samples(gathered.samples, evidence, region, point),
        _eigenvalues(base, dynamics),
        direct.stationarity(point, base),
        _horizon(base, options.time),
        _subspaces(point, base, moved),
        _states(point, base, moved, options, effort.seed),
    ]
    result = xr.merge(parts, join="exact", compat="no_conflicts").assign(_facts(problem, evidence))
    result["num_products"] = base.num_products + gathered.num_products + gathered.ray.samples().num_products
    result["dynamics"], result["region"], result["retain"] = dynamics.name, region.kind, options.retain
    result.attrs = {"evidence": "sampled, not certified", "seconds": time.monotonic() - started}
    return result


def _coordinates(problem: Problem, training: Training) -> tuple[Point, Trajectory | None]:
    """Return the base point and the states that differ from it, in the coordinates of the dynamics."""
    point: Point = problem if training.diagonal is None else preconditioned(problem, training.diagonal)
    if training.trajectory is None:
        return point, None
    apart = training.trajectory.away_from(problem.theta)
    return point, apart if isinstance(point, Problem) else Trajectory(apart.states / point.scale, apart.step)


def _check_memory(problem: Problem, options: DimensionOptions, memory: int) -> None:
    fast, _ = sizes(options, problem.num_params)
    needed = 4 * (fast + options.depth) * problem.num_params * problem.dtype.itemsize
    if needed > memory:
        raise MemoryLimitError(
            f"{fast} fast directions and {options.depth} Krylov steps need {needed / 2**30:.3g} GiB, but "
            f"{memory / 2**30:.3g} GiB are allowed; raise --memory or lower --fast"
        )


def _bounds(
    gathered: Gathered,
    evidence: Evidence,
    rules: tuple[str, ...],
    region: Region,
    moved: Trajectory | None,
    tolerance: float,
) -> xr.Dataset:
    """Return radius_upper of each rule (NaN where it knows no radius), and its coverage of the trajectory."""
    found = {}
    for rule in rules:
        bound = np.nan
        if rule in (*LIPSCHITZ_RULES, POINTWISE, SEGMENT):
            bound = answers.first_failure(rule, evidence)
        if rule in LIPSCHITZ_RULES:
            bound = min(bound, gathered.ray.failure_radius(partial(answers.fails, rule, evidence=evidence), tolerance))
        if rule == POINTWISE and gathered.cone_failure is not None:
            bound = min(bound, gathered.cone_failure)
        found[rule] = bound
    bounds = xr.Dataset({"radius_upper": ("rule", np.array(list(found.values())))}, {"rule": _names(rules)})
    if moved is None:
        return bounds
    return bounds.merge(answers.covered(found, region, moved.step))


def _names(names: tuple[str, ...] | list[str]) -> np.ndarray:
    return np.array(names, dtype=object)


def _samples(samples: LipschitzSamples, evidence: Evidence, region: Region, point: Point) -> xr.Dataset:
    """Return Lipschitz constants over radii, all raw samples, and the kinks; the cone margins over all samples."""
    largest, oscillation, number = evidence.samples.constants(region.radii)
    half = np.min([part.constants(region.radii)[0] for part in evidence.samples.halves()], axis=0)
    rays = samples.kind == "ray"
    eps = float(torch.finfo(point.dtype).eps)
    bend = kink(samples.radius[rays], samples.norm[rays], float(np.abs(evidence.base.eigenvalue).max()), eps)
    result = xr.Dataset(
        {
            "rho": ("shell", region.radii),
            "lipschitz": ("shell", largest),
            "lipschitz_osc": ("shell", oscillation),
            "lipschitz_half": ("shell", half),
            "num_samples": ("shell", number),
            "sample_radius": ("sample", samples.radius),
            "sample_low": ("sample", samples.low),
            "sample_high": ("sample", samples.high),
            "sample_kind": ("sample", samples.kind.astype(object)),
            "kink_slope": bend.slope,
            "kink_plateau": np.nan if bend.plateau is None else bend.plateau,
            "product_noise": bend.noise,
        },
        {"shell": np.arange(len(region.radii)), "sample": np.arange(len(samples.radius))},
    )
    for name, cone in (("cone", evidence.points), ("segment", evidence.segments)):
        if cone is not None:
            gap, attraction = cone.within(np.inf)
            result[f"{name}_gap"] = ("fast", gap)
            result[f"{name}_attraction"] = ("fast", attraction)
            result[f"{name}_residual"] = ("fast", cone.residual.max(axis=0))
            result[f"num_{name}_samples"] = len(cone.radius)
            result = result.assign_coords(fast=np.arange(1, len(gap) + 1))
    return result


def _eigenvalues(base: Base, dynamics: Dynamics) -> xr.Dataset:
    columns = {
        "eigenvalue": base.eigenvalue,
        "residual": base.residual,
        "converged": base.converged,
        "rate": effective_rate(base.eigenvalue, dynamics),
    }
    return xr.Dataset({name: ("eigen", values) for name, values in columns.items()}, {"eigen": base.label})


def _horizon(base: Base, time: float | None) -> xr.Dataset:
    """Return the split over the training time, where both time and spectral density are known."""
    if base.density is None or time is None:
        return xr.Dataset()
    split = finite_horizon(base.density, time)
    result: dict[str, Any] = {"time": time}
    for name in ("frozen", "active", "slaved", "escaping"):
        result[f"n_{name}"], result[f"n_{name}_se"] = getattr(split, name), getattr(split, f"{name}_se")
    result["effective_number"], result["effective_number_se"] = effective_number(base.density, 1 / time)
    return xr.Dataset(result)


def _subspaces(point: Point, base: Base, moved: Trajectory | None) -> xr.Dataset:
    """Return the dimension of a random subspace through the first state that reaches a tenth of its excess loss."""
    if base.density is None or moved is None:
        return xr.Dataset()
    excess = _SHARE * (point.loss(moved.states[0]) - point.loss())
    if not excess > 0:
        return xr.Dataset()
    distance = float((moved.states[0] - point.theta).double().norm())
    value, error = training_dimension(base.density, distance, excess)
    return xr.Dataset({"training_dimension": value, "training_dimension_se": error, "excess_loss": excess})


def _states(point: Point, base: Base, moved: Trajectory | None, options: DimensionOptions, seed: int) -> xr.Dataset:
    """Return the direct tests: steady graph, approximate manifolds and secants of the trajectory, twin runs, |T|."""
    result = xr.Dataset()
    if moved is not None:
        result = result.merge(direct.graph_tests(point, base, moved.states, seed))
        if len(moved.states) > 1:
            result["secant"] = ("step", np.append(np.nan, secant(point, moved.states)))
            result = result.assign_coords(step=moved.step)
    if options.twin_steps and options.lr is not None:
        momentum = options.momentum or 0.0
        how = TwinOptions(options.lr, options.twin_steps, momentum, 1e-3 * float(point.theta.norm()), seed=seed)
        result = result.merge(direct.twins(point, base, how, base.vectors.shape[1]))
    if options.third_order:
        found = tensor_norm(point, restarts=2, steps=40, tolerance=1e-3, seed=seed)
        result["tensor_norm"], result["tensor_norm_converged"] = found.value, found.converged
    return result


def _facts(problem: Problem, evidence: Evidence) -> dict[str, Any]:
    accuracy = problem.accuracy()
    facts: dict[str, Any] = {
        "loss": problem.loss(),
        "gradient_norm": float(problem.gradient().double().norm()),
        "num_params": problem.num_params,
        "num_params_total": problem.num_params_total,
        "num_examples": problem.num_examples,
        "kept": problem.kept,
        "num_modes": evidence.size,
        "lipschitz_factor": evidence.known.factor,
    }
    return facts if accuracy is None else {**facts, "accuracy": accuracy}
