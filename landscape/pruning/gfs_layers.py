"""Greedy selection of the channels of one layer, by the loss of the network or by the pre-activations that they make.

A mask a on the simplex scales channel c to C a_c, so that the uniform mask is the dense layer (Ye et al., ICML 2020,
as implemented in their released code). Two ways to choose it:

``imitate`` keeps what the next layer computes. With Phi_c = C (W_c * h_c) / sqrt(count) over examples, positions and
outputs, the dense pre-activation y is the plain average of the Phi_c, so that the dense loss is zero and the bound B3
certifies l(u_k) <= V / 2k for half the mean squared error of the pre-activations, summed over outputs; all follows
from one Gram matrix [our derivation].

``select_by_loss`` lowers the cross entropy of the whole network. The released code tries 50 random channels by a
forward pass each. Here the gradient in the mask, one backward pass, names the most promising few, which are tried
together behind the computed prefix [our variant].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from landscape.errors import InputError
from landscape.pruning.gfs import Floats, Path, Products, SelectOptions, from_gram, select
from landscape.pruning.gfs_sites import Network, Site, Suffix

CHUNK = 1 << 25  # numbers held at a time
FIRST = 4  # times as many channels are tried at the first pick, which starts from the dense layer and goes far


def patches_of(features: Tensor, consumer: nn.Module, num_channels: int) -> tuple[Tensor, Tensor]:
    """Return what a layer reads, ``(count, C, p)`` by output position and channel, and its weights ``(C, p, out)``."""
    if isinstance(consumer, nn.Conv2d):
        if consumer.groups != 1 or consumer.padding_mode != "zeros" or isinstance(consumer.padding, str):
            raise InputError("channels are selected before convolutions without groups and with plain zero padding")
        shape = consumer.kernel_size, consumer.dilation, consumer.padding, consumer.stride
        columns = functional.unfold(features, *shape)
        patches = columns.transpose(1, 2).reshape(-1, num_channels, columns.shape[1] // num_channels)
    else:
        patches = features.reshape(len(features), num_channels, -1)
    # A linear layer or a convolution; a module's attributes are typed as tensor or module.
    weight = consumer.weight.detach().flatten(1)  # type: ignore[operator]
    return patches, weight.T.reshape(num_channels, patches.shape[2], -1)


@torch.no_grad()
def imitation(features: Tensor, consumer: nn.Module, num_channels: int) -> Products:
    """Return the problem of keeping the pre-activations of the layer that reads some channels.

    Parameters
    ----------
    features
        What the layer reads, ``(B, C, H, W)`` or flattened ``(B, C H W)``.

    Notes
    -----
    Cost: the cheaper of forming all Phi_c, count C out (p + C) operations, and of the Gram matrices of
    patches and weights, G_cc' = C^2 sum_ab (W_c' W_c')_ab (P_c' P_c')_ab, count (C p)^2, for p weights a channel and
    output.
    """
    total = torch.zeros(num_channels, num_channels, dtype=torch.float64, device=features.device)
    count, rows = 0, max(1, CHUNK // max(1, 9 * features[0].numel()))
    for part in features.split(rows):
        patches, weight = patches_of(part, consumer, num_channels)
        p, outputs = weight.shape[1:]
        formed = outputs * (p + num_channels) < num_channels * p**2
        total += (_gram_formed if formed else _gram_by_patches)(patches, weight)
        count += len(patches)
    gram = np.asarray(total.cpu().numpy()) * num_channels**2 / count
    return from_gram(gram, gram.mean(1), float(gram.mean()))


def _gram_formed(patches: Tensor, weight: Tensor) -> Tensor:
    """Return sum over positions and outputs of Phi_c Phi_c', ``(C, C)``, forming the Phi_c in chunks."""
    rows = max(1, CHUNK // (weight.shape[0] * weight.shape[2]))
    total = torch.zeros(weight.shape[0], weight.shape[0], dtype=torch.float64, device=weight.device)
    for part in patches.split(rows):
        formed = torch.bmm(part.transpose(0, 1), weight).flatten(1)
        total += formed @ formed.T
    return total


def _gram_by_patches(patches: Tensor, weight: Tensor) -> Tensor:
    """As :func:`_gram_formed`, from the Gram matrices of the patches and of the weights."""
    channels, p, _ = weight.shape
    flat = patches.flatten(1)
    joint = (flat.T @ flat).double() * (weight.flatten(0, 1) @ weight.flatten(0, 1).T).double()
    return joint.reshape(channels, p, channels, p).sum((1, 3))


def imitate(suffix: Suffix, options: SelectOptions) -> tuple[Path, Products]:
    """Select the channels of a site so that what the next layer computes is kept; return the path and the problem."""
    consumer = suffix.network.modules[suffix.site.consumer]
    products = imitation(suffix.features, consumer, suffix.site.num_channels)
    return select(products, options), products


@dataclass(frozen=True)
class LossOptions:
    """How channels are selected by the loss of the network.

    Parameters
    ----------
    num_picks
        Most picks.
    screen
        Channels that are tried exactly at each step, those with the steepest gradient.
    replacement
        Whether a channel may be picked again; the released code picks each once.
    target
        Cross entropy at which selection stops; None goes on to ``num_picks``.
    batch
        Masks that are evaluated together.
    """

    num_picks: int = 64
    screen: int = 8
    replacement: bool = False
    target: float | None = None
    batch: int = 8


def select_by_loss(suffix: Suffix, y: Tensor, options: LossOptions) -> Path:
    """Select the channels of a site greedily by the cross entropy on the batch of the suffix.

    Parameters
    ----------
    y
        Class labels of the batch, ``(B,)``.

    Notes
    -----
    Cost: a step is a forward and a backward pass and ``screen`` forward passes from the site on (the first: four times
    as many). Error: a channel that the gradient does not put among those is not tried.
    """
    channels = suffix.site.num_channels
    if not options.replacement and options.num_picks > channels:
        raise InputError(f"{options.num_picks} picks without replacement from {channels} channels; lower the size")
    mask = torch.zeros(channels, dtype=suffix.features.dtype, device=suffix.features.device)
    identity, used = torch.eye(channels, dtype=mask.dtype, device=mask.device), torch.zeros_like(mask, dtype=torch.bool)
    picks: list[int] = []
    losses: list[float] = []
    for k in range(1, options.num_picks + 1):
        slope = mask_gradient(suffix, y, mask if k > 1 else torch.full_like(mask, 1 / channels))
        slope[used & (not options.replacement)] = torch.inf
        lot = options.screen * (1 if k > 1 else FIRST)
        tried = slope.argsort(stable=True)[: min(lot, int(torch.isfinite(slope).sum()))].sort().values
        masks = (1 - 1 / k) * mask + identity[tried] / k
        values = torch.cat([mask_losses(suffix, y, part) for part in masks.split(options.batch)])
        best = int(values.argmin())
        mask, used[tried[best]] = masks[best], True
        picks.append(int(tried[best]))
        losses.append(float(values[best]))
        if options.target is not None and losses[-1] <= options.target:
            break
    return Path(np.array(picks), np.array(losses), 1 / np.arange(1, len(picks) + 1), channels)


@torch.no_grad()
def mask_losses(suffix: Suffix, y: Tensor, masks: Tensor) -> Tensor:
    """Return the cross entropies of masks ``(M, C)``, ``(M,)``. Cost: M forward passes from the site on."""
    outputs = suffix(masks)
    losses = functional.cross_entropy(outputs.flatten(0, 1), y.repeat(len(masks)), reduction="none")
    return losses.reshape(len(masks), -1).double().mean(1)


def mask_gradient(suffix: Suffix, y: Tensor, mask: Tensor) -> Tensor:
    """Return the gradient of the cross entropy in the mask, ``(C,)``: the Frank-Wolfe scores of all channels."""
    leaf = mask.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = functional.cross_entropy(suffix(leaf[None])[0], y)
        return torch.autograd.grad(loss, leaf)[0]


# ---- what the choice leaves ------------------------------------------------------------------------------------------


@torch.no_grad()
def fold(network: Network, site: Site, weight: Floats) -> dict[str, Tensor]:
    """Fold a mask ``(C,)`` into the layer that reads the channels, and return which entries of the parameters stay.

    Channel c of the consumer's weight is scaled by C a_c. The mask has an entry for every parameter with channels of
    the site.
    """
    keep = torch.from_numpy(weight != 0)
    if not bool(keep.any()):
        raise InputError(f"no channel of {site.producer} is kept")
    modules = network.modules
    reads = modules[site.consumer].weight
    assert isinstance(reads, Tensor)
    positions = reads.shape[1] // site.num_channels  # a flattened channel has many
    scale = torch.from_numpy(weight * site.num_channels).to(reads).repeat_interleave(positions)
    reads *= scale.reshape(1, -1, *[1] * (reads.ndim - 2))
    rows = keep.repeat_interleave(positions).reshape(1, -1, *[1] * (reads.ndim - 2))
    masks = {f"{site.consumer}.weight": rows.expand(reads.shape).clone()}
    for name in [site.producer, *([site.norm] if site.norm else [])]:
        for kind, parameter in modules[name].named_parameters(recurse=False):
            masks[f"{name}.{kind}"] = keep.reshape(-1, *[1] * (parameter.ndim - 1)).expand(parameter.shape).clone()
    return masks


@torch.no_grad()
def multiplications(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Return the multiplications of every convolution and linear layer for one input, by name."""
    found: dict[str, int] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):

            def count(layer: nn.Module, inputs: object, output: Tensor, name: str = name) -> None:
                weight = layer.weight
                assert isinstance(weight, Tensor)
                found[name] = weight.numel() * (output[0, 0].numel() if output.ndim == 4 else 1)

            handles.append(module.register_forward_hook(count))
    try:
        model(x[:1])
    finally:
        for handle in handles:
            handle.remove()
    return found


def remaining(counts: dict[str, int], sites: list[Site], kept: dict[str, int]) -> float:
    """Return the fraction of multiplications left when each site, by producer, keeps so many distinct channels."""
    factor = dict.fromkeys(counts, 1.0)
    for site in sites:
        part = kept.get(site.producer, site.num_channels) / site.num_channels
        factor[site.producer] *= part
        factor[site.consumer] *= part
    return sum(counts[name] * factor[name] for name in counts) / sum(counts.values())
