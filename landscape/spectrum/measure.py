"""From a problem to the spectrum Dataset: engine, error bars, gaps, moments, layers, in one labelled object."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from landscape import dense, gaps, operators, parallel, stochastic
from landscape.cli import progress
from landscape.curvature.options import ProductOptions
from landscape.errors import InputError
from landscape.examples import example_curvature
from landscape.footprint import storage_bytes
from landscape.losses import CrossEntropy
from landscape.operators import LinearOperator
from landscape.problem import Problem
from landscape.spectrum import crossfit, engines, memory
from landscape.spectrum.engines import Effort, Measured
from landscape.spectrum.layers import layer_table
from landscape.spectrum.options import Plan, SpectrumOptions, plan
from landscape.spectrum.uncertainty import data_error

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
    if options.engine == "pyhessian" and parallel.world() > 1:
        raise InputError("--engine pyhessian knows one process only; run it without torchrun, or use --engine krylov")
    started = time.monotonic()
    sizes = plan(options, problem.num_params)
    shares = memory.divide(problem, options, sizes, effort.memory)
    # While halves of the data have operators of their own, all three share the memory of products.
    whole, half = (shares.products // 2, shares.products // 4) if options.cross_fit else (shares.products, 0)
    operator = build(problem, options, sizes, whole)
    found = _find(problem, operator, sizes, options, effort, shares.vectors)
    room = shares.vectors - storage_bytes(found.eigenvector)
    result = xr.Dataset(coords={"eigen": found.label.numpy()})
    if found.label.numel():
        result = result.merge(_pairs(problem, options, found, room, effort.quiet))
    result = result.assign(_moments(problem, options, found)).assign(_facts(problem, room))
    result = result.assign(gaps.outlier_table(result)) if found.label.numel() else result
    spent = found.num_products
    if options.cross_fit:
        result["eigenvalue_cross_fitted"], extra = _cross_fitted(problem, options, sizes, effort, (half, room))
        spent += extra
    if options.num_vectors:
        result["eigenvector"] = (("eigen", "parameter"), _shown(found, options.num_vectors))
    if options.per_layer:
        layers = layer_table(problem, operator, sizes.num_probes, options.tolerance, effort, room)
        result, spent = result.merge(layers), spent + int(layers["layer_num_products"].sum())
    result["num_products"] = spent
    result.attrs = {
        "curvature": options.curvature,
        "engine": options.engine,
        "seconds": time.monotonic() - started,
        "num_products_this_process": operator.num_products,
    }
    return result


def _find(
    problem: Problem, operator: LinearOperator, sizes: Plan, options: SpectrumOptions, effort: Effort, room: int
) -> Measured:
    """Run the engine, its vectors within so many bytes."""
    if options.engine == "dense":
        return engines.exact(operator, options, effort, room)
    if options.engine == "pyhessian":
        return engines.peer(problem, operator, sizes, options, effort)
    return engines.krylov(operator, sizes, options, effort, room)


def _shown(found: Measured, number: int) -> np.ndarray:
    """Return the leading eigenvectors as rows ``(k, n)``; NaN for those that were not asked for."""
    vectors = found.eigenvector[:, :number].T.double().cpu().numpy()
    rows = np.full((found.label.numel(), vectors.shape[1]), np.nan)
    rows[:number] = vectors
    return rows


def _cross_fitted(
    problem: Problem, options: SpectrumOptions, sizes: Plan, effort: Effort, room: tuple[int, int]
) -> tuple[tuple[str, np.ndarray], int]:
    """Return the cross-fitted quotients over ``eigen``, and the products they took (on half the data each).

    ``room`` are the bytes of the products of a half, and of vectors.
    """
    first, second = (build(half, options, sizes, room[0]) for half in crossfit.halves(problem))
    chosen = engines.eigen_options(first, sizes, options.tolerance, effort.seed, room[1])
    quotients, spent = crossfit.cross_fitted((first, second), chosen, effort.journal)
    ordered = np.concatenate([quotients[: sizes.largest], quotients[sizes.largest :][::-1]])
    return ("eigen", ordered), spent


def build(problem: Problem, options: SpectrumOptions, sizes: Plan, room: int) -> LinearOperator:
    """Return the operator of the curvature that is asked for, its products within so many bytes."""
    construct = {"hessian": operators.hessian, "ggn": operators.ggn, "jtj": operators.jtj}[options.curvature]
    planned = sizes.products(problem.num_params, options)
    block = dense.BLOCK if options.engine == "dense" else max(sizes.num_probes, 1)
    return construct(problem, ProductOptions(memory=room, planned_products=planned, block=block))


def _pairs(problem: Problem, options: SpectrumOptions, found: Measured, room: int, quiet: bool) -> xr.Dataset:
    """Return eigenvalues, residuals, gaps, and their error over the data."""
    columns: dict[str, Any] = {
        "eigenvalue": found.eigenvalue.double().numpy(),
        "residual": found.residual.double().numpy(),
        "converged": found.converged.numpy(),
    }
    result = xr.Dataset({name: ("eigen", value) for name, value in columns.items()}, {"eigen": found.label.numpy()})
    result = gaps.add_gaps(result)
    if problem.num_examples < 2 or problem.batchnorm == "batch":
        return result  # one example, or examples without a loss of their own: there is no error over the data
    error = data_error(*_example_terms(problem, options, found.eigenvector, room, quiet))
    gap_se = np.where(np.isfinite(result["gap"].values), error.gap_se.cpu().numpy(), np.nan)
    result = result.assign(eigenvalue_se=("eigen", error.eigenvalue_se.cpu().numpy()), gap_se=("eigen", gap_se))
    safe = gaps.are_safe(result.assign(num_params=problem.num_params))
    return result.assign(eigenvalue_se_valid=("eigen", safe))


def _example_terms(
    problem: Problem, options: SpectrumOptions, vectors: Tensor, room: int, quiet: bool
) -> tuple[Tensor, Tensor]:
    """Return per-example curvatures along the eigenvectors, a few vectors at a time."""
    kind, block = options.curvature, vectors[:, :VECTOR_BLOCK]
    problem = memory.fitting(problem, lambda part: example_curvature(part, block, kind), room)
    parts, counts = [], None
    bar: tqdm[Any] = progress(vectors.shape[1], "errors over the data", quiet, unit="vector")
    with bar:
        for start in range(0, vectors.shape[1], VECTOR_BLOCK):
            terms, counts = example_curvature(problem, vectors[:, start : start + VECTOR_BLOCK], kind)
            parts.append(terms)
            bar.update(terms.shape[1])
    assert counts is not None
    return torch.cat(parts, 1), counts


def _moments(problem: Problem, options: SpectrumOptions, found: Measured) -> xr.Dataset:
    """Return what is known of the whole spectrum: quadrature, moments, zero fraction."""
    if found.trace_samples is not None:
        return _peer_trace(found.trace_samples)
    measured, result = found.quadrature, xr.Dataset()
    if options.engine == "dense":
        measured = stochastic.exact_quadrature(found.eigenvalue)
    elif measured is not None:
        result["ritz_value"] = (("probe", "node"), measured.ritz_value.numpy())
        result["ritz_weight"] = (("probe", "node"), measured.ritz_weight.numpy())
    if measured is None:
        return result
    for name in ("trace", "frobenius_norm", "participation_ratio"):
        result = result.assign(_estimate(name, getattr(stochastic, name)(measured)))
    dims = [stochastic.effective_dimension(measured, shift) for shift in EFFECTIVE_SHIFTS]
    result = result.assign(_estimates("effective_dimension", "alpha", EFFECTIVE_SHIFTS, dims))
    known = {c: e for c in LOG_DET_SCALES if (e := stochastic.log_det(measured, c)) is not None}
    if known:
        result = result.merge(_estimates("log_det", "c", tuple(known), list(known.values())))
    return result.assign(_estimate("zero_fraction", _zero_fraction(problem, options, measured)))


def _zero_fraction(problem: Problem, options: SpectrumOptions, measured: stochastic.Quadrature) -> stochastic.Estimate:
    """Return the fraction of zero eigenvalues, at least what the rank bound of a Gauss-Newton matrix forces."""
    bounded = options.curvature != "hessian" and not problem.weight_decay
    return stochastic.zero_fraction(measured, rank_bound=rank_bound(problem) if bounded else None)


def _estimate(name: str, estimate: stochastic.Estimate) -> dict[str, float]:
    """Return an estimate and, where it is known, its standard error."""
    known = {name: estimate.value, f"{name}_se": estimate.se}
    return {key: value for key, value in known.items() if not np.isnan(value)}


def _estimates(name: str, dim: str, axis: tuple[float, ...], estimates: list[stochastic.Estimate]) -> xr.Dataset:
    """Return estimates over an axis, with their standard errors where these are known."""
    columns = {name: [e.value for e in estimates], f"{name}_se": [e.se for e in estimates]}
    known = {key: (dim, column) for key, column in columns.items() if not np.isnan(column).any()}
    return xr.Dataset(known, {dim: list(axis)})


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


def _facts(problem: Problem, room: int) -> dict[str, Any]:
    problem = memory.fitting(problem, Problem.gradient_sum, room)
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
