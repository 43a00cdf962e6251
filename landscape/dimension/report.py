"""What a measurement says to its user: its plan and cost, and the table of its outcome."""

from __future__ import annotations

import numpy as np
import xarray as xr

from landscape.dimension.base import MARKER_DEPTH, sizes
from landscape.dimension.options import DimensionOptions, dynamics_of, rules_of
from landscape.problem import Problem
from landscape.sanity import describe_point

_REFINEMENT = 8  # points along the ray on which the radius of a rule is bracketed


def describe_problem(problem: Problem) -> list[str]:
    """Return the lines that say loss and accuracy of what is about to be measured, with a warning at chance level."""
    share = f"{problem.num_params:,} of {problem.num_params_total:,}"
    what = f"measuring {share} parameters on {problem.num_examples:,} examples"
    return [what, *describe_point(problem)]


def num_products(options: DimensionOptions, n: int | None = None) -> dict[str, int]:
    """Return about how many products each part of a measurement takes.

    Parameters
    ----------
    n
        Active coordinates, where they are known and may be fewer than the eigenpairs that are asked for.
    """
    fast, smallest = (options.fast, options.smallest) if n is None else sizes(options, n)
    spectrum = 6 * (fast + smallest) + MARKER_DEPTH * (1 + options.num_probes)
    climbs = 1 + options.ascent_steps if options.region == "adversarial" else 0
    differences = 2 * options.depth * (options.samples + 6 * climbs + _REFINEMENT)
    cone = 0
    if "cone_gap" in rules_of(options, dynamics_of(options)):
        points = options.points * (1 + options.nodes) + 2 * climbs + _REFINEMENT
        cone = (fast + options.depth) * points
    return {"spectrum": spectrum, "differences": differences, "cone": cone}


def describe_plan(problem: Problem, options: DimensionOptions) -> str:
    """Return the line that says about how many products the plan costs."""
    parts, fast = num_products(options, problem.num_params), sizes(options, problem.num_params)[0]
    shown = ", ".join(f"{name} {number:,}" for name, number in parts.items())
    total = sum(parts.values())
    return f"about {total:,} products: {shown} ({fast} + {options.depth} for each point and node of the cone)"


def describe_result(result: xr.Dataset) -> str:
    """Return the table of the outcome: one row for each rule, at the largest radius."""
    last = result.isel(shell=-1)
    size = int(result["num_params"])
    lines = [
        f"{'rule':18s} {'status':>13} {'N slow':>9} {'N fast':>7} {'radius <=':>10} {'entry step':>10}",
        *(_row(last.sel(rule=rule), str(rule)) for rule in result["rule"].values),
    ]
    radius, number = float(last["rho"]), int(last["num_samples"])
    lines.append(
        f"at radius {radius:.4g}: l >= {float(last['lipschitz']):.4g}, l_osc >= {float(last['lipschitz_osc']):.4g} "
        f"({result['region'].values!s}, {number} samples: lower bounds, not certified)"
    )
    lines.append(f"largest eigenvalue {float(result['eigenvalue'].max()):.4g}, n = {size:,}")
    slope, plateau = float(result["kink_slope"]), float(result["kink_plateau"])
    if np.isfinite(plateau):
        lines.append(f"the Hessian jumps: l does not vanish with the radius (slope {slope:.2f}, plateau {plateau:.3g})")
    if "n_slaved" in result:
        counts = ", ".join(f"{float(result[f'n_{name}']):.0f} {name}" for name in ("frozen", "active", "slaved"))
        lines.append(f"over the time {float(result['time']):.4g}: {counts}")
    if "aim_defect" in result:
        lines.append(
            f"slaving defect of {int(result['num_slaved'])} fast coordinates: {float(result['aim_defect'].min()):.3g} "
            "(a constant guess has 1)"
        )
    lines.append(f"{int(result['num_products']):,} products, {float(result.attrs['seconds']):.1f} s")
    return "\n".join(lines)


def _row(found: xr.Dataset, rule: str) -> str:
    """Return the row of a rule; an N that is only an upper bound is marked so."""

    def shown(value: float, mark: str = "") -> str:
        return "none" if np.isnan(value) else f"{mark}{value:.0f}"

    exact = float(found["dimension"])
    slow = shown(exact) if np.isfinite(exact) else shown(float(found["dimension_upper"]), "<= ")
    fast = shown(float(found["gap_index"]))
    bound = float(found["radius_upper"])
    radius = "-" if np.isnan(bound) else f"{bound:.4g}"
    entry = float(found["entry_step"]) if "entry_step" in found else np.nan
    return (
        f"{rule:18s} {found['status'].values!s:>13} {slow:>9} {fast:>7} {radius:>10} "
        f"{'-' if np.isnan(entry) else f'{entry:.0f}':>10}"
    )
