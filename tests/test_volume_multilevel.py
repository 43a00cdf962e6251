"""Multilevel traces: exact where they must be, unbiased, with error bars that hold, and cheaper than one level."""

import numpy as np
import pytest
import torch
from helpers import assert_close, check_coverage, check_estimate

from landscape.errors import InputError
from landscape.operators import from_matrix
from landscape.volume import truths
from landscape.volume.multilevel import ProbeBudget, Probes, complement, ladder, sample
from landscape.volume.weights import quantile


def operator(n: int = 60, condition: float = 1e2):  # type: ignore[no-untyped-def]
    return truths.rotated(truths.log_spaced(n, condition), 0)[0]


def test_the_ladder_grows_by_factors() -> None:
    assert ladder(130) == (3, 8, 20, 51, 130)
    assert ladder(40) == (3, 7, 17, 40)
    assert [ladder(depth) for depth in (1, 3, 4)] == [(1,), (3,), (4,)]


def test_the_identity_function_counts_dimensions() -> None:
    found = sample(operator(), ProbeBudget(3, 10)).trace(np.ones_like)
    assert_close(found.value, 60.0)
    assert found.se < 1e-10


def test_known_pairs_enter_exactly() -> None:
    values = truths.log_spaced(40, 1e2)
    A, turn = truths.rotated(values, 0)
    vectors = turn.forward(torch.eye(40, dtype=torch.float64))
    whole = sample(A, ProbeBudget(2, 5), (values, vectors))
    assert whole.num_products == 0
    assert_close(whole.trace(np.log).value, np.log(values).sum())
    part = sample(A, ProbeBudget(4, 40), (values[:10], vectors[:, :10]))
    few = sample(A, ProbeBudget(4, 40))
    assert part.trace(np.square).se < few.trace(np.square).se / 2


def test_the_complement_is_a_projected_operator() -> None:
    A = operator(20)
    U = torch.linalg.qr(torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    Q = torch.eye(20, dtype=torch.float64) - U @ U.T
    full = A @ torch.eye(20, dtype=torch.float64)
    assert_close(complement(A, U) @ torch.eye(20, dtype=torch.float64), Q @ full @ Q, atol=1e-12)


def test_shallow_probes_are_corrected_by_deep_ones() -> None:
    """Alone, the shallow quadrature of a logarithm is biased by 0.5 nats a weight here."""
    exact = np.log(truths.log_spaced(60, 1e4)).sum()
    values = []
    for seed in range(15):
        probes = sample(operator(60, 1e4), ProbeBudget(3, 30, 90, seed))
        assert (np.bincount(probes.levels) > 0).sum() >= 2
        values.append(probes.trace(np.log).value)
    check_estimate(values, exact)


def test_the_plan_knows_the_variances_that_many_probes_show() -> None:
    """Three probes alone would misjudge a variance by factors; the spectrum tells it."""
    A = operator(400, 1e3)
    many = sample(A, ProbeBudget(60, 50))
    values = np.array([[weights @ np.log(nodes) for nodes, weights in many.quadrature(m)] for m in many.depths]).T
    shown = np.diff(values, axis=1, prepend=0.0).var(axis=0, ddof=1)
    expected = 2 / 400 * sample(A, ProbeBudget(3, 50)).level_variances(np.log)
    assert many.depths == (3, 8, 20, 50)
    assert_close(np.log(expected[:3]), np.log(shown[:3]), atol=np.log(2))


@pytest.mark.parametrize("products", [5, 40, 150, 333])
def test_the_shallow_products_are_spent_on_probes_with_an_error_bar(products: int) -> None:
    found = sample(operator(200, 1e4), ProbeBudget(2, 40, products))
    assert products - 3 < found.num_products - 2 * 40 <= products or products < 6
    assert (np.bincount(found.levels)[np.unique(found.levels)] > 1).all()


def test_intervals_cover() -> None:
    exact = np.log(truths.log_spaced(50, 30.0)).sum()
    low, high = [], []
    for seed in range(60):
        found = sample(operator(50, 30.0), ProbeBudget(3, 12, 24, seed)).trace(np.log)
        margin = quantile(found.df) * found.se + abs(found.bias)
        low.append(found.value - margin)
        high.append(found.value + margin)
    check_coverage(np.array(low), np.array(high), exact)


def test_shallow_probes_save_products() -> None:
    """For the same products, the standard error is smaller than that of full-depth probes alone."""
    A = operator(200, 1e2)
    spread = {}
    for name, budget in {"ladder": (2, 80), "deep": (4, 0)}.items():
        errors = [sample(A, ProbeBudget(budget[0], 40, budget[1], seed)).trace(np.log).value for seed in range(12)]
        spread[name] = np.std(errors)
    assert spread["ladder"] < 0.7 * spread["deep"]


def test_the_bias_is_estimated_and_vanishes_with_depth() -> None:
    exact = np.log(truths.log_spaced(400, 1e4))
    A = operator(400, 1e4)
    shallow = sample(A, ProbeBudget(8, 30))
    deep = sample(A, ProbeBudget(8, 130))
    true = deep.trace(np.log).value - shallow.trace(np.log).value  # the same starts
    assert 0.5 < shallow.trace(np.log).bias / true < 2
    assert abs(deep.trace(np.log).bias) < 1e-3 * len(exact)
    assert_close(deep.trace(np.square).bias, 0.0, atol=1e-9)


def test_a_run_that_breaks_down_is_exact() -> None:
    A = from_matrix(torch.diag(torch.tensor([3.0, 3.0, 1.0, 1.0], dtype=torch.float64)))
    found = sample(A, ProbeBudget(5, 3))
    assert found.num_products == 10
    assert found.trace(np.log).bias == 0


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = (sample(operator(), ProbeBudget(3, 20, 50, 7)).trace(np.log) for _ in range(2))
    assert first == second
    assert sample(operator(), ProbeBudget(3, 20, 50, 8)).trace(np.log).value != first.value


def test_all_eigenvalues_need_no_probe() -> None:
    assert Probes(3, np.array([1.0, 2.0, 3.0]), [], (1,), 0).trace(np.square).value == 14.0


def test_one_probe_has_no_error_bar() -> None:
    with pytest.raises(InputError, match="at least 2"):
        ProbeBudget(1, 10)
