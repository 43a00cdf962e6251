"""Operators whose spectrum is known by heart: each kills a trap that peers fall into."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from landscape.operators import LinearOperator, from_matrix


def diagonal(values: Tensor) -> LinearOperator:
    """Return diag(values); a random start sees no difference from a rotated matrix."""
    return LinearOperator(lambda block: values[:, None] * block, len(values), values.dtype, values.device)


def reflect(block: Tensor, normals: Tensor) -> Tensor:
    for normal in normals:
        block = block - 2 * normal[:, None] * (normal @ block)
    return block


def rotated(values: Tensor, seed: int = 0, reflections: int = 3) -> LinearOperator:
    """Return Q diag(values) Q' with Q a product of random Householder reflections."""
    random = torch.Generator().manual_seed(seed)
    normals = torch.randn(reflections, len(values), generator=random, dtype=torch.float64).to(values.dtype)
    normals /= torch.linalg.vector_norm(normals, dim=1, keepdim=True)

    def apply(block: Tensor) -> Tensor:
        return reflect(values[:, None] * reflect(block, normals), normals.flip(0))

    return LinearOperator(apply, len(values), values.dtype, values.device)


def bulk(count: int, width: float) -> np.ndarray:
    """Return ``count`` values spread like a semicircle on [-width, width] (its quantiles)."""
    angle = np.linspace(0, np.pi, 4001)
    mass = (angle - np.sin(2 * angle) / 2) / np.pi
    return width * -np.cos(np.interp((np.arange(count) + 0.5) / count, mass, angle))


SPECTRA: dict[str, Callable[[], np.ndarray]] = {
    "pairs_of_both_signs": lambda: np.concatenate([s * np.array([4, 3, 2.5, 2, 1.5]) for s in (1, -1)] + [bulk(90, 1)]),
    "multiplicity_three": lambda: np.concatenate([np.repeat([5.0, 3.0, -2.0], 3), bulk(200, 1)]),
    "rank_five_and_zeros": lambda: np.concatenate([[5.0, 4, 3, 2, -1], np.zeros(395)]),
    "scale_1e-7": lambda: 1e-7 * np.concatenate([[50.0, 30, 20, -10], bulk(300, 1)]),
    "condition_1e6": lambda: np.logspace(0, -6, 300),
    "clustered_top": lambda: np.concatenate([[1, 0.97, 0.95, 0.93, 0.9], bulk(300, 0.02)]),
    "nearly_opposite": lambda: np.concatenate([[1, -0.98], np.full(50, 0.01)]),
    "outliers_over_a_bulk": lambda: np.concatenate([[50.0, 30, 20], bulk(500, 1)]),
    "all_equal": lambda: np.full(40, 2.0),
    "zero": lambda: np.zeros(40),
    "network": lambda: network(2000),
}


def network(count: int) -> np.ndarray:
    """Return a spectrum like a trained network's: 10 outliers, 90 values over the tail, 100 negative ones."""
    outliers = np.geomspace(20.0, 4.0, 10)
    middle = np.geomspace(1.5, 0.1, 90)
    tail = 0.08 * np.exp(-12 * np.linspace(0, 1, count - 200))
    negative = -np.geomspace(0.2, 1e-4, 100)
    return np.concatenate([outliers, middle, tail, negative])


def known(name: str, dtype: torch.dtype, rotate: bool = True) -> tuple[LinearOperator, np.ndarray]:
    """Return the operator called ``name`` and its eigenvalues, descending."""
    values = np.sort(SPECTRA[name]())[::-1].copy()
    tensor = torch.from_numpy(values).to(dtype)
    return (rotated(tensor) if rotate else diagonal(tensor)), values


def random_matrix(count: int, seed: int) -> LinearOperator:
    """Return a symmetric Gaussian matrix (float64) with semicircle spectrum on about [-1, 1]."""
    random = torch.Generator().manual_seed(seed)
    matrix = torch.randn(count, count, generator=random, dtype=torch.float64)
    return from_matrix((matrix + matrix.T) / np.sqrt(8 * count))
