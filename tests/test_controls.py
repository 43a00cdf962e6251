import math

import numpy as np
import pytest
import torch
from torch import nn

from landscape import controls
from landscape.errors import InputError
from landscape.problem import Problem

F64 = torch.float64


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(30, 4, generator=stream, dtype=F64)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def network(scale: float = 1.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    for p in model[2].parameters():
        p.data *= scale
    return model


class Squashed(nn.Module):
    """A network whose outputs are not linear in its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.body(x))


def fitted(data, kind=network) -> Problem:
    """A point of lower loss than chance, by a few gradient steps."""
    problem = Problem.from_model(kind(), "cross_entropy", data)
    for _ in range(60):
        problem = problem.at(problem.theta - 1.0 * problem.gradient())
    return problem


def test_matching_undoes_a_temperature_exactly(data):
    problem = fitted(data)
    sharp = controls.scale_outputs(problem, 1.7)
    assert sharp.whole
    assert sharp.problem.loss() < problem.loss()
    matched = controls.match_loss(sharp.problem, problem.loss())
    assert matched is not None
    assert matched.scale == pytest.approx(1 / 1.7, abs=1e-9)
    torch.testing.assert_close(matched.problem.theta, problem.theta, rtol=1e-8, atol=1e-10)


def test_temperature_keeps_predictions_and_matched_loss_is_met(data):
    problem = fitted(data)
    matched = controls.match_loss(problem, 0.9)
    assert matched is not None
    assert matched.problem.loss() == pytest.approx(0.9, abs=1e-9)
    assert matched.problem.accuracy() == problem.accuracy()
    assert 0 < matched.scale < 1


def test_chance_level_cannot_be_matched(data):
    problem = fitted(data)
    assert controls.match_loss(problem, math.log(3) + 1e-9) is None
    with pytest.raises(InputError, match="lower loss"):
        controls.match_loss(problem, problem.loss() / 2)


def test_without_a_linear_output_layer_the_outputs_are_scaled_and_flagged(data):
    problem = fitted(data, Squashed)
    assert controls.output_layer(problem) is None
    target = problem.loss() + 0.1
    matched = controls.match_loss(problem, target)
    assert matched is not None
    assert not matched.whole
    assert matched.problem.loss() == pytest.approx(target, abs=1e-9)
    torch.testing.assert_close(matched.problem.theta, problem.theta)


def test_output_spread_is_the_variance_over_classes(data):
    problem = fitted(data)
    outputs = problem.outputs(problem.parameters, problem.batches[0])
    expected = float(((outputs - outputs.mean(1, keepdim=True)) ** 2).sum(1).mean())
    assert controls.output_spread(problem) == pytest.approx(expected, rel=1e-12)
    doubled = controls.scale_outputs(problem, 2.0).problem
    np.testing.assert_allclose(controls.output_spread(doubled), 4 * expected, rtol=1e-12)


def jacobian_gram(problem: Problem) -> torch.Tensor:
    """J'J / N on the active coordinates, by autograd."""

    def outputs(theta: torch.Tensor) -> torch.Tensor:
        return problem.outputs(problem.parameters_at(theta), problem.batches[0]).reshape(-1)

    jacobian = torch.autograd.functional.jacobian(outputs, problem.theta)
    return jacobian.T @ jacobian / problem.num_examples


def test_null_temperature_moves_jtj_of_hidden_layers_by_its_square_and_normalised_not_at_all(data):
    """N2: hidden blocks of J'J scale by t^2, and not at all after division by the output spread."""
    problem = fitted(data)
    hidden = sum(p.numel() for n, p in problem.parameters.items() if n.startswith("0."))
    block = jacobian_gram(problem)[:hidden, :hidden]
    for t in (0.5, 2.0):
        scaled = controls.scale_outputs(problem, t).problem
        other = jacobian_gram(scaled)[:hidden, :hidden]
        torch.testing.assert_close(other, t**2 * block, rtol=1e-10, atol=1e-14)
        ratio = controls.output_spread(scaled) / controls.output_spread(problem)
        torch.testing.assert_close(other / ratio, block, rtol=1e-10, atol=1e-14)
