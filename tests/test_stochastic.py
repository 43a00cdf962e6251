"""Stochastic quadrature: theorems, exact cases, coverage of the error bars, deflation, bounded memory, resumption."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, check_coverage, check_estimate
from spectra import SPECTRA, diagonal, known, network
from torch import Tensor

from landscape import stochastic
from landscape.errors import InputError, MemoryLimitError
from landscape.lanczos import EigenOptions, eigenpairs, krylov
from landscape.operators import LinearOperator, identity
from landscape.seeds import generator
from landscape.stochastic import Estimate, ProbeOptions, Quadrature, quadrature

SEEDS = 200
SPARSE = torch.from_numpy(np.r_[10.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.5, 0.2, -0.2, np.zeros(51)])
VALUES = torch.from_numpy(np.r_[np.geomspace(8.0, 0.5, 8), np.linspace(0.3, -0.2, 52)])


def probe(seed: int, number: int, size: int) -> Tensor:
    """Return the starting vector as documented: Gaussian, normalised, a stream of its own."""
    random = generator(seed, "probe", number)
    vector = torch.randn(size, generator=random, dtype=torch.float64)
    return vector / torch.linalg.vector_norm(vector)


def moment(measured: Quadrature, degree: int) -> np.ndarray:
    return stochastic.samples(measured, lambda value: value**degree) / measured.size


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_weights_sum_to_one_and_degrees_to_2m_minus_1_are_exact(name: str, dtype: torch.dtype) -> None:
    operator, truth = known(name, dtype, rotate=False)
    depth, eps, scale = 4, torch.finfo(dtype).eps, float(np.abs(truth).max())
    measured = quadrature(operator, ProbeOptions(num_probes=3, depth=depth, seed=5))
    assert_close(measured.ritz_weight.sum(1), torch.ones(3), rtol=1e-13)
    assert bool((torch.isnan(measured.ritz_value) == (measured.ritz_weight == 0)).all())
    for degree in range(2 * depth):
        exact = [float(probe(5, p, len(truth)).square() @ torch.from_numpy(truth**degree)) for p in range(3)]
        assert_close(
            moment(measured, degree), np.array(exact), rtol=0, atol=100 * eps * max(scale**degree, 0.0) + 1e-300
        )


def test_each_probe_is_a_lanczos_process_of_its_own() -> None:
    operator, truth = known("outliers_over_a_bulk", torch.float64)
    measured = quadrature(operator, ProbeOptions(num_probes=4, depth=50))
    for number in range(4):
        run = krylov(operator, probe(0, number, len(truth)), 50)
        nodes = torch.linalg.eigvalsh(torch.diag(run.alpha) + torch.diag(run.beta, 1) + torch.diag(run.beta, -1))
        assert_close(measured.ritz_value[number], nodes, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_copies_of_outliers_among_the_nodes(dtype: torch.dtype) -> None:
    operator, _ = known("outliers_over_a_bulk", dtype)
    measured = quadrature(operator, ProbeOptions(num_probes=3, depth=100))
    assert ((measured.ritz_value > 2).sum(1) == 3).all()


@pytest.mark.parametrize("scale", [1e-7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_breakdown_leaves_nan_and_weight_zero(dtype: torch.dtype, scale: float) -> None:
    operator = diagonal((scale * torch.tensor([5.0, 2.0] + 98 * [0.0], dtype=torch.float64)).to(dtype))
    measured = quadrature(operator, ProbeOptions(num_probes=3, depth=20))
    assert (torch.isnan(measured.ritz_value).sum(1) == 17).all()
    eps = torch.finfo(dtype).eps
    for nodes in measured.ritz_value:
        assert_close(nodes[:3] / scale, np.array([0.0, 2.0, 5.0]), rtol=50 * eps, atol=50 * eps)
    assert measured.num_products == operator.num_products <= 3 * 4


def test_one_probe_that_breaks_down_does_not_stop_the_others() -> None:
    """The first probe lies in an invariant plane, as its other coordinates are projected away."""
    size = 40
    start, values = probe(0, 0, size), torch.linspace(-1, 1, size, dtype=torch.float64)
    flat = values - values @ start.square()  # makes the first probe an eigenvector of the projected operator

    def apply(block: Tensor) -> Tensor:
        rest = block - start[:, None] * (start @ block)
        image = flat[:, None] * rest
        return image - start[:, None] * (start @ image) + 3.0 * start[:, None] * (start @ block)

    operator = LinearOperator(apply, size, torch.float64, torch.device("cpu"))
    measured = quadrature(operator, ProbeOptions(num_probes=2, depth=10))
    assert torch.isfinite(measured.ritz_value).sum(1).tolist() == [1, 10]
    assert_close(measured.ritz_value[0, 0], 3.0)


def test_probes_do_not_depend_on_their_number_their_group_or_the_neighbouring_seed() -> None:
    operator = diagonal(VALUES)
    few = quadrature(operator, ProbeOptions(num_probes=3, depth=6))
    many = quadrature(operator, ProbeOptions(num_probes=7, depth=6))
    grouped = quadrature(operator, ProbeOptions(num_probes=7, depth=6, memory=2 * 12 * 60 * 8))
    assert_close(many.ritz_value[:3], few.ritz_value, rtol=1e-12, atol=1e-12)
    assert_close(grouped.ritz_value, many.ritz_value, rtol=1e-12, atol=1e-12)
    for other in (ProbeOptions(7, 6, seed=1), ProbeOptions(7, 6, key=("layer", 0))):
        theirs = quadrature(operator, other).ritz_value
        assert not torch.isclose(theirs[:, None], many.ritz_value[None]).all(2).any()


ESTIMATES: dict[str, tuple[Callable[[Quadrature], Estimate | None], Callable[[np.ndarray], float]]] = {
    "trace": (stochastic.trace, np.sum),
    "frobenius_norm": (stochastic.frobenius_norm, np.linalg.norm),
    "participation_ratio": (stochastic.participation_ratio, lambda v: v.sum() ** 2 / (v**2).sum()),
    "log_det": (lambda q: stochastic.log_det(q, 2.0), lambda v: np.log1p(2 * v).sum()),
    "effective_dimension": (
        lambda q: stochastic.effective_dimension(q, 1.0),
        lambda v: np.sum(np.maximum(v, 0) / (np.maximum(v, 0) + 1)),
    ),
    "zero_fraction": (stochastic.zero_fraction, lambda v: np.mean(v == 0)),
}


@pytest.fixture(scope="module")
def repeated() -> list[Quadrature]:
    """The same measurement with 200 seeds; deep enough that only the probes err."""
    return [quadrature(diagonal(SPARSE), ProbeOptions(num_probes=6, depth=11, seed=seed)) for seed in range(SEEDS)]


@pytest.mark.parametrize("name", ESTIMATES)
def test_intervals_cover_and_estimates_are_unbiased(name: str, repeated: list[Quadrature]) -> None:
    estimate, truth = ESTIMATES[name]
    exact = float(truth(SPARSE.numpy()))
    found = [one for measured in repeated if (one := estimate(measured)) is not None]
    assert len(found) == SEEDS
    low, high = np.array([one.interval for one in found]).T
    check_coverage(low, high, exact)
    values = np.array([one.value for one in found])
    check_estimate(values, exact)
    # No wider than they must be: the stated error is that which the estimates have.
    assert_close(np.mean([one.se for one in found]), values.std(), rtol=0.15)


def test_the_frobenius_norm_of_few_probes_is_unbiased() -> None:
    norms = [stochastic.frobenius_norm(quadrature(diagonal(VALUES), ProbeOptions(2, 3, seed))) for seed in range(400)]
    check_estimate([one.value for one in norms], float(torch.linalg.vector_norm(VALUES)), sigmas=2.5)


def test_the_trace_is_the_mean_of_quadratic_forms() -> None:
    operator = diagonal(VALUES)
    one = stochastic.trace(quadrature(operator, ProbeOptions(num_probes=5, depth=1)))
    forms = [60 * float(probe(0, p, 60) @ (operator @ probe(0, p, 60))) for p in range(5)]
    assert_close(one.value, np.mean(forms), rtol=1e-12)
    assert_close(one.se, np.std(forms, ddof=1) / np.sqrt(5), rtol=1e-10)  # depth 1 does not know the square


def test_one_probe_knows_its_error_where_it_is_deep_enough() -> None:
    ones = [stochastic.trace(quadrature(diagonal(VALUES), ProbeOptions(1, 2, seed))) for seed in range(SEEDS)]
    low, high = np.array([one.interval for one in ones]).T
    check_coverage(low, high, float(VALUES.sum()), between=(0.90, 1.0))
    assert np.isnan(stochastic.trace(quadrature(diagonal(VALUES), ProbeOptions(1, 1))).se)


def test_the_variance_is_that_of_the_sphere() -> None:
    """Many probes of depth 3 and the closed form from all eigenvalues agree."""
    measured = quadrature(diagonal(VALUES), ProbeOptions(num_probes=2000, depth=3))
    for estimate, values in [
        (stochastic.trace(measured), VALUES),
        (stochastic.trace_of(measured, np.square, 2), VALUES**2),
    ]:
        centred = values - values.mean()
        assert_close(estimate.se, np.sqrt(2 * 60 / 62 * float(centred.square().sum()) / 2000), rtol=0.05)
        assert_close(
            stochastic.trace_of(measured, np.exp, None).se,
            np.std(stochastic.samples(measured, np.exp)) / np.sqrt(2000),
            rtol=1e-3,
        )


def test_deflation_is_unbiased_and_takes_the_variance_of_the_outliers_away() -> None:
    operator = diagonal(VALUES)
    pairs = eigenpairs(operator, EigenOptions(8, 0, 1e-9))
    plain, deflated = [], []
    for seed in range(SEEDS):
        options = ProbeOptions(num_probes=4, depth=2, seed=seed)
        plain.append(stochastic.trace(quadrature(operator, options)))
        deflated.append(stochastic.trace(quadrature(operator, options, deflate=pairs)))
    exact = float(VALUES.sum())
    check_estimate([one.value for one in deflated], exact)
    low, high = np.array([one.interval for one in deflated]).T
    check_coverage(low, high, exact)
    assert np.mean([one.se for one in deflated]) < 0.2 * np.mean([one.se for one in plain])


def test_deflated_pairs_are_nodes_with_their_exact_weight_and_never_come_back() -> None:
    operator, truth = known("outliers_over_a_bulk", torch.float32)
    pairs = eigenpairs(operator, EigenOptions(3, 0))
    before = operator.num_products
    measured = quadrature(operator, ProbeOptions(num_probes=2, depth=60), deflate=pairs)
    assert operator.num_products - before == measured.num_products == 120
    assert measured.num_exact == 3
    assert_close(measured.ritz_value[:, :3], np.tile([50.0, 30.0, 20.0], (2, 1)), rtol=1e-6)
    assert_close(measured.ritz_weight[:, :3], np.full((2, 3), 1 / len(truth)), rtol=1e-14)
    assert_close(measured.ritz_weight.sum(1), torch.ones(2), rtol=1e-13)
    assert float(measured.ritz_value[:, 3:].max()) < 1.01


def test_only_converged_pairs_are_deflated() -> None:
    operator, _ = known("clustered_top", torch.float64)
    pairs = eigenpairs(operator, EigenOptions(10, 5, 1e-8, max_products=45))
    assert 0 < pairs.converged.sum() < 15
    measured = quadrature(operator, ProbeOptions(num_probes=2, depth=3), deflate=pairs)
    assert measured.num_exact == int(pairs.converged.sum())
    assert torch.equal(measured.ritz_value[0, : measured.num_exact], pairs.eigenvalue[pairs.converged])


def test_all_eigenvalues_deflated_leave_nothing_to_estimate() -> None:
    values = torch.tensor([3.0, 2.0, 0.5, -1.0], dtype=torch.float64)
    operator = diagonal(values)
    measured = quadrature(operator, ProbeOptions(num_probes=2), eigenpairs(operator, EigenOptions(4, 0)))
    assert measured.num_products == 0
    one = stochastic.trace(measured)
    assert_close(one.value, 4.5, rtol=1e-12)
    assert one.se == 0.0
    assert stochastic.exact_quadrature(values).is_exact
    assert_close(stochastic.frobenius_norm(stochastic.exact_quadrature(values)).value, np.sqrt(14.25), rtol=1e-14)


def test_the_zero_atom() -> None:
    values = torch.from_numpy(np.r_[np.linspace(1, 2, 10), np.zeros(90)]).float()
    measured = quadrature(diagonal(values), ProbeOptions(num_probes=10, depth=40))
    one = stochastic.zero_fraction(measured)
    assert abs(one.value - 0.9) <= 4 * one.se
    assert stochastic.zero_fraction(measured, rank_bound=5).value == 0.95
    assert stochastic.zero_fraction(measured, rank_bound=100).value == one.value
    assert stochastic.zero_fraction(measured, tolerance=10.0).value == pytest.approx(1.0)
    assert stochastic.zero_fraction(quadrature(diagonal(torch.zeros(9)))).value == pytest.approx(1.0)


def test_a_logarithm_that_does_not_exist_is_none() -> None:
    measured = quadrature(diagonal(VALUES), ProbeOptions(num_probes=2, depth=60))
    assert stochastic.log_det(measured, 4.0) is not None
    assert stochastic.log_det(measured, 6.0) is None


def test_the_identity_has_no_error() -> None:
    one = stochastic.trace(quadrature(3.0 * identity(50, torch.float64, torch.device("cpu"))))
    assert_close([one.value, one.se], [150.0, 0.0], rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("memory", [None, 3 * (12 + 6) * 2000 * 4])
@pytest.mark.parametrize("deflated", [False, True])
def test_a_resumed_quadrature_has_the_same_bits(memory: int | None, deflated: bool, tmp_path: Any) -> None:
    operator, _ = known("network", torch.float32)
    pairs = eigenpairs(operator, EigenOptions(5, 0)) if deflated else None
    options, states = ProbeOptions(num_probes=5, depth=12, memory=memory), []
    whole = quadrature(operator, options, pairs, save_state=lambda make, _: states.append(copy.deepcopy(make())))
    assert whole.num_products == 60
    assert len(states) == (12 if memory is None else 24)
    for state in states:
        torch.save(state, tmp_path / "state.pt")
        loaded = torch.load(tmp_path / "state.pt", weights_only=True, map_location="cpu")
        steps: list[int] = []
        before = operator.num_products
        resumed = quadrature(operator, options, pairs, state=loaded, progress=steps.append)
        assert torch.equal(resumed.ritz_value, whole.ritz_value)
        assert torch.equal(resumed.ritz_weight, whole.ritz_weight)
        assert operator.num_products - before == sum(steps) == 60 - state["num_products"]
        assert resumed.num_products == 60
    with pytest.raises(InputError, match="another measurement"):
        quadrature(operator, ProbeOptions(num_probes=4, depth=12), state=states[0])


def test_memory_bounds_the_block_and_says_what_one_probe_needs() -> None:
    widths: list[int] = []

    def apply(block: Tensor) -> Tensor:
        widths.append(block.shape[1])
        return VALUES[:, None] * block

    operator = LinearOperator(apply, 60, torch.float64, torch.device("cpu"))
    quadrature(operator, ProbeOptions(num_probes=5, depth=4, memory=2 * 10 * 60 * 8))
    assert widths == [2] * 8 + [1] * 4
    with pytest.raises(MemoryLimitError, match="a probe of depth 4 needs"):
        quadrature(operator, ProbeOptions(num_probes=5, depth=4, memory=9 * 60 * 8))


@pytest.mark.parametrize("bad_product", [0, 30])
def test_a_product_that_is_not_finite_is_named(bad_product: int) -> None:
    def apply(block: Tensor) -> Tensor:
        return VALUES[:, None] * block + (torch.inf if broken.num_products > bad_product else 0.0)

    broken = LinearOperator(apply, 60, torch.float64, torch.device("cpu"))
    with pytest.raises(InputError, match="not finite"):
        quadrature(broken)


@pytest.mark.parametrize("options", [ProbeOptions(num_probes=0), ProbeOptions(depth=0)])
def test_empty_wishes_are_refused(options: ProbeOptions) -> None:
    with pytest.raises(InputError, match="at least one probe"):
        quadrature(diagonal(VALUES), options)
    with pytest.raises(InputError, match="positive"):
        stochastic.effective_dimension(quadrature(diagonal(VALUES)), 0.0)


@pytest.mark.gpu
def test_a_gpu_agrees_with_the_cpu() -> None:
    values = torch.from_numpy(network(2000)).float()
    options = ProbeOptions(num_probes=4, depth=40)
    here, there = quadrature(diagonal(values), options), quadrature(diagonal(values.cuda()), options)
    for degree in range(3):
        assert_close(moment(there, degree), moment(here, degree), rtol=1e-4)
