"""T5, the Chafee-Infante equation: a gradient flow whose inertial manifold has a known dimension.

``u_t = u_xx + a (u - u^3)`` on (0, pi) with u = 0 at both ends has a global attractor of dimension #{n : n^2 < a}, on
an inertial manifold of exactly that dimension. Sine Galerkin makes it the gradient flow of
``E(b) = int 1/2 u_x^2 - a (u^2 / 2 - u^4 / 4) dx`` in R^d, on which every rule can be tried.

References
----------
Henry (1981), Geometric Theory of Semilinear Parabolic Equations; Jolly (1989), J. Diff. Eq. 78, 220; Brunovsky (1990),
J. Dyn. Diff. Eq. 2, 293 (dimension of the manifold).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.dimension.etd import Etdrk4
from landscape.dimension.rates import Array

_STEP = 0.02
_RESIDUAL = 1e-9


@dataclass(frozen=True)
class ChafeeInfante:
    """The energy of the sine coefficients ``b (d,)``, with u = sum of b_n sqrt(2/pi) sin(n x).

    Parameters
    ----------
    a
        Strength of the reaction; the dimension changes at squares.
    size
        d, the number of sine modes.
    """

    a: float
    size: int = 24

    @property
    def base(self) -> Tensor:
        """The origin, an equilibrium."""
        return torch.zeros(self.size, dtype=torch.float64)

    @property
    def linear(self) -> Array:
        """Eigenvalues n^2 - a of the Hessian at the origin, ``(d,)``."""
        return np.arange(1, self.size + 1) ** 2.0 - self.a

    @property
    def modes(self) -> Array:
        """The sines on a grid that integrates products of four of them exactly, ``(x, d)``, with root weights."""
        points = 2 * self.size + 16
        x = np.pi * np.arange(1, points + 1) / (points + 1)
        return np.sqrt(2 / np.pi) * np.sin(np.outer(x, np.arange(1, self.size + 1)))

    @property
    def spacing(self) -> float:
        """Weight of each grid point."""
        return float(np.pi / (2 * self.size + 17))

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the energy of ``theta (d,)``."""
        u = torch.as_tensor(self.modes).to(theta) @ theta
        quadratic = (torch.as_tensor(self.linear).to(theta) * theta.square()).sum() / 2
        return quadratic + self.a / 4 * self.spacing * u.pow(4).sum()

    def gradient(self, b: Array) -> Array:
        """Return the gradient at states ``(..., d)``."""
        modes = self.modes
        return self.linear * b + self.a * self.spacing * (b @ modes.T) ** 3 @ modes

    def hessian(self, b: Array) -> Array:
        """Return the Hessians ``(..., d, d)`` at states ``(..., d)``."""
        modes = self.modes
        square = (b @ modes.T) ** 2
        curved = np.einsum("...x,xi,xj->...ij", square, modes, modes, optimize=True)
        return np.diag(self.linear) + 3 * self.a * self.spacing * curved

    def true_dimension(self) -> int:
        """Return #{n : n^2 < a}, the dimension of the attractor and of the smallest inertial manifold."""
        return int((self.linear < 0).sum())

    def theory_dimension(self) -> int:
        """Return the first N with 2 N + 1 > 3 a: the gap condition with |u| <= 1, where l_osc = 3 a / 2."""
        return int(np.floor((3 * self.a - 1) / 2)) + 1

    def trajectories(self, start: Array, time: float, count: int = 60) -> Array:
        """Return states ``(count, runs, d)`` of the flow from ``start (runs, d)``, spaced evenly in mean arc length."""
        modes, scale = self.modes, self.a * self.spacing
        advance = Etdrk4(-self.linear, lambda b: -scale * (b @ modes.T) ** 3 @ modes, _STEP)
        states = [start]
        for _ in range(int(np.ceil(time / _STEP))):
            states.append(advance(states[-1]))
        path = np.stack(states)
        length = np.append(0.0, np.linalg.norm(np.diff(path, axis=0), axis=2).mean(axis=1).cumsum())
        return path[np.searchsorted(length, np.linspace(0, length[-1], count)).clip(0, len(path) - 1)]

    def equilibrium(self, guess: Array, steps: int = 50) -> Array | None:
        """Return the equilibrium that Newton's method finds from ``guess (d,)``; None if its residual is > 1e-9."""
        b = np.array(guess, dtype=float)
        for _ in range(steps):
            b = b - np.linalg.lstsq(self.hessian(b), self.gradient(b), rcond=None)[0]
            if not np.isfinite(b).all():
                return None
            if np.linalg.norm(self.gradient(b)) <= _RESIDUAL:
                return b
        return None
