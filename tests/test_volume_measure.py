"""The volume Dataset: complete, repeatable, invariant as it must be, honest about what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from helpers import assert_close
from torch import Tensor, nn

import landscape
from landscape import schemas
from landscape.errors import InputError
from landscape.journal import Journal
from landscape.problem import Problem
from landscape.volume import Effort, VolumeOptions, measure, paired_difference, sampled
from landscape.volume.geometry import Geometry
from landscape.volume.neighbourhood import Neighbourhood
from landscape.volume.options import ESTIMATORS, check
from landscape.volume.preconditioners import diagonal
from landscape.volume.sampling import log_volume, shoot

F64 = torch.float64
FEW: dict[str, Any] = {
    "directions": 12, "pilot": 2, "shrinkage": (1e-2, 1e-4), "section_size": (2, 5), "fraction": (0.2, 0.5),
    "noise_pairs": 2, "ascent_steps": 2, "rho": (0.05,),
}  # fmt: skip


def network(hidden: int = 5, outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, outputs)).to(F64)


def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(60, 4, dtype=F64), torch.randint(0, 3, (60,))


def run(point: Problem, seed: int = 0, **options: Any) -> xr.Dataset:
    return measure(point, VolumeOptions(**{**FEW, **options}), Effort(seed))


def regression(weight: float = 0.3, examples: int = 40) -> Problem:
    """Linear regression: every neighbourhood is an ellipsoid with the Hessian X'X / N."""
    torch.manual_seed(2)
    x = torch.randn(examples, 6, dtype=F64) * torch.logspace(-1, 0, 6, dtype=F64)
    model = nn.Linear(6, 1, bias=False).to(F64)
    with torch.no_grad():
        model.weight.fill_(weight)
    return Problem.from_model(model, "mse", (x, x.sum(1, keepdim=True)))


def test_every_estimator_has_its_words() -> None:
    found = landscape.measure_volume(
        network(), "cross_entropy", data(), estimators=ESTIMATORS, **FEW, draws=10, warmup=5
    )
    schemas.check(found, "volume")
    assert {"fingerprint", "options", "neighbourhood", "seed", "data_sha256"} <= found.attrs.keys()
    assert found["sampler"].values.tolist() == ["identity", "filter", "preconditioned"]
    assert np.isfinite(found["log_probability"]).all()
    assert found["num_products"] > 0


def test_the_same_seed_gives_the_same_bits() -> None:
    point = Problem.from_model(network(), "cross_entropy", data())
    first, second = run(point, 3), run(point, 3)
    xr.testing.assert_identical(first.drop_attrs(), second.drop_attrs())
    assert float(run(point, 4)["log_volume"][0]) != float(first["log_volume"][0])


def test_linear_regression_is_exact_by_every_route() -> None:
    """Sampling with the exact preconditioner, the ellipsoid and the prediction of the star's shortfall agree."""
    found = run(regression(), curvature="ggn", cutoff=1e-3)
    exact = float(found["ellipsoid_log_volume"])
    best = found.sel(sampler="preconditioned")
    assert_close(float(best["log_volume"]), exact, atol=1e-6)
    assert best["log_volume_verdict"].item() == "lower bound", "12 directions are too few to say more"
    assert_close(float(found["star_predicted_mean"] + found["star_shortfall"]), exact, atol=1e-6)
    full = run(regression(), estimators=("preconditioned",), directions=40)
    assert full["log_volume_verdict"].values.tolist() == ["calibrated"]
    assert_close(full["log_volume_hi"] - full["log_volume_lo"], np.zeros(1), atol=1e-6)


def test_projected_points_of_linear_regression_differ_by_their_gradient_alone() -> None:
    """The curvature is constant: KL volumes are equal, loss volumes differ by (n/2) log(1 + g'A^-1 g / 2 eps)."""
    near, far = regression(0.9), regression(0.3)
    cutoff, options = 0.5, {"estimators": ("section", "occam", "preconditioned"), "directions": 1200, "prior_sd": 1.0}
    a, b = (run(p, cutoff=cutoff, **options) for p in (near, far))
    for name in ("section_stiffness", "occam_factor", "log_volume"):
        assert_close(a[name], b[name], rtol=1e-8, atol=1e-6)
    volumes = []
    for point in (near, far):
        found = run(point, cutoff=cutoff, neighbourhood="loss_relative", **options)
        step = torch.linalg.solve(_curvature(point), point.gradient())
        expected = a["log_volume"].item() + 3 * np.log1p(float(point.gradient() @ step) / (2 * cutoff))
        assert abs(float(found["log_volume"].item()) - expected) < 4 * float(found["log_volume_se"].item())
        volumes.append(float(found["log_volume"].item()))
    assert volumes[1] > volumes[0] + 0.3, "a worse point has the larger relative neighbourhood"


