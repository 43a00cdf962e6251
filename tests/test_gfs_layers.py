"""Channels of convolutional networks: sites, prefix caching, both ways of selection, folding, counting."""

import copy

import numpy as np
import pytest
import torch
from helpers import assert_close
from torch import nn

from landscape.errors import InputError
from landscape.models import build
from landscape.pruning import gfs_layers as layers
from landscape.pruning.gfs import SelectOptions
from landscape.pruning.gfs_layers import LossOptions
from landscape.pruning.gfs_sites import Network, Suffix

F64 = torch.float64


def network(name="resnet20", size=8, seed=0, **arguments):
    """Return a small network in eval mode with BatchNorm statistics and scales that are not trivial, and a batch."""
    small = {"width": 4} if name in ("resnet20", "vgg16") else {"width": 6, "dense": 8}
    model = build(name, seed, input_shape=(3, size, size), num_outputs=5, **(small | arguments)).double()
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = module.running_mean.shape
            module.running_mean.copy_(0.1 * torch.randn(shape, generator=random, dtype=F64))
            module.running_var.copy_(0.5 + torch.rand(shape, generator=random, dtype=F64))
            module.bias.data.copy_(0.3 * torch.randn(shape, generator=random, dtype=F64))
    x = torch.randn(6, 3, size, size, generator=random, dtype=F64)
    return Network(model.eval()), x, torch.arange(6) % 5


def masked_forward(net, site, x, mask):
    """Return the outputs with channel c scaled by C a_c right after its normalisation: hooks, nothing cached."""
    last = net.modules[site.norm or site.producer]
    scale = (site.num_channels * mask).reshape(1, -1, 1, 1)
    following = []

    def record(module, inputs, output):
        following.append(module)
        return nn.functional.relu(output) * scale

    handle = last.register_forward_hook(record)
    try:
        return net.model(x)
    finally:
        handle.remove()


def test_sites_are_convolutions_read_by_one_layer_alone():
    sites = {str(s): s for s in network("resnet20")[0].sites()}
    assert list(sites) == [f"block{i}_{j}.conv1" for i in (1, 2, 3) for j in (1, 2, 3)]
    assert sites["block2_1.conv1"].norm == "block2_1.norm1"
    assert sites["block2_1.conv1"].consumer == "block2_1.conv2"
    assert sites["block2_1.conv1"].num_channels == 8
    sites = network("conv_2")[0].sites()
    assert [(s.producer, s.norm, s.consumer) for s in sites] == [("conv1", None, "conv2"), ("conv2", None, "fc1")]
    assert len(network("vgg16", size=16)[0].sites()) == 13


def test_networks_that_cannot_be_traced_and_grouped_layers_are_no_sites():
    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="traced"):
        Network(Branching())
    grouped = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2))
    assert Network(grouped).sites() == []
    softmax = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(1), nn.Conv2d(4, 4, 3))
    assert Network(softmax).sites() == []


@pytest.mark.parametrize(("name", "place"), [("resnet20", 4), ("conv_2", 0), ("conv_2", 1), ("vgg16", 2)])
def test_cached_prefix_gives_the_outputs_of_full_masked_passes(name, place):
    net, x, _ = network(name, size=16 if name == "vgg16" else 8)
    site = net.sites()[place]
    suffix = Suffix.of(net, site, x)
    masks = torch.rand(3, site.num_channels, dtype=F64)
    masks[2] = 1 / site.num_channels
    outputs = suffix(masks)
    for mask, output in zip(masks, outputs, strict=True):
        assert_close(output.detach(), masked_forward(net, site, x, mask).detach(), rtol=1e-9, atol=1e-12)
    assert_close(outputs[2].detach(), net.model(x).detach(), rtol=1e-9, atol=1e-12)


def naive_phi(suffix):
    """Return Phi_c over (example, position, output), by running the consumer on one channel at a time."""
    site, consumer = suffix.site, copy.deepcopy(suffix.network.modules[suffix.site.consumer])
    consumer.bias = None
    rows = []
    for c in range(site.num_channels):
        only = torch.zeros(site.num_channels, dtype=F64)
        only[c] = site.num_channels
        features = (suffix.channels() * only[None, :, None]).reshape(suffix.features.shape)
        rows.append(consumer(features).flatten().detach())
    positions = rows[0].numel() / consumer.weight.shape[0]
    return torch.stack(rows, 1) / positions**0.5


@pytest.mark.parametrize(("name", "place"), [("resnet20", 3), ("conv_2", 0), ("conv_2", 1)])
def test_imitation_keeps_the_pre_activation_of_which_the_dense_layer_is_the_average(name, place):
    net, x, _ = network(name)
    suffix = Suffix.of(net, net.sites()[place], x)
    path, products = layers.imitate(suffix, SelectOptions(20))
    phi = naive_phi(suffix)
    y = phi.mean(1)
    for size in (1, 5, 20):
        error = 0.5 * (phi @ torch.tensor(path.weight(size)) - y).square().sum()
        assert path.loss[size - 1] == pytest.approx(float(error), rel=1e-8, abs=1e-12)
    assert_close(products.norm2, phi.square().sum(0), rtol=1e-9)
    variance = float(phi.square().sum(0).mean() - y.square().sum())
    assert (path.loss <= variance / (2 * np.arange(1, 21)) + 1e-12).all()  # the certificate of a layer


