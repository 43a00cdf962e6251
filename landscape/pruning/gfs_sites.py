"""Where a convolutional network can lose channels, and the part of it that a choice of channels leaves to compute.

A site is a convolution whose channels reach exactly one convolution or linear layer, through layers that treat every
channel alone (normalisation, activation, pooling, flattening). Channels that meet a shortcut are no site. The network
is traced once by ``torch.fx``; what comes before the consumer is computed once for a batch and kept, and only the rest
is run for each choice.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from landscape.errors import InputError

CHANNELWISE = (
    *(nn.BatchNorm2d, nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU, nn.Sigmoid),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity, nn.Dropout),
)
CHANNELWISE_CALLS = (
    *(torch.relu, torch.tanh, torch.sigmoid, torch.flatten),
    *(nn.functional.relu, nn.functional.gelu, nn.functional.max_pool2d, nn.functional.avg_pool2d),
)
CHANNELWISE_METHODS = ("relu", "tanh", "sigmoid", "flatten")


@dataclass(frozen=True)
class Site:
    """A set of channels that may be dropped.

    Attributes
    ----------
    producer
        Name of the convolution that makes the channels.
    norm
        Name of the BatchNorm layer between, or None.
    consumer
        Name of the convolution or linear layer that reads them.
    num_channels
        How many there are.
    """

    producer: str
    norm: str | None
    consumer: str
    num_channels: int

    def __str__(self) -> str:
        """Return the name of the producer, by which a site is known."""
        return self.producer


class Network:
    """A traced network in eval mode.

    Parameters
    ----------
    model
        The network; its weights are used as they are at each call.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        try:
            self.graph = fx.Tracer().trace(model)
        except (fx.proxy.TraceError, TypeError, RuntimeError) as error:
            raise InputError(f"the network cannot be traced, so that its channels cannot be found: {error}") from error
        self.modules = dict(model.named_modules())
        self.nodes = list(self.graph.nodes)

    def sites(self) -> list[Site]:
        """Return the sites in the order of computation."""
        found = [self._site(node) for node in self.nodes if isinstance(self._module(node), nn.Conv2d)]
        return [site for site in found if site is not None]

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _site(self, node: fx.Node) -> Site | None:
        """Follow the channels of a convolution to the only layer that reads them."""
        producer, norm = node, None
        while len(node.users) == 1:
            node = next(iter(node.users))
            module = self._module(node)
            if isinstance(module, nn.Conv2d | nn.Linear):
                if isinstance(module, nn.Conv2d) and module.groups != 1:
                    return None
                made = self.modules[str(producer.target)]
                assert isinstance(made, nn.Conv2d)
                return Site(str(producer.target), norm, str(node.target), made.out_channels)
            if isinstance(module, nn.BatchNorm2d):
                norm = str(node.target)
            alone = (
                isinstance(module, CHANNELWISE)
                or (node.op == "call_function" and node.target in CHANNELWISE_CALLS)
                or (node.op == "call_method" and node.target in CHANNELWISE_METHODS)
            )
            if not alone:
                return None
        return None

    def consumer_node(self, site: Site) -> fx.Node:
        """Return the node of the layer that reads the channels of a site."""
        return next(node for node in self.nodes if node.op == "call_module" and node.target == site.consumer)

    def run(self, nodes: Sequence[fx.Node], values: dict[fx.Node, Any]) -> Any:
        """Run some nodes in order on known values; return the network's output if it is among them."""
        for node in nodes:
            args = fx.node.map_arg(node.args, values.__getitem__)
            kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
            if node.op == "output":
                return args[0]
            if node.op == "call_module":
                values[node] = self.modules[str(node.target)](*args, **kwargs)
            elif node.op == "call_method":
                values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            elif node.op == "get_attr":
                values[node] = operator.attrgetter(str(node.target))(self.model)
            elif node.op == "call_function":
                assert callable(node.target)
                values[node] = node.target(*args, **kwargs)
        return None


@dataclass(frozen=True, eq=False)
class Suffix:
    """The part of a network from the consumer of a site on, with all that comes before computed for one batch.

    Attributes
    ----------
    features
        What the consumer reads, ``(B, C, H, W)`` or flattened ``(B, C H W)``.
    """

    network: Network
    site: Site
    features: Tensor
    kept: dict[fx.Node, Tensor]
    nodes: tuple[fx.Node, ...]
    entry: fx.Node

    @classmethod
    @torch.no_grad()
    def of(cls, network: Network, site: Site, x: Tensor) -> Suffix:
        """Compute the prefix for a batch ``(B, ...)``. Cost: one forward pass up to the site."""
        consumer = network.consumer_node(site)
        place = network.nodes.index(consumer)
        before, after = network.nodes[:place], network.nodes[place:]
        values: dict[fx.Node, Any] = {node: x for node in before if node.op == "placeholder"}
        network.run([node for node in before if node.op != "placeholder"], values)
        entry = consumer.args[0]
        assert isinstance(entry, fx.Node)
        needed = {arg for node in after for arg in node.all_input_nodes if arg in values and arg is not entry}
        return cls(network, site, values[entry], {node: values[node] for node in needed}, tuple(after), entry)

    def channels(self) -> Tensor:
        """Return the features by channel, ``(B, C, P)`` with P positions."""
        return self.features.reshape(len(self.features), self.site.num_channels, -1)

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the outputs ``(M, B, ...)`` for masks ``a (M, C)`` on the channels, each scaled to C a_c.

        The candidates are stacked on the batch axis. Cost: M forward passes from the site on.
        """
        scaled = self.channels()[None] * (self.site.num_channels * weight)[:, None, :, None]
        return self.outputs(scaled.flatten(0, 1)).unflatten(0, (len(weight), len(self.features)))

    def outputs(self, channels: Tensor) -> Tensor:
        """Return the outputs for channels ``(M B, C, P)`` in place of the features: M versions of the batch in turn."""
        count = len(channels) // len(self.features)
        values: dict[fx.Node, Any] = {
            node: value.expand(count, *value.shape).flatten(0, 1) for node, value in self.kept.items()
        }
        values[self.entry] = channels.reshape(len(channels), *self.features.shape[1:])
        output = self.network.run(self.nodes, values)
        assert isinstance(output, Tensor)
        return output
