"""Scores of weights against hand-computed ones on tiny networks, and the flow through masked networks."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape import dense, models, operators, seeds
from landscape.problem import Problem
from landscape.pruning import criteria, flow, record, scores
from landscape.pruning.flow import Flow

X = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 1.0]], dtype=torch.float64)
Y = torch.tensor([[1.0], [0.0], [2.0]], dtype=torch.float64)
W = torch.tensor([[0.5, -2.0]], dtype=torch.float64)


def linear() -> Problem:
    """f(x) = w x under (1/2N) sum |f - y|^2: gradient X'(Xw - y)/N, Hessian X'X/N."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(W)
    return Problem.from_model(model, "mse", (X, Y))


def classifier() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), t=nn.Tanh(), b=nn.Linear(3, 3))).double()
    return Problem.from_model(model, "cross_entropy", (torch.randn(20, 2).double(), torch.arange(20) % 3))


SLOPE = X.T @ (X @ W.T - Y) / 3
CURVATURE = X.T @ X / 3


def test_snip_by_hand() -> None:
    found = scores.snip(linear(), ["weight"])
    torch.testing.assert_close(found.values["weight"], (SLOPE.T * W).abs())
    assert (found.num_gradients, found.num_products) == (1, 0)


def test_grasp_by_hand() -> None:
    found = scores.grasp(linear(), ["weight"])
    torch.testing.assert_close(found.values["weight"], W * (CURVATURE @ SLOPE).T)
    assert (found.num_gradients, found.num_products) == (1, 1)


def test_grasp_removes_what_raises_the_gradient_norm_most() -> None:
    """The paper's score -w (H g) is the first-order change of |g|^2 / 2 when the weight goes; the largest go."""
    problem = classifier()
    base = float(problem.gradient().square().sum()) / 2
    found = scores.grasp(problem, ["a.weight"]).values["a.weight"].reshape(-1)
    for i in range(6):
        theta = problem.theta.clone()
        theta[i] *= 1 - 1e-6
        change = (float(problem.gradient(theta).square().sum()) / 2 - base) / 1e-6
        assert change == pytest.approx(-float(found[i]), abs=1e-6)


def test_obd_of_a_linear_network_is_exact_up_to_its_scatter() -> None:
    found = scores.obd(linear(), ["weight"], "mse", num_probes=4000)
    expected = CURVATURE.diagonal() * W.square() / 2
    torch.testing.assert_close(found.values["weight"], expected, rtol=5 * (2 / 4000) ** 0.5, atol=0)


def test_the_gauss_newton_diagonal_of_a_classifier() -> None:
    problem = classifier()
    exact = dense.matrix(operators.ggn(problem)).diagonal()
    found = scores.gauss_newton_diagonal(problem, "cross_entropy", 4000)
    torch.testing.assert_close(found, exact, rtol=6 * (2 / 4000) ** 0.5, atol=1e-4)


def test_obs_of_a_small_network_is_exact() -> None:
    problem = linear()
    found = scores.obs(problem, ["weight"], damping=1e-6)
    expected = W.square() / (2 * torch.linalg.inv(CURVATURE).diagonal())
    torch.testing.assert_close(found.values["weight"], expected, rtol=1e-3, atol=0)


def test_the_inverse_diagonal_of_a_classifier() -> None:
    problem = classifier()
    matrix, n = dense.matrix(operators.ggn(problem)), problem.num_params
    found, spent = scores.inverse_diagonal(problem, 0.1, n)
    signs = torch.rand(n, n, generator=seeds.generator(0, "inverse_diagonal"), dtype=torch.float64)[:, 0] < 0.5
    signs = torch.where(signs, -1.0, 1.0).double()
    delta = 0.1 * float(signs @ matrix @ signs) / n
    expected = torch.linalg.inv(matrix + delta * torch.eye(n, dtype=torch.float64)).diagonal()
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=0)
    drawn = scores.inverse_diagonal(problem, 0.1, 8)[0]
    assert float(drawn.max()) <= 1 / delta * (1 + 1e-12)
    assert float((drawn / expected).log().abs().median()) < 0.5
    assert spent > n


def deep() -> nn.Sequential:
    return nn.Sequential(OrderedDict(a=nn.Linear(2, 2), t=nn.Tanh(), b=nn.Linear(2, 1))).double()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in model.named_parameters() if p.ndim == 2}


def test_synflow_by_hand() -> None:
    """R = sum_ij |b_i| |a_ij|: the score of a_ij is |b_i a_ij|, that of b_i is |b_i| sum_j |a_ij|."""
    model = deep()
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
        model.b.weight.copy_(torch.tensor([[-1.0, 0.25]]))
    values = {n: w.abs() for n, w in weights_of(model).items()}
    gradient = Flow(model, (2,)).gradient(values)
    torch.testing.assert_close(
        gradient["a.weight"] * values["a.weight"], torch.tensor([[1.0, 2.0], [0.75, 0.125]]).double()
    )
    torch.testing.assert_close(gradient["b.weight"] * values["b.weight"], torch.tensor([[3.0, 0.875]]).double())


