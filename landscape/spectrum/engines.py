"""Three ways to eigenpairs, one form of answer: Krylov, the exact dense twin, and PyHessian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from landscape import dense, lanczos, stochastic
from landscape.cli import log, progress
from landscape.footprint import storage_bytes
from landscape.journal import Journal
from landscape.operators import LinearOperator
from landscape.problem import Problem
from landscape.spectrum.options import Plan, SpectrumOptions
from landscape.spectrum.second_opinion import second_opinion

DEFAULT_MEMORY = 4 << 30
FRESH_BLOCK = 16


@dataclass(frozen=True)
class Effort:
    """How a measurement runs: nothing here changes what is asked.

    Attributes
    ----------
    seed
        Names every random choice.
    memory
        Bytes that the process may take beside what it has after its imports; ``memory.divide`` says for what.
    """

    seed: int = 0
    memory: int = DEFAULT_MEMORY
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
    num_products
        Products spent on all that, by earlier processes of a resumed run too.
    """

    label: Tensor
    eigenvalue: Tensor
    residual: Tensor
    converged: Tensor
    eigenvector: Tensor
    quadrature: stochastic.Quadrature | None = None
    trace_samples: Tensor | None = None
    num_products: int = 0


def krylov(operator: LinearOperator, sizes: Plan, options: SpectrumOptions, effort: Effort, memory: int) -> Measured:
    """Measure both ends by thick-restart Lanczos and the density by stochastic Lanczos quadrature, within memory."""
    pairs = None
    if sizes.num_pairs:
        chosen = eigen_options(operator, sizes, options.tolerance, effort.seed, memory)
        with _bar(sizes.pair_products(operator.size), "eigenpairs", effort) as bar:
            pairs = lanczos.eigenpairs(
                operator,
                chosen,
                state=effort.journal.load("eigenpairs"),
                save_state=effort.journal.saver("eigenpairs"),
                progress=_teller(bar),
            )
        if pairs.num_products > (planned := sizes.pair_products(operator.size)):
            log(f"note: this spectrum took {pairs.num_products} products where {planned} were planned", effort.quiet)
    quadrature = None
    held = 0 if pairs is None else storage_bytes(pairs.eigenvector)
    if sizes.num_probes:
        with _bar(sizes.num_probes * sizes.depth, "density", effort) as bar:
            quadrature = stochastic.quadrature(
                operator,
                stochastic.ProbeOptions(
                    num_probes=sizes.num_probes, depth=sizes.depth, seed=effort.seed, memory=memory - held
                ),
                deflate=pairs if options.deflate else None,
                state=effort.journal.load("density"),
                save_state=effort.journal.saver("density"),
                progress=_teller(bar),
            )
    spent = (pairs.num_products if pairs else 0) + (quadrature.num_products if quadrature else 0)
    if pairs is None:
        none = torch.zeros(0, dtype=torch.float64)
        return Measured(none.long(), none, none, none.bool(), none[:, None], quadrature, num_products=spent)
    order = torch.argsort(torch.where(pairs.label > 0, pairs.label, pairs.label + 2 * operator.size + 1))
    return Measured(
        pairs.label[order],
        pairs.eigenvalue[order],
        pairs.residual[order],
        pairs.converged[order],
        pairs.eigenvector[:, order.to(operator.device)],
        quadrature,
        num_products=spent,
    )


def _bar(total: int, description: str, effort: Effort) -> tqdm[Any]:
    """Return a progress bar over products."""
    return progress(total, description, effort.quiet, unit="product")


def _teller(bar: tqdm[Any]) -> Callable[[int], None]:
    """Return the function that moves a progress bar."""

    def tell(number: int) -> None:
        bar.update(number)

    return tell


def eigen_options(
    operator: LinearOperator, sizes: Plan, tolerance: float, seed: int, memory: int
) -> lanczos.EigenOptions:
    """Return the options of the search for eigenpairs, its basis within the memory."""
    return lanczos.EigenOptions(
        largest=sizes.largest,
        smallest=sizes.smallest,
        tolerance=tolerance,
        seed=seed,
        memory=memory,
        max_products=sizes.most_products(operator.size),
    )


def exact(operator: LinearOperator, options: SpectrumOptions, effort: Effort, memory: int) -> Measured:
    """Measure all n eigenpairs from the full matrix; residuals from fresh products all the same."""
    with _bar(2 * operator.size, "dense", effort) as bar:
        values, vectors = dense.spectrum(operator, memory=memory, progress=_teller(bar))
        residual = fresh_residuals(operator, values, vectors, _teller(bar))
    return _complete(values, vectors, residual, options.tolerance, operator.num_products)


def peer(problem: Problem, operator: LinearOperator, sizes: Plan, options: SpectrumOptions, effort: Effort) -> Measured:
    """Measure the top eigenpairs and the trace with PyHessian; the residuals are ours."""
    found = second_opinion(problem, sizes.largest, options.tolerance, effort.seed)
    values, vectors = found["eigenvalue"], found["eigenvector"]
    residual = fresh_residuals(operator, values, vectors)
    measured = _complete(values, vectors, residual, options.tolerance, operator.num_products)
    # It ranks by magnitude: the negative ones that it finds are the bottom of the spectrum, not the next from the top.
    below = int((values < 0).sum())
    label = torch.cat([measured.label[: len(values) - below], -torch.arange(below, 0, -1)])
    return replace(measured, label=label, trace_samples=found["trace_samples"])


def _complete(values: Tensor, vectors: Tensor, residual: Tensor, tolerance: float, spent: int) -> Measured:
    """Return eigenpairs that are labelled 1, 2, ... from the top."""
    label, bound = torch.arange(1, len(values) + 1), tolerance * values.abs().max()
    return Measured(label, values.cpu(), residual.cpu(), (residual <= bound).cpu(), vectors, num_products=spent)


def fresh_residuals(
    operator: LinearOperator,
    values: Tensor,
    vectors: Tensor,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Return |A v - lambda v| / |v| from fresh products, ``(k,)`` float64. Cost: k products."""
    parts = []
    for start in range(0, vectors.shape[1], FRESH_BLOCK):
        block = vectors[:, start : start + FRESH_BLOCK].to(operator.dtype)
        error = (operator @ block).double() - block.double() * values[start : start + FRESH_BLOCK].to(block.device)
        parts.append(error.norm(dim=0) / block.double().norm(dim=0))
        if progress is not None:
            progress(block.shape[1])
    return torch.cat(parts) if parts else values
