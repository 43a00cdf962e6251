"""Volumes and dimensions in a study: measured at the points of a run of linear regressions, whose answers are known."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from landscape import checkpoints, preconditions, results, store
from landscape.checkpoints import ProblemOptions
from landscape.cli import exit_code
from landscape.connectivity import PathOptions
from landscape.decisions import HOLDS
from landscape.dimension import DimensionOptions
from landscape.pruning import imp
from landscape.pruning.imp import Extent
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.runs import Cell, Run
from landscape.spectrum import SpectrumOptions
from landscape.study import AlignmentOptions, Effort, MeasureOptions, Selection, expand, measure
from landscape.study.__main__ import main
from landscape.study.quantities import estimate_seconds
from landscape.tasks import TaskOptions
from landscape.training import TrainOptions
from landscape.volume import VolumeOptions, paired_difference

POINTS = ("minimum", "projected", "restricted")
HERE = Effort(TaskOptions())
VOLUME = VolumeOptions(
    estimators=("section", "occam", "star", "preconditioned"), directions=8, pilot=2, shrinkage=(1e-3,),
    section_size=(2,), prior_sd=1.0,
)  # fmt: skip
DIMENSION = DimensionOptions(
    fast=3, smallest=2, samples=2, points=2, nodes=0, depth=4, num_probes=0, region="adversarial", ascent_steps=1
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Linear regression under IMP: the curvature is the same at every point of a level."""
    folder = tmp_path_factory.mktemp("linear")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6)) * np.logspace(0, 1, 6)
    np.savez(folder / "data.npz", x=x, y=x @ rng.standard_normal((6, 2)) + 0.1 * rng.standard_normal((40, 2)))
    training = TrainOptions(
        model="mlp", data=str(folder / "data.npz"), model_arg=("widths=()",), loss="mse", epochs=3, batch_size=10,
        lr=0.005, examples="first", device="cpu", checkpoint_steps=(1,),
    )  # fmt: skip
    return imp.train_run(folder / "run", Recipe(training, PruneOptions(fraction=0.3)), Extent(1, 1, ("fine_tune",)))


def options(run: Run, volume: VolumeOptions = VOLUME) -> MeasureOptions:
    data = run.description["training"]["data"]
    problem = ProblemOptions(dtype="float64", device="cpu", data=data, examples="first")
    return MeasureOptions(
        problem, SpectrumOptions(), PathOptions(), AlignmentOptions(), volume=volume, dimension=DIMENSION
    )


@pytest.fixture(scope="module")
def measured(run: Run) -> Run:
    chosen = Selection(quantities=("volume", "dimension"), points=POINTS, controls=("raw", "loss_matched"))
    measure(run, chosen, options(run), HERE)
    function = VolumeOptions(**{**vars(VOLUME), "neighbourhood": "function"})
    measure(run, Selection(quantities=("volume",), points=("minimum",)), options(run, function), HERE)
    return run


# ---- volume --------------------------------------------------------------------------------------------------------


def test_null_all_points_of_a_level_have_the_same_volume_along_the_same_directions(measured: Run) -> None:
    """N1: constant curvature, so the KL neighbourhoods of minimum, projected and fine-tuned point are congruent."""
    study = results.open_study(measured.root, "volume").sel({"replicate": 0, "control": "raw", "curvature": "ggn"})
    one = study.sel(level=1, sampler=["identity", "preconditioned"])
    wanted = one.sel({"method": "imp", "point": "minimum"})
    for place in ({"method": "imp", "point": "projected"}, {"method": "fine_tune", "point": "minimum"}):
        for name in ("log_volume", "log_radius", "occam_factor", "section_stiffness"):
            np.testing.assert_allclose(one[name].sel(place), wanted[name], atol=1e-5, err_msg=name)
    assert study["neighbourhood"].sel({"method": "imp", "point": "minimum", "level": 1}).item() == "kl"


def test_results_of_a_study_are_paired(measured: Run) -> None:
    found = {}
    for file in results.folder(measured.root, "volume").glob("*.nc"):
        one = store.open_result(file) if file.name != results.INDEX else xr.Dataset()
        if one.attrs.get("neighbourhood") == "kl" and one["level"] == 1 and one["control"] == "raw":
            found[one["method"].item(), one["point"].item()] = one
    difference = paired_difference(found["imp", "projected"], found["imp", "minimum"])
    assert abs(difference.mean) < 1e-5
    assert difference.mean_se < 1e-5  # other directions would leave their spread
    assert found["imp", "minimum"]["log_radius"].std("ray").max() > 0.05


def test_neighbourhoods_lie_side_by_side_in_a_study(measured: Run) -> None:
    study = results.open_study(measured.root, "volume")
    assert study["curvature"].values.tolist() == ["ggn", "jtj"]
    names = study["neighbourhood"].sel({"point": "minimum", "control": "raw", "method": "imp"}).squeeze("replicate")
    assert names.sel(curvature="jtj").values.tolist() == ["function"] * 2
    judged = preconditions.evaluate_preconditions(measured.root, "volume")
    assert "minimum_over_projected_star" in judged["claim"].values


def test_a_study_of_volumes_fits_one_file(measured: Run, tmp_path: Path) -> None:
    out = tmp_path / "volumes.nc"
    assert exit_code(main, ["compact", str(measured.root), "--quantities", "volume", "--out", str(out), "--quiet"]) == 0
    stored, study = results.open_study(out), results.open_study(measured.root, "volume")
    assert stored["num_params"].dtype == float  # whole numbers, also where no cell is missing
    np.testing.assert_array_equal(stored["log_radius"].sel(curvature="ggn"), study["log_radius"].sel(curvature="ggn"))


