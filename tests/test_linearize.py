import operator

import pytest
import torch
from cases import BATCH_SIZE, CASES, X4, Y3, drawn, draws, mlp
from helpers import assert_close
from torch import Tensor, fx, nn

from landscape import operators
from landscape.curvature import ProductOptions, passes
from landscape.curvature.forward import memory_formats, trace_forward
from landscape.curvature.layout import Layout, by_signature, cut, even, is_cuttable, joined, tensors_of
from landscape.curvature.linearize import Linearization
from landscape.curvature.split import split, trace
from landscape.networks import second_order_kernels
from landscape.problem import Problem, ProblemSettings

aten = torch.ops.aten


def targets(module: fx.GraphModule) -> list[object]:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


def linearized(problem: Problem, kind: str = "hessian") -> Linearization:
    batch = problem.batches[0]
    with torch.no_grad(), second_order_kernels(problem.model):
        forward = trace_forward(problem, kind, batch, memory_formats(problem)[0])
        return Linearization(problem, kind, batch, forward)


# ---- rewriting -----------------------------------------------------------------------------------------------------


def test_zeros_and_repetitions_go() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        nothing = torch.zeros(3, 3) @ y
        return (x.exp() + nothing) * (x.exp() + torch.zeros_like(y)) + nothing

    x, y = torch.randn(3, 3), torch.randn(3, 3)
    module = trace(function, x, y)
    passes.simplify(module)
    assert targets(module) == [aten.exp.default, aten.mul.Tensor]
    assert torch.equal(module(x, y), function(x, y))


def test_zeros_of_another_shape_leave_an_expansion() -> None:
    def function(bias: Tensor, x: Tensor) -> Tensor:
        return torch.addmm(bias, torch.zeros(4, 2), x) + (bias + torch.zeros(4, 3))

    bias, x = torch.randn(3), torch.randn(2, 3)
    module = trace(function, bias, x)
    passes.simplify(module)
    assert aten.addmm.default not in targets(module)
    assert torch.equal(module(bias, x), function(bias, x))


def test_a_sum_that_changes_dtype_or_layout_stays() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return (x + torch.zeros(3, 2, dtype=torch.float64)) * (y.T + torch.zeros(3, 2))

    x, y = torch.randn(3, 2), torch.randn(2, 3)
    module = trace(function, x, y)
    passes.simplify(module)
    assert module(x, y).dtype == torch.float64
    assert torch.equal(module(x, y), function(x, y))


def test_gradients_that_nobody_uses_are_not_computed() -> None:
    x, w = draws(2, 3, 5, 5), draws(4, 3, 3, 3)

    def function(x: Tensor, w: Tensor) -> Tensor:
        _, pull = torch.func.vjp(lambda w: torch.nn.functional.conv2d(x.exp(), w).square().sum(), w)
        _, both = torch.func.vjp(lambda x, w: torch.nn.functional.conv2d(x.exp(), w).square().sum(), x, w)
        return pull(torch.ones((), dtype=x.dtype))[0] + both(torch.ones((), dtype=x.dtype))[1]

    module = trace(function, x, w)
    passes.simplify(module)
    masks = [n.args[-1] for n in module.graph.nodes if n.target is aten.convolution_backward.default]
    assert masks
    assert all(mask == [False, True, False] for mask in masks)
    assert_close(module(x, w), function(x, w), rtol=1e-12)


def test_sums_in_place_spare_what_is_still_needed() -> None:
    def function(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        kept, spare = x.exp(), x.sin()
        first = kept + spare
        second = (x @ a) + (x @ b)
        masked = aten.threshold_backward(first.cos(), x, 0)
        return kept, first, second, masked, x + x.exp()

    x, a, b = (draws(4, 4, seed=seed) for seed in range(3))
    given = x.clone()
    module = trace(function, x, a, b)
    passes.simplify(module)
    passes.in_place(module)
    assert {aten.add_.Tensor, aten.addmm_.default, aten.threshold_backward.grad_input} <= set(targets(module))
    for got, expected in zip(module(x, a, b), function(x, a, b), strict=True):
        assert_close(got, expected, rtol=1e-13)
    assert torch.equal(x, given)


def test_hidden_mutations_are_traced_away() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.clone()
        y[0].mul_(3)
        return torch.nn.functional.relu_(y).add_(x)

    x = draws(3, 2)
    module = trace(function, x)
    assert not any(passes.mutates(node) for node in module.graph.nodes)
    assert torch.equal(module(x), function(x))


def test_batchnorm_goes_into_the_convolution_or_a_scale() -> None:
    case = CASES["convolution"]()
    with torch.no_grad():
        forward = trace_forward(case.problem, "jtj", case.problem.batches[0], torch.contiguous_format)
    assert isinstance(forward.values, fx.GraphModule)
    found = targets(forward.values)
    assert not {t for t in found if "batch_norm" in str(t)}
    assert found.count(aten.convolution.default) == 2
    assert forward.used is None
    shapes = sorted(tuple(t.shape) for t in linearized(case.problem).phi)
    # Two weights with their biases, scale and shift of the lone BatchNorm, the head.
    assert shapes == sorted([(2, 2, 3, 3), (2,), (3, 2, 3, 3), (3,), (3,), (3,), (3, 3), (3,)])


# ---- splitting -----------------------------------------------------------------------------------------------------


def test_the_tangent_half_is_linear_and_reads_residuals_only() -> None:
    def function(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        return torch.func.jvp(lambda w: torch.tanh(x.exp() @ w).square().sum(0), (w,), (v,))[1]

    x, w, v = draws(5, 4), draws(4, 3, seed=1), draws(4, 3, seed=2)
    halves = split(trace(function, x, w, v), 1)
    assert aten.exp.default in targets(halves.primal)
    assert not {aten.exp.default, aten.tanh.default} & set(targets(halves.tangent))
    residuals = halves.primal(x, w)
    assert_close(halves.tangent(*residuals, v), function(x, w, v), rtol=1e-12)
    assert_close(halves.tangent(*residuals, 3 * v), 3 * function(x, w, v), rtol=1e-12)
    own = {t.untyped_storage().data_ptr() for t in (x, w)}
    made = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in residuals}
    assert halves.residual_bytes == sum(size for pointer, size in made.items() if pointer not in own)


@pytest.mark.parametrize("name", ["cross_entropy", "convolution", "encoder_layer", "lstm"])
def test_residuals_take_the_memory_that_was_foreseen(name: str) -> None:
    problem = CASES[name]().problem
    graphs = linearized(problem)
    with torch.no_grad(), second_order_kernels(problem.model):
        residuals = graphs.residuals(problem.batches[0])
    own = {t.untyped_storage().data_ptr() for t in (*graphs.phi, *problem.constants.values(), *problem.batches[0])}
    made = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in residuals}
    actual = sum(size for pointer, size in made.items() if pointer not in own)
    assert actual <= graphs.graphs.residual_bytes <= 1.1 * actual + 256