def _curvature(point: Problem) -> Tensor:
    x = point.batches[0][0]
    return x.T @ x / len(x)


def test_batching_changes_nothing() -> None:
    first = landscape.measure_volume(network(), "cross_entropy", data(), **FEW)
    second = landscape.measure_volume(network(), "cross_entropy", data(), batch_size=7, **FEW)
    for name, values in first.data_vars.items():
        if values.dtype.kind == "f" and name not in ("relaxed_residual", "radius_error", "worst_sharpness"):
            assert_close(second[name].values, values.values, rtol=1e-5, atol=1e-5)


def test_dead_coordinates_count_only_where_they_must() -> None:
    """Units without outgoing weights: Occam factor and learning coefficient stay, the raw log volume does not."""
    small = Problem.from_model(network(5), "cross_entropy", data())
    wide = network(9)
    with torch.no_grad():
        wide[0].weight[:5], wide[0].bias[:5] = network(5)[0].weight, network(5)[0].bias
        wide[2].weight[:, :5], wide[2].bias[:] = network(5)[2].weight, network(5)[2].bias
    mask = {"2.weight": torch.arange(9).expand(3, 9) < 5}
    padded = Problem.from_model(wide, "cross_entropy", data(), mask)
    assert padded.num_params == small.num_params + 20
    options = {"estimators": ("occam", "star"), "prior_sd": 0.5}
    a, b = run(small, **options), run(padded, **options)
    assert_close(b["occam_factor"], a["occam_factor"], rtol=1e-8)
    assert abs(float(b["log_volume"][0] - a["log_volume"][0])) > 1
    assert abs(float(b["damped_log_volume"][0] - a["damped_log_volume"][0])) > 1


def test_rescaling_a_neuron_shifts_the_log_volume() -> None:
    """Weights into a ReLU neuron times a, out of it over a: the basin is stretched by a^(d_in - d_out)."""
    factor, volumes = 3.0, []
    for scale in (1.0, factor):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).to(F64)
        stretch = {name: torch.ones_like(p) for name, p in model.named_parameters()}
        stretch["0.weight"][1], stretch["0.bias"][1], stretch["2.weight"][:, 1] = scale, scale, 1 / scale
        with torch.no_grad():
            for name, p in model.named_parameters():
                p *= stretch[name]
        point = Problem.from_model(model, "cross_entropy", data())
        P = diagonal(point.flatten(stretch))
        basin = Geometry(point, Neighbourhood(point), VolumeOptions(), Effort()).basin
        volumes.append(log_volume(shoot(basin, P, 20, 0), basin, P).value)
    assert_close(volumes[1] - volumes[0], (5 - 3) * np.log(factor), atol=0.05)


def test_paired_points_share_their_directions() -> None:
    """A basin twice as wide: every log weight differs by n log 2, without error."""
    point = Problem.from_model(network(), "cross_entropy", data())
    first, second = (run(point, estimators=("star",), cutoff=c) for c in (1e-7, 4e-7))
    second.attrs["cutoff"] = first.attrs["cutoff"]
    found = paired_difference(first, second)
    assert_close([found.mean, found.log_volume], np.full(2, point.num_params * np.log(2)), rtol=1e-3)
    assert found.mean_se < 1e-2
    with pytest.raises(InputError, match="differ in seed"):
        paired_difference(first, run(point, 1, estimators=("star",), cutoff=1e-7))
    with pytest.raises(InputError, match="plainly sampled"):
        paired_difference(first, run(point, estimators=("section",), cutoff=1e-7))


