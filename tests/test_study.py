"""Studies of small runs: what the points are, controls, nulls, and measuring that is interrupted."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from landscape import checkpoints, controls, operators, results, store
from landscape.checkpoints import ProblemOptions
from landscape.cli import exit_code
from landscape.connectivity import PathOptions
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.pruning import imp
from landscape.pruning.imp import Extent
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.runs import Cell, Run
from landscape.spectrum import SpectrumOptions
from landscape.study import AlignmentOptions, Effort, MeasureOptions, Selection, converged, expand, measure, status
from landscape.study.__main__ import main
from landscape.study.points import UnmatchableError, controlled, partner, point_of
from landscape.tasks import TaskOptions
from landscape.training import TrainOptions

TRAINING = TrainOptions(
    model="mlp", data="digits", model_arg=("widths=4",), num_examples=120, epochs=3, batch_size=40, lr=0.3,
    device="cpu", checkpoint_steps=(1, 2),
)  # fmt: skip
RECIPE = Recipe(TRAINING, PruneOptions(fraction=0.4))
EXTENT = Extent(levels=2, replicates=1, methods=("fine_tune", "retrained"))
OPTIONS = MeasureOptions(
    ProblemOptions(num_examples=60, dtype="float64", device="cpu"),
    SpectrumOptions(largest=4, smallest=2, num_probes=2, depth=5),
    PathOptions(num_positions=4, num_refinements=1, num_bootstrap=5),
    AlignmentOptions(num_aligned=4),
)
EVERYTHING = Selection(
    quantities=("curves,connectivity,renewal,barrier_matrix", "spectrum", "pruning_steps", "alignment"),
    points=("minimum", "projected", "restricted", "rewind"),
    controls=("raw", "loss_matched"),
    methods=("imp", "fine_tune"),
)
FEW = replace(EVERYTHING, quantities=("curves", "connectivity", "spectrum"), points=("minimum",), levels=(1,))
HERE = Effort(TaskOptions())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return imp.train_run(tmp_path_factory.mktemp("study") / "run", RECIPE, EXTENT)


@pytest.fixture(scope="module")
def measured(run: Run) -> Run:
    measure(run, EVERYTHING, OPTIONS, HERE)
    return run


def variables(root: Path) -> dict[str, xr.Dataset]:
    """The data variables of all results, without attributes; products of a resumed process may differ."""
    return {
        str(file.relative_to(root)): store.open_result(file).drop_attrs()
        for file in sorted((root / "results").rglob("*.nc"))
        if file.name != results.INDEX
    }


def check_same(part: Path, whole: Path) -> None:
    """Check that all results of a run are those of another that has more."""
    wanted = variables(whole)
    for name, dataset in variables(part).items():
        xr.testing.assert_identical(dataset, wanted[name])


# ---- points --------------------------------------------------------------------------------------------------------


def test_projected_is_the_mask_times_the_minimum_before(run: Run) -> None:
    before = checkpoints.read(run.minimum(Cell(0, "imp", 1))).state_dict
    own = checkpoints.read(run.minimum(Cell(0, "imp", 2)))
    assert own.mask is not None
    for method in ("imp", "fine_tune", "retrained"):
        found = point_of(run, Cell(0, method, 2), "projected", OPTIONS.problem).problem
        for name, tensor in found.tensors().items():
            expected = before[name] * own.mask[name] if name in own.mask else before[name]
            torch.testing.assert_close(tensor, expected.double(), rtol=0, atol=0)


def test_restricted_leaves_the_point_and_restricts_the_curvature(run: Run) -> None:
    cell = Cell(0, "imp", 2)
    minimum = point_of(run, Cell(0, "imp", 1), "minimum", OPTIONS.problem).problem
    restricted = point_of(run, cell, "restricted", OPTIONS.problem).problem
    projected = point_of(run, cell, "projected", OPTIONS.problem).problem
    assert restricted.loss() == minimum.loss()
    assert restricted.num_params == projected.num_params < minimum.num_params
    assert torch.equal(restricted.index, projected.index)
    assert projected.loss() != minimum.loss()


def test_rewind_and_where_points_are_defined(run: Run) -> None:
    start = checkpoints.read(run.start(Cell(0, "imp", 2))).state_dict
    for method in ("imp", "fine_tune"):
        found = point_of(run, Cell(0, method, 2), "rewind", OPTIONS.problem).problem.tensors()
        assert all(torch.equal(found[name], start[name].double()) for name in found)
    with pytest.raises(InputError, match="no point 'projected' for imp at level 0"):
        point_of(run, Cell(0, "imp", 0), "projected", OPTIONS.problem)
    with pytest.raises(InputError, match="train it first"):
        point_of(run, Cell(0, "imp", 5), "minimum", OPTIONS.problem)


# ---- controls ------------------------------------------------------------------------------------------------------


def test_loss_matching_softens_the_point_of_lower_loss(run: Run) -> None:
    cell = Cell(0, "imp", 2)
    losses = {name: point_of(run, cell, name, OPTIONS.problem).problem.loss() for name in ("minimum", "projected")}
    matched = controlled(run, cell, "loss_matched", OPTIONS.problem)
    assert matched.facts["matched_point"] == min(losses, key=losses.__getitem__)
    assert matched.problem.loss() == pytest.approx(max(losses.values()), abs=1e-9)
    assert matched.facts["target_loss"] == max(losses.values())
    assert 0 < float(matched.facts["output_scale"]) < 1


def test_checkpoint_matching_takes_the_nearest_checkpoint_of_the_same_training(run: Run) -> None:
    cell = Cell(0, "imp", 2)
    target = point_of(run, cell, "projected", OPTIONS.problem).problem.loss()
    files = run.trajectory(cell)
    assert [file.name for file in files] == [
        "step_000001.pt",
        "step_000002.pt",
        *(f"epoch_00{i}.pt" for i in (1, 2, 3)),
    ]
    losses = [checkpoints.load(file, OPTIONS.problem).loss() for file in files]
    nearest = min(losses, key=lambda loss: abs(np.log(loss / target)))
    try:
        assert controlled(run, cell, "checkpoint_matched", OPTIONS.problem).problem.loss() == nearest
    except UnmatchableError:
        assert abs(np.log(nearest / target)) > 0.2


def test_the_earlier_epoch_is_the_checkpoint_before_the_last(run: Run) -> None:
    cell = Cell(0, "fine_tune", 2)
    found = controlled(run, cell, "earlier_epoch", OPTIONS.problem)
    wanted = checkpoints.load(run.epoch(cell, 2), OPTIONS.problem)
    torch.testing.assert_close(found.problem.theta, wanted.theta)
    assert found.facts["matched_step"] == 6


def test_partners() -> None:
    assert partner(Cell(0, "imp", 3), "minimum") == (Cell(0, "imp", 3), "projected")
    assert partner(Cell(0, "fine_tune", 3), "minimum") == (Cell(0, "imp", 3), "minimum")
    assert partner(Cell(0, "imp", 0), "minimum") is None
    assert partner(Cell(0, "imp", 3), "projected") is None


# ---- measuring -----------------------------------------------------------------------------------------------------


def test_everything_is_measured_once(measured: Run) -> None:
    wanted = expand(measured, EVERYTHING)
    assert len(wanted) == len(set(wanted))
    before = {f: f.stat().st_mtime_ns for f in (measured.root / "results").rglob("*.nc")}
    done = measure(measured, EVERYTHING, OPTIONS, HERE)
    assert len(done.written) + len(done.unmatched) == len(wanted)
    assert before == {f: f.stat().st_mtime_ns for f in (measured.root / "results").rglob("*.nc")}
    text = status(measured)
    assert "fine_tune              levels 1-2, replicates 0" in text
    assert "spectrum:" in text


def test_the_study_opens_with_its_labels(measured: Run) -> None:
    study = results.open_study(measured.root)
    chain = study["trace"].sel({"method": "imp", "level": 2, "replicate": 0, "control": "raw", "curvature": "hessian"})
    assert np.isfinite(chain.sel(point=["minimum", "projected", "restricted", "rewind"])).all()
    kept = study["num_params"].sel({"method": "imp", "replicate": 0, "control": "raw", "curvature": "hessian"})
    assert float(kept.sel(level=2, point="restricted")) == float(kept.sel(level=2, point="projected"))
    matrix = study["matrix_barrier_loss"].sel({"method": "imp", "replicate": 0, "split": "train"})
    np.testing.assert_array_equal(matrix, matrix.T)
    assert study["projected_loss"].sel({"method": "imp", "level": 1, "replicate": 0}).notnull().all()
    assert study["projected_loss"].sel({"method": "fine_tune"}).isnull().all()
    assert float(study["fraction_below"].sel(at="projected").max()) == 0.0


def test_distances_of_the_chain(measured: Run) -> None:
    study = results.open_study(measured.root, "connectivity").sel({"method": "imp", "replicate": 0, "level": 2})
    before = checkpoints.read(measured.minimum(Cell(0, "imp", 1))).state_dict
    own = checkpoints.read(measured.minimum(Cell(0, "imp", 2)))
    assert own.mask is not None
    squares = [float((before[n].double() * ~m).square().sum()) for n, m in own.mask.items()]
    moved = float(study["distance"].sel(pair="projected -> minimum")) ** 2
    whole = float(study["distance"].sel(pair="previous -> minimum")) ** 2
    assert whole == pytest.approx(moved + sum(squares), rel=1e-9)


def test_priorities_levels_and_budget(run: Run, tmp_path: Path) -> None:
    order = expand(run, replace(EVERYTHING, quantities=("spectrum",), points=("minimum",), controls=("raw",)))
    assert [str(request.cell)[12:] for request in order[:3]] == ["imp/level_00", "imp/level_01", "fine_tune/level_01"]
    assert order[-1].cell.level == 2
    with pytest.raises(InputError, match="no finished training"):
        expand(run, replace(EVERYTHING, levels=(9,)))
    with pytest.raises(InputError, match=r"--quantities: unknown 'magic'"):
        expand(run, replace(EVERYTHING, quantities=("magic",)))
    copy = imp.train_run(tmp_path / "run", RECIPE, Extent(levels=0, replicates=1))
    done = measure(copy, Selection(quantities=("curves",)), OPTIONS, Effort(TaskOptions(), budget=0.0))
    assert len(done.missing) == 1
    assert results.quantities(copy.root) == []


def test_damaged_results_are_reported_and_not_replaced(run: Run, tmp_path: Path) -> None:
    copy = imp.train_run(tmp_path / "run", RECIPE, Extent(levels=0, replicates=1))
    selection = Selection(quantities=("curves",))
    file = measure(copy, selection, OPTIONS, HERE).written[0]
    file.write_bytes(file.read_bytes()[:100])
    assert measure(copy, selection, OPTIONS, HERE).written == [file]
    with pytest.raises(InputError, match="truncated"):
        results.open_study(copy.root)


def test_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "measure",
        str(run.root),
        "--quantities",
        "curves",
        "--levels",
        "0,1",
        "--num-examples",
        "60",
        "--quiet",
    ]
    assert exit_code(main, arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert exit_code(main, ["status", str(run.root)]) == 0
    assert "curves" in capsys.readouterr().out
    assert exit_code(main, [*arguments, "--mask", "none"]) == 2
    assert "chooses --mask itself" in capsys.readouterr().err
    assert exit_code(main, ["status", str(run.root / "nowhere")]) == 2
    assert "no run directory" in capsys.readouterr().err


def test_too_little_memory_and_what_did_not_converge_have_their_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = imp.train_run(tmp_path / "run", RECIPE, Extent(levels=0, replicates=1))
    words = ["measure", str(run.root), "--quantities", "spectrum", "--num-examples", "20", "--device", "cpu", "--quiet"]
    words += ["--largest", "3", "--smallest", "0", "--num-probes", "1", "--depth", "2"]
    assert exit_code(main, [*words, "--memory", "0.001"]) == 4
    told = capsys.readouterr().err
    assert "0.001 GiB are given" in told
    assert told.count("\n") == 1
    assert exit_code(main, [*words, "--tolerance", "1e-15"]) == 3
    missed = capsys.readouterr()
    assert exit_code(main, words) == 0  # the one that did not converge is another result of the run
    assert converged.unconverged(run.root) == [Path(missed.out.strip())]
    for bad in (["--threads", "0"], ["--seed", "-1"]):
        assert exit_code(main, [*words, *bad]) == 2
        assert f"{bad[0]} must be at least" in capsys.readouterr().err


# ---- nulls ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Linear regression under IMP: the curvature is the same at every point."""
    folder = tmp_path_factory.mktemp("linear")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6))
    np.savez(folder / "data.npz", x=x, y=x @ rng.standard_normal((6, 2)) + 0.1 * rng.standard_normal((40, 2)))
    training = TrainOptions(
        model="mlp", data=str(folder / "data.npz"), model_arg=("widths=()",), loss="mse", epochs=3, batch_size=10,
        lr=0.05, examples="first", device="cpu",
    )  # fmt: skip
    return imp.train_run(folder / "run", Recipe(training, PruneOptions(fraction=0.3)), Extent(2, 1, ("fine_tune",)))


