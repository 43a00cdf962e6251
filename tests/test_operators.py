import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import BATCH_SIZE, CASES, NUM_EXAMPLES, X4, Y3, Case, drawn, draws, labels, mlp
from helpers import assert_close, check_operator
from test_parallel import free_port
from torch import Tensor, nn
from torch.nn import functional

from landscape import operators, parallel
from landscape.curvature import ProductOptions
from landscape.errors import InputError, MemoryLimitError
from landscape.examples import example_curvature
from landscape.problem import Problem, ProblemSettings

CURVATURES = {"hessian": operators.hessian, "ggn": operators.ggn, "jtj": operators.jtj}
TRACED, EAGER = ProductOptions(strategy="recomputed"), ProductOptions(strategy="double_backward")

# What is special in them lies on the way from theta to the outputs, or between outputs and loss, for ggn and jtj too.
SPECIAL = ("weighted_and_ignored", "user_loss", "convolution", "encoder_layer", "dictionary")


@pytest.mark.parametrize("kind", CURVATURES)
@pytest.mark.parametrize("name", CASES)
def test_double_backward_equals_the_dense_matrix(name: str, kind: str) -> None:
    case = CASES[name]()
    operator = CURVATURES[kind](case.problem, EAGER)
    assert operator.method == "double backward (as asked for)"
    check_operator(operator, case.dense(kind), rtol=1e-11)


@pytest.mark.parametrize(
    ("name", "kind"), [(n, "hessian") for n in CASES] + [(n, kind) for n in SPECIAL for kind in ("ggn", "jtj")]
)
def test_traced_products_equal_the_dense_matrix(name: str, kind: str) -> None:
    case = CASES[name]()
    operator = CURVATURES[kind](case.problem, TRACED)
    assert operator.method.startswith("traced, 0 of")
    check_operator(operator, case.dense(kind), rtol=1e-11)


@pytest.mark.parametrize(
    ("name", "kind"), [(n, "hessian") for n in CASES] + [(n, kind) for n in SPECIAL for kind in ("ggn", "jtj")]
)
def test_terms_of_the_examples_average_to_the_curvature(name: str, kind: str) -> None:
    case = CASES[name]()
    V = draws(case.problem.num_params, 2, seed=5)
    terms, counts = example_curvature(case.problem, V, kind)
    assert (terms.shape, counts.shape) == ((NUM_EXAMPLES, 2), (NUM_EXAMPLES,))
    expected = (V * (case.dense(kind) @ V)).sum(0)
    assert_close(terms.sum(0) / counts.sum(), expected, rtol=1e-9, atol=1e-11 * float(terms.abs().sum()))
    single, _ = example_curvature(case.problem, V[:, 1], kind)
    assert_close(single, terms[:, 1], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ["weighted_and_ignored", "user_loss", "dictionary"])
def test_terms_are_those_of_the_examples_alone(name: str) -> None:
    case = CASES[name]()
    v = draws(case.problem.num_params, seed=6)
    terms, counts = example_curvature(case.problem, v)
    for n in (5, 8):
        alone = Case(case.model, case.loss, case.mean_loss, case.x[n : n + 1], case.y[n : n + 1], case.mask)
        assert_close(terms[n] / counts[n], v @ alone.dense("hessian") @ v, rtol=1e-9)