def test_large_problems_go_through_lanczos_and_probes() -> None:
    """With all eigenvalues out of reach, the same numbers come with error bars."""
    point = Problem.from_model(network(), "cross_entropy", data())
    exact = run(point, estimators=("occam", "star", "preconditioned", "gaussian_mass"), prior_sd=0.5)
    options = {"dense": 0, "rank": 8, "trace_probes": 6, "trace_depth": 30, "prior_sd": 0.5, "pair_tolerance": 1e-6}
    kinds = ("low_rank", "low_rank_diagonal", "polynomial", "diagonal")
    found = run(
        point, estimators=("occam", "star", "preconditioned", "gaussian_mass"), preconditioners=kinds, **options
    )
    assert set(found["pilot_preconditioner"].values.tolist()) == set(kinds)
    error = 4 * found["occam_factor_se"] + 1e-6
    assert bool((abs(found["occam_factor"] - exact["occam_factor"]) < error).all())
    assert bool((found["occam_factor_se"] > 0).all())
    assert float(found["star_predicted_sd"]) == pytest.approx(float(exact["star_predicted_sd"]), rel=0.2)


@pytest.mark.parametrize("name", ["low_rank", "low_rank_diagonal", "polynomial", "diagonal", "identity", "filter"])
def test_every_preconditioner_measures_the_same_volume(name: str) -> None:
    options = {
        "dense": 0,
        "rank": 2,
        "trace_probes": 6,
        "trace_depth": 6,
        "degree": 3,
        "shrinkage": (0.03,),
        "directions": 3000,
    }
    found = run(regression(), estimators=("preconditioned",), preconditioners=(name,), **options)
    exact = float(run(regression(), estimators=("occam",))["ellipsoid_log_volume"])
    error = float(np.hypot(found["log_volume_se"], found["log_volume_determinant_se"]).item())
    assert abs(float(found["log_volume"].item()) - exact) < 4 * error < 2.5


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = Problem.from_model(network(), "cross_entropy", data())
    whole = run(point)
    options = VolumeOptions(**FEW)
    monkeypatch.setattr(sampled, "log_volume", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure(point, options, Effort(journal=Journal(tmp_path / "state", "x")))
    monkeypatch.undo()
    monkeypatch.setattr("landscape.volume.spectral.section", _interrupt)
    second = measure(point, options, Effort(journal=Journal(tmp_path / "state", "x", resume=True)))
    xr.testing.assert_identical(
        second.drop_attrs().drop_vars("num_products"), whole.drop_attrs().drop_vars("num_products")
    )


def _interrupt(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_what_cannot_be_measured_says_why() -> None:
    point = Problem.from_model(network(), "cross_entropy", data())
    found = run(point, estimators=("llc", "occam"))
    assert "not a minimum" in found.attrs["refused_llc"]
    assert "learning_coefficient" not in found
    assert "infinite volume" in found.attrs["refused_ellipsoid"]
    with pytest.raises(InputError, match="not in the basin"):
        run(point, neighbourhood="loss_absolute", cutoff=1e-3)
    with pytest.raises(InputError, match="needs as many positive eigenvalues"):
        run(point, estimators=("section",), section_size=(1000,))


def test_a_flat_point_has_no_basin() -> None:
    model = nn.Linear(3, 2, bias=False).to(F64)
    zeros = (torch.zeros(8, 3, dtype=F64), torch.zeros(8, dtype=torch.long))
    with pytest.raises(InputError, match="no positive eigenvalue"):
        run(Problem.from_model(model, "cross_entropy", zeros))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimators": ("volume",)}, "unknown name volume"),
        ({"estimators": ()}, "unknown name none"),
        ({"directions": 1}, "--directions must be at least 2"),
        ({"shrinkage": (0.0,)}, "--shrinkage needs positive"),
        ({"fraction": (1.5,)}, "--fraction"),
        ({"prior_sd": -1.0}, "--prior-sd"),
        ({"curvature": "fisher"}, "unknown curvature"),
        ({"pair_tolerance": 0.0}, "--pair-tolerance"),
    ],
)
def test_bad_options_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(VolumeOptions(**change), 10)


def test_unknown_keywords_are_refused() -> None:
    with pytest.raises(InputError, match="unknown option 'direction'"):
        landscape.measure_volume(network(), "cross_entropy", data(), direction=3)


@pytest.mark.gpu
def test_the_measurement_agrees_on_the_gpu() -> None:
    """Directions come from streams of the host, so that both devices search along the same ones."""
    asked = {**FEW, "estimators": ("section", "occam", "star", "preconditioned", "prunable"), "dense": 0, "rank": 6}
    found = [
        landscape.measure_volume(network(), "cross_entropy", data(), device=device, **asked)
        for device in ("cpu", "cuda")
    ]
    for name in ("section_stiffness", "occam_factor", "log_radius", "log_volume", "prunable_fraction"):
        assert_close(found[1][name], found[0][name], rtol=1e-6, atol=1e-6)
