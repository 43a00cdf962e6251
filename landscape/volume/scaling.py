"""The tables of the scale-aware estimators: sharpness, flatness, learning coefficient."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from landscape import operators
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.volume import llc, sharpness
from landscape.volume.flatness import relative_flatness
from landscape.volume.geometry import Geometry
from landscape.volume.neighbourhood import Excess, Neighbourhood


def loss_increase(problem: Problem) -> Excess:
    """Return the loss increase of displacements ``(n, k)`` -> ``(k,)``."""
    return Neighbourhood(problem, "loss_relative", 1.0).excess


def sharpness_table(geometry: Geometry) -> xr.Dataset:
    """Return average and worst adaptive sharpness over ``relative_size``."""
    problem, options, seed = geometry.problem, geometry.options, geometry.effort.seed
    rise = loss_increase(problem)
    average = [sharpness.average_sharpness(rise, problem.theta, rho, options.noise_pairs, seed) for rho in options.rho]
    dim = "relative_size"
    table = xr.Dataset(
        {
            "average_sharpness": (dim, [a.value for a in average]),
            "average_sharpness_se": (dim, [a.se for a in average]),
        },
        {dim: list(options.rho)},
    )
    if options.ascent_steps:
        worst = [sharpness.worst_sharpness(problem, rho, "l2", options.ascent_steps, seed) for rho in options.rho]
        table["worst_sharpness"] = (dim, [w.value for w in worst])
        table["linearised_sharpness"] = (dim, [w.linearised for w in worst])
    return table


def flatness_table(geometry: Geometry) -> xr.Dataset:
    """Return the relative flatness of every active weight with rows, over ``weight``."""
    problem = geometry.problem
    names = [name for name, parameter in problem.parameters.items() if parameter.ndim > 1]
    if not names:
        return xr.Dataset(attrs={"refused_flatness": "no active parameter has rows"})
    hessian = operators.hessian(problem)
    probes, seed = geometry.options.flatness_probes, geometry.effort.seed
    found = [relative_flatness(problem, hessian, name, probes, seed) for name in names]
    return xr.Dataset(
        {
            "relative_flatness": ("weight", [f.value for f in found]),
            "relative_flatness_se": ("weight", [f.se for f in found]),
        },
        {"weight": names},
    )


def llc_table(geometry: Geometry) -> xr.Dataset:
    """Return the learning coefficient, or the reason why there is none at this point."""
    problem, options = geometry.problem, geometry.options.sampler
    n_beta = llc.tempered(problem.num_examples)
    size = float(geometry.gradient.double().square().sum())
    decrement = size * geometry.smoothed_gradient(options.localisation / n_beta)
    try:
        llc.check_minimum(decrement, n_beta)
    except InputError as error:
        return xr.Dataset(attrs={"refused_llc": str(error)})
    top = n_beta * float(np.max(geometry.pairs[0]))
    if options.sampler == "sgld":
        scale = torch.full_like(problem.theta, 1.0 / (top + options.localisation))
    else:
        scale = 1.0 / (n_beta * geometry.diagonal.clamp(min=0.0) + options.localisation)
    found = llc.learning_coefficient(problem, options, scale, geometry.effort.seed)
    table = xr.Dataset(
        {
            "learning_coefficient": found.value,
            "learning_coefficient_se": found.se,
            "learning_share": 2 * found.value / problem.num_params,
            "r_hat": found.r_hat,
            "chain_effective_size": found.ess,
            "acceptance": found.acceptance,
            "chain_converged": found.converged,
            "quadratic_coefficient": llc.quadratic_coefficient(geometry.probes, n_beta, options.localisation),
        }
    )
    if options.sampler == "sgld":
        step = found.step / (top + options.localisation)
        finite = llc.quadratic_coefficient(geometry.probes, n_beta, options.localisation, step)
        table["step_correction"] = float(table["quadratic_coefficient"]) - finite
    return table
