"""How much memory a computation takes, found by doing it for a few examples while its tensors are counted.

Unlike the resident memory of the process, which depends on what was freed before, this is the same every time, so that
a division of memory that follows from it is too.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

# What kernels need beside the tensors that they return.
MARGIN = 1.25
# Two computations of so many examples give the part that is fixed and the part that grows with the examples.
FEW, MORE = 2, 4


@dataclass(frozen=True)
class Footprint:
    """Bytes of a computation on N examples: ``fixed + each * N``."""

    fixed: int
    each: int

    def of(self, number: int) -> int:
        """Return the bytes for so many examples."""
        return self.fixed + self.each * number

    def fits(self, memory: int) -> int:
        """Return how many examples fit, 0 if not even one does."""
        if self.fixed + self.each > memory:
            return 0
        return (memory - self.fixed) // max(self.each, 1)


class _Meter(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._count((args, kwargs), given=True)
        result = function(*args, **kwargs)
        self._count(result, given=False)
        return result

    def _count(self, values: Any, given: bool) -> None:
        """Count storages that are seen for the first time; those that are given were there before."""
        for tensor in pytree.tree_leaves(values):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self.sizes and storage.device.type != "meta":
                self.sizes[storage._cdata] = 0 if given else storage.nbytes()
                self.live += self.sizes[storage._cdata]
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._forget, storage._cdata)

    def _forget(self, key: int) -> None:
        self.live -= self.sizes.pop(key, 0)


def peak_bytes(function: Callable[[], object]) -> int:
    """Return the most bytes of tensors that a call makes and holds at one time, its inputs apart."""
    meter = _Meter()
    with meter:
        function()
    return meter.peak


def footprint(function: Callable[[int], object], number: int) -> Footprint:
    """Return the footprint of a computation on ``number`` examples; ``function(k)`` does it for the first k.

    Notes
    -----
    Cost: the computation for six examples, or for all where there are fewer.
    """
    if number <= MORE:
        return Footprint(int(MARGIN * peak_bytes(lambda: function(number))), 0)
    few, more = (peak_bytes(partial(function, size)) for size in (FEW, MORE))
    each = max(0, more - few) / (MORE - FEW)
    return Footprint(int(MARGIN * max(0.0, few - FEW * each)), int(MARGIN * each) + 1)


def storage_bytes(tensors: Any) -> int:
    """Return the bytes behind all tensors of a nested structure, what several share counted once."""
    found = {}
    for tensor in pytree.tree_leaves(tensors):
        if isinstance(tensor, Tensor):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())