def test_norms_have_true_second_derivatives() -> None:
    class Formulas(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v, self.g = nn.Parameter(draws(4, 4)), nn.Parameter(draws(4, 1, seed=1))
            self.scale, self.shift = nn.Parameter(draws(4, seed=2)), nn.Parameter(draws(4, seed=3))

        def forward(self, x: Tensor) -> Tensor:
            x = x @ (self.v / self.v.square().sum(1, keepdim=True).sqrt() * self.g).T
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
            return (x * self.scale + self.shift).square()

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4, bias=False))
            self.norm = nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.inner(x)).square()

    formulas, layers = Formulas(), Layers().double()
    values = [formulas.g, formulas.v, formulas.scale, formulas.shift]
    with torch.no_grad():
        for p, value in zip(layers.parameters(), values, strict=True):
            p.copy_(value)
    tokens = (draws(5, 3, 4, seed=4), draws(5, 3, 4, seed=5))
    v = draws(16 + 12, seed=6)
    order = [(1, 16), (0, 4), (2, 4), (3, 4)]  # of the parts of v in the parameters of Formulas
    starts = [0, 4, 20, 24]
    twin = torch.cat([v[starts[i] : starts[i] + length] for i, length in order])
    expected = operators.hessian(Problem.from_model(formulas, "mse", tokens), EAGER) @ twin
    parts = dict(zip((1, 0, 2, 3), expected.split([16, 4, 4, 4]), strict=True))
    expected = torch.cat([parts[i] for i in range(4)])
    problem = Problem.from_model(layers, "mse", tokens)
    for options in (EAGER, TRACED):
        assert_close(operators.hessian(problem, options) @ v, expected, rtol=1e-9, atol=1e-10)
    terms, counts = example_curvature(problem, v)
    assert_close(terms.sum() / counts.sum(), v @ expected, rtol=1e-9)


# ---- sums over batches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["retained", "recomputed", "double_backward"])
def test_batches_do_not_matter(strategy: str) -> None:
    products = []
    v = None
    for size in (NUM_EXAMPLES, BATCH_SIZE, 1):
        case = CASES["weighted_and_ignored"]()
        settings = ProblemSettings(batch_size=size)
        problem = Problem.from_model(case.model, case.loss, case.data, case.mask, settings)
        v = draws(problem.num_params)
        products.append(operators.hessian(problem, ProductOptions(strategy=strategy)) @ v)
    assert_close(products[1], products[0], rtol=1e-11, atol=1e-14)
    assert_close(products[2], products[0], rtol=1e-11, atol=1e-14)


def test_sums_over_many_batches_keep_single_precision() -> None:
    x, y = draws(600, 3) + 2, draws(600, 1, seed=1)
    settings = ProblemSettings(batch_size=1, dtype=torch.float32)
    problem = Problem.from_model(drawn(nn.Linear(3, 1, bias=False)), "mse", (x, y), settings=settings)
    v = torch.tensor([1.0, 2.0, -0.5])
    expected = x.T @ (x @ v.double()) / 600
    for options in (EAGER, TRACED):
        product = operators.hessian(problem, options) @ v
        assert_close(product.double(), expected, rtol=3e-7)


def test_batches_are_cut_where_memory_is_short() -> None:
    model = drawn(nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3)))
    x, y = draws(400, 4), labels(400)
    problem = Problem.from_model(model, "cross_entropy", (x, y))
    v = draws(problem.num_params)
    for strategy in ("recomputed", "double_backward"):
        ample = operators.hessian(problem, ProductOptions(strategy=strategy))
        small = ProductOptions(strategy=strategy, memory=ample.peak_bytes // 4)
        scarce = operators.hessian(problem, small)
        assert scarce.peak_bytes <= small.memory
        assert_close(scarce @ v, ample @ v, rtol=1e-11, atol=1e-14)
        with pytest.raises(MemoryLimitError, match="GiB are given"):
            operators.hessian(problem, ProductOptions(strategy=strategy, memory=20_000))


def test_residuals_are_kept_as_far_as_memory_goes() -> None:
    model = drawn(nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3)))
    problem = Problem.from_model(
        model, "cross_entropy", (draws(400, 4), labels(400)), settings=ProblemSettings(batch_size=100)
    )
    # One by one, so that the cutting does not join them again.
    problem = Problem.from_model(model, "cross_entropy", [tuple(t.clone() for t in b) for b in problem.batches])
    v = draws(problem.num_params)
    least = operators.hessian(problem, ProductOptions(strategy="recomputed"))
    most = operators.hessian(problem, ProductOptions(strategy="retained"))
    assert "4 of 4" in most.method
    each = (most.peak_bytes - least.peak_bytes) // 4
    assert each > 0
    memory = least.peak_bytes + 2 * each + each // 2
    some = operators.hessian(problem, ProductOptions(planned_products=10**6, memory=memory))
    assert "2 of 4" in some.method
    assert some.peak_bytes <= memory
    assert torch.equal(some @ v, most @ v)
    assert torch.equal(some @ v, least @ v)
    with pytest.raises(MemoryLimitError):
        operators.hessian(problem, ProductOptions(strategy="retained", memory=memory))


