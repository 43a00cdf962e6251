"""One Krylov space from a given start: the tridiagonal matrix, and the basis where it is wanted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.errors import InputError
from landscape.lanczos.basis import loss_of_orthogonality
from landscape.lanczos.space import Space
from landscape.operators import LinearOperator


@dataclass(frozen=True, eq=False)
class Krylov:
    """A V' = V' T + residual_norm q e_m' with T tridiagonal and orthonormal rows V.

    Attributes
    ----------
    alpha
        Diagonal of T, ``(m,)``, float64 on the CPU.
    beta
        Off-diagonal of T, ``(m - 1,)``, positive, float64 on the CPU.
    basis
        The rows V, ``(m, n)``, in the operator's dtype on its device.
    residual_norm
        Norm of what the last product has outside the space; rounding noise after a breakdown, where the space is
        invariant and T is exact.
    """

    alpha: Tensor
    beta: Tensor
    basis: Tensor
    residual_norm: float

    @property
    def loss_of_orthogonality(self) -> float:
        """Largest entry of |V V' - I|; costs 2 m^2 n operations."""
        return loss_of_orthogonality(self.basis)


def krylov(operator: LinearOperator, start: Tensor, depth: int) -> Krylov:
    """Run the Lanczos process with full two-pass Gram-Schmidt.

    Parameters
    ----------
    operator
        The operator A.
    start
        Starting vector ``(n,)``; only its direction matters.
    depth
        Most steps m; the run stops before at a breakdown, where the space is invariant.

    Notes
    -----
    Cost: m products and about 6 m^2 n operations; m + 1 vectors of memory. Breakdown is relative: a remainder below 32
    units of rounding of the largest |A v| seen.

    Error: each eigenvalue of T differs from some eigenvalue of A by at most ``residual_norm`` times the last entry of
    its eigenvector (Parlett 1998, The Symmetric Eigenvalue Problem, section 13.2).

    Examples
    --------
    >>> import torch
    >>> from landscape.operators import from_matrix
    >>> A = from_matrix(torch.diag(torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)))
    >>> len(krylov(A, torch.ones(3, dtype=torch.float64), depth=3).alpha)
    2
    """
    if start.shape != (operator.size,):
        raise InputError(f"a start of shape {tuple(start.shape)} does not fit an operator of size {operator.size}")
    if depth < 1:
        raise InputError(f"a Krylov space needs at least one step, but depth is {depth}")
    norm = float(torch.linalg.vector_norm(start))
    if not 0 < norm < float("inf"):
        raise InputError("the start of a Krylov space must be finite and not zero")
    depth = min(depth, operator.size)
    space = Space(operator, depth + 1, seed=0, slab=depth + 1)
    space.advance(space.add(start[None]), depth, width=1)
    steps = sum(space.done)
    small = space.projection[: steps + 1, :steps].cpu()
    below = small.diagonal(-1)
    last = float(below[-1]) if space.basis.rows > steps else space.vanished
    return Krylov(small.diagonal().clone(), below[: steps - 1].clone(), space.basis.slabs[0][:steps], last)
