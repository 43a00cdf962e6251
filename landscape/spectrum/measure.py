"""From a problem to the spectrum Dataset: engine, error bars, gaps, moments, layers, in one labelled object."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape import gaps, operators, parallel, stochastic
from landscape.examples import example_curvature
from landscape.losses import BinaryCrossEntropy, CrossEntropy
from landscape.operators import LinearOperator
from landscape.problem import Problem
from landscape.spectrum import crossfit, engines
from landscape.spectrum.engines import Effort, Measured
from landscape.spectrum.layers import layer_table
from landscape.spectrum.options import Plan, SpectrumOptions, plan
from landscape.spectrum.uncertainty import SAFE_GAP, data_error

LOG_DET_SCALES = (1.0, 1e2, 1e4, 1e6)
EFFECTIVE_SHIFTS = (1e-6, 1e-4, 1e-2, 1.0)
VECTOR_BLOCK = 8


def measure(problem: Problem, options: SpectrumOptions, effort: Effort) -> xr.Dataset:
    """Measure the curvature spectrum of a problem.

    Returns
    -------
    The variables of ``schemas.SPECTRUM``; attributes ``seconds``, ``curvature``, ``engine``, ``strategy`` and
    ``num_products_this_process``. Provenance is added by the callers, who know what was asked.

    Raises
    ------
    InputError
        Options that cannot be honoured, non-finite products.
    MemoryLimitError
        If the plan does not fit ``effort.memory``.
    """
    started = time.monotonic()
    sizes = plan(options, problem.num_params)
    operator = build(problem, options, sizes, effort)
    done_before = int((effort.journal.load("cost") or {"num_products": 0})["num_products"])
    if options.engine == "dense":
        found = engines.exact(operator, options, effort)
    elif options.engine == "pyhessian":
        found = engines.peer(problem, operator, sizes, options, effort)
    else:
        found = engines.krylov(operator, sizes, options, effort)
    result = xr.Dataset(coords={"eigen": found.label.numpy()})
    if found.label.numel():
        result = result.merge(_pairs(problem, options, found))
    result = result.merge(_moments(problem, options, found))
    if options.cross_fit:
        result["eigenvalue_cross_fitted"] = ("eigen", crossfit.cross_fitted(problem, options, sizes, effort))
    if options.num_vectors:
        vectors = found.eigenvector[:, : options.num_vectors].T.double().cpu().numpy()
        padded = np.full((found.label.numel(), problem.num_params), np.nan)
        padded[: options.num_vectors] = vectors
        result["eigenvector"] = (("eigen", "parameter"), padded)
    if options.per_layer:
        result = result.merge(layer_table(problem, operator, sizes.num_probes, options.tolerance, effort.seed))
    result = result.assign(_facts(problem, options))
    this_process = operator.num_products
    result["num_products"] = done_before + this_process
    result.attrs = {
        "curvature": options.curvature,
        "engine": options.engine,
        "seconds": time.monotonic() - started,
        "num_products_this_process": this_process,
    }
    return result


def build(problem: Problem, options: SpectrumOptions, sizes: Plan, effort: Effort) -> LinearOperator:
    """Return the operator of the curvature that is asked for."""
    construct = {"hessian": operators.hessian, "ggn": operators.ggn, "jtj": operators.jtj}[options.curvature]
    return construct(problem)


def _pairs(problem: Problem, options: SpectrumOptions, found: Measured) -> xr.Dataset:
    """Return eigenvalues, residuals, gaps, and their error over the data."""
    terms, counts = _example_terms(problem, options, found.eigenvector)
    error = data_error(terms, counts)
    columns: dict[str, Any] = {
        "eigenvalue": found.eigenvalue.double().cpu().numpy(),
        "residual": found.residual.double().cpu().numpy(),
        "converged": found.converged.cpu().numpy(),
    }
    known = problem.num_examples > 1
    result = xr.Dataset({name: ("eigen", value) for name, value in columns.items()}, {"eigen": found.label.numpy()})
    result = gaps.add_gaps(result)
    if known:
        gap_known = np.isfinite(result["gap"].values)
        gap_se = np.where(gap_known, error.gap_se.cpu().numpy(), np.nan)
        result["eigenvalue_se"] = ("eigen", error.eigenvalue_se.cpu().numpy())
        result["gap_se"] = ("eigen", gap_se)
        result["eigenvalue_se_valid"] = ("eigen", gaps_are_safe(result["gap"].values, gap_se))
    return result


def gaps_are_safe(gap: np.ndarray, gap_se: np.ndarray) -> np.ndarray:
    """Tell, for each eigenvalue, whether the known gaps on its two sides exceed ``SAFE_GAP`` standard errors.

    An eigenvalue with an unknown neighbour (the last of an end) counts as not safe: its gap may be anything.
    """
    wide = gap > SAFE_GAP * gap_se
    above = np.concatenate([[True], wide[:-1]])
    return wide & above


def _example_terms(problem: Problem, options: SpectrumOptions, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return per-example curvatures along the eigenvectors, a few vectors at a time."""
    parts, counts = [], None
    for start in range(0, vectors.shape[1], VECTOR_BLOCK):
        terms, counts = example_curvature(problem, vectors[:, start : start + VECTOR_BLOCK], options.curvature)
        parts.append(terms)
    assert counts is not None
    return torch.cat(parts, 1), counts


