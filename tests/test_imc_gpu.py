"""IMC pruning on a CUDA device (``pytest -m gpu``; the CPU stands for it otherwise): counts and masks of the CPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from landscape import checkpoints, results
from landscape.pruning import criteria, imc
from landscape.pruning.imc import Wanted
from landscape.pruning.imc_options import PRESETS, BaseOptions, Choice
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.pruning.settings import Settings
from landscape.runs import Cell, Run
from landscape.training import TrainOptions

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
RIVALS = ("snip", "grasp", "synflow", "obd")
CHOICES = {"theory": PRESETS["theory"], "by_obs": Choice("gap_4l", "slow", "obs", "rewind")}


def run_on(root: Path, device: str) -> Run:
    training = TrainOptions(
        model="mlp", data="digits", model_arg=("widths=8",), num_examples=100, epochs=1, device=device
    )
    base = BaseOptions(k=0, fast=3, smallest=1, depth=3, curvature_examples=50)
    settings = Settings(Recipe(training, PruneOptions()), base)
    imc.run(root, replace(settings), Wanted(CHOICES, (0.5,), RIVALS))
    return imc.run(root, settings, Wanted({"inside": Choice("gap_4l", "slow", "none", "base_point")})).run


@pytest.mark.parametrize("device", DEVICES)
def test_masks_are_those_of_the_cpu(tmp_path: Path, device: str) -> None:
    here, there = run_on(tmp_path / "cpu", "cpu"), run_on(tmp_path / "device", device)
    for method in (*RIVALS, "theory_forced", "by_obs_forced"):
        masks = []
        for run in (here, there):
            found = checkpoints.read(run.minimum(Cell(0, method, 3))).mask
            assert found is not None
            masks.append(found)
        assert criteria.num_kept(masks[0]) == criteria.num_kept(masks[1])
        differing = sum(int((masks[0][n] ^ masks[1][n]).sum()) for n in masks[0])
        assert differing <= 0.1 * criteria.num_kept(masks[0]), method  # near ties, and dtypes of the reductions
    ends = [results.open_study(run.root, "imc")["eigenvalue"].sel({"method": "theory"}) for run in (here, there)]
    torch.testing.assert_close(torch.tensor(ends[0].values), torch.tensor(ends[1].values), rtol=1e-2, atol=1e-4)
