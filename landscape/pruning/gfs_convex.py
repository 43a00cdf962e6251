"""Greedy forward selection for binary and softmax cross entropy, where there is no closed form.

At the point p = z / k the loss of candidate j lies between its tangent and a parabola,

    <grad l(p), Phi_j> / k  <=  l(p + Phi_j / k) - l(p)  <=  <grad l(p), Phi_j> / k + (H / 2) |Phi_j|^2 / k^2,

with the smoothness H = 1/4 of binary and 1/2 of softmax cross entropy in Phi-space. The parabola ranks all N
candidates from one pass over the activations, the best few are evaluated exactly, and a pick is certified as the best
of all N when no tangent of the others reaches below its loss [our derivation; the released code evaluates random
candidates instead].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from landscape.errors import InputError
from landscape.pruning.gfs import Floats, Integers, Path, SelectOptions
from landscape.pruning.gfs_neurons import CHUNK, Neurons

SMOOTHNESS = {"mse": 1.0, "bce": 0.25, "cross_entropy": 0.5}


@dataclass(frozen=True, eq=False)
class ConvexLoss:
    """A mean loss of network outputs that is convex and smooth in them.

    Attributes
    ----------
    name
        ``mse``, ``bce`` or ``cross_entropy``.
    target
        Targets: reals ``(m, C)`` for mse, 0/1 ``(m, 1)`` for bce, class labels ``(m,)`` for cross entropy.
    offset
        Outputs of the network without neurons, ``(m, C)``: its output bias, broadcast.
    """

    name: str
    target: Tensor
    offset: Tensor

    def __post_init__(self) -> None:
        """Refuse targets that the loss cannot mean."""
        if self.name not in SMOOTHNESS:
            raise InputError(f"unknown loss {self.name!r}; use {', '.join(SMOOTHNESS)}")
        if not bool(torch.isfinite(self.target).all()) or not bool(torch.isfinite(self.offset).all()):
            raise InputError("targets hold NaN or infinite values; check the data")
        if self.name == "bce" and self.offset.shape[1] != 1:
            raise InputError(
                f"bce wants a network with one output, not {self.offset.shape[1]}; use cross_entropy or mse"
            )
        if self.name == "bce" and not bool(((self.target == 0) | (self.target == 1)).all()):
            raise InputError("bce wants targets 0 and 1; use mse for other numbers or cross_entropy for classes")
        if self.name == "cross_entropy":
            if self.target.is_floating_point() or self.target.ndim != 1:
                raise InputError("cross_entropy wants one integer class label per example")
            if int(self.target.min()) < 0 or int(self.target.max()) >= self.offset.shape[1]:
                raise InputError(f"class labels must lie in 0..{self.offset.shape[1] - 1}; check the data or --width")
        elif self.target.shape != self.offset.shape:
            shapes = tuple(self.target.shape), tuple(self.offset.shape)
            raise InputError(f"targets of shape {shapes[0]} do not fit outputs of shape {shapes[1]}")

    @property
    def smoothness(self) -> float:
        """The largest curvature H of the loss of one example in its outputs."""
        return SMOOTHNESS[self.name]

    def per_example(self, response: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the losses of neuron outputs ``(m, C, ...)``, ``(m, ...)``, in nats (mse: half squared units)."""
        extra = (1,) * (response.ndim - 2)
        scores = response + self.offset[rows].reshape(*self.offset[rows].shape, *extra).to(response.dtype)
        target = self.target[rows]
        if self.name == "cross_entropy":
            labels = target.reshape(-1, *extra).expand(-1, *scores.shape[2:])
            return functional.cross_entropy(scores, labels, reduction="none")
        target = target.reshape(*target.shape, *extra).to(scores.dtype)
        if self.name == "mse":
            return (scores - target).square().sum(1) / 2
        return functional.binary_cross_entropy_with_logits(scores, target.expand_as(scores), reduction="none").sum(1)

    def value(self, response: Tensor) -> float:
        """Return the mean loss of neuron outputs ``(m, C)``, summed in float64."""
        return float(self.per_example(response).double().mean())

    def accuracy(self, response: Tensor) -> float | None:
        """Return the fraction of examples on the right side, or None for real-valued targets.

        Two different target values of one output under mse count as two classes, parted in the middle between them.
        """
        scores = response + self.offset.to(response.dtype)
        if self.name == "cross_entropy":
            return float((scores.argmax(1) == self.target).double().mean())
        low, high = float(self.target.min()), float(self.target.max())
        if scores.shape[1] > 1 or not bool(((self.target == low) | (self.target == high)).all()):
            return None
        middle = 0.0 if self.name == "bce" else (low + high) / 2
        return float(((scores > middle) == (self.target > (low + high) / 2)).double().mean())

    def gradient(self, response: Tensor) -> Tensor:
        """Return m times the gradient of the mean loss with respect to the neuron outputs, ``(m, C)``."""
        scores = response + self.offset.to(response.dtype)
        if self.name == "cross_entropy":
            return scores.softmax(1) - functional.one_hot(self.target, scores.shape[1]).to(scores.dtype)
        return (scores if self.name == "mse" else scores.sigmoid()) - self.target.to(scores.dtype)


