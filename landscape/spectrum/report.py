"""What a measurement says to its user: what is about to be measured, what it will cost, and what came out."""

from __future__ import annotations

import numpy as np
import xarray as xr

from landscape.datasets import Data
from landscape.problem import Problem
from landscape.sanity import describe_point
from landscape.spectrum.layers import layer_slices
from landscape.spectrum.memory import divide
from landscape.spectrum.options import Plan, SpectrumOptions
from landscape.spectrum.second_opinion import MOST_STEPS

ROWS = 10


def describe_problem(problem: Problem, data: Data) -> list[str]:
    """Return the lines that say loss and accuracy of what is about to be measured, with warnings."""
    share = problem.num_examples / max(data.split_size, 1)
    part = "all" if share == 1 else f"{share:.3g} of the"
    what = (
        f"measuring {problem.num_params:,} of {problem.num_params_total:,} parameters (kept {problem.kept:.4g}) "
        f"on {problem.num_examples:,} examples, {part} {data.split} split of {data.name}"
    )
    return [what, *describe_point(problem)]


def describe_plan(problem: Problem, sizes: Plan, options: SpectrumOptions, memory: int) -> str:
    """Return the line with the planned cost, an upper bound: products, and bytes of vectors within the memory."""
    if options.engine == "pyhessian":
        return f"plan: power iteration for {sizes.largest} eigenpairs, at most {MOST_STEPS} products each, and a trace"
    products = sizes.products(problem.num_params, options, len(layer_slices(problem)))
    vectors = divide(problem, options, sizes, memory).vectors
    return f"plan: at most {products:,} products, {vectors / 2**30:.3g} GiB for vectors"


def describe_result(result: xr.Dataset) -> str:
    """Return the table of the outcome."""
    lines = []
    if result.sizes.get("eigen", 0):
        lines += _eigenvalue_table(result)
    for name in ("trace", "frobenius_norm", "participation_ratio", "zero_fraction"):
        if name in result:
            error = float(result[f"{name}_se"]) if f"{name}_se" in result else float("nan")
            lines.append(f"{name.replace('_', ' '):22s} {float(result[name]):.6g} +- {error:.2g}")
    if "outlier_count" in result:
        p_value = float(result["outlier_p_value"])
        lines.append(f"{'outliers':22s} {int(result['outlier_count'])} (p = {p_value:.2g} under a continuous bulk)")
    if "layer" in result.sizes:
        lines += _layer_table(result)
    products = int(result["num_products"])
    lines.append(f"{products:,} products, {float(result.attrs.get('seconds', np.nan)):.1f} s")
    return "\n".join(lines)


def _eigenvalue_table(result: xr.Dataset) -> list[str]:
    """Return one row for each of the leading and of the last eigenvalues."""
    labels = result["eigen"].values
    top, bottom = np.flatnonzero(labels > 0), np.flatnonzero(labels < 0)
    rows = [*top[:ROWS], *bottom] if len(bottom) <= ROWS else [*top[:ROWS], *bottom[:ROWS]]
    lines = [f"{'eigen':>6} {'eigenvalue':>14} {'s.e.':>9} {'residual':>9} {'gap':>10} {'gap s.e.':>9}"]
    columns = ("eigenvalue_se", "residual", "gap", "gap_se")
    for row in rows:
        cells = [float(result[name].values[row]) if name in result else np.nan for name in columns]
        text = " ".join(f"{cell:>{width}.3g}" for cell, width in zip(cells, (9, 9, 10, 9), strict=True))
        mark = "" if bool(result["converged"].values[row]) else "  not converged"
        lines.append(f"{labels[row]:>6} {float(result['eigenvalue'].values[row]):>14.6g} {text}{mark}")
    if len(top) > ROWS:
        lines.insert(1 + min(ROWS, len(top)), f"{'...':>6} {len(top) - ROWS} more from the top in the file")
    return [line.replace("nan", "  -") for line in lines]


def _layer_table(result: xr.Dataset) -> list[str]:
    names = ("layer_num_params", "layer_eigenvalue", "layer_trace", "layer_trace_se")
    lines = [f"{'layer':24s} {'parameters':>10} {'largest':>10} {'trace':>10} {'s.e.':>8}"]
    for row, layer in enumerate(result["layer"].values):
        count, value, trace, error = (float(result[name].values[row]) for name in names)
        lines.append(f"{layer!s:24s} {count:>10.0f} {value:>10.4g} {trace:>10.4g} {error:>8.2g}")
    return lines
