"""The checks that other tests rely on fail where they should."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import assert_close, check_coverage, check_estimate, check_operator
from torch import Tensor

from landscape.operators import LinearOperator, from_matrix

MATRIX = torch.tensor([[2.0, 1.0, 0.0], [1.0, -3.0, 0.5], [0.0, 0.5, 1.0]], dtype=torch.float64)


def test_assert_close_reports_the_worst_entry() -> None:
    assert_close(torch.tensor([1.0, np.nan, np.inf]), [1.0, np.nan, np.inf])
    assert_close([], [])
    with pytest.raises(AssertionError, match=r"2 of 4 entries differ; the worst, \(1, 0\), is .*3\.5.*expected .*3\.0"):
        assert_close([[1.0, 2.1], [3.5, 4.0]], [[1.0, 2.0], [3.0, 4.0]])
    for wrong in ([1.0, 2.0], [[1.0]], np.nan, np.inf, 1 + 2e-10):
        with pytest.raises(AssertionError):
            assert_close(wrong, 1.0)
    with pytest.raises(AssertionError):
        assert_close([0.0], [np.inf])


def operator(apply: Callable[[Tensor], Tensor]) -> LinearOperator:
    return LinearOperator(apply, 3, torch.float64, torch.device("cpu"))


def test_check_operator_passes_a_matrix() -> None:
    check_operator(from_matrix(MATRIX), MATRIX)


CALLS = iter(range(1, 1000))


@pytest.mark.parametrize(
    "apply",
    [
        lambda block: (MATRIX + 1e-6 * torch.eye(3, dtype=torch.float64)) @ block,
        lambda block: MATRIX @ block + 1e-6,
        lambda block: (MATRIX * (1 + 1e-15 * next(CALLS))) @ block,
        lambda block: MATRIX @ block[:, :1].expand_as(block),
        lambda block: MATRIX @ block.mul_(1.0).add_(0.0).neg_().neg_().mul_(1 + 1e-15),
        lambda block: MATRIX.float() @ block.float(),
    ],
)
def test_check_operator_refuses(apply: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_operator(operator(apply), MATRIX)


def test_check_operator_refuses_an_asymmetric_matrix() -> None:
    skewed = MATRIX + torch.diag(torch.tensor([1e-6, 0.0], dtype=torch.float64), 1)
    with pytest.raises(AssertionError):
        check_operator(from_matrix(skewed), skewed)


def test_check_estimate_and_coverage() -> None:
    random = np.random.default_rng(0)
    samples = random.normal(3.0, 2.0, size=400)
    check_estimate(samples, 3.0)
    with pytest.raises(AssertionError, match="expected 4"):
        check_estimate(samples, 4.0)
    check_coverage(samples - 3.92, samples + 3.92, 3.0)
    for width in (2.0, 20.0):
        with pytest.raises(AssertionError, match="of 400 intervals"):
            check_coverage(samples - width, samples + width, 3.0)
