import numpy as np
import pytest
import torch
from torch import nn

from landscape import schemas, surfaces
from landscape.errors import InputError
from landscape.problem import Problem, ProblemSettings

F64 = torch.float64


def regression(weight: torch.Tensor, mask: dict[str, torch.Tensor] | None = None) -> Problem:
    model = nn.Linear(3, 1, bias=False, dtype=F64)
    model.weight.data.copy_(weight)
    x = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]], dtype=F64)
    return Problem.from_model(model, "mse", (x, torch.zeros(3, 1, dtype=F64)), mask)


def test_a_line_along_an_eigenvector_is_its_parabola():
    problem = regression(torch.zeros(1, 3))
    x = np.linspace(-1, 1, 5)
    result = surfaces.line(problem, surfaces.along(problem, torch.tensor([0, 1.0, 0], dtype=F64)), x)
    np.testing.assert_allclose(result["line_loss"], 0.5 * (4 / 3) * x**2, atol=1e-15)
    assert "line_accuracy" not in result
    schemas.check(result, "surface")


def test_a_plane_through_three_points_meets_them():
    points = [regression(torch.tensor([w], dtype=F64)) for w in ([0.0, 0, 1], [1.0, 0, 1], [1.0, 2, 1])]
    span = surfaces.through(points)
    for point, (a, b) in zip(points, span.markers, strict=True):
        found = surfaces.plane(points[0], span, np.array([a]), np.array([b]))
        np.testing.assert_allclose(found["surface_loss"].item(), point.loss(), rtol=1e-12)
    np.testing.assert_allclose(span.markers, [[0, 0], [1, 0], [1, 2]])
    schemas.check(found, "surface")


def test_filter_normalised_direction_has_the_norms_of_the_rows_and_stays_in_the_mask():
    stream = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    mask = {"0.weight": torch.rand(4, 5, generator=stream) > 0.4}
    x = torch.randn(6, 5, generator=stream, dtype=F64)
    problem = Problem.from_model(model, "cross_entropy", (x, torch.tensor([0, 1, 0, 1, 1, 0])), mask)
    direction = surfaces.filter_normalised(problem, 3)
    torch.testing.assert_close(direction["0.weight"].norm(dim=1), problem.parameters["0.weight"].norm(dim=1))
    assert not direction["0.weight"][~mask["0.weight"]].any()
    assert not direction["0.bias"].any()
    again = surfaces.filter_normalised(problem, 3)
    assert torch.equal(again["2.weight"], direction["2.weight"])
    result = surfaces.line(problem, direction, np.array([0.0, 1.0]))
    np.testing.assert_allclose(result["line_loss"][0], problem.loss())
    assert result["line_accuracy"][0] == problem.accuracy()


def test_recalibrated_batchnorm_hides_the_scale_of_the_layer_before_it():
    stream = torch.Generator().manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4, eps=1e-30), nn.Linear(4, 2)).double()
    data = (torch.randn(20, 3, generator=stream, dtype=F64), torch.randint(2, (20,), generator=stream))
    losses = {}
    for policy in ("recalibrate", "running"):
        problem = Problem.from_model(model, "cross_entropy", data, settings=ProblemSettings(batchnorm=policy))
        scale = {"0.weight": problem.parameters["0.weight"]}
        losses[policy] = surfaces.line(problem, scale, np.array([0.0, 3.0]))["line_loss"].values
    np.testing.assert_allclose(losses["recalibrate"][0], losses["recalibrate"][1], rtol=1e-12)
    assert abs(losses["running"][0] - losses["running"][1]) > 1e-3


def test_degenerate_planes_are_refused():
    same = regression(torch.ones(1, 3))
    with pytest.raises(InputError, match="span no plane"):
        surfaces.through([same, same, regression(torch.zeros(1, 3))])
    with pytest.raises(InputError, match="on a line"):
        surfaces.through([regression(k * torch.ones(1, 3)) for k in range(3)])
    with pytest.raises(InputError, match="three points"):
        surfaces.through([same, same])
    with pytest.raises(InputError, match="does not fit"):
        surfaces.along(same, torch.zeros(2))
