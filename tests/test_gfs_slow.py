"""Channels of a convolutional network over pre-training, and one cell of the reference study of selections again."""

import json

import numpy as np
import pytest
import torch
from helpers import ROOT, data_directory

from landscape import checkpoints, cli, datasets, losses, store
from landscape.datasets import Sample
from landscape.pruning.__main__ import main
from landscape.pruning.gfs_channels import ChannelOptions, prune, recalibrate
from landscape.training import Branch, TrainOptions, evaluate, train

EPOCHS = {2_000: 5, 10_000: 2, 50_000: 1}


@pytest.mark.slow
@pytest.mark.parametrize("num_examples", EPOCHS)
def test_channels_selected_over_pre_training(tmp_path, num_examples):
    last = EPOCHS[num_examples] * -(-num_examples // 128)
    steps = tuple(sorted({round(last * fraction) for fraction in (0.05, 0.2, 0.4, 0.7)}))
    common = {"data": "cifar10", "num_examples": num_examples, "examples": "stratified", "momentum": 0.9}
    options = TrainOptions("conv_2", epochs=EPOCHS[num_examples], lr=0.02, checkpoint_steps=steps, **common)
    train(options, tmp_path / "run")
    tuning = TrainOptions("conv_2", epochs=1, lr=0.005, schedule="cosine", **common)
    data = datasets.load("cifar10", "train", Sample(num_examples, "stratified"))
    held = datasets.load("cifar10", "test", Sample(2000, "stratified"))
    names = ["start", *(f"step_{s:06d}" for s in steps), "minimum"]
    loss, table = losses.by_name("cross_entropy"), []
    for name in names:
        checkpoint = checkpoints.read(tmp_path / "run" / f"{name}.pt")
        model = checkpoints.model_of(checkpoint, checkpoints.ProblemOptions(), data)
        pruned = prune(model, data.x[:256], data.y[:256], ChannelOptions(flops=0.4))
        recalibrate(pruned.model, data.x[:1000])
        assert pruned.flops <= 0.4
        assert all(layer.error <= layer.certificate for layer in pruned.layers)
        tuned = train(tuning, None, Branch(pruned.model.state_dict(), pruned.mask, method="gfs")).checkpoint
        for parameter, kept in pruned.mask.items():
            assert not tuned.state_dict[parameter][~kept].any()
        after = checkpoints.model_of(tuned, checkpoints.ProblemOptions(), data)
        row = [evaluate(m, loss, held.x, held.y)[1] for m in (model, pruned.model, after)]
        table.append(row)
        print(f"m {num_examples} {name:12s} dense {row[0]:.4f} pruned {row[1]:.4f} tuned {row[2]:.4f}")
    accuracy = np.array(table)
    assert accuracy[-1, 0] > accuracy[0, 0] + 0.1  # pre-training did something
    assert accuracy[-1, 2] >= accuracy[-1, 1] - 0.02  # tuning does not hurt
    assert accuracy[-1, 2] > accuracy[0, 1] + 0.1
    assert torch.isfinite(torch.tensor(accuracy)).all()


@pytest.mark.slow
def test_a_cell_of_the_reference_is_made_again(tmp_path):
    """The same to the last bit only where torch and the processor are the same."""
    stored = store.open_result(ROOT / "data" / "reference" / "gfs_mnist.nc")
    known = json.loads(stored.attrs["options"])
    data_directory("mnist")
    select, pretraining = known["measuring"], known["pretraining"]
    flags = {"--data": pretraining["data"], "--loss": pretraining["loss"], "--steps": pretraining["steps"]}
    flags |= {"--sizes": ",".join(map(str, select["sizes"])), "--num-examples": 250, "--widths": 512}
    flags |= {"--replicates": 1, "--device": "cpu", "--out": tmp_path / "run"}
    argv = [str(word) for pair in flags.items() for word in pair]
    assert cli.exit_code(main, ["gfs_sweep", *argv, "--rivals", *select["rivals"]]) == 0
    again = store.open_result(tmp_path / "run" / "gfs.nc").isel(cell=0)
    chosen = (stored["arm"] == "data") & (stored["num_examples"] == 250) & (stored["num_neurons"] == 512)
    wanted = stored.isel(cell=int(np.flatnonzero(chosen & (stored["replicate"] == 0))[0]))
    for name in ("dense_loss", "loss", "random_loss", "variance"):
        np.testing.assert_allclose(again[name], wanted[name], rtol=0.02, err_msg=name)
    for name in ("hull_loss_lo", "rival_loss"):
        gap = abs(again[name] - wanted[name]) / wanted["empty_loss"]
        assert float(gap.max()) < 2e-3, name
