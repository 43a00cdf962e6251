"""T6, the Kuramoto-Sivashinsky equation: chaotic, no gradient system, with a manifold of known dimension.

``u_t = -u_xx - u_xxxx - u u_x`` on a periodic interval of length 22, mean zero, in Fourier modes. Its Lyapunov spectrum
has 8 exponents near zero and a jump to -1.96 after them: 8 physical modes, the dimension of its inertial manifold,
whereas the Kaplan-Yorke dimension of the attractor is 4.2. Its Jacobian is not symmetric, so that the cone gap does not
apply.

References
----------
Ding, Chate, Cvitanovic, Siminos and Takeuchi (2016), Phys. Rev. Lett. 117, 024101, arXiv:1604.01859.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.dimension.etd import Etdrk4, State
from landscape.dimension.rates import Array
from landscape.seeds import numpy_generator


@dataclass(frozen=True)
class KuramotoSivashinsky:
    """The Galerkin system of the first Fourier modes; a state is their real and imaginary parts, ``(2 modes,)``.

    Parameters
    ----------
    length
        Of the periodic interval.
    modes
        Number of complex modes.
    step
        Time step of the exponential integrator.
    """

    length: float = 22.0
    modes: int = 15
    step: float = 0.1

    @property
    def size(self) -> int:
        """Real dimension of the state."""
        return 2 * self.modes

    @property
    def wave_number(self) -> Array:
        """Wave numbers q, ``(modes,)``."""
        return 2 * np.pi * np.arange(1, self.modes + 1) / self.length

    def start(self, seed: int = 0) -> Array:
        """Return a small random state."""
        return 0.1 * numpy_generator(seed, "kuramoto").standard_normal(self.size)

    def jacobian(self, state: Array) -> Array:
        """Return the Jacobian of the right-hand side at a state, ``(2 modes, 2 modes)``; it is not symmetric."""
        rows = np.vstack([self._complex(state), self._complex(np.eye(self.size))])
        linear = (self.wave_number**2 - self.wave_number**4) * rows[1:]
        return self._real(linear + self._slopes(rows)[1:]).T

    def advance(self, state: Array, tangent: Array) -> tuple[Array, Array]:
        """Advance a state ``(n,)`` and tangent vectors ``(n, k)`` by one step, both by the same integrator."""
        rows = self._stepper(np.vstack([self._complex(state), self._complex(tangent.T)]))
        return self._real(rows[0]), self._real(rows[1:]).T

    @property
    def _stepper(self) -> Etdrk4:
        if "_cached" not in self.__dict__:
            stepper = Etdrk4(self.wave_number**2 - self.wave_number**4, self._slopes, self.step)
            object.__setattr__(self, "_cached", stepper)
        found: Etdrk4 = self.__dict__["_cached"]
        return found

    def _slopes(self, rows: State) -> State:
        """Return -(u^2 / 2)_x for the first row u, and -(u v)_x for each further row v."""
        points = 4 * self.modes + 4  # products of two modes are free of aliasing
        padded = np.zeros((len(rows), points // 2 + 1), dtype=complex)
        padded[:, 1 : self.modes + 1] = rows
        fields = np.fft.irfft(padded, points, axis=1) * points
        products = fields * fields[0]
        products[0] /= 2
        return -1j * self.wave_number * np.fft.rfft(products, axis=1)[:, 1 : self.modes + 1] / points

    def _complex(self, real: Array) -> State:
        return real[..., : self.modes] + 1j * real[..., self.modes :]

    def _real(self, rows: State) -> Array:
        return np.concatenate([rows.real, rows.imag], axis=-1)
