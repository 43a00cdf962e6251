"""Channels of a convolutional network over pre-training: six checkpoints, 40 % of the work, with and without tuning."""

import numpy as np
import pytest
import torch

from landscape import checkpoints, datasets, losses
from landscape.datasets import Sample
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
