"""A point of the loss seen in a diagonal metric, for preconditioned dynamics such as Adam with a frozen state.

In coordinates ``z = theta / s`` with ``s = D^(-1/2)``, the preconditioned flow ``dtheta/dt = -D^(-1) grad L`` is the
gradient flow of the same loss, with the Hessian ``s H s``: symmetric, so that every rule applies to it, with lengths
measured by D.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from landscape.curvature import ProductOptions
from landscape.errors import InputError
from landscape.operators import LinearOperator, hessian
from landscape.problem import Problem

# Products at several points are held at once, so that each gets less than a measurement at one point would.
MEMORY = 2**30


@dataclass(frozen=True, eq=False)
class Scaled:
    """A problem in the coordinates z = theta / scale.

    Parameters
    ----------
    problem
        At the point.
    scale
        s = D^(-1/2), positive, ``(n,)``.
    """

    problem: Problem
    scale: Tensor

    def __post_init__(self) -> None:
        if self.scale.shape != (self.problem.num_params,) or not bool(
            (torch.isfinite(self.scale) & (self.scale > 0)).all()
        ):
            raise InputError("a preconditioner needs one positive, finite number for every active parameter")

    @cached_property
    def theta(self) -> Tensor:
        """The point in z, ``(n,)``."""
        return self.problem.theta / self.scale

    @property
    def num_params(self) -> int:
        """The number n of active coordinates."""
        return self.problem.num_params

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of parameters and products."""
        return self.problem.dtype

    @property
    def device(self) -> torch.device:
        """The device of parameters and products."""
        return self.problem.device

    def at(self, theta: Tensor) -> Scaled:
        """Return the same problem at another point ``theta (n,)`` in z."""
        return Scaled(self.problem.at(theta * self.scale), self.scale)

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """Return the gradient in z, ``(n,)``."""
        return self.scale * self.problem.gradient(None if theta is None else theta * self.scale)

    def loss(self, theta: Tensor | None = None) -> float:
        """Return the mean loss."""
        return self.problem.loss(None if theta is None else theta * self.scale)


Point = Problem | Scaled


def curvature(point: Point, planned_products: int = 40) -> LinearOperator:
    """Return the Hessian at a point, in the point's coordinates.

    Parameters
    ----------
    planned_products
        About how many products will be asked of it: preparing them takes time that must pay.
    """
    if isinstance(point, Problem):
        return hessian(point, ProductOptions(planned_products=planned_products, memory=MEMORY))
    inner, scale = curvature(point.problem, planned_products), point.scale[:, None]
    return LinearOperator(
        lambda block: scale * inner.apply(scale * block), inner.size, inner.dtype, inner.device, inner.counter
    )


def preconditioned(problem: Problem, diagonal: Tensor) -> Scaled:
    """Return a problem in the metric of a diagonal preconditioner D, ``(n,)`` (for Adam: sqrt(v) + eps)."""
    if diagonal.shape != (problem.num_params,) or not bool((diagonal > 0).all()):
        raise InputError("a preconditioner needs one positive, finite number for every active parameter")
    return Scaled(problem, diagonal.to(problem.theta).rsqrt())
