"""Speed of selection, printed; counts of operations are asserted. The big problem has a process for its peak memory."""

import multiprocessing
import resource
import time

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from landscape import datasets, losses, models
from landscape.datasets import Sample
from landscape.pruning import gfs_layers, gfs_metric
from landscape.pruning.gfs import SelectOptions, select
from landscape.pruning.gfs_layers import LossOptions
from landscape.pruning.gfs_neurons import Neurons, activations
from landscape.pruning.gfs_sites import Network, Suffix
from landscape.training import TrainOptions
from landscape.training.loop import Loop

EXAMPLES, WIDTH, PICKS = 50_000, 20_000, 200


def report(**figures):
    print("\n" + "\n".join(f"{name:46s} {value}" for name, value in figures.items()))


def timed(function):
    start = time.perf_counter()
    value = function()
    return value, time.perf_counter() - start


def pretrained(steps):
    """Return the network after some steps on the binarised digits of MNIST, and its data."""
    data = datasets.load("mnist_binary", "train", Sample(EXAMPLES))
    model = models.build("two_layer", input_shape=data.input_shape, num_outputs=1, width=WIDTH, activation="relu")
    few = slice(0, 128 * steps)
    options = TrainOptions("two_layer", "mnist_binary", loss="mse", epochs=1, batch_size=128, lr=0.003 * WIDTH)
    Loop(model, losses.by_name("mse"), (data.x[few], data.y[few]), options, {}, 0).run_epoch(1, lambda step: None)
    return model, data.x.flatten(1), data.y