def select_convex(neurons: Neurons, loss: ConvexLoss, options: SelectOptions, screen: int = 64) -> Path:
    """Select neurons greedily for a smooth convex loss, uniform weights.

    Parameters
    ----------
    screen
        How many candidates are evaluated exactly at a time: the best by the parabola, then the next, until the pick is
        certified or ten such lots have been tried.

    Returns
    -------
    Path
        With ``certified``: whether pick k is proven to be the best of all N.

    Notes
    -----
    Cost: a step is one pass over the activations, O(mNC), and the exact losses of the screened, O(mC) each. The first
    step takes the widest stride, over which the parabola says least, and tries all candidates: one more pass.
    """
    options.check(neurons.num_neurons)
    if options.weighting != "uniform" or options.rule != "exact":
        raise InputError(f"--weighting {options.weighting} with --rule {options.rule} is there for --loss mse only")
    parabola = loss.smoothness / 2 * neurons.norm2()
    z = torch.zeros_like(loss.offset, dtype=neurons.hidden.dtype)
    banned = np.zeros(neurons.num_neurons)
    picks, losses, certified = [], [], []
    for k in range(1, options.num_picks + 1):
        tangent = loss.value(z / k) + neurons.project(loss.gradient(z / k)) / k + banned
        order = np.argsort(tangent + parabola / k**2, kind="stable")
        order = order[np.isfinite(tangent[order])]
        value, j, proven = _screened(neurons, loss, (z, k), (order, tangent), screen if k > 1 else len(order))
        z += neurons.members(np.array([j]))[:, :, 0]
        if not options.replacement:
            banned[j] = np.inf
        picks.append(j)
        losses.append(value)
        certified.append(proven)
    steps = 1.0 / np.arange(1, options.num_picks + 1)
    return Path(np.array(picks), np.array(losses), steps, neurons.num_neurons, np.array(certified))


def _screened(
    neurons: Neurons, loss: ConvexLoss, start: tuple[Tensor, int], ranked: tuple[Integers, Floats], screen: int
) -> tuple[float, int, bool]:
    """Return the least exact loss, its neuron (ties: the lowest index), and whether the tangents exclude all others."""
    (z, k), (order, tangent) = start, ranked
    value, best = np.inf, -1
    for first in range(0, min(10 * screen, len(order)), screen):
        lot = order[first : first + screen]
        value, best = min((value, best), *zip(_exact(neurons, loss, z, lot, k).tolist(), lot.tolist(), strict=True))
        if tangent[order[first + screen :]].min(initial=np.inf) >= value:
            return value, best, True
    return value, best, False


def _exact(neurons: Neurons, loss: ConvexLoss, z: Tensor, index: Integers, k: int) -> Floats:
    """Return the losses of (z + Phi_j) / k for the candidates j, ``(c,)``."""
    total = torch.zeros(len(index), dtype=torch.float64, device=z.device)
    rows = max(1, CHUNK // 16 // (len(index) * z.shape[1]))
    for start in range(0, neurons.num_examples, rows):
        part = slice(start, start + rows)
        total += loss.per_example((z[part, :, None] + neurons.members(index, part)) / k, part).double().sum(0)
    return np.asarray(total.cpu().numpy() / neurons.num_examples)
