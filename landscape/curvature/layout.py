"""Batches as flat lists of tensors, and cut into pieces whose loss sums add up to that of the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from landscape.batches import Batch, batch_length
from landscape.problem import Problem


@dataclass(frozen=True)
class Layout:
    """How a batch lies in a flat list of tensors.

    Attributes
    ----------
    leaves
        The entries of the batch that are no tensors; ``Tensor`` in the places of tensors.
    signature
        Batches of equal signature share a graph.
    """

    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]
    signature: str

    @classmethod
    def of(cls, batch: Batch) -> Layout:
        """Return the layout of a batch."""
        leaves, spec = pytree.tree_flatten(batch)
        shown = [(tuple(t.shape), t.stride(), t.dtype) if isinstance(t, Tensor) else t for t in leaves]
        return cls(spec, tuple(Tensor if isinstance(t, Tensor) else t for t in leaves), repr((spec, shown)))

    def batch(self, tensors: Sequence[Tensor]) -> Batch:
        """Return the batch that holds the tensors."""
        given = iter(tensors)
        return pytree.tree_unflatten([next(given) if leaf is Tensor else leaf for leaf in self.leaves], self.spec)


def tensors_of(batch: Batch) -> list[Tensor]:
    """Return the tensors of a batch in the order of its layout."""
    return [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]


def cut(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into pieces of ``size`` examples; the last may be shorter."""
    layout, tensors = Layout.of(batch), tensors_of(batch)
    return [layout.batch(parts) for parts in zip(*(t.split(size) for t in tensors), strict=True)]


def joined(batches: Sequence[Batch]) -> list[Batch]:
    """Join batches that lie one behind the other in memory, as the parts of a split tensor do, without copying."""
    runs: list[list[Batch]] = []
    for batch in batches:
        if runs and all(map(_continues, tensors_of(runs[-1][-1]), tensors_of(batch))):
            runs[-1].append(batch)
        else:
            runs.append([batch])
    return [run[0] if len(run) == 1 else _one(run) for run in runs]


def _continues(before: Tensor, after: Tensor) -> bool:
    """Tell whether the rows of one tensor follow those of another of its kind in memory."""
    alike = (before.shape[1:], before.stride(), before.dtype) == (after.shape[1:], after.stride(), after.dtype)
    end = before.data_ptr() + len(before) * before.stride(0) * before.element_size() if before.ndim else 0
    same = before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr()
    return alike and same and before.ndim > 0 and before.is_contiguous() and end == after.data_ptr()


def _one(run: Sequence[Batch]) -> Batch:
    """Return neighbouring batches as one."""
    rows = sum(batch_length(batch) for batch in run)
    first = tensors_of(run[0])
    return Layout.of(run[0]).batch([t.as_strided((rows, *t.shape[1:]), t.stride()) for t in first])


def is_cuttable(problem: Problem, batch: Batch) -> bool:
    """Tell whether the loss sum of a batch is the sum over its parts, by cutting it in two. Cost: two forward passes.

    It is not where examples see each other, as under BatchNorm statistics of the batch.
    """
    length = batch_length(batch)
    if problem.batchnorm == "batch" or length < 2:
        return False
    if any(t.ndim == 0 or len(t) != length for t in tensors_of(batch)):
        return False
    with torch.no_grad():
        whole = problem.batch_loss(problem.parameters, batch)[0]
        parts = [problem.batch_loss(problem.parameters, part)[0] for part in cut(batch, ceil(length / 2))]
        scale = sum(part.abs() for part in parts)
        return bool((whole - sum(parts)).abs() <= torch.finfo(whole.dtype).eps ** 0.75 * scale)


def even(length: int, size: int) -> int:
    """Return a piece size of at most ``size`` that divides ``length``, if one above half of it exists; else ``size``.

    Pieces of one shape share a graph.
    """
    if length <= size:
        return length
    for pieces in range(ceil(length / size), 2 * ceil(length / size) + 1):
        if length % pieces == 0:
            return length // pieces
    return size


def by_signature(batches: Iterable[Batch]) -> dict[str, list[Batch]]:
    """Group batches by what a graph depends on: shapes, dtypes, strides, and entries that are no tensors."""
    groups: dict[str, list[Batch]] = {}
    for batch in batches:
        groups.setdefault(Layout.of(batch).signature, []).append(batch)
    return groups
