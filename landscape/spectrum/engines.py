"""Three ways to eigenpairs, one form of answer: Krylov, the exact dense twin, and PyHessian."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from landscape import dense, lanczos, stochastic
from landscape.cli import progress
from landscape.journal import Journal
from landscape.operators import LinearOperator
from landscape.problem import Problem
from landscape.spectrum.options import Plan, SpectrumOptions
from landscape.spectrum.second_opinion import second_opinion

FRESH_BLOCK = 16


@dataclass(frozen=True)
class Effort:
    """How a measurement runs: nothing here changes what is asked.

    Attributes
    ----------
    seed
        Names every random choice.
    memory
        Bytes for Krylov bases, residuals and blocks.
    """

    seed: int = 0
    memory: int = 4 << 30
    journal: Journal = field(default_factory=Journal)
    quiet: bool = True


@dataclass(frozen=True)
class Measured:
    """What an engine found.

    Attributes
    ----------
    label
        ``(k,)`` 1, 2, ... from the top, then ..., -2, -1 from the bottom; the dense engine 1..n.
    eigenvalue, residual, converged
        ``(k,)``; residuals are from fresh products.
    eigenvector
        ``(n, k)``.
    quadrature
        Nodes and weights of the density, where they were asked for.
    trace_samples
        PyHessian's estimates of the trace.
    """

    label: Tensor
    eigenvalue: Tensor
    residual: Tensor
    converged: Tensor
    eigenvector: Tensor
    quadrature: stochastic.Quadrature | None = None
    trace_samples: Tensor | None = None


def krylov(operator: LinearOperator, sizes: Plan, options: SpectrumOptions, effort: Effort) -> Measured:
    """Measure both ends by thick-restart Lanczos and the density by stochastic Lanczos quadrature."""
    pairs = None
    if sizes.num_pairs:
        with progress(sizes.max_products(operator.size), "eigenpairs", effort.quiet, unit="product") as bar:
            pairs = lanczos.eigenpairs(
                operator,
                lanczos.EigenOptions(
                    largest=sizes.largest,
                    smallest=sizes.smallest,
                    tolerance=options.tolerance,
                    seed=effort.seed,
                    max_products=sizes.max_products(operator.size),
                    memory=effort.memory,
                ),
                state=effort.journal.load("eigenpairs"),
                save_state=effort.journal.saver("eigenpairs"),
                progress=bar.update,
            )
    quadrature = None
    if sizes.num_probes:
        with progress(sizes.num_probes * sizes.depth, "density", effort.quiet, unit="product") as bar:
            quadrature = stochastic.quadrature(
                operator,
                stochastic.ProbeOptions(
                    num_probes=sizes.num_probes, depth=sizes.depth, seed=effort.seed, memory=effort.memory
                ),
                deflate=pairs if options.deflate else None,
                state=effort.journal.load("density"),
                save_state=effort.journal.saver("density"),
                progress=bar.update,
            )
    if pairs is None:
        empty = torch.zeros(0, dtype=torch.float64)
        label = torch.zeros(0, dtype=torch.int64)
        none = operator.device
        return Measured(label, empty, empty, label.bool(), torch.zeros(operator.size, 0, device=none), quadrature)
    return Measured(pairs.label, pairs.eigenvalue, pairs.residual, pairs.converged, pairs.eigenvector, quadrature)


def exact(operator: LinearOperator, options: SpectrumOptions, effort: Effort) -> Measured:
    """Measure all n eigenpairs from the full matrix; residuals from fresh products all the same."""
    with progress(2 * operator.size, "dense", effort.quiet, unit="product") as bar:
        values, vectors = dense.spectrum(operator, memory=effort.memory, progress=bar.update)
        values, vectors = values.flip(0), vectors.flip(1)
        residual = fresh_residuals(operator, values, vectors, bar.update)
    label = torch.arange(1, operator.size + 1)
    return Measured(label, values, residual, residual <= options.tolerance * values.abs().max(), vectors)


def peer(problem: Problem, operator: LinearOperator, sizes: Plan, options: SpectrumOptions, effort: Effort) -> Measured:
    """Measure the top eigenpairs and the trace with PyHessian; the residuals are ours."""
    found = second_opinion(problem, sizes.largest, options.tolerance, effort.seed)
    values, vectors = found["eigenvalue"], found["eigenvector"]
    residual = fresh_residuals(operator, values, vectors)
    done = residual <= options.tolerance * values.abs().max()
    label = torch.arange(1, len(values) + 1)
    return Measured(label, values, residual, done, vectors, trace_samples=found["trace_samples"])
