"""The tables of the estimators that draw directions: star-shaped, preconditioned, Gaussian mass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from landscape.volume import preconditioned, star
from landscape.volume.gaussian_mass import code_length, gaussian_mass
from landscape.volume.geometry import Geometry
from landscape.volume.preconditioned import Evaluate, Pilot
from landscape.volume.preconditioners import Preconditioner
from landscape.volume.prunable import prunable_coordinates
from landscape.volume.sampling import LogVolume, Rays, log_volume
from landscape.volume.spectral import prior_sds
from landscape.volume.weights import log_ball


def merge(first: xr.Dataset, second: xr.Dataset) -> xr.Dataset:
    """Join two tables; what both hold must be equal."""
    return xr.merge([first, second], compat="no_conflicts", join="outer", combine_attrs="no_conflicts")


@dataclass(frozen=True)
class Draw:
    """A preconditioner with the radii along its final directions."""

    preconditioner: Preconditioner
    rays: Rays


def sampled_table(geometry: Geometry) -> xr.Dataset:
    """Return all sampled volumes: one pilot and few final draws serve the three estimators."""
    asked, basin = set(geometry.options.estimators), geometry.basin
    draws: dict[str, Draw] = {}
    table = xr.Dataset()
    if "star" in asked:
        for name in ("identity", "filter"):
            chosen = next(preconditioned.build(geometry, name))
            draws[name] = Draw(chosen, preconditioned.draw(geometry, chosen))
        table = merge(table, _prediction(geometry))
    if asked & {"preconditioned", "gaussian_mass"}:
        pilots = preconditioned.pilots(geometry, geometry.options.preconditioners)
        table = merge(table, _pilot_table(pilots))
        known: dict[int, Draw] = {}
        if "preconditioned" in asked:
            draws["preconditioned"] = _best(
                geometry, pilots, lambda rays, chosen: log_volume(rays, basin, chosen), known
            )
        if "gaussian_mass" in asked:
            table = merge(table, _mass_table(geometry, pilots, known))
    if draws:
        table = merge(table, _volume_table(geometry, draws))
    return table


def _best(geometry: Geometry, pilots: list[Pilot], evaluate: Evaluate, known: dict[int, Draw]) -> Draw:
    """Return the fresh draw of the candidate that did best on the pilot; candidates that win twice are drawn once."""
    chosen = preconditioned.best(pilots, evaluate)
    if id(chosen) not in known:
        known[id(chosen)] = Draw(chosen, preconditioned.draw(geometry, chosen))
    return known[id(chosen)]


def _prediction(geometry: Geometry) -> xr.Dataset:
    """Return what plain sampling gives on the quadratic model, and how far that falls short."""
    expected = star.predict(geometry.probes, geometry.neighbourhood.threshold)
    return xr.Dataset(
        {
            "star_predicted_mean": expected.mean,
            "star_predicted_sd": expected.sd,
            "star_shortfall": expected.shortfall.value,
            "star_shortfall_se": expected.shortfall.se,
        }
    )


def _pilot_table(pilots: list[Pilot]) -> xr.Dataset:
    return xr.Dataset(
        {
            "pilot_log_volume": ("candidate", [pilot.volume.value for pilot in pilots]),
            "pilot_preconditioner": ("candidate", [pilot.preconditioner.name for pilot in pilots]),
            "pilot_shrinkage": ("candidate", [pilot.preconditioner.shrinkage for pilot in pilots]),
        },
        {"candidate": np.arange(len(pilots))},
    )


def _interval(name: str, dim: str, volumes: list[LogVolume]) -> dict[str, tuple[str, list[float]]]:
    """Return estimates with their intervals, the parts of their errors, and what tells whether they hold."""
    return {
        name: (dim, [v.value for v in volumes]),
        f"{name}_lo": (dim, [v.low for v in volumes]),
        f"{name}_hi": (dim, [v.high for v in volumes]),
        f"{name}_se": (dim, [v.sampling.se for v in volumes]),
        f"{name}_determinant": (dim, [v.determinant.value for v in volumes]),
        f"{name}_determinant_se": (dim, [v.determinant.se for v in volumes]),
        f"{name}_determinant_bias": (dim, [v.determinant.bias for v in volumes]),
        f"{name}_weight_sd": (dim, [v.sampling.sd for v in volumes]),
        f"{name}_effective_size": (dim, [v.sampling.ess for v in volumes]),
        f"{name}_shrinkage": (dim, [v.shrinkage for v in volumes]),
    }


def _labels(name: str, dim: str, volumes: list[LogVolume]) -> dict[str, tuple[str, list[str]]]:
    return {
        f"{name}_verdict": (dim, [v.verdict for v in volumes]),
        f"{name}_preconditioner": (dim, [v.preconditioner for v in volumes]),
    }


def _volume_table(geometry: Geometry, draws: dict[str, Draw]) -> xr.Dataset:
    """Return log volumes over ``sampler``, in nats and in units that compare across dimensions."""
    n, dim = geometry.problem.num_params, "sampler"
    volumes = [log_volume(draw.rays, geometry.basin, draw.preconditioner) for draw in draws.values()]
    rays = [draw.rays.radii for draw in draws.values()]
    rms = float(geometry.problem.theta.double().square().mean().sqrt())
    tolerance = [np.exp((v.value - log_ball(n)) / n) / np.sqrt(n) for v in volumes]
    table = xr.Dataset(
        {
            **_interval("log_volume", dim, volumes),
            **_labels("log_volume", dim, volumes),
            "log_volume_mean": (dim, [v.sampling.mean for v in volumes]),
            "noise_tolerance": (dim, tolerance),
            "relative_noise_tolerance": (dim, [t / rms if rms else np.inf for t in tolerance]),
            "num_infinite": (dim, [int(np.isinf(r.log_radius).sum()) for r in rays]),
            "num_non_monotone": (dim, [int((~r.monotone).sum()) for r in rays]),
            "passes_mean": (dim, [float(r.passes.mean()) for r in rays]),
            "passes_max": (dim, [int(r.passes.max()) for r in rays]),
            "radius_error": (dim, [float(r.error.max()) for r in rays]),
        },
        {dim: list(draws)},
    )
    table["log_radius"] = ((dim, "ray"), np.array([r.log_radius for r in rays]))
    if "filter" in draws:
        filters = draws["filter"].preconditioner.log_det.value
        table["normalised_log_volume"] = float(table["log_volume"].sel(sampler="filter")) - filters
    return table.assign_coords(ray=np.arange(table.sizes["ray"]))


def _mass_table(geometry: Geometry, pilots: list[Pilot], known: dict[int, Draw]) -> xr.Dataset:
    """Return log probabilities under the swept priors, each with the preconditioner that serves it best."""
    dim, volumes = "prior_factor", []
    sds = prior_sds(geometry)
    for sd in sds:

        def mass(rays: Rays, chosen: Preconditioner, sd: float = sd) -> LogVolume:
            return gaussian_mass(rays, geometry.basin, chosen, sd)

        draw = _best(geometry, pilots, mass, known)
        volumes.append(mass(draw.rays, draw.preconditioner))
    n = geometry.problem.num_params
    kept = int(prunable_coordinates(geometry.problem).sum())
    total = sum(p.numel() for p in geometry.problem.parameters.values() if p.ndim > 1)
    return xr.Dataset(
        {
            **_interval("log_probability", dim, volumes),
            **_labels("log_probability", dim, volumes),
            "prior_sd": (dim, sds),
            "nats_per_weight": (dim, [-v.value / n for v in volumes]),
            "code_length": (dim, [code_length(v.value, total, kept) for v in volumes]),
        },
        {dim: list(geometry.options.prior_factor)},
    )
