"""The forward pass of batches of one shape as a graph, without what does not depend on the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from landscape.batches import Batch
from landscape.curvature import passes
from landscape.curvature.kinds import Network
from landscape.curvature.layout import Layout, tensors_of
from landscape.curvature.split import base_of, dependents, extract, output_of, placeholders, size_of, trace
from landscape.errors import InputError
from landscape.problem import Problem


class NotTraceableError(Exception):
    """A model or loss whose course cannot be recorded once and for all."""


class _StopWatch(TorchFunctionMode):
    """Notices that code stops gradients, which a graph of the forward pass would forget."""

    stopped = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        stops = getattr(function, "__name__", "") in ("detach", "detach_", "_set_grad_enabled")
        # The annotation of .data hides that it is a property.
        self.stopped |= stops or function == torch.Tensor.data.__get__  # type: ignore[attr-defined]
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Forward:
    """The forward pass of batches of one shape: ``values(*phi, *fixed, *batch tensors)`` -> loss sum, or outputs.

    Attributes
    ----------
    network
        Knows how the outputs are arranged.
    before
        (parameters, constants) -> phi and fixed values, all that does not depend on the batch.
    num_phi
        Length of phi, which comes first in what ``before`` returns.
    used
        Positions of phi among the parameters if phi is some of them, None if it is computed.
    largest_bytes
        Largest value that depends on the batch.
    memory_format
        That of all four-dimensional inputs.
    """

    network: Network
    before: fx.GraphModule
    values: Callable[..., list[Tensor]]
    num_phi: int
    used: tuple[int, ...] | None
    largest_bytes: int
    memory_format: torch.memory_format

    def laid_out(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Return tensors in the memory format of the graph."""
        return _laid_out(tensors, self.memory_format)


def _laid_out(tensors: Iterable[Tensor], memory_format: torch.memory_format) -> list[Tensor]:
    return [t.contiguous(memory_format=memory_format) if t.ndim == 4 else t for t in tensors]


def memory_formats(problem: Problem) -> list[torch.memory_format]:
    """Return the memory formats to try, the fastest first.

    On a CPU, convolutions in single precision run up to a third faster on channels-last tensors, if all of them are.
    """
    convolves = any(isinstance(module, nn.Conv2d) for module in problem.model.modules())
    if convolves and problem.device.type == "cpu" and problem.dtype == torch.float32:
        return [torch.channels_last, torch.contiguous_format]
    return [torch.contiguous_format]


def trace_forward(problem: Problem, kind: str, batch: Batch, memory_format: torch.memory_format) -> Forward:
    """Trace the forward pass of a batch, fold BatchNorm, and take out what does not depend on the batch.

    Raises
    ------
    NotTraceableError
        Where the course depends on values, or an operation cannot be recorded.
    """
    network, layout, watch = Network(problem, kind), Layout.of(batch), _StopWatch()
    names, constants = list(problem.parameters), list(problem.constants)
    num_names, num_given = len(names), len(names) + len(constants)

    def values(*flat: Tensor) -> list[Tensor]:
        parameters = dict(zip(names, flat[:num_names], strict=True))
        fixed = dict(zip(constants, flat[num_names:num_given], strict=True))
        return network.values(parameters, layout.batch(flat[num_given:]), fixed)

    def watched(*flat: Tensor) -> list[Tensor]:
        with watch:
            return values(*flat)

    given = [*problem.parameters.values(), *problem.constants.values(), *tensors_of(batch)]
    module = record(watched, *_laid_out(given, memory_format))
    if passes.is_random(module.graph):
        raise InputError("the model draws random numbers in eval mode, so its loss is random")
    if not watch.stopped:
        passes.fold_batchnorm(module)
    inputs = placeholders(module.graph)
    rows = inputs[num_given:]
    moving = dependents(module.graph, rows)
    largest = max((size_of(node) for node in moving if passes.is_fresh(node)), default=0)
    if watch.stopped:  # only the code itself knows where gradients stop
        before = extract(module, inputs[:num_given], inputs[:num_given])
        return Forward(network, before, values, num_names, tuple(range(num_names)), largest, memory_format)
    phi, fixed = _border(module.graph, moving, inputs[:num_names], inputs)
    before = extract(module, inputs[:num_given], [*phi, *fixed])
    after = extract(module, [*phi, *fixed, *rows], output_of(module.graph).args[0])
    used = tuple(inputs.index(node) for node in phi) if all(node in inputs for node in phi) else None
    return Forward(network, before, after, len(phi), used, largest, memory_format)


def record(function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    """Trace a function; raise ``NotTraceableError`` with the reason if that is not possible."""
    try:
        return trace(function, *inputs)
    except InputError:
        raise
    except Exception as error:  # of many kinds, most of them private to the tracer
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotTraceableError(reason[:120]) from error


def _border(
    graph: fx.Graph, moving: set[fx.Node], theta: Sequence[fx.Node], inputs: Sequence[fx.Node]
) -> tuple[list[fx.Node], list[fx.Node]]:
    """Return the values without the batch that values with it are made of: those that depend on theta, and the others.

    Views are taken back to what they look at, and what depends on no input at all is made anew where it is needed.
    """
    given, learnt, output = dependents(graph, inputs), dependents(graph, theta), output_of(graph)
    border: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node in given and node not in moving and any(user in moving or user is output for user in node.users):
            border[base_of(node)] = None
    phi = [node for node in border if node in learnt and passes.value_of(node).is_floating_point()]
    return phi, [node for node in border if node not in phi]
