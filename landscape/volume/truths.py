"""Basins whose volume is known in closed form, of any size: nothing dense, so also at a million parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from scipy.special import gammaln, logsumexp
from torch import Tensor

from landscape import seeds
from landscape.operators import LinearOperator
from landscape.volume.sampling import Basin
from landscape.volume.weights import log_ball

CUTOFF = 1e-2


@dataclass(frozen=True, eq=False)
class Rotation:
    """A random orthogonal matrix Q that is multiplied in n log n operations: cosine transforms and random signs."""

    signs: np.ndarray

    @classmethod
    def random(cls, n: int, seed: int) -> Rotation:
        """Draw one from a stream of its own."""
        return cls(seeds.numpy_generator(seed, "rotation").choice([-1.0, 1.0], (2, n)))

    def forward(self, block: Tensor) -> Tensor:
        """Return Q times ``(n, k)``."""
        first = scipy.fft.dct(self.signs[0][:, None] * block.cpu().numpy(), axis=0, norm="ortho")
        return torch.as_tensor(scipy.fft.dct(self.signs[1][:, None] * first, axis=0, norm="ortho"))

    def backward(self, block: Tensor) -> Tensor:
        """Return Q' times ``(n, k)``."""
        first = self.signs[1][:, None] * scipy.fft.idct(block.cpu().numpy(), axis=0, norm="ortho")
        return torch.as_tensor(self.signs[0][:, None] * scipy.fft.idct(first, axis=0, norm="ortho"))


@dataclass(frozen=True, eq=False)
class Truth:
    """A basin, the curvature that an estimator may use, and the answer.

    Attributes
    ----------
    name
        What bounds it.
    basin
        Excess, threshold and anchor.
    operator
        The curvature, of spectrum ``eigenvalue (n,)``.
    log_volume
        The true log volume in nats.
    turn
        The rotation whose columns are the eigenvectors.
    """

    name: str
    basin: Basin
    operator: LinearOperator
    eigenvalue: np.ndarray
    log_volume: float
    turn: Rotation

    @property
    def size(self) -> int:
        """The dimension n."""
        return self.basin.size


def log_spaced(n: int, condition: float) -> np.ndarray:
    """Return n eigenvalues between 1 / condition and 1, evenly spaced in their logarithm, largest first."""
    return np.logspace(0.0, -np.log10(condition), n)


def rotated(values: np.ndarray, seed: int) -> tuple[LinearOperator, Rotation]:
    """Return Q diag(values) Q' and its Q."""
    turn, scale = Rotation.random(len(values), seed), torch.as_tensor(values)[:, None]

    def apply(block: Tensor) -> Tensor:
        return turn.forward(scale * turn.backward(block))

    return LinearOperator(apply, len(values), torch.float64, torch.device("cpu")), turn


def ellipsoid(n: int, condition: float, seed: int = 0, offset: float = 0.0) -> Truth:
    """Return the ellipsoid 1/2 (v + c)' A (v + c) - 1/2 c' A c <= t, with (c'Ac / 2t)^(1/2) = ``offset``.

    Its volume is V_n (2t + c'Ac)^(n/2) det(A)^(-1/2); the anchor is its centre for offset 0.
    """
    values = log_spaced(n, condition)
    operator, turn = rotated(values, seed)
    root = torch.as_tensor(values).sqrt()[:, None]
    shift = torch.zeros(n, 1, dtype=torch.float64)
    shift[n // 2] = offset * np.sqrt(2 * CUTOFF)

    def excess(block: Tensor) -> Tensor:
        round_ = root * turn.backward(block)
        return 0.5 * (round_ * (round_ + 2 * shift)).sum(0)

    volume = log_ball(n) + 0.5 * n * np.log(2 * CUTOFF * (1 + offset**2)) - 0.5 * float(np.log(values).sum())
    name = "off-centre ellipsoid" if offset else "ellipsoid"
    return Truth(name, _basin(excess, n), operator, values, float(volume), turn)


def sheared(n: int, condition: float, bend: float, seed: int = 0) -> Truth:
    """Return an ellipsoid bent by a shear of unit determinant, z_i + bend sqrt(n) z_j^2: its volume is the ellipsoid's.

    The coordinates z are those in which the ellipsoid is the unit ball; half of them are bent.
    """
    values = log_spaced(n, condition)
    operator, turn = rotated(values, seed)
    root = torch.as_tensor(values / (2 * CUTOFF)).sqrt()[:, None]
    half = n // 2

    def excess(block: Tensor) -> Tensor:
        z = root * turn.backward(block)
        z = torch.cat([z[:half], z[half : 2 * half] + bend * np.sqrt(n) * z[:half].square(), z[2 * half :]])
        return CUTOFF * z.square().sum(0)

    volume = log_ball(n) + 0.5 * n * np.log(2 * CUTOFF) - 0.5 * float(np.log(values).sum())
    return Truth("sheared ellipsoid", _basin(excess, n), operator, values, float(volume), turn)


def tilted(n: int, condition: float, tilt: float, seed: int = 0) -> Truth:
    """Return an ellipsoid whose radius along z is multiplied by exp(tilt cos(z, w) / sqrt(n)) for a fixed w.

    Its log weights have standard deviation ``tilt``; with s = tilt sqrt(n) the volume grows by E exp(s u_1) =
    0F1(; n/2; s^2 / 4) over the sphere.
    """
    values = log_spaced(n, condition)
    operator, turn = rotated(values, seed)
    root = torch.as_tensor(values).sqrt()[:, None]
    axis = torch.full((1, n), n**-0.5, dtype=torch.float64)

    def excess(block: Tensor) -> Tensor:
        z = root * turn.backward(block)
        cosine = (axis @ z)[0] / z.norm(dim=0).clamp(min=1e-300)
        return 0.5 * z.square().sum(0) * torch.exp(-2 * tilt * cosine / np.sqrt(n))

    terms = np.arange(400)
    series = terms * np.log(tilt**2 * n / 4) - gammaln(terms + 1) - gammaln(n / 2 + terms) + gammaln(n / 2)
    volume = log_ball(n) + 0.5 * n * np.log(2 * CUTOFF) - 0.5 * float(np.log(values).sum())
    return Truth(
        f"ellipsoid tilted by {tilt:g}", _basin(excess, n), operator, values, float(volume + logsumexp(series)), turn
    )


def _basin(excess: object, n: int) -> Basin:
    assert callable(excess)
    return Basin(excess, CUTOFF, torch.zeros(n, dtype=torch.float64))