# ---- dimension -----------------------------------------------------------------------------------------------------


def distances(run: Run, cell: Cell, mask: dict[str, torch.Tensor] | None) -> list[float]:
    """Norms of the weights of a training less those at its end, on what a mask keeps."""
    files = [run.start(cell), *run.trajectory(cell)]
    end = checkpoints.read(run.minimum(cell)).state_dict
    norms = []
    for file in files:
        state = checkpoints.read(file).state_dict
        parts = [(state[n] - end[n]) * (mask or {}).get(n, torch.ones_like(end[n])) for n in end]
        norms.append(float(torch.cat([p.double().flatten() for p in parts]).norm()))
    return [norm for norm in norms if norm > 0]


def test_the_path_of_a_point_is_the_training_that_led_to_it(measured: Run) -> None:
    study = results.open_study(measured.root, "dimension").sel({"replicate": 0, "control": "raw"})
    own = checkpoints.read(measured.minimum(Cell(0, "imp", 1))).mask
    for method, point, cell, mask in (
        ("imp", "minimum", Cell(0, "imp", 1), None),
        ("fine_tune", "minimum", Cell(0, "fine_tune", 1), None),
        ("imp", "projected", Cell(0, "imp", 0), own),
        ("imp", "restricted", Cell(0, "imp", 0), own),
    ):
        found = study["distance"].sel({"method": method, "point": point, "level": 1}).dropna("step")
        np.testing.assert_allclose(found, distances(measured, cell, mask), rtol=1e-6)
        assert found["step"].values.tolist() == ([0, 4, 8] if method == "fine_tune" else [0, 1, 4, 8])


def test_null_a_quadratic_loss_meets_every_condition_that_is_about_curvature(measured: Run) -> None:
    study = results.open_study(measured.root, "dimension").sel({"replicate": 0, "control": "raw", "method": "imp"})
    lipschitz = study["lipschitz"].sel({"point": "minimum", "level": [0, 1]})
    assert float(lipschitz.max()) < 1e-9 * float(study["eigenvalue"].max())
    judged = preconditions.evaluate_preconditions(measured.root, "inertial_manifold")
    place = {"method": "imp", "replicate": 0, "control": "raw", "level": 1}
    for claim in ("gap_2l", "cone_gap", "attraction", "coverage_gap"):
        words = judged["verdict"].sel({"claim": claim, **place})
        assert set(words.values.flatten().tolist()) == {HOLDS}, claim


def test_controls_do_not_apply_to_points_that_no_training_led_to(run: Run) -> None:
    chosen = Selection(quantities=("volume,dimension",), points=("minimum",), controls=("raw", "loss_matched"))
    asked = {(request.quantity, request.control) for request in expand(run, chosen)}
    assert asked == {("volume", "raw"), ("volume", "loss_matched"), ("dimension", "raw")}


# ---- plan, command -------------------------------------------------------------------------------------------------


def test_what_was_measured_is_not_measured_again(measured: Run) -> None:
    before = {f: f.stat().st_mtime_ns for f in (measured.root / "results").rglob("*.nc")}
    chosen = Selection(quantities=("volume", "dimension"), points=POINTS, controls=("raw", "loss_matched"))
    done = measure(measured, chosen, options(measured), HERE)
    assert done.missing == []
    assert {f: f.stat().st_mtime_ns for f in (measured.root / "results").rglob("*.nc")} == before


def test_plans_grow_with_what_is_asked_for() -> None:
    def seconds(quantity: str, **chosen: object) -> float:
        asked = MeasureOptions(ProblemOptions(), SpectrumOptions(), PathOptions(), AlignmentOptions(), **chosen)
        return estimate_seconds(quantity, asked, 1.0)

    small, large = (seconds("volume", volume=VolumeOptions(directions=k)) for k in (10, 110))
    assert large - small == 100 * 7 * 4  # plain, filter-normalised, preconditioned, Gaussian mass
    few, many = (seconds("dimension", dimension=DimensionOptions(samples=k)) for k in (2, 12))
    assert many - few == 6 * 10 * 2 * 30


def test_command(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run.description["training"]["data"]
    place = ["--levels", "1", "--points", "minimum", "--methods", "imp", "--data", data, "--examples", "first"]
    arguments = ["measure", str(run.root), "--quantities", "dimension", *place, "--dtype", "float64", "--quiet"]
    more = ["--dimension-fast", "2", "--dimension-samples", "2", "--dimension-points", "2", "--dimension-nodes", "0"]
    assert exit_code(main, [*arguments, *more, "--dimension-num-probes", "0"]) == 0
    found = store.open_result(Path(capsys.readouterr().out.strip()))
    assert found.sizes["fast"] == 2
    assert exit_code(main, [*arguments, "--dimension-trajectory", "elsewhere"]) == 2
    assert "chooses --dimension-trajectory itself" in capsys.readouterr().err


@pytest.mark.gpu
def test_studies_agree_on_the_gpu(measured: Run, tmp_path: Path) -> None:
    twin = Run(tmp_path / "twin", measured.description)
    shutil.copytree(measured.root, twin.root, ignore=shutil.ignore_patterns("results"))
    there = options(measured)
    there = replace(there, problem=replace(there.problem, device="cuda"))
    for quantity, name in (("volume", "log_radius"), ("dimension", "distance")):
        chosen = Selection(quantities=(quantity,), points=("minimum", "projected"), levels=(1,))
        for file in measure(twin, chosen, there, HERE).written:
            found = store.open_result(file)
            assert found.attrs["device"] == "cuda"
            same = store.open_result(measured.root / file.relative_to(twin.root))
            np.testing.assert_allclose(found[name], same[name], rtol=1e-6, atol=1e-6)
