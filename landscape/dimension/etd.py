"""Exponential time differencing for semilinear systems whose linear part is diagonal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

State = NDArray[Any]
_CONTOUR = 32


@dataclass(frozen=True)
class Etdrk4:
    """Fourth-order exponential Runge-Kutta stepping of u' = c u + N(u), exact in the linear part.

    Parameters
    ----------
    linear
        c, ``(d,)``, real.
    nonlinear
        N, ``(..., d) -> (..., d)``.
    step
        The time step.

    References
    ----------
    Cox and Matthews (2002), J. Comput. Phys. 176, 430; Kassam and Trefethen (2005), SIAM J. Sci. Comput. 26, 1214,
    whose contour means avoid cancellation in the coefficients.
    """

    linear: NDArray[np.floating[Any]]
    nonlinear: Callable[[State], State]
    step: float

    def __post_init__(self) -> None:
        scaled = self.step * self.linear
        angle = np.exp(1j * np.pi * (np.arange(_CONTOUR) + 0.5) / _CONTOUR)
        z = scaled[:, None] + angle
        exp, h = np.exp(z), self.step
        coefficients = {
            "full": np.exp(scaled),
            "half": np.exp(scaled / 2),
            "q": h * ((np.exp(z / 2) - 1) / z).mean(axis=1).real,
            "f1": h * ((-4 - z + exp * (4 - 3 * z + z**2)) / z**3).mean(axis=1).real,
            "f2": h * ((2 + z + exp * (z - 2)) / z**3).mean(axis=1).real,
            "f3": h * ((-4 - 3 * z - z**2 + exp * (4 - z)) / z**3).mean(axis=1).real,
        }
        object.__setattr__(self, "_coefficients", coefficients)

    def __call__(self, u: State) -> State:
        """Advance ``u (..., d)`` by one step."""
        c: dict[str, NDArray[np.float64]] = self.__dict__["_coefficients"]
        nu = self.nonlinear(u)
        a = c["half"] * u + c["q"] * nu
        na = self.nonlinear(a)
        b = c["half"] * u + c["q"] * na
        nb = self.nonlinear(b)
        nc = self.nonlinear(c["half"] * a + c["q"] * (2 * nb - nu))
        return c["full"] * u + c["f1"] * nu + 2 * c["f2"] * (na + nb) + c["f3"] * nc