def test_null_linear_regression_has_the_same_spectrum_at_minimum_and_projected(linear: Run) -> None:
    options = replace(
        OPTIONS,
        problem=ProblemOptions(
            dtype="float64", device="cpu", data=linear.description["training"]["data"], examples="first"
        ),
        spectrum=SpectrumOptions(engine="dense"),
    )
    selection = Selection(quantities=("spectrum",), points=("minimum", "projected", "restricted"), levels=(1, 2))
    measure(linear, selection, options, HERE)
    study = results.open_study(linear.root, "spectrum")["eigenvalue"].squeeze(["replicate", "control", "curvature"])
    for level in (1, 2):
        values = study.sel({"method": "imp", "level": level}).dropna("eigen")
        for point in ("projected", "restricted"):
            np.testing.assert_allclose(values.sel(point=point), values.sel(point="minimum"), atol=1e-10)
        tuned = study.sel({"method": "fine_tune", "level": level, "point": "minimum"}).dropna("eigen")
        np.testing.assert_allclose(tuned, values.sel(point="minimum"), atol=1e-10)


def test_data_without_a_test_split_are_compared_on_what_there_is(linear: Run) -> None:
    own = ProblemOptions(dtype="float64", device="cpu", data=linear.description["training"]["data"], examples="first")
    selection = Selection(quantities=("connectivity", "barrier_matrix"), levels=(1, 2), methods=("imp",))
    measure(linear, selection, replace(OPTIONS, problem=own), HERE)
    study = results.open_study(linear.root, "connectivity")
    assert study["split"].values.tolist() == ["train"]
    assert study["barrier_loss"].notnull().any()


