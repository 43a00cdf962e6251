"""Batches of data in a fixed order: a pair (x, y) or a mapping of tensors, whatever the model wants."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from landscape.errors import InputError

Batch = Any  # a pair (x, y) of tensors, or a mapping of tensors
TARGET_NAMES = ("y", "labels", "target", "targets")


def target_of(batch: Batch) -> Tensor:
    """Return the target of a batch: the second of a pair, or the entry of a mapping that is called like one."""
    if isinstance(batch, (tuple, list)):
        return batch[1]
    for name in TARGET_NAMES:
        if name in batch:
            return batch[name]
    raise InputError(f"a batch with keys {sorted(batch)} has no target; name it one of {', '.join(TARGET_NAMES)}")


def batch_length(batch: Batch) -> int:
    """Return the number of examples of a batch."""
    first = next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0]
    return int(first.shape[0])


def tensors_of(batch: Batch) -> list[Tensor]:
    """Return the tensors of a batch."""
    return [t for t in (batch.values() if isinstance(batch, Mapping) else batch) if isinstance(t, Tensor)]


def is_pair(data: Any) -> bool:
    """Tell a pair of tensors (x, y) from an iterable of batches."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def shared_size(data: Any, size: int, ranks: int) -> int:
    """Return a batch size of at most ``size`` with which every rank gets a share of a tensor pair."""
    if ranks == 1 or not is_pair(data):
        return size
    number = len(data[0])
    even = -(-number // ranks)
    return max(1, min(size, even if -(-number // max(even, 1)) == ranks else number // ranks))


def as_batches(data: Any, size: int, dtype: torch.dtype, device: torch.device) -> Iterator[Batch]:
    """Yield the batches of a tensor pair or of an iterable, on the device, floating-point tensors in ``dtype``."""

    def place(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

    if is_pair(data):
        x, y = map(place, data)  # as a whole, so that the batches lie one behind the other in memory
        if len(x) != len(y):
            raise InputError(f"{len(x)} inputs but {len(y)} targets")
        data = zip(x.split(size), y.split(size), strict=True)
    elif not isinstance(data, Iterable):
        raise InputError(f"data must be a pair of tensors or an iterable of batches, not {type(data).__name__}")
    empty = True
    for batch in data:
        if not isinstance(batch, (tuple, list, Mapping)) or not tensors_of(batch):
            raise InputError("each batch must be a pair (x, y) or a mapping of tensors")
        placed: Batch = (
            {k: place(v) for k, v in batch.items()} if isinstance(batch, Mapping) else tuple(place(v) for v in batch)
        )
        if batch_length(placed) == 0:
            continue
        if not all(bool(torch.isfinite(t).all()) for t in tensors_of(placed) if t.is_floating_point()):
            raise InputError("the data hold NaN or infinite values")
        empty = False
        yield placed
    if empty:
        raise InputError("the data are empty")


def fingerprint(batches: Sequence[Batch]) -> str:
    """Return the SHA-256 of the examples in order, whatever the batching."""
    streams: dict[str, Any] = {}
    for batch in batches:
        items = batch.items() if isinstance(batch, Mapping) else ((str(i), t) for i, t in enumerate(batch))
        for name, value in items:
            digest = streams.setdefault(name, hashlib.sha256())
            digest.update(
                value.detach().cpu().contiguous().numpy().tobytes()
                if isinstance(value, Tensor)
                else repr(value).encode()
            )
    return hashlib.sha256("".join(f"{n}:{h.hexdigest()}" for n, h in sorted(streams.items())).encode()).hexdigest()
