"""The tables of the estimators that need the spectrum only: sections, Occam factors, prunable fractions."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from landscape import seeds
from landscape.errors import InputError
from landscape.spectrum.measure import rank_bound
from landscape.volume import occam, prunable
from landscape.volume.geometry import Geometry
from landscape.volume.multilevel import Trace
from landscape.volume.prunable import Relaxation
from landscape.volume.section import section

ORDERS = ("magnitude", "random")


def columns(name: str, dim: str, traces: list[Trace]) -> dict[str, tuple[str, list[float]]]:
    """Return value, standard error and quadrature bias of traces over a dim."""
    return {
        name: (dim, [t.value for t in traces]),
        f"{name}_se": (dim, [t.se for t in traces]),
        f"{name}_bias": (dim, [t.bias for t in traces]),
    }


def section_table(geometry: Geometry) -> xr.Dataset:
    """Return the truncated products, for every size that does not exceed the positive eigenvalues found.

    Raises
    ------
    InputError
        If there are too few positive eigenvalues even for the smallest size.
    """
    values, residuals, _ = geometry.pairs
    positive = int((values > 0).sum())
    sizes = [size for size in geometry.options.section_size if size <= positive]
    if not sizes:
        smallest = min(geometry.options.section_size)
        raise InputError(
            f"a section of {smallest} dimensions needs as many positive eigenvalues; {positive} were found"
        )
    found = [section(values, residuals, size, geometry.neighbourhood.threshold) for size in sizes]
    return xr.Dataset(
        {
            "section_stiffness": ("section_size", [s.stiffness for s in found]),
            "section_error": ("section_size", [s.error for s in found]),
            "section_log_volume": ("section_size", [s.log_volume for s in found]),
        },
        {"section_size": sizes},
    )


def prior_sds(geometry: Geometry) -> list[float]:
    """Return the prior widths that are swept."""
    return [factor * geometry.prior_sd for factor in geometry.options.prior_factor]


def occam_table(geometry: Geometry) -> xr.Dataset:
    """Return Occam factors, damped log-determinants, and the ellipsoid's volume unless it must be refused."""
    probes, cutoff = geometry.probes, geometry.neighbourhood.threshold
    factors = geometry.options.prior_factor
    occams = [occam.occam_factor(probes, geometry.problem.num_examples, sd) for sd in prior_sds(geometry)]
    dampings = geometry.options.damping
    damped = [occam.damped(probes, cutoff, damping) for damping in dampings]
    number, size = occam.negative_part(probes)
    table = xr.Dataset(
        {
            **columns("occam_factor", "prior_factor", occams),
            **columns("damped_log_volume", "damping", damped),
            "prior_sd": ("prior_factor", prior_sds(geometry)),
            "num_negative": number.value,
            "negative_sum": size.value,
        },
        {"prior_factor": list(factors), "damping": list(dampings)},
    )
    try:
        exact = occam.ellipsoid(probes, cutoff, rank_bound(geometry.problem))
        table = table.assign(
            ellipsoid_log_volume=exact.value, ellipsoid_log_volume_se=exact.se, ellipsoid_log_volume_bias=exact.bias
        )
    except InputError as error:
        table.attrs["refused_ellipsoid"] = str(error)
    return table


def prunable_table(geometry: Geometry) -> xr.Dataset:
    """Return the predicted prunable fraction, and for each fraction the increase projected, relaxed and tried out."""
    problem, options = geometry.problem, geometry.options
    chosen = prunable.prunable_coordinates(problem)
    if not bool(chosen.any()):
        return xr.Dataset(attrs={"refused_prunable": "no active weight belongs to a matrix or kernel"})
    cutoff, theta = geometry.neighbourhood.threshold, problem.theta
    weights = theta[chosen].double().cpu().numpy()
    damping = 1e-6 * float(geometry.pairs[0].max())
    rows, predicted = [], []
    for order in ORDERS:
        predicted.append(prunable.predicted_fraction(geometry.probes, weights, cutoff, order))
        source = seeds.generator(geometry.effort.seed, "prunable")
        positions = prunable.prune_order(theta, chosen, order, source)
        tried = prunable.empirical_scan(problem, positions, options.fraction)
        axial = []
        for fraction in options.fraction:
            pruned = torch.zeros_like(chosen)
            pruned[positions[: round(fraction * len(positions))]] = True
            found = prunable.axial_increase(
                geometry.operator, geometry.gradient, theta, pruned, Relaxation(damping, options.relax_steps)
            )
            axial.append([found.projected, found.relaxed, found.residual])
        rows.append(np.concatenate([np.array(axial), tried], axis=1))
    data = np.array(rows)
    names = ("projected_increase", "relaxed_increase", "relaxed_residual", "tried_increase", "tried_accuracy")
    dims = ("order", "fraction")
    table = xr.Dataset(
        {name: (dims, data[..., i]) for i, name in enumerate(names) if not np.isnan(data[..., i]).any()},
        {"order": list(ORDERS), "fraction": list(options.fraction)},
    )
    table["prunable_fraction"] = ("order", predicted)
    return table