def test_both_ways_to_the_gram_matrix_agree():
    net, x, _ = network("resnet20")
    suffix = Suffix.of(net, net.sites()[5], x)
    consumer = net.modules[suffix.site.consumer]
    patches, weight = layers.patches_of(suffix.features, consumer, suffix.site.num_channels)
    assert_close(layers._gram_by_patches(patches, weight), layers._gram_formed(patches, weight), rtol=1e-9, atol=1e-9)


def test_chunks_change_nothing(monkeypatch):
    net, x, _ = network("resnet20")
    suffix = Suffix.of(net, net.sites()[0], x)
    consumer = net.modules[suffix.site.consumer]
    whole = layers.imitation(suffix.features, consumer, 4)
    monkeypatch.setattr(layers, "CHUNK", 5000)
    assert_close(layers.imitation(suffix.features, consumer, 4).norm2, whole.norm2, rtol=1e-12)


def test_selection_by_loss_tries_all_when_the_screen_is_wide():
    net, x, y = network("resnet20")
    site = net.sites()[4]
    suffix = Suffix.of(net, site, x)
    path = layers.select_by_loss(suffix, y, LossOptions(num_picks=5, screen=8, batch=3))
    mask, used = torch.zeros(8, dtype=F64), []
    for k in range(1, 6):
        values = {}
        for j in set(range(8)) - set(used):
            candidate = (1 - 1 / k) * mask
            candidate[j] += 1 / k
            values[j] = nn.functional.cross_entropy(masked_forward(net, site, x, candidate), y).item()
        used.append(min(values, key=values.get))
        mask = (1 - 1 / k) * mask
        mask[used[-1]] += 1 / k
        assert path.loss[k - 1] == pytest.approx(min(values.values()))
    assert list(path.picks) == used
    narrow = layers.select_by_loss(suffix, y, LossOptions(num_picks=5, screen=1))
    assert narrow.loss[0] >= path.loss[0]
    stopped = layers.select_by_loss(suffix, y, LossOptions(num_picks=5, screen=8, target=path.loss[1] + 1e-9))
    assert len(stopped.picks) <= 2
    again = layers.select_by_loss(suffix, y, LossOptions(num_picks=12, replacement=True))
    assert len(again.picks) == 12
    with pytest.raises(InputError, match="without replacement"):
        layers.select_by_loss(suffix, y, LossOptions(num_picks=9))


def test_mask_gradient_is_a_derivative():
    net, x, y = network("conv_2")
    suffix = Suffix.of(net, net.sites()[1], x)
    mask = torch.full((6,), 1 / 6, dtype=F64)
    gradient = layers.mask_gradient(suffix, y, mask)
    step = 1e-6 * torch.eye(6, dtype=F64)
    up, down = (layers.mask_losses(suffix, y, mask + s) for s in (step, -step))
    assert_close(gradient, (up - down) / 2e-6, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("name", "place"), [("resnet20", 4), ("conv_2", 0), ("conv_2", 1)])
def test_folded_network_computes_the_masked_one_and_its_mask_holds(name, place):
    net, x, _ = network(name)
    site = net.sites()[place]
    weight = np.zeros(site.num_channels)
    weight[[0, 2, 3]] = 0.5, 0.25, 0.25
    expected = masked_forward(net, site, x, torch.tensor(weight)).detach()
    mask = layers.fold(net, site, weight)
    assert_close(net.model(x).detach(), expected, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        for parameter, kept in mask.items():
            net.model.get_parameter(parameter).mul_(kept)
    assert_close(net.model(x).detach(), expected, rtol=1e-9, atol=1e-12)
    kept_rows = mask[f"{site.producer}.weight"].flatten(1).all(1)
    assert kept_rows.tolist() == (weight > 0).tolist()
    with pytest.raises(InputError, match="no channel"):
        layers.fold(net, site, weight * 0)


def test_multiplications_are_counted_and_scale_with_the_kept_channels():
    net, x, _ = network("conv_2")
    counts = layers.multiplications(net.model, x)
    assert counts == {"conv1": 64 * 6 * 27, "conv2": 64 * 6 * 54, "fc1": 96 * 8, "fc2": 64, "output": 40}
    sites = net.sites()
    assert layers.remaining(counts, sites, {}) == 1
    total = sum(counts.values())
    half = 64 * 6 * 27 / 2 + 64 * 6 * 54 / 2 / 3 + 96 * 8 / 3 + 64 + 40
    assert layers.remaining(counts, sites, {"conv1": 3, "conv2": 2}) == pytest.approx(half / total)
