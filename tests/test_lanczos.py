"""Lanczos: theorems, spectra known by heart, no ghosts, no missed copies, bounded cost and memory, exact resumption."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close
from spectra import SPECTRA, diagonal, known, network, random_matrix, rotated
from torch import Tensor

from landscape.errors import InputError, MemoryLimitError
from landscape.lanczos import EigenOptions, Eigenpairs, eigenpairs, krylov, space
from landscape.operators import LinearOperator

DTYPES = [torch.float64, torch.float32]


def start_vector(size: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def tridiagonal(alpha: Tensor, beta: Tensor) -> Tensor:
    return torch.diag(alpha) + torch.diag(beta, 1) + torch.diag(beta, -1)


def check_pairs(pairs: Eigenpairs, operator: LinearOperator, truth: np.ndarray, options: EigenOptions) -> None:
    """Check what theory promises of converged pairs, and that the right number of eigenvalues was found."""
    eps, scale = torch.finfo(operator.dtype).eps, float(np.abs(truth).max())
    value, rounding = pairs.eigenvalue.numpy(), 30 * eps * scale
    assert pairs.converged.all()
    assert float(pairs.residual.max()) <= options.tolerance * scale + rounding
    image, vector = (operator @ pairs.eigenvector).double(), pairs.eigenvector.double()
    fresh = torch.linalg.vector_norm(image - vector * pairs.eigenvalue, dim=0)
    assert_close(pairs.residual, fresh, rtol=1e-3, atol=rounding)
    # Each value lies within its residual of an eigenvalue; all of them, in order, within the norm of the residual
    # matrix of as many eigenvalues (Kahan; Parlett 1998, theorem 11.5.1), which are those at the ends.
    nearest = np.abs(value[:, None] - truth).min(1)
    assert (nearest <= pairs.residual.numpy() + rounding).all()
    ordered = np.r_[truth[: options.largest], truth[::-1][: options.smallest]]
    assert_close(value, ordered, rtol=0, atol=float(torch.linalg.vector_norm(pairs.residual)) + rounding)
    # The counts above and below any gap that is wider than the error are right: no ghost, no missed copy.
    for top in np.flatnonzero(-np.diff(truth[: options.largest]) > 4 * options.tolerance * scale):
        assert (value[: options.largest] > truth[top : top + 2].mean()).sum() == top + 1
    assert pairs.loss_of_orthogonality <= 1e2 * eps
    labels = [*range(1, options.largest + 1), *range(-1, -options.smallest - 1, -1)]
    assert pairs.label.tolist() == labels


@pytest.mark.parametrize("dtype", DTYPES)
def test_krylov_relation_and_orthonormal_basis(dtype: torch.dtype) -> None:
    operator, truth = known("condition_1e6", dtype)
    run = krylov(operator, start_vector(len(truth), dtype), 40)
    eps = torch.finfo(dtype).eps
    assert run.basis.shape == (40, len(truth))
    assert run.loss_of_orthogonality <= 20 * eps
    remainder = (operator @ run.basis.T).T.double() - tridiagonal(run.alpha, run.beta) @ run.basis.double()
    assert float(remainder[:-1].abs().max()) <= 20 * eps
    assert_close(torch.linalg.vector_norm(remainder[-1]), run.residual_norm, rtol=1e-3)


@pytest.mark.parametrize(("size", "depth"), [(2000, 250), (100_000, 20)])
def test_float32_stays_orthogonal_at_condition_1e6(size: int, depth: int) -> None:
    values = torch.from_numpy(np.logspace(0, -6, size)).float()
    values[:5] = torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6])
    values[5:] *= 0.1
    start = start_vector(size, torch.float32)
    start[:5] *= 100.0  # few large components before many small ones: where a running sum in float32 fails
    assert krylov(diagonal(values), start, depth).loss_of_orthogonality <= 1e-5


def test_krylov_to_full_depth_is_the_whole_spectrum() -> None:
    operator, truth = known("outliers_over_a_bulk", torch.float64)
    run = krylov(operator, start_vector(len(truth), torch.float64), 10**6)
    assert_close(torch.linalg.eigvalsh(tridiagonal(run.alpha, run.beta)).flip(0), truth, rtol=1e-12, atol=1e-12)
    assert run.residual_norm == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e7])
def test_breakdown_is_relative_and_exact(dtype: torch.dtype, scale: float) -> None:
    values = torch.tensor([5.0, 2.0] + 998 * [0.0], dtype=torch.float64)
    run = krylov(rotated((scale * values).to(dtype)), start_vector(1000, dtype), 40)
    nodes, vectors = torch.linalg.eigh(tridiagonal(run.alpha, run.beta))
    eps = torch.finfo(dtype).eps
    assert_close(nodes, scale * np.array([0.0, 2.0, 5.0]), rtol=20 * eps, atol=20 * eps * scale)
    assert_close(vectors[0].square().sum(), 1.0)
    assert run.residual_norm <= 200 * eps * scale


def test_krylov_of_the_zero_operator_stops_at_once() -> None:
    run = krylov(diagonal(torch.zeros(9, dtype=torch.float64)), torch.ones(9, dtype=torch.float64), 5)
    assert run.alpha.tolist() == [0.0]
    assert run.residual_norm == 0.0


@pytest.mark.parametrize("bad", [torch.zeros(5), torch.full((5,), torch.nan), torch.ones(4), torch.ones(5, 1)])
def test_krylov_refuses_a_bad_start(bad: Tensor) -> None:
    with pytest.raises(InputError, match="start"):
        krylov(diagonal(torch.ones(5)), bad, 3)
    with pytest.raises(InputError, match="depth"):
        krylov(diagonal(torch.ones(5)), torch.ones(5), 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_both_ends_of_spectra_known_by_heart(name: str, dtype: torch.dtype) -> None:
    operator, truth = known(name, dtype)
    options = EigenOptions(largest=min(20, len(truth) - 5))
    check_pairs(eigenpairs(operator, options), operator, truth, options)


@pytest.mark.parametrize("options", [EigenOptions(40, 0), EigenOptions(0, 40), EigenOptions(39, 1), EigenOptions(0, 1)])
@pytest.mark.parametrize("name", ["all_equal", "zero", "distinct"])
def test_up_to_all_eigenpairs(name: str, options: EigenOptions) -> None:
    values = np.arange(40.0)[::-1] if name == "distinct" else np.sort(SPECTRA[name]())
    operator = rotated(torch.from_numpy(values.copy()))
    check_pairs(eigenpairs(operator, options), operator, values, options)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_of_an_eigenvalue_are_not_missed(seed: int, dtype: torch.dtype) -> None:
    values = np.r_[np.full(4, 5.0), np.full(3, 2.0), np.linspace(1, -1, 600)]
    operator, options = rotated(torch.from_numpy(values).to(dtype)), EigenOptions(8, 0, 1e-3, seed)
    check_pairs(eigenpairs(operator, options), operator, values, options)


@pytest.mark.parametrize("block", [1, 3])
def test_restarts_give_the_same_pairs_in_bounded_memory(block: int) -> None:
    operator, truth = known("network", torch.float64)
    options = EigenOptions(10, 3, 1e-6, block=block, max_basis=45)
    rows: list[int] = []

    def watch(make_state: Callable[[], dict[str, Any]], _: bool) -> None:
        rows.append(sum(len(slab) for slab in make_state()["space"]["slabs"]))

    pairs = eigenpairs(operator, options, save_state=watch)
    assert operator.num_products == pairs.num_products
    check_pairs(pairs, operator, truth, options)
    assert 25 < max(rows) <= 45
    assert any(late < early for early, late in pairwise(rows)), "there was no restart"


def test_products_are_those_of_unrestarted_lanczos() -> None:
    truth = np.sort(network(5000))[::-1].copy()
    operator, k = diagonal(torch.from_numpy(truth)), 60
    run = krylov(operator, start_vector(len(truth), torch.float64), 160)
    for needed in range(k, 160):
        value, vector = torch.linalg.eigh(tridiagonal(run.alpha[:needed], run.beta[: needed - 1]))
        if (run.beta[needed - 1] * vector[-1, -k:].abs()).max() <= 1e-4 * value.abs().max():
            break
    else:
        pytest.fail("unrestarted Lanczos did not converge")
    before = operator.num_products
    pairs = eigenpairs(operator, EigenOptions(k, 0))
    assert pairs.converged.all()
    assert operator.num_products - before == pairs.num_products <= math.ceil(1.1 * needed) + 12 + k


@pytest.mark.parametrize("name", ["network", "rank_five_and_zeros"])
@pytest.mark.parametrize("max_basis", [None, 60])
def test_a_resumed_search_has_the_same_bits_and_does_only_the_rest(name: str, max_basis: int | None) -> None:
    operator, _ = known(name, torch.float32)
    options, states = EigenOptions(max_basis=max_basis), []
    whole = eigenpairs(operator, options, save_state=lambda make, _: states.append(copy.deepcopy(make())))
    done = [s["space"]["products"] + len(s["fresh"]) for s in states]
    assert len(states) > 5
    for state, count in zip(states, done, strict=True):
        steps: list[int] = []
        before = operator.num_products
        resumed = eigenpairs(operator, options, state=copy.deepcopy(state), progress=steps.append)
        assert torch.equal(resumed.eigenvalue, whole.eigenvalue)
        assert torch.equal(resumed.eigenvector, whole.eigenvector)
        assert torch.equal(resumed.residual, whole.residual)
        assert resumed.num_products == whole.num_products
        assert operator.num_products - before == whole.num_products - count == sum(steps)


def test_a_state_survives_being_written(tmp_path: Any) -> None:
    operator, _ = known("network", torch.float32)
    states: list[dict[str, Any]] = []
    whole = eigenpairs(operator, save_state=lambda make, _: states.append(copy.deepcopy(make())))
    torch.save(states[3], tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True, map_location="cpu")
    assert torch.equal(eigenpairs(operator, state=loaded).eigenvector, whole.eigenvector)
    with pytest.raises(InputError, match="another operator"):
        eigenpairs(diagonal(torch.ones(50)), state=states[3])


def test_what_has_not_converged_stays_in_place_with_its_true_residual() -> None:
    operator, truth = known("clustered_top", torch.float64)
    pairs = eigenpairs(operator, EigenOptions(10, 5, 1e-8, max_products=45))
    assert pairs.num_products <= 45
    assert len(pairs.eigenvalue) == 15
    assert pairs.converged.any()
    assert not pairs.converged.all()
    image = operator @ pairs.eigenvector
    fresh = torch.linalg.vector_norm(image - pairs.eigenvector * pairs.eigenvalue, dim=0)
    assert_close(pairs.residual, fresh, rtol=1e-6, atol=1e-14)
    assert torch.equal(pairs.converged, pairs.residual <= 1e-8 * pairs.eigenvalue.abs().max())
    nearest = np.abs(pairs.eigenvalue.numpy()[:, None] - truth).min(1)
    assert (nearest <= pairs.residual.numpy() + 1e-14).all()


def test_a_tolerance_below_rounding_is_not_called_converged() -> None:
    operator, _ = known("outliers_over_a_bulk", torch.float32)
    pairs = eigenpairs(operator, EigenOptions(3, 0, 1e-12, max_products=100))
    assert not pairs.converged.any()


def test_residuals_come_from_fresh_products() -> None:
    operator, truth = known("network", torch.float64)
    calls = 0

    def drifting(block: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return operator.apply(block) * (1.0 if calls < 60 else 2.0)

    other = LinearOperator(drifting, len(truth), torch.float64, torch.device("cpu"))
    pairs = eigenpairs(other, EigenOptions(3, 0))
    assert_close(pairs.eigenvalue, (2 if calls >= 60 else 1) * truth[:3], rtol=1e-3)


@pytest.mark.parametrize("name", SPECTRA)
def test_looking_seldom_for_a_breakdown_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, truth = known(name, torch.float64)
    options = EigenOptions(largest=min(20, len(truth) - 5), max_basis=70)
    often = eigenpairs(operator, options)
    monkeypatch.setitem(space.LONGEST_LAG, "cpu", 32)
    seldom = eigenpairs(operator, options)
    check_pairs(seldom, operator, truth, options)
    assert_close(seldom.eigenvalue, often.eigenvalue, rtol=0, atol=1e-4 * float(often.eigenvalue.abs().max()))


def test_blocks_and_seeds_agree_and_a_seed_repeats_its_bits() -> None:
    operator, truth = known("multiplicity_three", torch.float64)
    first = eigenpairs(operator)
    assert torch.equal(first.eigenvector, eigenpairs(operator).eigenvector)
    for options in [EigenOptions(seed=1), EigenOptions(block=4), EigenOptions(product_block=1)]:
        check_pairs(eigenpairs(operator, options), operator, truth, options)


def test_the_largest_component_of_a_vector_is_positive() -> None:
    operator, _ = known("pairs_of_both_signs", torch.float64)
    vector = eigenpairs(operator, EigenOptions(5, 5)).eigenvector
    assert (vector.gather(0, vector.abs().argmax(0, keepdim=True)) > 0).all()
    assert_close(torch.linalg.vector_norm(vector, dim=0), torch.ones(10), rtol=1e-14)


@pytest.mark.parametrize("bad_product", [0, 7, 40])
def test_a_product_that_is_not_finite_is_named(bad_product: int) -> None:
    operator, truth = known("network", torch.float32)

    def apply(block: Tensor) -> Tensor:
        return operator.apply(block) + (torch.nan if broken.num_products > bad_product else 0.0)

    broken = LinearOperator(apply, len(truth), torch.float32, torch.device("cpu"))
    with pytest.raises(InputError, match="not finite"):
        eigenpairs(broken)
    broken.counter.count = 0
    with pytest.raises(InputError, match="not finite"):
        krylov(broken, start_vector(len(truth), torch.float32), 60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EigenOptions(41, 0), "41 largest eigenvalues were asked for, but there are only 40"),
        (EigenOptions(0, 41), "41 smallest"),
        (EigenOptions(30, 20), "overlap"),
        (EigenOptions(0, 0), "no eigenpairs"),
        (EigenOptions(-1, 3), "negative"),
        (EigenOptions(3, 3, block=0), "at least 1"),
        (EigenOptions(3, 3, tolerance=0.0), "tolerance"),
        (EigenOptions(3, 3, max_products=11), "at least 12 products"),
    ],
)
def test_impossible_wishes_are_refused(options: EigenOptions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        eigenpairs(diagonal(torch.ones(40)), options)


def test_a_basis_that_is_too_small_says_what_is_needed() -> None:
    with pytest.raises(MemoryLimitError, match=r"at least 47 vectors \(.* GiB\), but 30"):
        eigenpairs(diagonal(torch.ones(1000)), EigenOptions(max_basis=30))
    with pytest.raises(MemoryLimitError, match=r"\(0.000197 GiB\), but 44 \(0.000186 GiB\)"):
        eigenpairs(diagonal(torch.ones(1000)), EigenOptions(memory=200_000))


@pytest.mark.parametrize("seed", range(5))
def test_random_matrices_agree_with_the_dense_solver(seed: int) -> None:
    operator, options = random_matrix(120, seed), EigenOptions(10, 10, 1e-8)
    truth = torch.linalg.eigvalsh(operator @ torch.eye(120, dtype=torch.float64)).flip(0).numpy()
    check_pairs(eigenpairs(operator, options), operator, truth, options)


@pytest.mark.gpu
@pytest.mark.parametrize("name", SPECTRA)
def test_a_gpu_agrees_with_the_cpu(name: str) -> None:
    here, truth = known(name, torch.float64)
    values = torch.from_numpy(truth).float().cuda()
    there = diagonal(values)
    options = EigenOptions(largest=min(20, len(truth) - 5))
    ours, theirs = eigenpairs(here, options), eigenpairs(there, options)
    scale = float(np.abs(truth).max())
    assert theirs.converged.all()
    assert_close(theirs.eigenvalue, ours.eigenvalue, rtol=0, atol=2 * options.tolerance * scale)
