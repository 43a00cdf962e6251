"""Preconditioners: what they multiply, and their determinants, against dense matrices."""

import numpy as np
import pytest
import torch
from helpers import assert_close
from torch import Tensor

from landscape.errors import InputError
from landscape.operators import from_matrix
from landscape.volume import truths
from landscape.volume.multilevel import ProbeBudget, sample
from landscape.volume.preconditioners import (
    Polynomial,
    Preconditioner,
    diagonal,
    fit_inverse_root,
    identity,
    inverse_power,
    low_rank,
    low_rank_diagonal,
    polynomial,
)

F64 = torch.float64
N = 30


def matrix() -> Tensor:
    A, _ = truths.rotated(truths.log_spaced(N, 1e2), 1)
    full = A @ torch.eye(N, dtype=F64)
    return (full + full.T) / 2


def top(k: int) -> tuple[np.ndarray, Tensor]:
    values, vectors = torch.linalg.eigh(matrix())
    return values.flip(0)[:k].numpy(), vectors.flip(1)[:, :k]


def dense(P: Preconditioner) -> Tensor:
    return P.apply(torch.eye(N, dtype=F64))


def check_determinant(P: Preconditioner) -> None:
    assert_close(P.log_det.value, float(torch.linalg.slogdet(dense(P))[1]), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("shrinkage", [0.0, 0.1])
def test_determinants_are_those_of_the_matrices(shrinkage: float) -> None:
    values, vectors = top(7)
    bulk = torch.linspace(0.01, 0.2, N, dtype=F64)
    check_determinant(identity())
    check_determinant(diagonal(inverse_power(matrix().diagonal(), shrinkage)))
    check_determinant(low_rank(values, vectors, 0.03, shrinkage))
    check_determinant(low_rank_diagonal(values, vectors, bulk, shrinkage))


def test_the_determinant_of_low_rank_holds_for_vectors_that_have_not_converged() -> None:
    random = torch.randn(N, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    check_determinant(low_rank(np.linspace(1, 2, 5), torch.linalg.qr(random)[0], 0.03, 0.0))


def test_exact_pairs_whiten() -> None:
    P = dense(low_rank(*top(N), 0.0, 0.0))
    assert_close(P @ matrix() @ P, torch.eye(N, dtype=F64), atol=1e-10)


def test_low_rank_diagonal_whitens_low_rank_plus_diagonal() -> None:
    values, vectors = top(6)
    bulk = torch.linspace(0.01, 0.2, N, dtype=F64)
    full = vectors @ torch.diag(torch.as_tensor(values)) @ vectors.T + torch.diag(bulk) + 0.05 * torch.eye(N, dtype=F64)
    P = dense(low_rank_diagonal(values, vectors, bulk, 0.05))
    assert_close(P.T @ full @ P, torch.eye(N, dtype=F64), atol=1e-10)


def test_a_polynomial_of_a_matrix() -> None:
    p = Polynomial(np.array([0.3, -1.0, 0.5, 0.2]), 0.0, 2.0)
    A = matrix()
    values, vectors = torch.linalg.eigh(A)
    expected = vectors @ torch.diag(torch.as_tensor(p(values.numpy()))) @ vectors.T
    operator = from_matrix(A)
    assert_close(p.multiply(operator, torch.eye(N, dtype=F64)), expected, atol=1e-12)
    assert operator.num_products == 3 * N


def test_the_fit_is_close_on_the_spectrum_and_positive() -> None:
    values = truths.log_spaced(400, 1e2)
    probes = sample(truths.rotated(values, 0)[0], ProbeBudget(3, 40))
    errors = [np.abs(fit_inverse_root(probes, degree)(values) * np.sqrt(values) - 1).max() for degree in (5, 10, 20)]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[2] < 0.02


def test_the_polynomial_whitens_with_and_without_deflation() -> None:
    """With the stiff directions taken out, the same degree whitens the rest better."""
    A = from_matrix(matrix())
    spread = []
    for k in (0, 15):
        known = top(k) if k else None
        probes = sample(A, ProbeBudget(6, N), known)
        P = dense(polynomial(A, probes, 6, 0.0, None if known is None else known[1]))
        spread.append(float(torch.linalg.eigvalsh(P @ matrix() @ P).log().std()))
        exact = float(torch.linalg.slogdet(P)[1])
        found = polynomial(A, probes, 6, 0.0, None if known is None else known[1]).log_det
        assert abs(found.value - exact) < 4 * found.se + 1e-9
    assert spread[1] < 0.5 * spread[0]


def test_the_reference_is_the_shrunk_curvature() -> None:
    probes = sample(from_matrix(matrix()), ProbeBudget(6, N))
    reference = polynomial(from_matrix(matrix()), probes, 6, 0.1).reference
    assert reference is not None
    shifted = matrix() + 0.1 * torch.eye(N, dtype=F64)
    assert_close(reference.operator @ torch.eye(N, dtype=F64), shifted, atol=1e-12)
    assert abs(reference.log_det.value - float(torch.logdet(shifted))) < 4 * reference.log_det.se


def test_singular_preconditioners_are_refused() -> None:
    values, vectors = top(3)
    with pytest.raises(InputError, match="positive, finite"):
        diagonal(torch.zeros(3, dtype=F64))
    with pytest.raises(InputError, match="singular"):
        low_rank(values, vectors, 0.0, 0.0)
    with pytest.raises(InputError, match="shrinkage > 0"):
        low_rank_diagonal(values, vectors, torch.zeros(N, dtype=F64), 0.0)
    flat = sample(from_matrix(-torch.eye(4, dtype=F64)), ProbeBudget(2, 4))
    with pytest.raises(InputError, match="no positive eigenvalue"):
        fit_inverse_root(flat, 3)
