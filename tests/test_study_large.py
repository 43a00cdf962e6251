"""Runs and studies at more than toy size: convolutions, throughput, a CUDA device."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, data_directory

from landscape import cli, datasets, results, store
from landscape.checkpoints import ProblemOptions
from landscape.connectivity import PathOptions
from landscape.preconditions import main as judge
from landscape.pruning import imp
from landscape.pruning.__main__ import main as prune
from landscape.pruning.imp import Extent
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.runs import Cell
from landscape.spectrum import SpectrumOptions
from landscape.study import AlignmentOptions, Effort, MeasureOptions, Selection, measure
from landscape.study.__main__ import main as study_command
from landscape.tasks import TaskOptions
from landscape.training import TrainOptions

QUANTITIES = ("curves", "connectivity", "renewal", "spectrum", "trajectory")


def options(device: str, num_examples: int) -> MeasureOptions:
    return MeasureOptions(
        ProblemOptions(num_examples=num_examples, device=device, batch_size=500),
        SpectrumOptions(largest=5, smallest=1, num_probes=1, depth=5),
        PathOptions(num_positions=4, num_refinements=1, num_bootstrap=10),
        AlignmentOptions(num_aligned=3),
    )


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 images of CIFAR-10 to train on and 500 to test on, as files of one's own would be given."""
    root = data_directory("cifar-10-batches-py")
    parts = [
        datasets.load("cifar10", split, datasets.Sample(n), root=root) for split, n in (("train", 2000), ("test", 500))
    ]
    file = tmp_path_factory.mktemp("cifar10") / "few.npz"
    (x, y), (x_test, y_test) = ((part.x.numpy(), part.y.numpy()) for part in parts)
    np.savez(file, x=x, y=y, x_test=x_test, y_test=y_test)
    return file


@pytest.mark.slow
@pytest.mark.parametrize(("model", "width", "rewind_step"), [("conv_2", 8, 0), ("resnet20", 4, 4)])
def test_convolutional_networks_through_the_commands(
    few_images: Path, tmp_path: Path, model: str, width: int, rewind_step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    train = f"imp --model {model} --model-arg width={width} --data {few_images} --levels 2 --replicates 1 --epochs 2"
    more = f"--lr 0.05 --momentum 0.9 --weight-decay 1e-4 --augment flip_crop --rewind-step {rewind_step} --device cpu"
    assert cli.exit_code(prune, [*train.split(), *more.split(), "--methods", "fine_tune", "--out", run, "--quiet"]) == 0
    sizes = "--largest 5 --smallest 1 --num-probes 1 --depth 5 --num-positions 4 --num-refinements 1 --num-bootstrap 10"
    words = (
        f"measure {run} --quantities {','.join(QUANTITIES)} --points minimum,projected --levels 2 --num-examples 500"
    )
    assert cli.exit_code(study_command, [*words.split(), *sizes.split(), "--device", "cpu", "--quiet"]) == 0
    study = results.open_study(run).squeeze(["replicate", "level"], drop=True)
    chosen = study["eigenvalue"].sel({"method": "imp", "control": "raw", "curvature": "hessian"})
    asked = chosen.sel(point=["minimum", "projected"], eigen=[-1, 1, 2, 3, 4, 5])  # the trajectory has more of them
    assert np.isfinite(asked).all()
    assert float(study["barrier_loss"].sel({"method": "imp", "pair": "previous -> minimum", "split": "train"})) >= 0
    assert cli.exit_code(judge, [run, "--theory", "imp"]) == 0
    assert "training_refills" in capsys.readouterr().out


@pytest.mark.gpu
def test_run_and_study_on_a_cuda_device(tmp_path: Path) -> None:
    training = TrainOptions(model="mlp", data="digits", num_examples=400, epochs=2, device="cuda")
    run = imp.train_run(tmp_path / "run", Recipe(training, PruneOptions()), Extent(levels=1, replicates=1))
    again = imp.train_run(tmp_path / "again", Recipe(training, PruneOptions()), Extent(levels=1, replicates=1))
    for cell in run.cells():
        first, second = (torch.load(r.minimum(cell), weights_only=True)["state_dict"] for r in (run, again))
        assert all(torch.equal(first[name], second[name]) for name in first)
    selection = Selection(quantities=QUANTITIES, points=("minimum", "projected"), controls=("raw", "loss_matched"))
    for root, device in ((run, "cuda"), (again, "cpu")):
        measure(root, selection, options(device, 200), Effort(TaskOptions()))
    one, two = (results.open_study(r.root) for r in (run, again))
    for name in ("eigenvalue", "path_loss", "distance", "fraction_below", "epoch_eigenvalue"):
        np.testing.assert_allclose(one[name], two[name], rtol=2e-3, atol=1e-4)


@pytest.mark.bench
def test_throughput_of_two_workers(tmp_path: Path) -> None:
    """Results a second once all workers are at work; what starting them costs a short study is reported apart."""
    training = TrainOptions(model="lenet_300_100", data="mnist", num_examples=10100, epochs=1, device="cpu")
    run = imp.train_run(tmp_path / "run", Recipe(training, PruneOptions()), Extent(levels=0, replicates=8))
    each, seconds = {}, {}
    for workers in (1, 2):
        chosen = options("cpu", 10000 + workers)  # other results, so that none is found
        started = time.perf_counter()
        done = measure(run, Selection(quantities=("spectrum",)), chosen, Effort(TaskOptions(workers)))
        seconds[workers] = time.perf_counter() - started
        written = sorted(path.stat().st_mtime for path in done.written)
        each[workers] = (written[-1] - written[workers - 1]) / (len(written) - workers)
    print(
        f"a spectrum every {each[1]:.1f} s with one worker, {each[2]:.1f} s with two ({each[1] / each[2]:.2f}x); "
        f"8 spectra with start and end: {seconds[1]:.0f} s and {seconds[2]:.0f} s ({seconds[1] / seconds[2]:.2f}x)"
    )
    assert each[1] / each[2] >= 1.7


@pytest.mark.slow
def test_a_cell_of_the_reference_study_is_trained_again(tmp_path: Path) -> None:
    """Its dense network of replicate 0 on this machine: the same to the last bit only where torch is the same."""
    stored = results.open_study(ROOT / "data" / "reference" / "imp_mnist.nc")
    data_directory("mnist")
    known = json.loads(stored.attrs["options"])["description"]
    training, pruning = (
        {name: tuple(value) if isinstance(value, list) else value for name, value in known[part].items()}
        for part in ("training", "pruning")
    )
    recipe = Recipe(TrainOptions(**training), PruneOptions(**pruning), known["threads"])
    run = imp.train_run(tmp_path / "run", recipe, Extent(levels=0, replicates=1))
    assert run.fingerprint == json.loads(stored.attrs["options"])["run"]
    curves = store.open_result(run.folder(Cell(0, "imp", 0)) / "curves.nc").isel(epoch=-1)
    wanted = stored.isel(epoch=-1).sel({"method": "imp", "level": 0, "replicate": 0})
    assert float(curves["test_accuracy"]) == pytest.approx(float(wanted["test_accuracy"]), abs=0.003)
    assert float(curves["train_loss"]) == pytest.approx(float(wanted["train_loss"]), rel=0.1)
