"""A private copy of the user's network, and the modes of evaluation in which curvature is defined."""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.overrides import TorchFunctionMode

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
    """Switch off, for this scope, the fused kernels that have no second derivatives, or wrong ones.

    Flash and memory-efficient attention and the fused encoder layer have no double backward; the recurrent kernels of
    cuDNN and oneDNN have none either, but those libraries are kept for convolutions where there is no recurrence.
    """
    recurrent = any(isinstance(m, nn.RNNBase) for m in model.modules())
    fastpath, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
            stack.enter_context(_PlainNorms())
            if recurrent:
                # A property of the module's class, which its annotation hides.
                torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        torch.backends.mkldnn.enabled = onednn


class _PlainNorms(TorchFunctionMode):
    """Computes layer, instance and weight norms from their definitions.

    The derivatives of the fused ones take statistics that were saved for them as constants when they are differentiated
    once more: nested forward mode of layer and instance norm, and any second derivative of weight norm, come out wrong
    without a warning (PyTorch 2.13; its open issue 196700 is one of these).
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if function in (torch.layer_norm, nn.functional.layer_norm):
            x, shape, weight, bias, eps = _fill(args, given, "input normalized_shape weight bias eps")
            return _affine(_standardised(x, tuple(range(-len(shape), 0)), eps), weight, bias)
        if function is nn.functional.instance_norm:
            names = "input running_mean running_var weight bias use_input_stats momentum eps"
            x, _, _, weight, bias, on_input, _, eps = _fill(args, given, names)
            if on_input is not False:
                y = _standardised(x, tuple(range(2, x.ndim)), eps)
                return _affine(y, *(None if t is None else t.view(-1, *[1] * (x.ndim - 2)) for t in (weight, bias)))
        if function is torch._weight_norm:
            v, g, dim = _fill(args, given, "v g dim")
            dims = [d for d in range(v.ndim) if dim == -1 or d != (dim or 0) % v.ndim]
            return v * (g / v.square().sum(dims, keepdim=True).sqrt())
        return function(*args, **given)


def _fill(args: Sequence[Any], given: dict[str, Any], names: str) -> list[Any]:
    """Return a norm's arguments in order; the missing are None, and eps 1e-5."""
    found = {"eps": 1e-5, **dict(zip(names.split(), args, strict=False)), **given}
    return [found.get(name) for name in names.split()]


def _standardised(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def as_dtype(given: torch.dtype | str | None) -> torch.dtype | None:
    """Return the dtype that is meant by itself or by its name."""
    found = getattr(torch, given, given) if isinstance(given, str) else given
    if found is not None and found not in (torch.float32, torch.float64):
        raise InputError(f"the dtype must be float32 or float64, not {given}")
    return found


def private_copy(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """Copy a model and make the reparametrisation of ``torch.nn.utils.prune`` permanent in the copy.

    Returns
    -------
    The copy, and the masks of the modules that were pruned so (parameter name -> 0/1 tensor).
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}, not a torch.nn.Module; only commands read files")
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
    # Here and below: BatchNorm and its relatives share these attributes, but no public type that has them.
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
