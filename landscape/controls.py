"""Controls for confidence: the same network with another output scale, and the scale of its outputs.

Cross-entropy curvature carries the factor diag(p) - p p', which goes to zero as the train loss does, so a point of
lower loss looks flatter with no change of geometry. Loss matching softens the point of lower loss until both have the
same loss, by scaling the weights and the bias of its output layer: the softened point is again a network. J'J has no
such factor, and is divided by the mean squared spread of the outputs to lose their scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from landscape.batches import Batch
from landscape.errors import InputError
from landscape.losses import ExampleLoss
from landscape.problem import Problem


@dataclass(frozen=True, eq=False)
class Matched:
    """A point whose outputs were softened to another loss.

    Parameters
    ----------
    problem
        The softened point.
    scale
        The factor of its outputs, in (0, 1].
    whole
        Whether the output layer itself was scaled, so that all curvature blocks are those of a network. Otherwise the
        outputs were divided outside the network: only the blocks without the last layer are right.
    """

    problem: Problem
    scale: float
    whole: bool


class ScaledLoss(ExampleLoss):
    """A loss that sees the outputs times a factor: the fallback for models without a linear output layer."""

    def __init__(self, loss: ExampleLoss, scale: float) -> None:
        self.loss, self.scale = loss, scale

    def per_example(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss sums and counts of the scaled outputs."""
        return self.loss.per_example(self.scale * outputs, batch)

    def hits(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Count the predicted targets of the scaled outputs."""
        return self.loss.hits(self.scale * outputs, batch)


def output_layer(problem: Problem) -> list[str] | None:
    """Return the names of the weight and bias that the outputs are linear in, or None.

    It is the last `Linear` layer, and it is tried out: twice the weights must give twice the outputs.
    """
    layers = [module for module in problem.model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        return None
    own = {id(p) for p in layers[-1].parameters(recurse=False)}
    names = [name for name, p in problem.model.named_parameters() if id(p) in own]
    doubled = _scaled(problem, names, 2.0)
    batch = problem.batches[0]
    with torch.no_grad():
        before, after = (p.outputs(p.parameters, batch) for p in (problem, doubled))
    return names if torch.allclose(after, 2 * before, rtol=1e-4, atol=1e-6 * float(before.abs().max())) else None


def _scaled(problem: Problem, names: list[str], scale: float) -> Problem:
    tensors = problem.tensors()
    return problem.with_tensors({name: scale * tensors[name] for name in names})


def scale_outputs(problem: Problem, scale: float) -> Matched:
    """Return the point with all outputs multiplied by ``scale``, through its output layer where it has one."""
    names = output_layer(problem)
    if names is not None:
        return Matched(_scaled(problem, names, scale), scale, True)
    loss = problem.loss_function
    if not isinstance(loss, ExampleLoss):
        raise InputError(
            "outputs can be scaled under cross_entropy, mse or bce, or in a model with a linear last layer"
        )
    return Matched(replace(problem, loss_function=ScaledLoss(loss, scale)), scale, False)


@torch.no_grad()
def match_loss(problem: Problem, target: float) -> Matched | None:
    """Soften a point until its loss is ``target``.

    Parameters
    ----------
    target
        The higher loss of the point that it is compared with.

    Returns
    -------
    The softened point, or None where no softening reaches the loss: at the scale 0 it is ln C for cross entropy, and a
    target at or above that has no match.

    Notes
    -----
    The loss is convex in the scale t and larger than ``target`` at t = 0, so there is exactly one t in (0, 1]. Cost:
    one forward pass for the outputs, which are kept: (N, C) numbers.
    """
    loss = problem.loss_function
    if not isinstance(loss, ExampleLoss):
        raise InputError("loss matching needs cross_entropy, mse or bce")
    if problem.weight_decay:
        raise InputError("loss matching compares data losses; leave out --weight-decay")
    outputs = [problem.outputs(problem.parameters, batch).double() for batch in problem.batches]

    def excess(scale: float) -> float:
        total = sum(
            float(loss.per_example(scale * out, batch)[0].sum())
            for out, batch in zip(outputs, problem.batches, strict=True)
        )
        return total / problem.count - target

    if excess(1.0) >= 0:
        raise InputError("the point to soften must be the one of lower loss")
    if excess(0.0) <= 0:
        return None
    return scale_outputs(problem, float(brentq(excess, 0.0, 1.0, xtol=1e-12)))


@torch.no_grad()
def output_spread(problem: Problem) -> float:
    """Return mean over examples of |f - mean over outputs of f|^2, by which J'J is divided. Cost: one forward pass."""
    total = 0.0
    for batch in problem.batches:
        outputs: Any = problem.outputs(problem.parameters, batch).double()
        rows = outputs.reshape(len(outputs), -1, outputs.shape[-1]) if outputs.ndim > 1 else outputs.reshape(-1, 1, 1)
        centred = rows - rows.mean(-1, keepdim=True) if rows.shape[-1] > 1 else rows
        total += float(centred.square().sum())
    return total / problem.num_examples
