"""Curvature of the loss sum of one batch, times vectors: the three kinds, and products by double backward.

Double backward (Pearlmutter 1994) needs nothing but autograd, so it works for every model; ``linearize`` is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from landscape.batches import Batch
from landscape.errors import InputError
from landscape.losses import ExampleLoss
from landscape.problem import Problem

KINDS = ("hessian", "ggn", "jtj")

Tensors = dict[str, Tensor]


def check_kind(kind: str) -> None:
    """Raise unless ``kind`` names a curvature."""
    if kind not in KINDS:
        raise InputError(f"unknown curvature {kind!r}; use one of {', '.join(KINDS)}")


def divisor(problem: Problem, kind: str) -> float:
    """Return what the sum over batches is divided by: the loss count, or the number of examples for J'J."""
    return float(problem.num_examples) if kind == "jtj" else problem.count


def loss_sum(problem: Problem) -> Callable[[Mapping[str, Tensor], Batch], Tensor]:
    """Return the function (parameters, batch) -> loss sum."""
    return lambda parameters, batch: problem.batch_loss(parameters, batch)[0]


def network(problem: Problem, kind: str) -> Callable[[Mapping[str, Tensor], Batch], list[Tensor]]:
    """Return the function (parameters, batch) -> the floating-point outputs between which and theta J lies.

    These are the output tensor, or for the ``ggn`` of a user's loss all tensors that the model returns, as such a loss
    sees them all.
    """

    def outputs(parameters: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
        if kind == "jtj" or isinstance(problem.loss_function, ExampleLoss):
            return [problem.outputs(parameters, batch)]
        return _float_leaves(problem.raw_outputs(parameters, batch))[0]

    return outputs


def output_loss(problem: Problem, parameters: Mapping[str, Tensor], batch: Batch) -> Callable[[list[Tensor]], Tensor]:
    """Return the loss sum as a function of the outputs of ``network(problem, "ggn")``."""
    if isinstance(problem.loss_function, ExampleLoss):
        return lambda outputs: problem.loss_function(outputs[0], batch)[0]
    with torch.no_grad():
        rebuild = _float_leaves(problem.raw_outputs(parameters, batch))[1]
    return lambda outputs: problem.loss_function(rebuild(outputs), batch)[0]


def _float_leaves(outputs: Any) -> tuple[list[Tensor], Callable[[list[Tensor]], Any]]:
    """Return the floating-point tensors in a nest of outputs, and how to put others into their places."""
    leaves, spec = pytree.tree_flatten(outputs)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not places:
        raise InputError(f"the model returns {type(outputs).__name__}, in which no tensor was found; wrap it")

    def rebuild(tensors: list[Tensor]) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        return pytree.tree_unflatten(filled, spec)

    return [leaves[i] for i in places], rebuild


def double_backward(problem: Problem, kind: str, batch: Batch, directions: Sequence[Tensors]) -> list[Tensors]:
    """Return the curvature of the loss sum of a batch times each direction (full-shape tensors in and out).

    Notes
    -----
    Cost: one gradient whose graph is kept, then about 1.5 gradients a direction (``hessian``) or 2 (``ggn``, ``jtj``).
    """
    leaves = {name: p.detach().requires_grad_() for name, p in problem.parameters.items()}
    points = list(leaves.values())
    if kind == "hessian":
        slopes = torch.autograd.grad(
            problem.batch_loss(leaves, batch)[0], points, create_graph=True, materialize_grads=True
        )
        products = [_pull(slopes, points, [d[name] for name in leaves]) for d in directions]
        return [dict(zip(leaves, product, strict=True)) for product in products]
    outputs = network(problem, kind)(leaves, batch)
    duals = [torch.zeros_like(z, requires_grad=True) for z in outputs]
    pulled = _pull(outputs, points, duals, create_graph=True)
    metric = _output_metric(problem, kind, batch, outputs)
    products = []
    for direction in directions:
        pushed = _pull(pulled, duals, [direction[name] for name in leaves])
        products.append(dict(zip(leaves, _pull(outputs, points, metric(pushed)), strict=True)))
    return products


def _pull(
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
    problem: Problem, kind: str, batch: Batch, outputs: Sequence[Tensor]
) -> Callable[[list[Tensor]], list[Tensor]]:
    """Return the multiplication by the Hessian of the loss with respect to the outputs (the identity for ``jtj``)."""
    if kind == "jtj":
        return lambda pushed: pushed
    points = [z.detach().requires_grad_() for z in outputs]
    loss = output_loss(problem, problem.parameters, batch)(points)
    slopes = torch.autograd.grad(loss, points, create_graph=True, materialize_grads=True)
    return lambda pushed: _pull(slopes, points, pushed)
