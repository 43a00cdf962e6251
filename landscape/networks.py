"""A private copy of the user's network, and the modes of evaluation in which curvature is defined."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from landscape.errors import InputError

BATCHNORM = ("running", "batch", "recalibrate")


@functools.cache
def _load_forward_mode() -> None:
    """Make torch load its rules of forward differentiation, which warns of torch's own deprecated parts."""
    zero = torch.zeros(())
    with warnings.catch_warnings(), torch.autograd.forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.autograd.forward_ad.make_dual(zero, zero)


@contextlib.contextmanager
def second_order_kernels(model: nn.Module) -> Iterator[None]:
    """Switch off, for this scope, the fused kernels that have no second derivatives.

    Flash and memory-efficient attention and the fused encoder layer have no double backward; the recurrent kernels of
    cuDNN and oneDNN have none either, but those libraries are kept for convolutions where there is no recurrence.
    """
    _load_forward_mode()
    recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
            if recurrent:
                stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def private_copy(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """Copy a model and make the reparametrisation of ``torch.nn.utils.prune`` permanent in the copy.

    Returns
    -------
    The copy, and the masks of the modules that were pruned so (parameter name -> 0/1 tensor).
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            # Pruned modules keep weight = weight_orig * weight_mask as a tensor with a history, which deepcopy refuses.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    twin = copy.deepcopy(model, memo)
    pruned = {}
    for path, module in twin.named_modules():
        for name in [key.removesuffix("_orig") for key in module._parameters if key.endswith("_orig")]:
            if f"{name}_mask" in module._buffers:
                pruned[f"{path}.{name}".lstrip(".")] = module._buffers[f"{name}_mask"].detach().clone()
                prune.remove(module, name)
    return twin, pruned


def batchnorms(model: nn.Module, policy: str) -> dict[str, nn.Module]:
    """Return the BatchNorm layers of a model by name, after checking the name of the policy."""
    if policy not in BATCHNORM:
        raise InputError(f"unknown BatchNorm policy {policy!r}; use one of {', '.join(BATCHNORM)}")
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}


def use_batch_statistics(norms: dict[str, nn.Module]) -> None:
    """Make BatchNorm layers normalise by the batch at hand and store nothing."""
    for norm in norms.values():
        norm.train()
        norm.track_running_stats = False  # type: ignore[assignment]
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(norm, buffer, None)


def start_recalibration(norms: dict[str, nn.Module]) -> None:
    """Make BatchNorm layers average the statistics of the coming forward passes with equal weights."""
    for norm in norms.values():
        norm.train()
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment]
