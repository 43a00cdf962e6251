"""Surrogates of a dimension that are read from the states alone. None of them is the dimension of a manifold.

Principal components of a random walk already look low-dimensional, so that a trajectory's are shown beside that null;
dynamic mode decomposition reads multipliers off a run, right only while the run is linear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.dimension.rates import Array
from landscape.errors import InputError
from landscape.seeds import numpy_generator

_NULL_SIZE = 2000


@dataclass(frozen=True)
class Components:
    """Principal components of a trajectory.

    Attributes
    ----------
    fraction
        Share of the variance of each component, descending, ``(T - 1,)``.
    """

    fraction: Array

    @property
    def participation(self) -> float:
        """Participation ratio 1 / sum of squared shares."""
        return float(1 / np.square(self.fraction).sum())

    def count(self, share: float = 0.95) -> int:
        """Return how many components hold a share of the variance."""
        return int(np.searchsorted(np.cumsum(self.fraction), share * (1 - 1e-12))) + 1


@dataclass(frozen=True)
class WalkNull:
    """Principal components of random walks with the trajectory's own step lengths.

    Attributes
    ----------
    fraction
        ``(samples, T - 1)``.
    participation
        ``(samples,)``.
    """

    fraction: Array
    participation: Array

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the interval in which the participation ratio of a random walk lies with probability ``level``."""
        low, high = np.quantile(self.participation, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def components(states: Tensor) -> Components:
    """Return the principal components of states ``(T, n)``, through their T x T Gram matrix."""
    if len(states) < 3:
        raise InputError(f"principal components need at least three states, not {len(states)}")
    centered = (states - states.mean(dim=0)).double()
    return Components(_fractions(np.asarray((centered @ centered.T).cpu())[None])[0])


def _fractions(gram: Array) -> Array:
    """Return the shares of the eigenvalues of centred Gram matrices ``(s, T, T)``, ``(s, T - 1)``."""
    values = np.maximum(np.linalg.eigvalsh(gram)[:, :0:-1], 0.0)
    total = values.sum(axis=1, keepdims=True)
    if (total == 0).any():
        raise InputError("the trajectory does not move")
    return values / total


def random_walk_null(states: Tensor, samples: int = 200, seed: int = 0) -> WalkNull:
    """Return the principal components of random walks with the step lengths of a trajectory ``(T, n)``.

    Notes
    -----
    Each step has an independent direction, uniform in R^min(n, 2000): in more dimensions steps are orthogonal for all
    that matters here. For equal steps and many of them, component k holds 6 / (pi^2 k^2).

    References
    ----------
    Antognini and Sohl-Dickstein (2018), arXiv:1806.08805.
    """
    length = np.asarray((states[1:] - states[:-1]).double().norm(dim=1).cpu())
    size, count = min(states.shape[1], _NULL_SIZE), len(length)
    random = numpy_generator(seed, "random walk")
    found = []
    for _ in range(samples):
        steps = random.standard_normal((count, size))
        steps *= (length / np.linalg.norm(steps, axis=1))[:, None]
        walk = np.vstack([np.zeros(size), np.cumsum(steps, axis=0)])
        walk -= walk.mean(axis=0)
        found.append(_fractions((walk @ walk.T)[None])[0])
    table = np.array(found)
    return WalkNull(table, 1 / np.square(table).sum(axis=1))


def multipliers(states: Tensor, rank: int) -> Array:
    """Return the multipliers of a linear map that fits the differences of successive states, largest modulus first.

    Parameters
    ----------
    states
        ``(T, n)`` at equal steps of gradient descent: multipliers are then 1 - lr lambda of the modes that still move.
    rank
        Directions of the fit.

    Notes
    -----
    Cost: T^2 n multiplications. Differences need no fixed point. Error: that of the nonlinearity; noise is amplified
    where singular values below the rank are small.

    References
    ----------
    Schmid (2010), J. Fluid Mech. 656, 5 (dynamic mode decomposition); Dogra and Redman (2020), arXiv:2006.02361.
    """
    steps = (states[1:] - states[:-1]).double().T
    if not 0 < rank < steps.shape[1]:
        raise InputError(f"{steps.shape[1]} steps do not determine {rank} multipliers")
    left, singular, right = torch.linalg.svd(steps[:, :-1], full_matrices=False)
    if float(singular[rank - 1]) <= 1e-14 * float(singular[0]):
        raise InputError(f"the steps span fewer than {rank} directions; lower the rank")
    fit = left[:, :rank].T @ steps[:, 1:] @ right[:rank].T / singular[:rank]
    found = np.linalg.eigvals(np.asarray(fit.cpu()))
    return found[np.argsort(-np.abs(found), kind="stable")]
