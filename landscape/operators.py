"""Symmetric linear operators on the active coordinates: the one thing that the Krylov methods know.

An operator is a function that multiplies a block of vectors, with a size, a dtype and a device. There are three
combinators, ``A + B``, ``c * A`` and ``restrict(A, index)``; weight decay is ``A + c * identity(n)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse.linalg
import torch
from torch import Tensor

from landscape import curvature
from landscape.curvature import ProductOptions
from landscape.errors import InputError
from landscape.problem import Problem


@dataclass
class Counter:
    """Number of products with single vectors that an operator (and all that is built from it) has done."""

    count: int = 0


@dataclass(frozen=True, eq=False)
class LinearOperator:
    """A real, symmetric, deterministic operator ``v -> A v`` on R^n.

    Parameters
    ----------
    apply
        Multiplies a block: ``(n, k) -> (n, k)``, of ``dtype`` on ``device``.
    size
        The dimension n.
    counter
        Counts the products; operators built from one another share it.
    method
        How products are computed, in words, for the record.
    peak_bytes
        Estimate of the memory that products take beside model and data, 0 where it is not known.
    """

    apply: Callable[[Tensor], Tensor]
    size: int
    dtype: torch.dtype
    device: torch.device
    counter: Counter = field(default_factory=Counter)
    method: str = ""
    peak_bytes: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (n, n)."""
        return self.size, self.size

    @property
    def num_products(self) -> int:
        """Products with single vectors done so far: the cost, in the unit in which all costs are stated."""
        return self.counter.count

    def __matmul__(self, v: Tensor) -> Tensor:
        """Multiply a vector ``(n,)`` or the columns of a block ``(n, k)``."""
        if v.ndim not in (1, 2) or v.shape[0] != self.size:
            raise InputError(f"an operator of size {self.size} cannot multiply a tensor of shape {tuple(v.shape)}")
        block = v.reshape(self.size, -1).to(self.dtype)
        self.counter.count += block.shape[1]
        return self.apply(block).reshape(v.shape)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        """Return A + B; a product of the sum costs one product, as its parts share the data pass in spirit."""
        if other.size != self.size:
            raise InputError(f"operators of sizes {self.size} and {other.size} cannot be added")
        return LinearOperator(
            lambda block: self.apply(block) + other.apply(block), self.size, self.dtype, self.device, self.counter
        )

    def __rmul__(self, scale: float) -> LinearOperator:
        """Return c A."""
        return LinearOperator(lambda block: scale * self.apply(block), self.size, self.dtype, self.device, self.counter)

    def to_scipy(self) -> scipy.sparse.linalg.LinearOperator:
        """Return the operator as SciPy sees it (products travel through host memory)."""

        def multiply(block: np.ndarray) -> np.ndarray:
            return np.asarray((self @ torch.as_tensor(block).to(self.device)).cpu())

        kind = np.float64 if self.dtype == torch.float64 else np.float32
        return scipy.sparse.linalg.LinearOperator(self.shape, matvec=multiply, matmat=multiply, dtype=kind)


def identity(size: int, dtype: torch.dtype, device: torch.device) -> LinearOperator:
    """Return the identity on R^n (weight decay C adds ``C * identity(n)`` to the curvature)."""
    return LinearOperator(lambda block: block, size, dtype, device)


def restrict(operator: LinearOperator, index: Tensor) -> LinearOperator:
    """Return the principal submatrix ``A[index, index]``.

    Parameters
    ----------
    index
        Positions of the kept coordinates, ``(m,)`` integers without repetition.
    """
    index = index.to(operator.device)

    def apply(block: Tensor) -> Tensor:
        full = block.new_zeros(operator.size, block.shape[1])
        return operator.apply(full.index_copy_(0, index, block)).index_select(0, index)

    return LinearOperator(apply, len(index), operator.dtype, operator.device, operator.counter)


def from_matrix(matrix: Tensor) -> LinearOperator:
    """Return the operator of a symmetric matrix ``(n, n)``."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"a matrix of shape {tuple(matrix.shape)} is not square")
    return LinearOperator(lambda block: matrix @ block, matrix.shape[0], matrix.dtype, matrix.device)


def hessian(problem: Problem, options: ProductOptions | None = None) -> LinearOperator:
    """Return the Hessian of the mean loss on the active coordinates, in nats / parameter^2 for cross entropy.

    Parameters
    ----------
    options
        How products are computed, and with how much memory.

    Raises
    ------
    InputError
        If the model draws random numbers, or cannot be traced though the strategy wants that.
    MemoryLimitError
        If the products do not fit ``options.memory``.

    Notes
    -----
    Cost: a trace of seconds, then about six forward passes over the data a product where residuals are retained, two
    more for each block where they are recomputed, and eight or more by double backward.
    """
    return _curvature(problem, "hessian", options)


def ggn(problem: Problem, options: ProductOptions | None = None) -> LinearOperator:
    """Return the generalised Gauss-Newton matrix J' H_out J / count; H_out is the loss's Hessian in the outputs.

    Parameters, errors and cost are those of ``hessian``; a product takes about four forward passes.
    """
    return _curvature(problem, "ggn", options)


def jtj(problem: Problem, options: ProductOptions | None = None) -> LinearOperator:
    """Return J'J / num_examples: Gauss-Newton with the identity as the metric of the outputs.

    Parameters, errors and cost are those of ``ggn``.
    """
    return _curvature(problem, "jtj", options)


def _curvature(problem: Problem, kind: str, options: ProductOptions | None) -> LinearOperator:
    products = curvature.Products(problem, kind, options or ProductOptions())
    return LinearOperator(
        products,
        problem.num_params,
        problem.dtype,
        problem.device,
        method=products.method,
        peak_bytes=products.peak_bytes,
    )