def test_what_depends_on_the_parameters_alone_is_computed_once_a_product() -> None:
    case = CASES["dictionary"]()
    graphs = linearized(case.problem)
    assert graphs.forward.used is None
    assert not {t for t in targets(graphs.graphs.primal) if "norm" in str(t) or t is aten.sqrt.default}
    plain = linearized(CASES["cross_entropy"]().problem)
    assert plain.forward.used == (0, 1, 2, 3) or sorted(plain.forward.used or ()) == [0, 1, 2, 3]


def test_a_model_that_stops_gradients_is_traced_by_its_code() -> None:
    case = CASES["stopped"]()
    graphs = linearized(case.problem)
    assert not isinstance(graphs.forward.values, fx.GraphModule)
    assert "traced" in operators.hessian(case.problem, ProductOptions(strategy="recomputed")).method


def test_a_wrong_graph_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = passes.simplify

    def broken(module: fx.GraphModule) -> None:
        original(module)
        for node in module.graph.nodes:
            if node.target is aten.tanh.default:
                node.target = aten.sin.default
        module.recompile()

    monkeypatch.setattr(passes, "simplify", broken)
    problem = CASES["cross_entropy"]().problem
    operator_ = operators.hessian(problem, ProductOptions(planned_products=10**9))
    assert "differs from double backward" in operator_.method


# ---- batches -------------------------------------------------------------------------------------------------------


def test_pieces_are_even_where_that_is_possible() -> None:
    assert [even(1000, 64), even(10_000, 3495), even(7, 3), even(5, 9), even(12, 1)] == [50, 2500, 3, 5, 1]
    pieces = cut((X4, Y3), 4)
    assert [len(x) for x, _ in pieces] == [4, 4, 3]
    assert len(by_signature(pieces)) == 2


def test_neighbours_in_memory_are_joined_without_a_copy() -> None:
    x, y = draws(10, 2, 3), torch.arange(10)
    batches = list(zip(x.split(4), y.split(4), strict=True))
    (whole,) = joined(batches)
    assert torch.equal(whole[0], x)
    assert torch.equal(whole[1], y)
    assert whole[0].data_ptr() == x.data_ptr()
    swapped = [batches[1], batches[0], batches[2]]
    assert [len(x) for x, _ in joined(swapped)] == [4, 4, 2]
    copies = [tuple(t.clone() for t in batch) for batch in batches]
    assert len(joined(copies)) == 3
    mappings = [{"x": a, "y": b} for a, b in batches]
    assert torch.equal(joined(mappings)[0]["y"], y)


def test_only_what_adds_up_is_cut() -> None:
    problem = CASES["cross_entropy"]().problem
    assert is_cuttable(problem, problem.batches[0])

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x - x.mean(0))

    problem = Problem.from_model(Centred(), "cross_entropy", (X4, Y3))
    assert not is_cuttable(problem, problem.batches[0])
    settings = ProblemSettings(batch_size=BATCH_SIZE)
    problem = Problem.from_model(drawn(nn.Linear(4, 3)), "cross_entropy", (X4, Y3), settings=settings)
    assert not is_cuttable(problem, {"x": X4[:4], "y": Y3[:4], "scale": torch.ones(())})


def test_batches_with_other_entries_do_not_share_a_graph() -> None:
    one, other = {"x": X4, "y": Y3, "power": 2}, {"x": X4, "y": Y3, "power": 3}
    assert Layout.of(one).signature != Layout.of(other).signature
    assert Layout.of(one).batch(tensors_of(other)).keys() == one.keys()
    assert operator.itemgetter("power")(Layout.of(other).batch(tensors_of(one))) == 3
