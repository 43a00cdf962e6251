"""Several processes on one measurement: sum over ranks, broadcast, and each rank's share of the batches.

Started by torchrun, every rank runs the same program on its share of the data, and one flat sum per product joins
them. In a single process everything here is the identity, so that callers do not ask whether they are distributed.
"""

import atexit
import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from landscape.errors import InputError, MemoryLimitError

Batch = TypeVar("Batch")
Value = TypeVar("Value")


def init_from_environment(device: str | torch.device = "cpu", timeout: timedelta = timedelta(minutes=30)) -> None:
    """Join the process group that torchrun's environment describes; without such an environment, do nothing.

    NCCL joins CUDA devices (each rank takes the device of its local rank), gloo CPUs. The group is left at exit.

    Parameters
    ----------
    timeout
        How long a rank waits for the others in one sum before it fails.

    Raises
    ------
    InputError
        If there are more ranks on this machine than CUDA devices.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    cuda = torch.device(device).type == "cuda"
    if cuda:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise InputError(f"local rank {local} has no CUDA device of its own; lower --nproc-per-node")
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def sum_ranks(tensor: Tensor) -> Tensor:
    """Sum a contiguous tensor over the ranks, in place, and return it: the same bits on every rank."""
    if world() > 1:
        dist.all_reduce(tensor)
    return tensor


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """Overwrite a contiguous tensor with that of the rank ``source``, and return it."""
    if world() > 1:
        dist.broadcast(tensor, source)
    return tensor


def shard(batches: Iterable[Batch]) -> list[Batch]:
    """Return this rank's share: every ``world()``-th batch from ``rank()`` on; with few batches it can be empty."""
    return [batch for position, batch in enumerate(batches) if position % world() == rank()]


def gather(value: Value) -> list[Value]:
    """Return the values of all ranks, in their order; small objects only, as they are pickled."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Do work of one's own, without sums over ranks, at the same time as the other ranks.

    An error that the user can cause, on any rank, is raised on every one of them, so that none waits for the others in
    vain and all leave with the same exit code.
    """
    error: Exception | None = None
    try:
        yield
    except (InputError, MemoryLimitError) as caught:
        error = caught
    for other in gather(error):
        if other is not None:
            raise other