def test_newton_decrement_is_twice_the_loss_above_the_minimum_of_a_quadratic(linear: Run) -> None:
    problem = ProblemOptions(
        dtype="float64", device="cpu", data=linear.description["training"]["data"], examples="first"
    )
    selection = Selection(quantities=("convergence",), points=("minimum", "projected"), levels=(1,))
    measure(linear, selection, replace(OPTIONS, problem=problem), HERE)
    study = results.open_study(linear.root, "convergence").squeeze(["replicate", "control", "level"])
    for point in ("minimum", "projected"):
        found = point_of(linear, Cell(0, "imp", 1), point, problem).problem
        curvature = operators.hessian(found) @ torch.eye(found.num_params, dtype=torch.float64)
        best = found.loss() - float(found.gradient() @ torch.linalg.solve(curvature, found.gradient())) / 2
        one = study.sel({"method": "imp", "point": point})
        assert float(one["newton_decrement"]) / 2 == pytest.approx(found.loss() - best, rel=0.05)
        assert float(one["newton_converged"]) == 1


def top_eigenvalues(problem: Problem) -> torch.Tensor:
    matrix = operators.hessian(problem) @ torch.eye(problem.num_params, dtype=torch.float64)
    return torch.linalg.eigvalsh(matrix)[-5:]


