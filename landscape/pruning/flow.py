"""What can flow through a masked network: weights on a path from input to output, dead paths, collapsed layers.

The network is linearised: activations and normalisation become the identity, maxima become means, biases are left out,
and weights enter by their absolute values. Its output for an input of ones is then the sum over all paths of the
products of |w|, and the derivative in a weight is positive exactly if the weight lies on a path whose other weights are
kept. The same sum is the objective of SynFlow (Tanaka et al. 2020, arXiv:2006.05467).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape import networks
from landscape.errors import InputError

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Hardtanh)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


class Flow:
    """The sum over all paths of a network, as a function of the absolute values of its weights.

    Parameters
    ----------
    model
        The network; it is copied.
    input_shape
        Shape of one example.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.model = linearised(model)
        self.ones = torch.ones(1, *input_shape, dtype=torch.float64)
        self.rest = {
            name: p.detach().abs() if p.ndim >= 2 else torch.zeros_like(p) for name, p in self.model.named_parameters()
        }

    def gradient(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the derivative of the sum over paths in every weight, float64, at values that are not negative.

        Parameters
        ----------
        weights
            Parameter name -> values. Weights that are not named (what cannot be pruned) have their absolute values, and
            biases are zero. Cost: one example's gradient.
        """
        leaves = {n: w.detach().double().cpu().requires_grad_() for n, w in weights.items() if n in self.rest}
        total = functional_call(self.model, {**self.rest, **leaves}, (self.ones,))
        if not isinstance(total, Tensor):
            raise InputError("the flow through a network needs a model that returns one tensor")
        found = torch.autograd.grad(total.sum(), list(leaves.values()), allow_unused=True)
        return {n: torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(leaves, found, strict=True)}


def linearised(model: nn.Module) -> nn.Module:
    """Return a float64 copy on the CPU without activations, normalisation and maxima."""
    twin = networks.private_copy(model)[0].double().cpu().eval()
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ACTIVATIONS + NORMS):
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    return twin


def on_path(flow: Flow, mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return which kept weights lie on a path from input to output whose weights are all kept.

    Weights of parameters that the mask does not name are all kept, whatever their value.
    """
    kept = {name: torch.ones_like(w) for name, w in flow.rest.items() if w.ndim >= 2}
    gradient = flow.gradient(kept | {name: m.double() for name, m in mask.items()})
    return {name: m.cpu().bool() & (gradient[name] > 0) if name in gradient else m for name, m in mask.items()}


def collapsed(mask: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the parameters of which no weight is kept."""
    return [name for name, m in mask.items() if not bool(m.any())]
