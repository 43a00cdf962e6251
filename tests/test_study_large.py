"""Runs and studies at more than toy size: convolutions, throughput, a CUDA device."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from landscape import results
from landscape.checkpoints import ProblemOptions
from landscape.connectivity import PathOptions
from landscape.pruning import imp
from landscape.pruning.imp import Extent
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.spectrum import SpectrumOptions
from landscape.study import AlignmentOptions, Effort, MeasureOptions, Selection, measure
from landscape.tasks import TaskOptions
from landscape.training import TrainOptions

QUANTITIES = ("curves", "connectivity", "renewal", "spectrum")


def options(device: str, num_examples: int) -> MeasureOptions:
    return MeasureOptions(
        ProblemOptions(num_examples=num_examples, device=device, batch_size=500),
        SpectrumOptions(largest=5, smallest=1, num_probes=1, depth=5),
        PathOptions(num_positions=4, num_refinements=1, num_bootstrap=10),
        AlignmentOptions(num_aligned=3),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("model", "rewind_step"), [("conv_2", 0), ("resnet20", 4)])
def test_convolutional_networks_on_cifar10(tmp_path: Path, model: str, rewind_step: int) -> None:
    small = ("width=8",) if model == "conv_2" else ("width=4",)
    training = TrainOptions(
        model=model, data="cifar10", model_arg=small, num_examples=2000, epochs=2, lr=0.05, momentum=0.9,
        weight_decay=1e-4, augment="flip_crop", device="cpu",
    )  # fmt: skip
    recipe = Recipe(training, PruneOptions(rewind_step=rewind_step))
    run = imp.train_run(tmp_path / "run", recipe, Extent(levels=2, replicates=1, methods=("fine_tune",)))
    selection = Selection(quantities=QUANTITIES, points=("minimum", "projected"), levels=(2,))
    measure(run, selection, options("cpu", 500), Effort(TaskOptions()))
    study = results.open_study(run.root).squeeze(["replicate", "level"], drop=True)
    chosen = study["eigenvalue"].sel({"method": "imp", "control": "raw", "curvature": "hessian"})
    assert np.isfinite(chosen.sel(point=["minimum", "projected"])).all()
    assert float(study["barrier_loss"].sel({"method": "imp", "pair": "previous -> minimum", "split": "train"})) >= 0


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
    for name in ("eigenvalue", "path_loss", "distance", "fraction_below"):
        np.testing.assert_allclose(one[name], two[name], rtol=2e-3, atol=1e-4)


@pytest.mark.bench
def test_throughput_of_two_workers(tmp_path: Path) -> None:
    training = TrainOptions(model="lenet_300_100", data="mnist", num_examples=5000, epochs=1, device="cpu")
    run = imp.train_run(tmp_path / "run", Recipe(training, PruneOptions()), Extent(levels=0, replicates=8))
    seconds = {}
    for workers in (1, 2):
        chosen = options("cpu", 5000 + workers)  # other results, so that none is found
        started = time.perf_counter()
        measure(run, Selection(quantities=("spectrum",)), chosen, Effort(TaskOptions(workers)))
        seconds[workers] = time.perf_counter() - started
    print(
        f"8 spectra: {seconds[1]:.1f} s with one worker, {seconds[2]:.1f} s with two ({seconds[1] / seconds[2]:.2f}x)"
    )
    assert seconds[1] / seconds[2] > 1.7
