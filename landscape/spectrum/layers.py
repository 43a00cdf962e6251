"""The diagonal blocks of the layers: size, trace, Frobenius norm and largest eigenvalue of each, in one table."""

from __future__ import annotations

from dataclasses import replace

import torch
import xarray as xr

from landscape import lanczos, stochastic
from landscape.operators import LinearOperator, restrict
from landscape.problem import Problem
from landscape.spectrum.engines import Effort

# Depth 2 makes the quadrature exact for degrees up to 3, so v'Av and v'A^2v come out without quadrature error.
MOMENT_DEPTH = 2
# What is searched for in each layer.
LAYER = lanczos.EigenOptions(largest=1, smallest=0)


def layer_slices(problem: Problem) -> dict[str, torch.Tensor]:
    """Return layer name -> positions of its active coordinates; a layer is the module that owns the parameters."""
    groups: dict[str, list[torch.Tensor]] = {}
    start = 0
    for name, count in problem.names():
        layer = name.rpartition(".")[0] or name
        groups.setdefault(layer, []).append(torch.arange(start, start + count))
        start += count
    return {layer: torch.cat(parts) for layer, parts in groups.items()}


def layer_table(
    problem: Problem, operator: LinearOperator, num_probes: int, tolerance: float, effort: Effort, memory: int
) -> xr.Dataset:
    """Measure each layer's diagonal block of a curvature, its vectors within so many bytes.

    Returns
    -------
    Variables ``layer_*`` over ``layer``.

    Notes
    -----
    Cost: for each layer ``2 num_probes`` products for trace and Frobenius norm, and about 20 to 60 for its largest
    eigenvalue.
    """
    rows: dict[str, list[float]] = effort.journal.load("layers") or {}
    slices, seed = layer_slices(problem), effort.seed
    sizes = {name: tensor.numel() for name, tensor in problem.parameters.items()}
    done = len(next(iter(rows.values()), []))
    for layer, index in list(slices.items())[done:]:
        block = restrict(operator, index)
        before = operator.num_products
        pairs = lanczos.eigenpairs(block, replace(LAYER, tolerance=tolerance, seed=seed, memory=memory))
        depth = min(MOMENT_DEPTH, len(index))
        options = stochastic.ProbeOptions(num_probes=max(num_probes, 2), depth=depth, seed=seed, memory=memory)
        quadrature = stochastic.quadrature(block, options)
        trace, frobenius = stochastic.trace(quadrature), stochastic.frobenius_norm(quadrature)
        total = sum(size for name, size in sizes.items() if (name.rpartition(".")[0] or name) == layer)
        row = {
            "layer_num_params": len(index),
            "layer_kept": len(index) / total,
            "layer_eigenvalue": float(pairs.eigenvalue[0]),
            "layer_residual": float(pairs.residual[0]),
            "layer_converged": bool(pairs.converged[0]),
            "layer_trace": float(trace.value),
            "layer_trace_se": float(trace.se),
            "layer_frobenius_norm": float(frobenius.value),
            "layer_frobenius_norm_se": float(frobenius.se),
            "layer_num_products": operator.num_products - before,
        }
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
        effort.journal.save("layers", rows)
    return xr.Dataset({name: ("layer", values) for name, values in rows.items()}, coords={"layer": list(slices)})
