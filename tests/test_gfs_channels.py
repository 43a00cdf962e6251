"""A convolutional network pruned to a share of its work, with fine-tuning, as a command."""

import numpy as np
import pytest
import torch
from torch import nn

from landscape import checkpoints, cli, masks
from landscape.errors import InputError
from landscape.models import build
from landscape.pruning.__main__ import main
from landscape.pruning.gfs_channels import ChannelOptions, prune, recalibrate
from landscape.training import TrainOptions, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("conv") / "conv.pt"
    arguments = ("width=6", "dense=16")
    options = TrainOptions(
        "conv_2", "digits", arguments, num_examples=300, epochs=3, batch_size=30, lr=0.2, momentum=0.9
    )
    train(options, path)
    return path


def command(*argv):
    return cli.exit_code(main, ["gfs_channels", *map(str, argv), "--threads", "1"])


@pytest.mark.parametrize("by", ["imitate", "loss"])
def test_command_prunes_to_the_target_and_fine_tuning_keeps_the_mask(trained, tmp_path, capsys, by):
    out = tmp_path / "pruned.pt"
    argv = (trained, "--num-examples", 200, "--flops", 0.5, "--by", by, "--fine-tune-epochs", 2, "--out", out)
    assert command(*argv) == 0
    printed = capsys.readouterr().out
    left = float(next(line for line in printed.splitlines() if "multiplications" in line).split()[-1])
    assert 0.3 < left <= 0.5
    assert printed.strip().splitlines()[-2:] == [str(out), str(tmp_path / "pruned.tuned.pt")]
    dense, pruned, tuned = (checkpoints.read(p) for p in (trained, out, tmp_path / "pruned.tuned.pt"))
    assert (pruned.method, tuned.method) == ("gfs", "gfs")
    for checkpoint in (pruned, tuned):
        for name, kept in pruned.mask.items():
            assert not checkpoint.state_dict[name][~kept].any()
    assert masks.kept(pruned.mask, {n: t.shape for n, t in dense.state_dict.items()}) < 0.75
    assert not torch.equal(tuned.state_dict["output.weight"], pruned.state_dict["output.weight"])
    assert command(*argv) == 2
    assert "--force" in capsys.readouterr().err


def test_kept_channels_are_counted_and_the_rest_is_dead(trained):
    checkpoint = checkpoints.read(trained)
    options = checkpoints.ProblemOptions(num_examples=200)
    data = checkpoints.open_data(checkpoint, options)
    model = checkpoints.model_of(checkpoint, options, data)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = prune(model, data.x, data.y, ChannelOptions(flops=0.6))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for layer in pruned.layers:
        rows = pruned.mask[f"{layer.site.producer}.weight"].flatten(1).any(1)
        assert int(rows.sum()) == layer.kept
        assert 0 <= layer.error <= layer.certificate
        noise = torch.randn(layer.site.num_channels)
        expected = pruned.model(data.x)
        with torch.no_grad():  # dropped channels may hold anything without changing the outputs
            pruned.model.get_parameter(f"{layer.site.producer}.bias").add_(torch.where(rows, 0.0, noise))
        torch.testing.assert_close(pruned.model(data.x), expected)


def test_everything_is_kept_at_full_work_and_too_little_is_refused(trained):
    model = build("conv_2", input_shape=(1, 8, 8), num_outputs=10, width=6, dense=16)
    x, y = torch.randn(20, 1, 8, 8), torch.arange(20) % 10
    full = prune(model, x, y, ChannelOptions(flops=1.0))
    assert full.flops <= 1
    with pytest.raises(InputError, match="cannot be reached"):
        prune(model, x, y, ChannelOptions(flops=0.01))
    with pytest.raises(InputError, match="no convolution"):
        prune(build("mlp", input_shape=(4,), num_outputs=2), torch.randn(3, 4), torch.zeros(3).long(), ChannelOptions())
    with pytest.raises(InputError, match="--flops"):
        ChannelOptions(flops=0.0)


def test_more_work_means_smaller_errors():
    model = build("resnet20", input_shape=(3, 8, 8), num_outputs=5, width=8).eval()
    x, y = torch.randn(12, 3, 8, 8), torch.arange(12) % 5
    errors, left = [], []
    for flops in (0.4, 0.8):
        pruned = prune(model, x, y, ChannelOptions(flops=flops))
        errors.append(np.mean([layer.error for layer in pruned.layers]))
        left.append(pruned.flops)
    assert left[0] <= 0.4 < left[1] <= 0.8
    assert errors[1] < errors[0]


def test_recalibrated_statistics_are_those_of_the_data_and_the_momentum_is_put_back():
    model = nn.Sequential(nn.BatchNorm2d(3)).eval()
    x = 2 + 3 * torch.randn(100, 3, 4, 4, dtype=torch.float64)
    recalibrate(model.double(), x, batch_size=50)
    torch.testing.assert_close(model[0].running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].running_var, x.var((0, 2, 3)), rtol=0.05, atol=0)
    assert model[0].momentum == 0.1
    assert not model[0].training


def test_real_targets_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "real.npz", x=np.random.default_rng(0).normal(size=(20, 1, 8, 8)), y=np.zeros((20, 1)))
    options = TrainOptions("conv_2", str(tmp_path / "real.npz"), ("width=4", "dense=4"), loss="mse", epochs=0)
    train(options, tmp_path / "real.pt")
    assert command(tmp_path / "real.pt") == 2
    assert "real numbers" in capsys.readouterr().err