def test_batches_are_not_cut_where_examples_see_each_other() -> None:
    model = drawn(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 3)))
    settings = ProblemSettings(batchnorm="batch", batch_size=NUM_EXAMPLES)
    problem = Problem.from_model(model, "cross_entropy", (X4, Y3), settings=settings)
    twin = copy.deepcopy(model)
    twin[1].track_running_stats, twin[1].running_mean, twin[1].running_var = False, None, None
    dense = Case(twin, "cross_entropy", functional.cross_entropy, X4, Y3).dense("hessian")
    for options in (EAGER, TRACED):
        operator = operators.hessian(problem, options)
        check_operator(operator, dense, rtol=1e-10)
        with pytest.raises(MemoryLimitError):
            operators.hessian(problem, ProductOptions(strategy=options.strategy, memory=operator.peak_bytes - 1))
    with pytest.raises(InputError, match="loss of its own"):
        example_curvature(problem, draws(problem.num_params))


def work_of_one_rank(rank: int, port: int, directory: str) -> None:
    """Multiply as one of two ranks (module level, so that spawn finds it)."""
    import os

    os.environ.update(
        WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    parallel.init_from_environment()
    problem = CASES["weighted_and_ignored"]().problem
    torch.save([A @ draws(problem.num_params, 2) for A in both(problem)], Path(directory) / f"{rank}.pt")


def both(problem: Problem) -> list[operators.LinearOperator]:
    return [CURVATURES[kind](problem, options) for kind in ("hessian", "jtj") for options in (EAGER, TRACED)]


@pytest.mark.distributed
def test_two_ranks_multiply_as_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work_of_one_rank, (free_port(), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    problem = CASES["weighted_and_ignored"]().problem
    for one, other, operator in zip(first, second, both(problem), strict=True):
        assert torch.equal(one, other)
        assert_close(one, operator @ draws(problem.num_params, 2), rtol=1e-11, atol=1e-14)


# ---- coordinates, options, state -----------------------------------------------------------------------------------


def test_a_layer_alone_is_its_diagonal_block() -> None:
    case = CASES["convolution"]()
    dense, start = case.dense("hessian"), 0
    names = [(name, p.numel()) for name, p in case.model.named_parameters()]
    for name, size in names:
        if name == "second.weight":
            break
        start += size
    problem = Problem.from_model(case.model, case.loss, case.data, settings=ProblemSettings(params="second.*"))
    for options in (EAGER, TRACED):
        check_operator(operators.hessian(problem, options), dense[start : start + size, start : start + size])


def test_single_precision_goes_channels_last_where_that_works() -> None:
    for name, layout in (("convolution", "channels-last, "), ("group_norm_gelu", "")):
        case = CASES[name]()
        settings = ProblemSettings(dtype=torch.float32, batch_size=BATCH_SIZE)
        problem = Problem.from_model(case.model, case.loss, case.data, settings=settings)
        operator = operators.hessian(problem, TRACED)
        assert operator.method.startswith(f"traced, {layout}0 of")
        check_operator(operator, case.dense("hessian"), rtol=3e-6)


def test_little_work_is_not_traced() -> None:
    problem = CASES["cross_entropy"]().problem
    assert operators.hessian(problem).method == "double backward (tracing does not pay)"
    assert "traced" in operators.hessian(problem, ProductOptions(planned_products=10**9)).method


def test_models_that_look_at_values_fall_back() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = mlp()

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return y if y.sum() > 1e9 else y.square()

    class Custom(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.round()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 2 * grad

    class Rounded(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + Custom.apply(self[0](x))

    for model in (Branching(), drawn(Rounded(nn.Linear(4, 3), nn.Tanh()))):
        problem = Problem.from_model(model, "cross_entropy", (X4, Y3))
        chosen = operators.hessian(problem, ProductOptions(planned_products=10**9))
        assert chosen.method.startswith("double backward (")
        v = draws(problem.num_params)
        assert torch.equal(chosen @ v, operators.hessian(problem, EAGER) @ v)
        with pytest.raises(InputError, match="cannot be traced"):
            operators.hessian(problem, TRACED)


def test_random_models_are_refused() -> None:
    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.randn_like(x))

    problem = Problem.from_model(Noisy(4, 3).double(), "cross_entropy", (X4, Y3))
    with pytest.raises(InputError, match="random"):
        operators.hessian(problem, TRACED)


def test_the_linear_model_has_the_curvature_of_the_loss_alone() -> None:
    X, y = draws(NUM_EXAMPLES, 4), draws(NUM_EXAMPLES, 1, seed=1)
    problem = Problem.from_model(nn.Linear(4, 1, bias=False).double(), "mse", (X, y))
    for curvature in CURVATURES.values():
        for options in (EAGER, TRACED):
            check_operator(curvature(problem, options), X.T @ X / NUM_EXAMPLES)


def test_a_plain_function_and_one_without_curvature() -> None:
    bowl = Problem.from_function(lambda t: (t[0] ** 2) * t[1] + t[1] ** 3, torch.tensor([2.0, 3.0]).double())
    for options in (EAGER, TRACED):
        check_operator(operators.hessian(bowl, options), torch.tensor([[6.0, 4.0], [4.0, 18.0]]).double())
    plane = Problem.from_function(lambda t: 3 * t[0] - t[1], torch.ones(2).double())
    assert not (operators.hessian(plane) @ torch.ones(2).double()).any()


def test_nothing_else_changes() -> None:
    case = CASES["lstm"]()
    case.model.zero_grad()
    before = copy.deepcopy(case.model.state_dict())
    flags = (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled())
    generator = torch.get_rng_state()
    for options in (EAGER, TRACED):
        operator = operators.hessian(case.problem, options)
        _ = operator @ draws(case.problem.num_params)
        assert operator.num_products == 1
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in case.model.parameters())
    now = (torch.backends.mkldnn.enabled, torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled())
    assert now == flags
    assert torch.equal(torch.get_rng_state(), generator)


def test_bad_arguments_are_refused() -> None:
    problem = CASES["mse"]().problem
    with pytest.raises(InputError, match="unknown strategy"):
        ProductOptions(strategy="fast")
    with pytest.raises(InputError, match="must be positive"):
        ProductOptions(memory=0)
    with pytest.raises(InputError, match="unknown curvature"):
        example_curvature(problem, draws(problem.num_params), "fisher")
    with pytest.raises(InputError, match="do not fit"):
        example_curvature(problem, draws(problem.num_params + 1))


def test_combinators() -> None:
    M = draws(5, 5)
    M = M + M.T
    A = operators.from_matrix(M)
    eye = operators.identity(5, torch.float64, torch.device("cpu"))
    check_operator(A + 0.5 * eye, M + 0.5 * torch.eye(5).double())
    check_operator(operators.restrict(A, torch.tensor([3, 1])), M[[3, 1]][:, [3, 1]])
    assert_close(A.to_scipy() @ M[:, 0].numpy(), M @ M[:, 0])
    with pytest.raises(InputError):
        A + operators.identity(4, torch.float64, torch.device("cpu"))
    with pytest.raises(InputError):
        operators.from_matrix(M[:3])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cross_entropy_masked", "convolution", "encoder_layer", "lstm", "dictionary"])
def test_cuda_agrees_with_the_cpu_in_float64(name: str) -> None:
    case = CASES[name]()
    for dtype, rtol in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        settings = ProblemSettings(dtype=dtype, device="cuda", batch_size=BATCH_SIZE, weight_decay=case.decay)
        problem = Problem.from_model(case.model, case.loss, case.data, case.mask, settings)
        for kind, curvature in CURVATURES.items():
            for strategy in ("retained", "recomputed", "double_backward"):
                operator = curvature(problem, ProductOptions(strategy=strategy))
                V = draws(problem.num_params, 3).to("cuda", dtype)
                dense = case.dense(kind)
                size = rtol * float(torch.linalg.matrix_norm(dense, 2) * V.norm())
                assert_close((operator @ V).double(), dense @ V.double().cpu(), rtol=0, atol=size)
