"""What a volume measurement says to its user: its plan and cost, and the table of its outcome."""

from __future__ import annotations

import numpy as np
import xarray as xr

from landscape.problem import Problem
from landscape.volume.options import VolumeOptions
from landscape.volume.weights import CALIBRATED

PASSES = 7  # forward passes a direction


def cost(options: VolumeOptions, exact: bool = False) -> tuple[int, int]:
    """Return about how many products and forward passes a measurement takes.

    Parameters
    ----------
    exact
        Whether the curvature's matrix is computed, whose products come on top.
    """
    asked = set(options.estimators)
    products = 0 if exact else 6 * options.rank + options.trace_probes * options.trace_depth + options.shallow_products
    rays = 2 * options.directions * ("star" in asked)
    if asked & {"preconditioned", "gaussian_mass"}:
        products += 0 if exact else options.diagonal_probes
        candidates = len(options.preconditioners) * len(options.shrinkage)
        rays += candidates * options.pilot + options.directions * (1 + ("gaussian_mass" in asked))
        if "polynomial" in options.preconditioners and not exact:
            products += options.degree * (options.pilot * len(options.shrinkage) + options.directions)
    if "prunable" in asked:
        products += 2 * len(options.fraction) * (options.relax_steps + 3)
    passes = PASSES * rays + 2 * options.noise_pairs * len(options.rho) * ("sharpness" in asked)
    if "llc" in asked:
        passes += 3 * options.sampler.chains * (options.sampler.draws + options.sampler.warmup)
    return products, passes


def describe_plan(problem: Problem, options: VolumeOptions) -> str:
    """Return the line with about how many products and forward passes the plan costs."""
    n = problem.num_params
    exact = n <= options.dense
    products, passes = cost(options, exact)
    return f"plan: about {products + n * exact:,} products and {passes:,} forward passes"


def describe_result(result: xr.Dataset) -> str:
    """Return the table of the outcome."""
    lines = []
    if "log_volume" in result:
        lines.append(f"{'log volume (nats)':34s} {'value':>12} {'95 % from':>12} {'to':>12} {'noise/rms':>10}  verdict")
        lines += [_volume_row(result.sel(sampler=name), str(name)) for name in result["sampler"].values]
    if "log_probability" in result:
        lines.append(
            f"{'log probability (nats)':34s} {'value':>12} {'95 % from':>12} {'to':>12} {'per weight':>10}  verdict"
        )
        lines += [_mass_row(result.isel(prior_factor=i)) for i in range(result.sizes["prior_factor"])]
    if "occam_factor" in result:
        shown = ", ".join(
            f"{float(o):.4g} +- {float(e):.2g} (sd {float(s):.3g})"
            for o, e, s in zip(result["occam_factor"], result["occam_factor_se"], result["prior_sd"], strict=True)
        )
        lines.append(f"Occam factor {shown}")
    if "section_stiffness" in result:
        shown = ", ".join(f"Q_{int(q.section_size)} = {float(q):.5g}" for q in result["section_stiffness"])
        lines.append(f"sections {shown}")
    if "prunable_fraction" in result:
        shown = ", ".join(f"{float(p):.3g} ({p.order.item()})" for p in result["prunable_fraction"])
        lines.append(f"predicted prunable fraction {shown}")
    if "learning_coefficient" in result:
        value, error = float(result["learning_coefficient"]), float(result["learning_coefficient_se"])
        lines.append(f"learning coefficient {value:.4g} +- {error:.2g}, R-hat {float(result['r_hat']):.3f}")
    lines += [f"refused: {reason}" for name, reason in result.attrs.items() if name.startswith("refused_")]
    return "\n".join(lines)


def _volume_row(row: xr.Dataset, name: str) -> str:
    label = f"{name} ({row['log_volume_preconditioner'].item()})" if name == "preconditioned" else name
    return _row(label, row, "log_volume", float(row["relative_noise_tolerance"]))


def _mass_row(row: xr.Dataset) -> str:
    return _row(f"prior sd {float(row['prior_sd']):.3g}", row, "log_probability", float(row["nats_per_weight"]))


def _row(label: str, row: xr.Dataset, name: str, last: float) -> str:
    verdict = row[f"{name}_verdict"].item()
    high = float(row[f"{name}_hi"]) if verdict == CALIBRATED else np.inf
    return f"{label:34s} {float(row[name]):12.6g} {float(row[f'{name}_lo']):12.6g} {high:12.6g} {last:10.4g}  {verdict}"
