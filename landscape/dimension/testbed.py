"""Dynamical systems whose slow manifold is known, to calibrate every rule before it meets a network.

Each system is a callable loss on R^n (torch, differentiable three times) with its known answers as methods;
``problem(system, theta)`` makes it a :class:`landscape.problem.Problem`. The larger test systems, the Chafee-Infante
and the Kuramoto-Sivashinsky equations, have modules of their own.

Examples
--------
>>> cubic = TwoModeCubic(mu=0.3, stiff=5.0, c=1.0)
>>> round(cubic.gap_radius(2.0), 4), round(cubic.cone_radius(), 4)
(1.0176, 2.35)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.stats import ortho_group
from torch import Tensor

from landscape.dimension.rates import Array
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.seeds import numpy_generator


class System(Protocol):
    """A loss on R^n with a point at which the analysis is based."""

    @property
    def base(self) -> Tensor:
        """The base point ``(n,)``."""

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the loss at ``theta (n,)``."""


def problem(system: System, theta: Tensor | None = None) -> Problem:
    """Return the problem of a test system, at its base point or at ``theta (n,)``."""
    return Problem.from_function(system, system.base if theta is None else theta)


def haar(size: int, seed: int = 0) -> Tensor:
    """Return a random rotation ``(n, n)`` in float64, uniform over the orthogonal group."""
    if size == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    matrix = ortho_group.rvs(size, random_state=numpy_generator(seed, "haar"))
    return torch.as_tensor(matrix, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Rotated:
    """Another system seen in rotated coordinates, theta = R x: dimensions must not notice, coordinate masks must.

    Parameters
    ----------
    rotation
        Orthogonal ``(n, n)``.
    """

    system: Callable[[Tensor], Tensor]
    rotation: Tensor
    origin: Tensor

    @property
    def base(self) -> Tensor:
        """The rotated base point."""
        return self.rotation @ self.origin

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the loss of the system at R' theta."""
        return self.system(self.rotation.to(theta).T @ theta)


def rotated(system: System, seed: int = 0) -> Rotated:
    """Return the system in Haar-random coordinates."""
    return Rotated(system, haar(len(system.base), seed), system.base)


@dataclass(frozen=True, eq=False)
class Quadratic:
    """T1: L = 1/2 sum lambda_i theta_i^2. The remainder vanishes, so that every strict gap is admissible.

    Parameters
    ----------
    eigenvalue
        ``(n,)``, in any order.
    """

    eigenvalue: Array

    @property
    def base(self) -> Tensor:
        """The minimum, zero."""
        return torch.zeros(len(self.eigenvalue), dtype=torch.float64)

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the loss."""
        return 0.5 * (torch.as_tensor(self.eigenvalue).to(theta) * theta.square()).sum()


def two_scale(num_slow: int = 6, num_fast: int = 4, mu: float = 0.01, stiff: float = 1.0) -> Quadratic:
    """Return T2: mu ``num_slow`` times and ``stiff`` ``num_fast`` times: the only gap is at N = ``num_slow``."""
    return Quadratic(np.repeat([mu, stiff], [num_slow, num_fast]))


def no_gap(size: int = 60, seed: int = 0) -> Quadratic:
    """Return T2's negative control: eigenvalues uniform on (0, 1), where every N is admissible and none preferred."""
    return Quadratic(np.sort(numpy_generator(seed, "no gap").uniform(0, 1, size)))


@dataclass(frozen=True)
class TwoModeCubic:
    """T3: L = mu p^2 / 2 + stiff q^2 / 2 - c p^2 q, with theta = (p, q)."""

    mu: float = 0.3
    stiff: float = 5.0
    c: float = 1.0

    @property
    def base(self) -> Tensor:
        """The minimum, zero."""
        return torch.zeros(2, dtype=torch.float64)

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the loss."""
        p, q = theta[0], theta[1]
        return self.mu * p.square() / 2 + self.stiff * q.square() / 2 - self.c * p.square() * q

    def lipschitz(self, radius: float) -> float:
        """Return l(rho) = 4 |c| rho / sqrt 3."""
        return 4 / np.sqrt(3) * abs(self.c) * radius

    def gap_radius(self, constant: float = 2.0) -> float:
        """Return the radius below which the gap exceeds ``constant`` times l."""
        return float((self.stiff - self.mu) / (constant * self.lipschitz(1.0)))

    def cone_radius(self) -> float:
        """Return the radius below which the pointwise cone gap, stiff - mu - 2 |c| rho, is positive."""
        return (self.stiff - self.mu) / (2 * abs(self.c))

    def slow_manifold(self, p: float) -> float:
        """Return q on the slow manifold to O(p^4), c p^2 / (stiff - 2 mu); the valley floor lies elsewhere."""
        return self.c * p**2 / (self.stiff - 2 * self.mu)

    def valley_floor(self, p: float) -> float:
        """Return q where the fast force vanishes, c p^2 / stiff."""
        return self.c * p**2 / self.stiff


@dataclass(frozen=True)
class Factorisation:
    """T4: L = (a b - m)^2 / 2, theta = (a, b). The flow conserves a^2 - b^2; its manifold is the hyperbola a b = m.

    Parameters
    ----------
    m
        The product, not zero.
    conserved
        c0 = a^2 - b^2 of the trajectory.
    """

    m: float = 1.0
    conserved: float = 0.5

    @property
    def base(self) -> Tensor:
        """The limit of the flow at this c0: a^2 = (c0 + sqrt(c0^2 + 4 m^2)) / 2, b = m / a."""
        a = np.sqrt((self.conserved + self.fast_rate()) / 2)
        return torch.tensor([a, self.m / a], dtype=torch.float64)

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the loss."""
        return (theta[0] * theta[1] - self.m).square() / 2

    def fast_rate(self) -> float:
        """Return the one positive eigenvalue at the limit, sqrt(c0^2 + 4 m^2); the other is zero (frozen)."""
        return float(np.hypot(self.conserved, 2 * self.m))


@dataclass(frozen=True)
class DoubleWell:
    """T4b: L = (p^2 - 1)^2 / 4 + stiff q^2 (1 + a p^2) / 2 with (p, q) rotated by ``angle``.

    The exact manifold q = 0 holds a saddle (lambda = -1 at p = 0) and two minima (lambda = 2): negative eigenvalues
    belong to the slow side.
    """

    stiff: float = 10.0
    a: float = 0.5
    angle: float = 0.6

    @property
    def base(self) -> Tensor:
        """The saddle, zero."""
        return torch.zeros(2, dtype=torch.float64)

    def slow_direction(self) -> Tensor:
        """Return the unit vector ``(2,)`` along the manifold."""
        return torch.tensor([np.cos(self.angle), np.sin(self.angle)], dtype=torch.float64)

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the loss."""
        slow = self.slow_direction().to(theta)
        p, q = slow @ theta, slow[0] * theta[1] - slow[1] * theta[0]
        return (p.square() - 1).square() / 4 + self.stiff * q.square() * (1 + self.a * p.square()) / 2


def flow(problem: Problem, theta: Tensor, times: Array, tolerance: float = 1e-9) -> Tensor:
    """Return the gradient flow from ``theta (n,)`` at ``times (T,)``, as states ``(T, n)``.

    Notes
    -----
    Cost: the integration is implicit where it is stiff (LSODA), with n gradients per Jacobian: for small n only.
    """
    from scipy.integrate import solve_ivp

    times = np.asarray(times, dtype=float)
    if len(times) < 2 or (np.diff(times) <= 0).any():
        raise InputError("the flow needs at least two increasing times")

    def slope(_: float, state: Array) -> Array:
        return -problem.gradient(torch.as_tensor(state, dtype=problem.dtype)).double().numpy()

    span = (times[0], times[-1])
    result = solve_ivp(slope, span, theta.double().numpy(), "LSODA", times, rtol=tolerance, atol=tolerance)
    if not result.success:
        raise InputError(f"the gradient flow could not be integrated: {result.message}")
    return torch.as_tensor(result.y.T.copy(), dtype=problem.dtype)