def _moments(problem: Problem, options: SpectrumOptions, found: Measured) -> xr.Dataset:
    """Return what is known of the whole spectrum: quadrature, moments, zero fraction, outliers."""
    if found.trace_samples is not None:
        return _peer_trace(found.trace_samples)
    if options.engine == "dense":
        values = found.eigenvalue.double()
        quadrature = stochastic.exact_quadrature(values)
        result = xr.Dataset()
    elif found.quadrature is not None:
        quadrature = found.quadrature
        result = xr.Dataset(
            {
                "ritz_value": (("probe", "node"), quadrature.ritz_value.numpy()),
                "ritz_weight": (("probe", "node"), quadrature.ritz_weight.numpy()),
            }
        )
    else:
        return xr.Dataset()
    scale = LOG_DET_SCALES if options.curvature != "hessian" else ()
    for name, estimate in stochastic.summary(quadrature, LOG_DET_SCALES, EFFECTIVE_SHIFTS).items():
        result[name] = estimate
    del scale
    return result


def _peer_trace(samples: Tensor) -> xr.Dataset:
    number = len(samples)
    error = samples.std() / number**0.5 if number > 1 else torch.tensor(float("nan"))
    return xr.Dataset({"trace": float(samples.mean()), "trace_se": float(error)})


def rank_bound(problem: Problem) -> int:
    """Return an upper bound on the rank of the Gauss-Newton part on the active coordinates.

    Each example contributes at most its number of outputs; with softmax cross entropy one less, as adding a constant
    to all scores changes nothing: n (C - 1).
    """
    with torch.no_grad():
        total = 0
        for batch in problem.batches:
            outputs = problem.outputs(problem.parameters, batch)
            width = outputs.shape[-1] if outputs.ndim > 1 else 1
            rows = outputs.numel() // width
            total += rows * (width - 1 if isinstance(problem.loss_function, CrossEntropy) else width)
    ranks = parallel.sum_ranks(torch.tensor([total], dtype=torch.int64))
    return min(int(ranks), problem.num_params)


def _facts(problem: Problem, options: SpectrumOptions) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "loss": problem.loss(),
        "gradient_norm": float(problem.gradient().double().norm()),
        "num_params": problem.num_params,
        "num_params_total": problem.num_params_total,
        "num_examples": problem.num_examples,
        "kept": problem.kept,
        "rank_bound": rank_bound(problem),
    }
    accuracy = problem.accuracy()
    return facts if accuracy is None else {**facts, "accuracy": accuracy}