def select_on_mnist(queue):
    """Select 200 of 20,000 neurons on 50,000 examples, time it and what its matrix products alone take."""
    torch.set_num_threads(2)
    model, x, y = pretrained(steps=150)
    with torch.no_grad():
        weight, output = model.hidden.weight.detach(), model.output.weight.detach().T.contiguous()
        hidden, forward = timed(lambda: activations(x, weight, None, torch.relu))
        neurons = Neurons(hidden, output)
        products, prepared = timed(lambda: neurons.products(y))
        path, selected = timed(lambda: select(products, SelectOptions(PICKS)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

        error = neurons.response(path.weight(PICKS)) - y
        direct = float(error.double().square().sum()) / (2 * EXAMPLES)
        distinct = np.unique(path.picks)
        columns = [hidden[:, int(j)].contiguous() for j in distinct[:20]]
        _, gemv = timed(lambda: [hidden.T @ column for column in columns])
        chosen = distinct[: PICKS // 2]
        candidate = torch.relu(x @ weight[chosen].T) @ output[chosen]
        _, one = timed(lambda: [torch.relu(x @ weight[chosen].T) @ output[chosen] for _ in range(3)])
        del candidate
        rows = 3355
        _, gemm = timed(lambda: [torch.mm(part, weight.T, out=hidden[:rows][: len(part)]) for part in x.split(rows)])
    bare = gemm + gemv / len(columns) * len(distinct)
    total = forward + prepared + selected
    queue.put(
        {
            "activations + products + selection (s)": f"{forward:.1f} + {prepared:.1f} + {selected:.1f} = {total:.1f}",
            "peak memory (GiB)": f"{peak:.2f}",
            "distinct neurons": len(distinct),
            "loss, and by a forward pass": f"{path.loss[-1]:.8f} {direct:.8f}",
            "bare matrix products (s), ratio": f"{bare:.1f} {total / bare:.2f}",
            "forward passes, from 3 of 100 neurons (s)": f"{one / 3 * WIDTH * PICKS:.3g} extrapolated",
            "times faster than that, extrapolated": f"{one / 3 * WIDTH * PICKS / total:.0f}",
        }
    )


@pytest.mark.bench
def test_two_hundred_of_twenty_thousand_neurons_on_mnist():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=select_on_mnist, args=(queue,))
    child.start()
    report(**queue.get(timeout=900))
    child.join()


def released(network, site, batches, num_picks):
    """Select as the released code does, 50 random unused channels at each step, and count its whole forward passes.

    The losses are computed behind a cached prefix, which gives the same numbers in less time.
    """
    random, mask, picks, passes = np.random.default_rng(0), torch.zeros(site.num_channels), [], 0
    for k in range(1, num_picks + 1):
        x, y = batches[k % len(batches)]
        suffix = Suffix.of(network, site, x)
        tried = random.permutation([c for c in range(site.num_channels) if c not in picks])[:50]
        masks = (1 - 1 / k) * mask + torch.eye(site.num_channels)[tried] / k
        values = torch.cat([gfs_layers.mask_losses(suffix, y, part) for part in masks.split(8)])
        passes += len(tried)
        picks.append(int(tried[int(values.argmin())]))
        mask = masks[int(values.argmin())]
    return mask, passes


def operations(function):
    with FlopCounterMode(display=False) as counter:
        value = function()
    return value, counter.get_total_flops()


@pytest.fixture(scope="module")
def resnet():
    """Return a ResNet-20 after five passes over 5,000 images, these, and 1,000 test images."""
    torch.set_num_threads(2)
    data, held = datasets.load("cifar10", "train", Sample(5000)), datasets.load("cifar10", "test", Sample(1000))
    model = models.build("resnet20", input_shape=(3, 32, 32), num_outputs=10)
    options = TrainOptions("resnet20", "cifar10", epochs=5, batch_size=128, lr=0.1, momentum=0.9, schedule="cosine")
    loop = Loop(model, losses.by_name("cross_entropy"), (data.x, data.y), options, {}, 0)
    for epoch in range(1, 6):
        loop.run_epoch(epoch, lambda step: None)
    return Network(model.eval()), data, held


@pytest.mark.bench
@pytest.mark.parametrize(("place", "num_picks"), [(1, 8), (4, 16), (7, 24)])
def test_a_layer_of_resnet20_against_the_released_procedure(resnet, place, num_picks):
    network, data, held = resnet
    site, x, y = network.sites()[place], data.x[:512], data.y[:512]
    parts = zip(held.x.split(100), held.y.split(100), strict=True)
    judges = [(Suffix.of(network, site, part), labels) for part, labels in parts]
    with torch.no_grad():
        _, forward = operations(lambda: network.model(x[:128]))

    def judged(mask):
        one = torch.as_tensor(mask, dtype=torch.float32)[None]
        return np.mean([gfs_layers.mask_losses(judge, labels, one).item() for judge, labels in judges])

    mask, passes = released(network, site, list(zip(x.split(128), y.split(128), strict=True)), num_picks)
    loss = {"released": judged(mask)}
    figures = {
        "layer, channels, picks": f"{site} {site.num_channels} {num_picks}",
        "dense loss": f"{judged(np.full(site.num_channels, 1 / site.num_channels)):.4f}",
        "released: loss, forward passes of 128": f"{loss['released']:.4f} {passes}",
    }

    def imitate():
        path, _ = gfs_layers.imitate(Suffix.of(network, site, x[:128]), SelectOptions(4 * site.num_channels))
        allowed = np.flatnonzero(path.num_distinct <= num_picks)
        return path.weight(int(allowed[np.argmin(path.loss[allowed])]) + 1)

    def by_curvature():
        products = gfs_metric.sensitive_imitation(Suffix.of(network, site, x[:128]))
        return gfs_metric.pursue(products, num_picks)[0]

    def by_loss():
        part = Suffix.of(network, site, x[:128])
        return gfs_layers.select_by_loss(part, y[:128], LossOptions(num_picks, 3)).weight(num_picks)

    fewer = {}
    for name, choose in {"imitation": imitate, "curvature": by_curvature, "screen of 3": by_loss}.items():
        weight, cost = operations(choose)
        loss[name], fewer[name] = judged(weight), passes * forward / cost
        figures[f"{name}: loss, passes, times fewer"] = f"{loss[name]:.4f} {cost / forward:.2f} {fewer[name]:.0f}"
    report(**figures)
    assert loss["curvature"] <= loss["released"]
    assert fewer["curvature"] >= 20
