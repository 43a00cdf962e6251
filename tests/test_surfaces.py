import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from landscape import checkpoints, cli, schemas, store, surfaces
from landscape.errors import InputError
from landscape.problem import Problem, ProblemSettings
from landscape.surfaces import SurfaceOptions

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


def test_around_a_minimum_along_the_eigenvectors_the_surface_is_the_quadratic():
    problem = regression(torch.zeros(1, 3))
    result = surfaces.measure([problem], SurfaceOptions(directions="eigenvectors", num_positions=5, span=2.0))
    np.testing.assert_allclose(np.array(json.loads(result.attrs["eigenvalues"])), [3, 4 / 3], rtol=1e-6)
    x, y = np.meshgrid(result["x"], result["y"], indexing="ij")
    np.testing.assert_allclose(result["surface_loss"], (3 * x**2 + 4 / 3 * y**2) / 2, atol=1e-6)
    one = surfaces.measure([problem], SurfaceOptions(directions="eigenvectors", num_positions=5, axes=1))
    np.testing.assert_allclose(one["line_loss"], 1.5 * one["x"] ** 2, atol=1e-6)


def test_a_random_plane_has_two_different_directions():
    problem = regression(torch.tensor([[1.0, -2.0, 0.5]]))
    result = surfaces.measure([problem], SurfaceOptions(num_positions=3))
    np.testing.assert_allclose(result["surface_loss"].sel(x=0, y=0), problem.loss())
    assert not np.allclose(result["surface_loss"], result["surface_loss"].T)


def test_between_two_points_the_line_has_their_distance():
    points = [regression(torch.tensor([w], dtype=F64)) for w in ([0.0, 0, 1], [3.0, 4, 1])]
    result = surfaces.measure(points, SurfaceOptions(num_positions=3, margin=0.0))
    np.testing.assert_allclose(result["x"], [0, 2.5, 5])
    np.testing.assert_allclose(result["line_loss"][[0, 2]], [p.loss() for p in points])
    wide = surfaces.measure(points, SurfaceOptions(num_positions=3, margin=0.5))
    np.testing.assert_allclose(wide["x"], [-2.5, 2.5, 7.5])
    schemas.check(wide, "surface")
    with pytest.raises(InputError, match="the same"):
        surfaces.measure([points[0], points[0]], SurfaceOptions())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from landscape.training.__main__ import main as train

    out = tmp_path_factory.mktemp("surface") / "a.pt"
    words = "--model mlp --model-arg widths=4 --data digits --num-examples 100 --epochs 1 --device cpu"
    assert cli.exit_code(train, [*words.split(), "--quiet", "--out", str(out)]) == cli.DONE
    return out


def test_the_command_writes_the_surface_and_its_figure(checkpoint: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    words = [str(checkpoint), "--num-positions", "3", "--num-examples", "50", "--quiet", "--device", "cpu"]
    assert cli.exit_code(surfaces.main, words) == cli.DONE
    out = checkpoint.with_name("a.surface.nc")
    assert capsys.readouterr().out == f"{out}\n{out.with_suffix('.png')}\n"
    result = store.open_result(out)
    assert result["surface_loss"].shape == (3, 3)
    assert json.loads(result.attrs["options"])["problem"]["batchnorm"] == "recalibrate"
    written = out.stat().st_mtime_ns
    assert cli.exit_code(surfaces.main, words) == cli.DONE
    assert out.stat().st_mtime_ns == written
    assert cli.exit_code(surfaces.main, [*words, "--axes", "1"]) == cli.BAD_INPUT
    assert "holds a result of other options" in capsys.readouterr().err
    line = [*words, "--axes", "1", "--out", str(out.with_name("line.nc"))]
    assert cli.exit_code(surfaces.main, line) == cli.DONE
    several = [str(checkpoint)] * 2 + words[1:]
    assert cli.exit_code(surfaces.main, [*several, "--axes", "1", "--force"]) == cli.BAD_INPUT
    assert "leave out --axes" in capsys.readouterr().err
    assert cli.exit_code(surfaces.main, [str(checkpoint)] * 4 + words[1:]) == cli.BAD_INPUT


@pytest.mark.parametrize("given", [{"span": float("nan")}, {"span": float("inf")}, {"margin": float("nan")},
                                   {"margin": float("inf")}, {"span": 0.0}, {"margin": -1.0}])  # fmt: skip
def test_spans_that_are_no_lengths_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(InputError, match="finite span"):
        SurfaceOptions(**given)


def test_another_mask_in_the_same_file_is_another_surface(checkpoint: Path, capsys: pytest.CaptureFixture[str]):
    mask, out = checkpoint.with_name("mask.npz"), checkpoint.with_name("masked.nc")
    words = [str(checkpoint), "--num-positions", "2", "--axes", "1", "--num-examples", "20", "--threads", "1"]
    words += ["--mask", str(mask), "--out", str(out), "--quiet"]
    weight = checkpoints.read(checkpoint).state_dict["fc1.weight"]
    np.savez(mask, **{"fc1.weight": np.arange(weight.numel()).reshape(weight.shape) % 2})
    assert cli.exit_code(surfaces.main, [*words, "--device", "cpu"]) == cli.DONE
    if not torch.cuda.is_available():  # what auto means here
        assert cli.exit_code(surfaces.main, [*words, "--device", "auto"]) == cli.DONE
    np.savez(mask, **{"fc1.weight": np.arange(weight.numel()).reshape(weight.shape) % 3 > 0})
    capsys.readouterr()
    assert cli.exit_code(surfaces.main, [*words, "--device", "cpu"]) == cli.BAD_INPUT
    assert "other options" in capsys.readouterr().err


@pytest.mark.gpu
def test_a_surface_on_a_cuda_device(checkpoint: Path, tmp_path: Path):
    found = []
    for device in ("cpu", "cuda"):
        out = tmp_path / f"{device}.nc"
        words = [str(checkpoint), "--directions", "eigenvectors", "--num-positions", "3", "--device", device]
        assert cli.exit_code(surfaces.main, [*words, "--quiet", "--out", str(out)]) == cli.DONE
        found.append(store.open_result(out))
    np.testing.assert_allclose(found[1]["surface_loss"], found[0]["surface_loss"], rtol=2e-2)
