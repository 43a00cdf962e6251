import pytest
import torch
from helpers import assert_close

from landscape import dense
from landscape.errors import InputError, MemoryLimitError
from landscape.operators import LinearOperator, from_matrix


def symmetric(n: int, seed: int = 0) -> torch.Tensor:
    A = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return A + A.T


def test_the_matrix_of_an_operator_is_its_matrix_whatever_the_block() -> None:
    A = symmetric(13)
    for block in (1, 5, 64):
        assert_close(dense.matrix(from_matrix(A), block=block), A, rtol=0, atol=1e-14)


def test_the_spectrum_descends_and_diagonalises() -> None:
    A = symmetric(13)
    operator = from_matrix(A)
    values, vectors = dense.spectrum(operator)
    assert operator.num_products == 13
    assert (values.diff() <= 0).all()
    assert_close(A @ vectors, vectors * values, rtol=0, atol=1e-12)


def test_too_little_memory_is_said_before_anything_is_computed() -> None:
    operator = from_matrix(symmetric(20))
    with pytest.raises(MemoryLimitError, match="GiB"):
        dense.spectrum(operator, memory=dense.COPIES * 8 * 400 - 1)
    assert operator.num_products == 0
    dense.spectrum(operator, memory=dense.COPIES * 8 * 400)


def test_an_asymmetric_or_infinite_operator_is_refused() -> None:
    A = symmetric(6)
    A[0, 1] += 1.0
    with pytest.raises(InputError, match="not symmetric"):
        dense.matrix(from_matrix(A))
    broken = LinearOperator(lambda block: block / 0, 4, torch.float64, torch.device("cpu"))
    with pytest.raises(InputError, match="not finite"):
        dense.matrix(broken)


def test_log_determinant_is_that_of_linear_algebra() -> None:
    A = symmetric(8)
    A = A @ A
    values = torch.linalg.eigvalsh(A)
    expected = float(torch.linalg.slogdet(torch.eye(8, dtype=torch.float64) + 3 * A).logabsdet)
    assert dense.log_determinant(values, 3.0) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(InputError, match="positive definite"):
        dense.log_determinant(-values, 3.0)
