"""What greedy forward selection is compared with: orders known beforehand, backward elimination, refitted weights.

All take the same ``Products`` as selection does, so that they are compared on the same loss l(u) = |u - y|^2 / 2.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.optimize
from torch import Tensor

from landscape import seeds
from landscape.errors import InputError
from landscape.pruning.gfs import Floats, Integers, Path, Products


def random_order(num_neurons: int, seed: int, replicate: int = 0) -> Integers:
    """Return a random order of the neurons, ``(N,)``; its prefixes are random subsets of every size."""
    return seeds.numpy_generator(seed, "random_subset", replicate).permutation(num_neurons)


def top_norm_order(products: Products) -> Integers:
    """Return the neurons by decreasing |Phi_i|, ``(N,)``, ties by index."""
    return np.argsort(-products.norm2, kind="stable")


def magnitude_order(incoming: Tensor, output: Tensor) -> Integers:
    """Return the neurons by decreasing |b_i| |a_i|, from incoming ``(N, d)`` and outgoing ``(N, C)`` weights."""
    size = incoming.double().norm(dim=1) * output.double().norm(dim=1)
    return np.argsort(-size.cpu().numpy(), kind="stable")


def prefixes(products: Products, order: Integers) -> Path:
    """Return the losses of the plain averages of the first k neurons of an order. Cost: one Gram column each."""
    k = np.arange(1, len(order) + 1)
    zz, yz, total = np.zeros(len(order)), np.cumsum(products.correlation[order]), np.zeros(products.num_neurons)
    size = 0.0
    for i, j in enumerate(order):
        size += 2 * total[j] + products.norm2[j]
        total += products.columns(np.array([j]))[:, 0]
        zz[i] = size
    loss = np.maximum(zz / k**2 - 2 * yz / k + products.target_norm2, 0.0) / 2
    return Path(np.asarray(order), loss, 1.0 / k, products.num_neurons)


def backward_order(products: Products) -> Integers:
    """Return the order whose prefixes are the survivors of backward elimination, ``(N,)``.

    Starting from all neurons, the one without which the plain average of the others is nearest to the target is
    dropped: argmin_j |Phi_j|^2 - 2 (<Phi_j, z> - (n - 1) <Phi_j, y>) over the n neurons left [our derivation, as for
    selection].

    Notes
    -----
    Cost: the Gram matrix once (use ``with_gram``), then O(N) a step.
    """
    h, b = products.norm2, products.correlation
    s, gone = products.combine(np.ones(len(h))), np.zeros(len(h))
    dropped: list[int] = []
    for left in range(len(h), 1, -1):
        j = int(np.argmin(h - 2 * (s - (left - 1) * b) + gone))
        s = s - products.columns(np.array([j]))[:, 0]
        gone[j] = np.inf
        dropped.append(j)
    last = int(np.argmin(gone))
    return np.array([last, *dropped[::-1]])


def refit(products: Products, index: Integers, nonnegative: bool = False) -> tuple[Floats, float]:
    """Return the best free weights of some distinct neurons, ``(c,)``, and the loss |sum_j w_j Phi_j - y|^2 / 2 there.

    Parameters
    ----------
    nonnegative
        Whether weights below zero are forbidden (they need not sum to one either way).

    Notes
    -----
    Cost: c Gram columns and O(c^3). Error: directions in which the Gram matrix is below 1e-12 of its
    largest are left out.
    """
    index = np.asarray(index)
    if len(np.unique(index)) != len(index):
        raise InputError("a refit wants distinct neurons")
    gram = products.columns(index)[index]
    value, vector = scipy.linalg.eigh((gram + gram.T) / 2)
    keep = value > 1e-12 * max(value[-1], np.finfo(float).tiny)
    root = np.sqrt(value[keep])[:, None] * vector[:, keep].T  # root' root = gram, root' image = <Phi, y>
    image = vector[:, keep].T @ products.correlation[index] / np.sqrt(value[keep])
    if not keep.any():
        return np.zeros(len(index)), products.target_norm2 / 2
    weight = scipy.optimize.nnls(root, image)[0] if nonnegative else np.linalg.lstsq(root, image, rcond=None)[0]
    explained = image @ image - np.sum((root @ weight - image) ** 2)
    return weight, float(max(products.target_norm2 - explained, 0.0) / 2)


def matching_pursuit(products: Products, num_picks: int) -> tuple[Integers, Floats]:
    """Run orthogonal matching pursuit: pick the neuron most aligned with the residual, then refit all weights.

    Returns
    -------
    tuple
        Picks ``(k,)`` and losses after each refit ``(k,)``; fewer than asked for once the residual is orthogonal to
        all.

    References
    ----------
    Pati, Rezaiifar, Krishnaprasad, "Orthogonal matching pursuit", Asilomar 1993.
    """
    norm = np.sqrt(np.maximum(products.norm2, np.finfo(float).tiny))
    residual, columns = products.correlation.copy(), np.zeros((products.num_neurons, 0))
    picks: list[int] = []
    losses: list[float] = []
    floor = 1e-12 * np.sqrt(products.target_norm2)
    for _ in range(min(num_picks, products.num_neurons)):
        aligned = np.abs(residual) / norm
        aligned[picks] = 0.0
        if aligned.max() <= floor:
            break
        picks.append(int(np.argmax(aligned)))
        columns = np.concatenate([columns, products.columns(np.array(picks[-1:]))], axis=1)
        weight, loss = refit(products, np.array(picks))
        residual = products.correlation - columns @ weight
        losses.append(loss)
    return np.array(picks, dtype=np.int64), np.array(losses)
