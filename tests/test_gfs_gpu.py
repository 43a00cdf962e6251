"""Selection on a CUDA device gives what it gives on the CPU (``pytest -m gpu``; by default the CPU stands for it)."""

import numpy as np
import pytest
import torch

from landscape.models import build
from landscape.pruning import gfs_layers, gfs_metric
from landscape.pruning.gfs import SelectOptions, select
from landscape.pruning.gfs_cells import PretrainOptions, Spec, run_cell
from landscape.pruning.gfs_channels import ChannelOptions, prune, recalibrate
from landscape.pruning.gfs_convex import ConvexLoss, select_convex
from landscape.pruning.gfs_kernel import tangent_kernel
from landscape.pruning.gfs_measure import RIVALS, MeasureOptions, measure
from landscape.pruning.gfs_neurons import Neurons, activations
from landscape.pruning.gfs_sites import Network, Suffix

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def case(device, dtype=torch.float64, neurons=60):
    rng = np.random.default_rng(0)
    x, a, b = (
        torch.tensor(rng.normal(size=s), dtype=dtype, device=device) for s in ((80, 5), (neurons, 5), (neurons, 3))
    )
    held = Neurons(activations(x, a, None, torch.tanh), b)
    y = torch.tensor(rng.normal(size=(80, 3)), dtype=dtype, device=device)
    return held, y, torch.tensor(rng.integers(0, 3, size=80), device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_picks", [0, 30])
def test_paths_are_those_of_the_cpu(device, num_picks):
    """With and without the full Gram matrix."""
    options = SelectOptions(30)
    for loss in ("mse", "cross_entropy"):
        paths = []
        for place in ("cpu", device):
            neurons, y, labels = case(place)
            if loss == "mse":
                paths.append(select(neurons.products(y, num_picks), options))
            else:
                paths.append(select_convex(neurons, ConvexLoss(loss, labels, torch.zeros_like(y)), options))
        assert list(paths[0].picks) == list(paths[1].picks)
        np.testing.assert_allclose(paths[0].loss, paths[1].loss, rtol=1e-10)


@pytest.mark.parametrize("device", DEVICES)
def test_float32_losses_are_those_of_the_network(device):
    neurons, y, _ = case(device, torch.float32)
    path = select(neurons.products(y), SelectOptions(50))
    error = (neurons.response(path.weight(50)) - y).double()
    assert path.loss[-1] == pytest.approx(float(error.square().sum()) / 160, rel=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_measurements_with_rivals_and_certificates(device):
    results = []
    for place in ("cpu", device):
        neurons, y, _ = case(place)
        results.append(
            measure(neurons, ConvexLoss("mse", y, 0 * y), MeasureOptions((2, 16), rivals=RIVALS), np.arange(60))[0]
        )
    for name in results[0].data_vars:
        np.testing.assert_allclose(results[1][name], results[0][name], rtol=1e-6, atol=1e-9, err_msg=str(name))


@pytest.mark.parametrize("device", DEVICES)
def test_a_cell_runs_and_keeps_the_order(device):
    options = PretrainOptions(data="digits", loss="cross_entropy", steps=8, lr=0.05, fine_tune_steps=4)
    cell = run_cell(Spec("data", 60, 20, 0), options, MeasureOptions((2, 8), num_random=2), torch.device(device))
    assert (cell["hull_loss_lo"] <= cell["loss"] + 1e-6).all()
    assert float(cell["dense_loss"][0, -1]) < float(cell["dense_loss"][0, 0])


@pytest.mark.parametrize("device", DEVICES)
def test_channels_are_those_of_the_cpu(device):
    model = build("resnet20", input_shape=(3, 8, 8), num_outputs=5, width=8).double().eval()
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(10, 3, 8, 8, generator=random, dtype=torch.float64), torch.arange(10) % 5
    found = []
    for place in ("cpu", device):
        here = model.to(place)
        network = Network(here)
        suffix = Suffix.of(network, network.sites()[4], x.to(place))
        picks = gfs_layers.select_by_loss(suffix, y.to(place), gfs_layers.LossOptions(6)).picks
        noticed, _ = gfs_metric.pursue(gfs_metric.sensitive_imitation(suffix), 4)
        pruned = prune(here, x.to(place), y.to(place), ChannelOptions(flops=0.5))
        recalibrate(pruned.model, x.to(place))
        found.append(
            (
                list(picks),
                list(np.flatnonzero(noticed)),
                [layer.kept for layer in pruned.layers],
                pruned.model(x.to(place)).detach().cpu(),
            )
        )
    assert found[0][:3] == found[1][:3]
    torch.testing.assert_close(found[0][3], found[1][3])


@pytest.mark.parametrize("device", DEVICES)
def test_tangent_kernel(device):
    rng = np.random.default_rng(1)
    x, a, b = (torch.tensor(rng.normal(size=s)) for s in ((6, 4), (7, 4), (7, 2)))
    expected = tangent_kernel(x, a, b, torch.tanh)
    np.testing.assert_allclose(
        tangent_kernel(x.to(device), a.to(device), b.to(device), torch.tanh), expected, rtol=1e-10
    )
