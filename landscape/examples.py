"""Curvature one example at a time, along given vectors: what error bars over the data are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree as pytree

from landscape import curvature
from landscape.batches import Batch, batch_length
from landscape.curvature.eager import double_backward
from landscape.curvature.kinds import Tensors
from landscape.curvature.layout import cut
from landscape.errors import InputError
from landscape.losses import ExampleLoss
from landscape.networks import second_order_kernels
from landscape.problem import Problem


def example_curvature(problem: Problem, V: Tensor, kind: str = "hessian") -> tuple[Tensor, Tensor]:
    r"""Return what each example contributes to the curvature along each vector.

    Parameters
    ----------
    V
        Vectors, ``(n, k)`` or ``(n,)``.
    kind
        ``hessian``, ``ggn`` or ``jtj``.

    Returns
    -------
    The terms :math:`q_{nk} = v_k^\top \nabla^2 (\text{loss sum of example } n)\, v_k`, ``(N, k)`` (``(N,)`` for one
    vector), and the counts :math:`c_n`, ``(N,)``, of this rank's examples. The ratio
    :math:`\sum_n q_{nk} / \sum_n c_n` is :math:`v_k^\top H v_k`, weight decay included. With class weights or ignored
    labels the counts differ, so the mean is a ratio estimator and its error that of ``q - (v'Hv) c``, not that of q.

    Raises
    ------
    InputError
        If BatchNorm normalises by the batch: the loss of an example then depends on the others.

    Notes
    -----
    Cost: two nested forward-mode derivatives, about eight forward passes a vector (``hessian``), three (others). Losses
    that are not known by example are evaluated one example at a time, vectorised where they allow it; so are, by double
    backward, models with operations that have no forward derivative.
    """
    curvature.check_kind(kind)
    if problem.batchnorm == "batch":
        raise InputError("with BatchNorm statistics of the batch no example has a loss of its own; use running ones")
    if V.shape[:1] != (problem.num_params,) or V.ndim > 2:
        raise InputError(f"vectors of shape {tuple(V.shape)} do not fit {problem.num_params} active parameters")
    block = V.reshape(problem.num_params, -1).to(problem.dtype)
    directions = [problem.unflatten(v) for v in block.T.contiguous()]
    terms, counts = [], []
    with torch.no_grad(), second_order_kernels(problem.model):
        for batch in problem.batches:
            terms.append(_terms(problem, kind, batch, directions))
            counts.append(_counts(problem, kind, batch))
    if not terms:
        return V.new_zeros(0, *V.shape[1:]), V.new_zeros(0)
    total, weight = torch.cat(terms), torch.cat(counts)
    total = total + problem.weight_decay * weight[:, None] * block.square().sum(0)
    return total.reshape(-1, *V.shape[1:]), weight


def _terms(problem: Problem, kind: str, batch: Batch, directions: Sequence[Tensors]) -> Tensor:
    """Return the contributions of the examples of a batch, ``(N, k)``."""
    known = isinstance(problem.loss_function, ExampleLoss) or kind == "jtj"

    def along(direction: Tensors) -> Tensor:
        if known:
            return curvature.along(problem, kind, batch, direction, by_example=True)
        return _by_example(lambda rows: curvature.along(problem, kind, rows, direction), batch)

    if not directions:
        return problem.theta.new_zeros(batch_length(batch), 0)
    try:
        return torch.stack([along(direction) for direction in directions], 1)
    except NotImplementedError:  # an operation without a forward derivative: weight norm, gated linear units
        return torch.stack([_by_backward(problem, kind, example, directions) for example in cut(batch, 1)])


def _by_backward(problem: Problem, kind: str, example: Batch, directions: Sequence[Tensors]) -> Tensor:
    """Return the contributions of one example by double backward, ``(k,)``."""
    with torch.enable_grad():
        products = double_backward(problem, kind, example, directions)
    pairs = zip(directions, products, strict=True)
    return torch.stack([sum(((d[n] * p[n]).sum() for n in d), problem.theta.new_zeros(())) for d, p in pairs])


def _counts(problem: Problem, kind: str, batch: Batch) -> Tensor:
    """Return the counts of the examples of a batch, ``(N,)``; ones for ``jtj``, which divides by the examples."""
    if kind == "jtj":
        return torch.ones(batch_length(batch), dtype=problem.dtype, device=problem.device)
    loss = problem.loss_function
    if isinstance(loss, ExampleLoss):
        return loss.per_example(problem.outputs(problem.parameters, batch), batch)[1]
    return _by_example(lambda rows: problem.batch_loss(problem.parameters, rows)[1], batch)


def _by_example(function: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    """Apply a function of batches to each example on its own, vectorised where its operations allow that."""
    leaves, spec = pytree.tree_flatten(batch)
    length = batch_length(batch)
    split = [isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == length for leaf in leaves]

    def single(*parts: Tensor) -> Tensor:
        rows = iter(parts)
        return function(
            pytree.tree_unflatten([next(rows)[None] if s else f for f, s in zip(leaves, split, strict=True)], spec)
        ).reshape(())

    parts = [leaf for leaf, s in zip(leaves, split, strict=True) if s]
    try:
        return vmap(single)(*parts)
    except RuntimeError:  # data-dependent control flow, or an operation without a batching rule
        return torch.stack([single(*example) for example in zip(*parts, strict=True)])
