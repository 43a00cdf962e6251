"""Neighbourhoods: the distances by hand, their quadratic models, masks, BatchNorm, batching, bad anchors."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close
from torch import Tensor, nn
from torch.nn import functional

from landscape import operators
from landscape.errors import InputError
from landscape.losses import CrossEntropy
from landscape.problem import Problem, ProblemSettings
from landscape.volume.neighbourhood import Neighbourhood

F64 = torch.float64


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).to(F64)


def data(outputs: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(20, 4, dtype=F64), torch.randint(0, outputs, (20,))


def problem(loss: Any = "cross_entropy", **settings: Any) -> Problem:
    mask = settings.pop("mask", None)
    return Problem.from_model(network(), loss, data(), mask, ProblemSettings(**settings))


def steps(point: Problem, size: float = 0.3) -> Tensor:
    random = torch.Generator().manual_seed(2)
    return size * torch.randn(point.num_params, 3, generator=random, dtype=F64)


def outputs_at(point: Problem, v: Tensor) -> Tensor:
    return torch.cat([point.outputs(point.parameters_at(point.theta + v), batch) for batch in point.batches])


def test_kl_is_the_mean_divergence_from_the_anchor() -> None:
    point = problem()
    V = steps(point)
    p = functional.log_softmax(outputs_at(point, torch.zeros_like(V[:, 0])), -1)
    for j, value in enumerate(Neighbourhood(point).excess(V)):
        q = functional.log_softmax(outputs_at(point, V[:, j]), -1)
        assert_close(value, functional.kl_div(q, p, log_target=True, reduction="batchmean"))


def test_kl_weights_targets_as_the_loss_does() -> None:
    """Class weights and ignored labels: then its Hessian is the Gauss-Newton matrix of that loss."""
    weight = torch.tensor([1.0, 3.0, 0.5], dtype=F64)
    point = problem(CrossEntropy(weight=weight, ignore_index=2))
    v = 1e-4 * steps(point)[:, 0]
    quadratic = 0.5 * float(v @ (operators.ggn(point) @ v))
    assert_close(Neighbourhood(point).excess(v[:, None])[0], quadratic, rtol=1e-3)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce"])
def test_the_quadratic_model_of_kl_is_the_gauss_newton_matrix(loss: str) -> None:
    target = data()[1] if loss == "cross_entropy" else functional.one_hot(data()[1], 3).to(F64)
    point = Problem.from_model(network(), loss, (data()[0], target), settings=ProblemSettings(batch_size=7))
    v = 1e-4 * steps(point)[:, 0]
    assert_close(Neighbourhood(point).excess(v[:, None])[0], 0.5 * v @ (operators.ggn(point) @ v), rtol=1e-3)


def test_function_is_the_normalised_distance_of_the_outputs() -> None:
    point = problem()
    V = steps(point)
    f = outputs_at(point, torch.zeros_like(V[:, 0]))
    spread = (f - f.mean(1, keepdim=True)).square().sum(1).mean()
    expected = [0.5 * (outputs_at(point, v) - f).square().sum(1).mean() / spread for v in V.T]
    hood = Neighbourhood(point, "function")
    assert_close(hood.excess(V), torch.stack(expected).detach())
    v = 1e-4 * V[:, 0]
    quadratic = 0.5 * hood.curvature_scale * float(v @ (operators.jtj(point) @ v))
    assert_close(hood.excess(v[:, None])[0], quadratic, rtol=1e-3)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_loss_increases(decay: float) -> None:
    point = problem(weight_decay=decay)
    V = steps(point)
    expected = np.array([point.loss(point.theta + v) for v in V.T]) - point.loss()
    assert_close(Neighbourhood(point, "loss_relative").excess(V), expected)
    absolute = Neighbourhood(point, "loss_absolute", cutoff=point.loss() + 0.25)
    assert_close(absolute.excess(V), expected)
    assert_close(absolute.threshold, 0.25)


@pytest.mark.parametrize("kind", ["kl", "function", "loss_relative"])
def test_batching_and_stacking_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    V = steps(problem())
    whole = Neighbourhood(problem(), kind).excess(V)
    assert_close(Neighbourhood(problem(batch_size=6), kind).excess(V), whole)
    monkeypatch.setattr("landscape.volume.neighbourhood.MAX_STACKED", 2)
    assert_close(Neighbourhood(problem(), kind).excess(V), whole)


def test_a_mask_leaves_only_its_coordinates() -> None:
    mask = {"0.weight": torch.rand(5, 4, generator=torch.Generator().manual_seed(3)) > 0.5}
    point = problem(mask=mask)
    V = steps(point)
    assert point.num_params < problem().num_params
    expected = [point.loss(point.theta + v) - point.loss() for v in V.T]
    assert_close(Neighbourhood(point, "loss_relative").excess(V), np.array(expected))


@pytest.mark.parametrize("policy", ["running", "recalibrate", "batch"])
def test_batchnorm(policy: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).to(F64)
    point = Problem.from_model(model, "cross_entropy", data(), settings=ProblemSettings(batchnorm=policy))
    V = steps(point)
    expected = [point.loss(point.theta + v) - point.loss() for v in V.T]
    assert_close(Neighbourhood(point, "loss_relative").excess(V), np.array(expected), rtol=1e-8)
    assert bool((Neighbourhood(point).excess(V) > 0).all())


def test_a_users_loss_has_loss_neighbourhoods_only() -> None:
    def loss(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        return outputs.square().sum(), torch.tensor(float(len(outputs)))

    point = problem(loss)
    V = steps(point)
    expected = [point.loss(point.theta + v) - point.loss() for v in V.T]
    assert_close(Neighbourhood(point, "loss_relative").excess(V), np.array(expected))
    with pytest.raises(InputError, match="loss_relative or function"):
        Neighbourhood(point, "kl")


def test_bad_neighbourhoods_are_refused() -> None:
    with pytest.raises(InputError, match="unknown neighbourhood"):
        Neighbourhood(problem(), "ball")
    with pytest.raises(InputError, match="must be positive"):
        Neighbourhood(problem(), "kl", cutoff=0.0)
    with pytest.raises(InputError, match="not in the basin"):
        Neighbourhood(problem(), "loss_absolute", cutoff=1e-3)


def test_float32_resolves_a_small_cutoff() -> None:
    """Sums over examples are in float64, so single-precision networks keep 4 digits of an excess of 1e-4."""
    narrow, wide = problem(dtype=torch.float32), problem()
    V = steps(wide, 0.02)
    expected = Neighbourhood(wide).excess(V)
    assert 1e-5 < float(expected.min()) < 1e-3
    assert_close(Neighbourhood(narrow).excess(V.float()), expected, rtol=1e-3)