def test_null_temperature_is_undone_by_loss_matching(run: Run) -> None:
    """N2: a point whose output layer was scaled has other Hessian eigenvalues, and the same ones after matching."""
    point = point_of(run, Cell(0, "imp", 2), "minimum", OPTIONS.problem).problem
    soft = controls.scale_outputs(point, 0.5).problem
    assert soft.loss() > point.loss()
    matched = controls.match_loss(point, soft.loss())
    assert matched is not None
    assert soft.accuracy() == point.accuracy()
    torch.testing.assert_close(top_eigenvalues(matched.problem), top_eigenvalues(soft), rtol=1e-6, atol=1e-9)
    assert not torch.allclose(top_eigenvalues(point), top_eigenvalues(soft), rtol=1e-2)


# ---- interruptions -------------------------------------------------------------------------------------------------

KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, "tests")
from test_study import FEW, HERE, OPTIONS
from landscape import runs
from landscape.study import measure

run, moments, left_off = runs.read(Path(sys.argv[1])), random.Random(int(sys.argv[2])), []

def start():
    child = os.fork()
    if child == 0:
        measure(run, FEW, OPTIONS, HERE)
        os._exit(0)
    return child

for _ in range(int(sys.argv[3])):
    child = start()
    time.sleep(moments.uniform(0.1, 1.0))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left_off.append(len(list((run.root / "results").rglob("*.nc"))))
both = [start(), start()]
codes = [os.waitpid(child, 0)[1] for child in both]
print(left_off, codes)
"""


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_and_started_twice_at_once_it_ends_with_the_same_results(
    measured: Run, tmp_path: Path, times: int
) -> None:
    twin = imp.train_run(tmp_path / "run", RECIPE, EXTENT)
    assert twin.fingerprint == measured.fingerprint
    command = [sys.executable, "-c", KILLER, str(twin.root), str(times), str(times)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parent.parent
    )
    assert done.stdout.strip().endswith("[0, 0]"), done.stdout
    assert len(variables(twin.root)) == len(expand(twin, FEW))
    names = [path.name for path in (twin.root / "results").rglob("*")]
    assert not [name for name in names if name.endswith((".state", ".lock"))]
    check_same(twin.root, measured.root)
