"""Products with the curvature of a batch by double backward (Pearlmutter 1994): nothing but autograd, for any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from landscape.batches import Batch
from landscape.curvature.kinds import Network, Tensors
from landscape.problem import Problem


def double_backward(problem: Problem, kind: str, batch: Batch, directions: Sequence[Tensors]) -> list[Tensors]:
    """Return the curvature of the loss sum of a batch times each direction (full-shape tensors in and out).

    Notes
    -----
    Cost: one gradient whose graph is kept, then about 1.5 gradients a direction (``hessian``) or 2 (``ggn``, ``jtj``).
    """
    leaves = {name: p.detach().requires_grad_() for name, p in problem.parameters.items()}
    points = list(leaves.values())
    columns = [[direction[name] for name in leaves] for direction in directions]
    if kind == "hessian":
        loss = problem.batch_loss(leaves, batch)[0]
        slopes = transposed([loss], points, [torch.ones_like(loss)], create_graph=True)
        products = [transposed(slopes, points, column) for column in columns]
    else:
        network = Network(problem, kind)
        outputs, others = network.divide(network.values(leaves, batch))
        duals = [torch.zeros_like(z, requires_grad=True) for z in outputs]
        pulled = transposed(outputs, points, duals, create_graph=True)
        metric = _output_metric(network, kind, batch, outputs, others)
        products = [transposed(outputs, points, metric(transposed(pulled, duals, column))) for column in columns]
    return [dict(zip(leaves, product, strict=True)) for product in products]


def transposed(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor], create_graph: bool = False
) -> list[Tensor]:
    """Return the vector-Jacobian product; zeros where nothing depends on the inputs. The graph is kept."""
    pairs = [(z, c) for z, c in zip(outputs, cotangents, strict=True) if z.requires_grad]
    if not pairs:
        return [torch.zeros_like(p) for p in inputs]
    grads = torch.autograd.grad(
        [z for z, _ in pairs],
        inputs,
        [c for _, c in pairs],
        retain_graph=True,
        create_graph=create_graph,
        materialize_grads=True,
    )
    return list(grads)


def _output_metric(
    network: Network, kind: str, batch: Batch, outputs: Sequence[Tensor], others: Sequence[Tensor]
) -> Callable[[list[Tensor]], list[Tensor]]:
    """Return the multiplication by the Hessian of the loss with respect to the outputs (the identity for ``jtj``)."""
    if kind == "jtj":
        return lambda pushed: pushed
    points = [z.detach().requires_grad_() for z in outputs]
    loss = network.loss(points, others, batch)
    slopes = transposed([loss], points, [torch.ones_like(loss)], create_graph=True)
    return lambda pushed: transposed(slopes, points, pushed)
