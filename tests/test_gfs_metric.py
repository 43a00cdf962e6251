"""The metric of the loss: its Fisher matrix is that of the scales, and channels that it does not notice go first."""

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import InputError
from landscape.models import build
from landscape.pruning import gfs_layers, gfs_metric
from landscape.pruning.gfs_channels import ChannelOptions, prune
from landscape.pruning.gfs_sites import Network, Suffix


def suffix_of(model, x, place=0):
    network = Network(model.double().eval())
    return Suffix.of(network, network.sites()[place], x)


@pytest.fixture
def small():
    """A network whose channels reach the outputs linearly, so that the Gauss-Newton matrix is known."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(5 * 9, 4))
    return suffix_of(model, torch.randn(2000, 1, 5, 5, dtype=torch.float64) * 2), model


def test_sampled_fisher_matrix_is_the_gauss_newton_matrix_of_the_scales(small):
    """F = mean_n J_n' (diag p - p p') J_n with J_n = d(logits)/d(scales), here the logits of every channel alone."""
    suffix, model = small
    head = model[3].weight.detach().reshape(4, 5, 9)
    jacobian = torch.einsum("ncp,ocp->noc", suffix.channels(), head)
    p = (jacobian.sum(2) + model[3].bias.detach()).softmax(1)
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    exact = torch.einsum("noc,nok,nkd->cd", jacobian, middle, jacobian) / len(p)
    rows = torch.cat([gfs_metric.scale_gradients(suffix, seed) for seed in range(20)])
    sampled = rows.T @ rows / len(rows)
    assert float((sampled - exact).norm() / exact.norm()) < 0.03
    assert float(rows.mean(0).norm() / exact.diagonal().sum().sqrt()) < 0.02  # own labels: the mean gradient is zero


def test_every_version_of_the_batch_gets_its_own_outputs(small):
    suffix, model = small
    masks = torch.rand(3, 5, dtype=torch.float64)
    together = suffix(masks)
    assert together.shape == (3, 2000, 4)
    for mask, outputs in zip(masks, together, strict=True):
        scaled = suffix.channels() * (5 * mask)[None, :, None]
        torch.testing.assert_close(model[3](scaled.flatten(1)), outputs)


def test_dense_layer_has_no_loss_and_the_imitation_is_its_limit(small):
    suffix, _ = small
    products = gfs_metric.sensitive_imitation(suffix)
    weight, left = gfs_metric.pursue(products, 5)
    assert left < 1e-9 * products.target_norm2
    np.testing.assert_allclose(weight, 0.2, rtol=1e-5)
    heavy = gfs_metric.sensitive_imitation(suffix, weight=1e9)
    imitated = gfs_layers.imitation(suffix.features, suffix.network.modules[suffix.site.consumer], 5)
    np.testing.assert_allclose(heavy.norm2 / heavy.norm2.sum(), imitated.norm2 / imitated.norm2.sum(), rtol=1e-6)


def test_channels_that_the_loss_does_not_notice_are_dropped():
    """Two channels speak loudly to a pre-activation that no output reads; imitation keeps them, the metric does not."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Tanh(), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(2 * 4, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -0.7, 1.3, 0.4]).reshape(4, 1, 1, 1))
        model[2].weight.copy_(torch.tensor([[1.0, -1.5, 0, 0], [0, 0, 8.0, -9.0]])[:, :, None, None])
        model[4].weight.reshape(3, 2, 4)[:, 1] = 0
    suffix = suffix_of(model, torch.randn(300, 1, 2, 2, dtype=torch.float64))
    noticed, _ = gfs_metric.pursue(gfs_metric.sensitive_imitation(suffix, weight=1e-6), 2)
    consumer = suffix.network.modules[suffix.site.consumer]
    imitated, _ = gfs_metric.pursue(gfs_layers.imitation(suffix.features, consumer, 4), 2)
    assert set(np.flatnonzero(noticed)) == {0, 1}
    assert set(np.flatnonzero(imitated)) == {2, 3}


def test_network_pruned_by_curvature_computes_the_weighted_channels():
    model = build("resnet20", input_shape=(3, 8, 8), num_outputs=5, width=8).eval()
    x, y = torch.randn(40, 3, 8, 8), torch.arange(40) % 5
    pruned = prune(model, x, y, ChannelOptions(flops=0.5, by="curvature"))
    assert pruned.flops <= 0.5
    for layer in pruned.layers:
        kept = pruned.mask[f"{layer.site.producer}.weight"].flatten(1).any(1)
        assert int(kept.sum()) == layer.kept
        assert 0 <= layer.error <= 1
        assert np.isnan(layer.certificate)


def test_free_weights_of_either_sign_are_folded(small):
    suffix, model = small
    mask = np.array([0.3, -0.2, 0.0, 0.0, 0.4])
    expected = suffix(torch.from_numpy(mask)[None])[0]
    kept = gfs_layers.fold(suffix.network, suffix.site, mask)
    assert kept["0.weight"].flatten(1).any(1).tolist() == [True, True, False, False, True]
    torch.testing.assert_close(model[3](suffix.features), expected)


def test_a_single_output_has_no_labels_to_draw():
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 1))
    with pytest.raises(InputError, match="class outputs"):
        gfs_metric.scale_gradients(suffix_of(model, torch.randn(6, 1, 3, 3, dtype=torch.float64)))