def test_synflow_conserves_flow_and_collapses_no_layer() -> None:
    """Incoming and outgoing scores of a unit have equal sums, so that no layer is emptied before it must be."""
    model = models.build("mlp", 0, input_shape=(6,), num_outputs=3, widths=(8, 4), activation="relu")
    weights = weights_of(model)
    full = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
    for kept in (60, 20, 6):
        mask = scores.synflow(Flow(model, (6,)), weights, full, kept)
        assert criteria.num_kept(mask) == kept
        assert not flow.collapsed(mask)
    once = scores.synflow(Flow(model, (6,)), weights, full, 6, rounds=1)
    assert flow.collapsed(once)  # in one round it does: that is why there are 100


def test_rounds_follow_the_exponential_schedule_and_nest() -> None:
    full = {"w": torch.ones(100, dtype=torch.bool)}
    seen: list[int] = []

    def score(mask: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(criteria.num_kept(mask))
        return {"w": torch.arange(100.0)}

    mask, rounds = scores.iterate(score, full, 10, rounds=10)
    assert rounds == 10
    assert seen == [100, *(round(100 * 0.1 ** (r / 10)) for r in range(1, 10))]
    assert mask["w"].nonzero().squeeze(1).tolist() == list(range(90, 100))


def paths_by_hand(mask: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights on a path of a two-layer network: the unit must have a way in and a way out."""
    way_in, way_out = mask["a.weight"].any(1), mask["b.weight"].any(0)
    return {"a.weight": mask["a.weight"] & way_out[:, None], "b.weight": mask["b.weight"] & way_in}


@pytest.mark.parametrize("seed", range(8))
def test_dead_paths_by_hand(seed: int) -> None:
    model = nn.Sequential(OrderedDict(a=nn.Linear(5, 6), r=nn.Tanh(), b=nn.Linear(6, 2)))
    stream = torch.Generator().manual_seed(seed)
    mask = {n: torch.rand(w.shape, generator=stream) < 0.2 for n, w in weights_of(model).items()}
    found = flow.on_path(Flow(model, (5,)), mask)
    expected = paths_by_hand(mask)
    assert all(torch.equal(found[n], expected[n]) for n in mask)


def test_paths_lead_through_layers_that_are_not_pruned() -> None:
    """Where a glob leaves the output layer out of the mask, all of its weights count as kept, zeros too."""
    model = nn.Sequential(OrderedDict(a=nn.Linear(5, 6), r=nn.Tanh(), b=nn.Linear(6, 2)))
    with torch.no_grad():
        model.b.weight[:, 0] = 0.0
    mask = {"a.weight": torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.5}
    assert torch.equal(flow.on_path(Flow(model, (5,)), mask)["a.weight"], mask["a.weight"])
    whole = record.mask_facts(mask, Flow(model, (5,)))
    assert float(whole["kept_effective"]) == float(whole["kept"]) > 0


def test_synflow_of_one_layer_takes_the_others_as_they_are() -> None:
    """The score of a_ij is |b_i a_ij| whether or not b can be pruned; with all scores 0 the first would go."""
    model = deep()
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 0.5]]))
        model.b.weight.copy_(torch.tensor([[-1.0, 0.25]]))
    weights = {"a.weight": model.a.weight.detach()}
    flow_of_a = Flow(model, (2,))
    gradient = flow_of_a.gradient({"a.weight": weights["a.weight"].abs()})["a.weight"]
    torch.testing.assert_close(gradient, torch.tensor([[1.0, 1.0], [0.25, 0.25]]).double())
    full = {"a.weight": torch.ones(2, 2, dtype=torch.bool)}
    mask = scores.synflow(flow_of_a, weights, full, 2, rounds=1)
    assert mask["a.weight"].tolist() == [[True, True], [False, False]]


def test_a_collapsed_layer_leaves_no_path() -> None:
    model = deep()
    mask = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights_of(model).items()}
    mask["b.weight"][:] = False
    assert flow.collapsed(mask) == ["b.weight"]
    assert not any(bool(m.any()) for m in flow.on_path(Flow(model, (2,)), mask).values())


@pytest.mark.parametrize("name", ["conv_2", "resnet20", "vgg16"])
def test_every_weight_of_a_whole_network_is_on_a_path(name: str) -> None:
    shape = (3, 32, 32)
    model = models.build(
        name, 0, input_shape=shape, num_outputs=4, width=2, **({"dense": 4} if name == "conv_2" else {})
    )
    mask = {n: torch.ones_like(p, dtype=torch.bool) for n, p in model.named_parameters() if p.ndim >= 2}
    found = flow.on_path(Flow(model, shape), mask)
    missing = [n for n, m in found.items() if not bool(m.all())]
    assert not missing
    np.testing.assert_array_equal([m.sum() for m in mask.values()], [m.sum() for m in found.values()])
