"""The slow, exact twin of the Krylov methods: the full matrix and all its eigenvalues, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from landscape.errors import InputError, MemoryLimitError
from landscape.operators import LinearOperator

BLOCK = 64
# The matrix, its eigenvectors, and the work space of the eigen-solver (3.5 matrices at the peak, measured).
COPIES = 4
# A symmetric operator's matrix is symmetric up to rounding; this many units of rounding of its norm are a bug.
ASYMMETRY = 1e4


def matrix(
    operator: LinearOperator,
    block: int = BLOCK,
    memory: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    r"""Return the matrix of an operator, ``(n, n)`` float64 on the operator's device, symmetrised.

    Parameters
    ----------
    block
        Unit vectors multiplied at a time.
    memory
        Bytes that matrix, eigenvectors and work space may take; None for no limit.
    progress
        Called with the number of products done since its last call.

    Raises
    ------
    MemoryLimitError
        If ``4 * 8 n^2`` bytes exceed ``memory``.
    InputError
        If a product is not finite, or the matrix is not symmetric up to rounding.

    Notes
    -----
    Cost: n products. Error: rounding of the operator's dtype; symmetrisation halves what is asymmetric of it.
    """
    n = operator.size
    needed = COPIES * 8 * n * n
    if memory is not None and needed > memory:
        raise MemoryLimitError(
            f"all eigenvalues of {n} parameters need {needed / 2**30:.3g} GiB, but {memory / 2**30:.3g} GiB are "
            "allowed; raise --memory or use --engine krylov"
        )
    full = torch.empty(n, n, dtype=torch.float64, device=operator.device)
    for start in range(0, n, block):
        stop = min(start + block, n)
        units = torch.zeros(n, stop - start, dtype=operator.dtype, device=operator.device)
        units[torch.arange(start, stop), torch.arange(stop - start)] = 1.0
        full[:, start:stop] = (operator @ units).double()
        if progress is not None:
            progress(stop - start)
    if not bool(torch.isfinite(full).all()):
        raise InputError(
            "a product of the operator is not finite; check the weights and the data, or use --dtype float64"
        )
    asymmetry, scale = float((full - full.T).abs().max()), float(full.abs().max())
    if asymmetry > ASYMMETRY * torch.finfo(operator.dtype).eps * scale:
        raise InputError(
            f"the operator is not symmetric: entries differ by {asymmetry:.3g} (largest entry {scale:.3g}); "
            "is the loss random, or not twice differentiable?"
        )
    return (full + full.T) / 2


def spectrum(
    operator: LinearOperator, memory: int | None = None, progress: Callable[[int], object] | None = None
) -> tuple[Tensor, Tensor]:
    """Return all eigenvalues ``(n,)``, descending, and the eigenvectors ``(n, n)`` as columns, both float64.

    Notes
    -----
    Cost: n products and about 9 n^3 operations of a symmetric eigen-solver; n up to about 10,000 on a CPU.
    """
    values, vectors = torch.linalg.eigh(matrix(operator, memory=memory, progress=progress))
    return values.flip(0), vectors.flip(1)


def log_determinant(values: Tensor, scale: float) -> float:
    """Return log det(1 + scale A), in nats, from all eigenvalues ``(n,)``.

    Raises
    ------
    InputError
        If 1 + scale A is not positive definite, where the logarithm does not exist.
    """
    shifted = 1 + scale * values.double()
    if float(shifted.min()) <= 0:
        raise InputError(
            f"1 + {scale:g} A is not positive definite: the smallest eigenvalue is {float(values.min()):.4g}"
        )
    return float(shifted.log().sum())
