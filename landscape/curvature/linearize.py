"""The curvature of batches of one shape as two graphs: one makes residuals of parameters and batch, one multiplies.

The loss is traced once and rewritten; what depends on the parameters only (a BatchNorm folded into its convolution, a
weight norm) becomes a map theta -> phi, and the curvature in phi is traced as ``jvp(grad(loss))`` and split by
dependence on the vector. With phi = P(theta) and g the gradient in phi,

    H v = P'[H_phi (P v)] + (d P'[v]) g,

so that the map P costs its work once per product, not once per batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import grad, jvp, vjp
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from landscape.batches import Batch
from landscape.curvature import passes
from landscape.curvature.kinds import Network
from landscape.curvature.split import Split, dependents, extract, output_of, placeholders, split, trace
from landscape.errors import InputError
from landscape.problem import Problem

Tensors = dict[str, Tensor]


class NotTraceable(Exception):
    """A model or loss whose course cannot be recorded once and for all."""


@dataclass(frozen=True)
class Layout:
    """How a batch lies in a flat list of tensors.

    Attributes
    ----------
    leaves
        The entries that are no tensors, None in the places of tensors.
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
        fixed = tuple(None if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        return cls(spec, fixed, repr((spec, shown)))

    def batch(self, tensors: Sequence[Tensor]) -> Batch:
        """Return the batch that holds the tensors."""
        given = iter(tensors)
        return pytree.tree_unflatten([next(given) if leaf is None else leaf for leaf in self.leaves], self.spec)


def tensors_of(batch: Batch) -> list[Tensor]:
    """Return the tensors of a batch in the order of its layout."""
    return [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)]


class _StopWatch(TorchFunctionMode):
    """Notices that code stops gradients, which a graph of the forward pass would forget."""

    stopped = False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in ("detach", "detach_", "_set_grad_enabled") or function == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            self.stopped = True
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Forward:
    """The forward pass of batches of one shape: ``value(*phi, *fixed, *batch tensors)`` -> loss sum, or outputs.

    Attributes
    ----------
    before
        (parameters, constants) -> phi and fixed values, all that does not depend on the batch.
    num_phi
        Length of phi, which comes first in what ``before`` returns.
    used
        Positions of phi in the parameters, where phi is part of them; None where it is computed.
    largest_bytes
        Largest value that depends on the batch.
    convolves
        Whether there are two-dimensional convolutions.
    """

    before: fx.GraphModule
    value: Callable[..., list[Tensor]]
    num_phi: int
    used: tuple[int, ...] | None
    largest_bytes: int
    convolves: bool


def trace_forward(problem: Problem, kind: str, batch: Batch, network: Network) -> Forward:
    """Trace the forward pass of a batch, fold BatchNorm, and take out what does not depend on the batch.

    Raises
    ------
    NotTraceable
        Where the course depends on values, or an operation cannot be recorded.
    """
    layout, watch = Layout.of(batch), _StopWatch()
    names, constants = list(problem.parameters), list(problem.constants)
    num_names, num_given = len(names), len(names) + len(constants)

    def value(*flat: Tensor) -> list[Tensor]:
        parameters = dict(zip(names, flat[:num_names], strict=True))
        fixed = dict(zip(constants, flat[num_names:num_given], strict=True))
        return network.at(fixed).value(parameters, layout.batch(flat[num_given:]))

    def watched(*flat: Tensor) -> list[Tensor]:
        with watch:
            return value(*flat)

    given = [*problem.parameters.values(), *problem.constants.values()]
    module = _trace(watched, *given, *tensors_of(batch))
    if passes.is_random(module.graph):
        raise InputError("the model draws random numbers in eval mode, so its loss is random")
    passes.fold_batchnorm(module)
    passes.simplify(module)
    inputs = placeholders(module.graph)
    theta, rows = inputs[:num_names], inputs[num_given:]
    moving = dependents(module.graph, rows)
    largest = max((split_size(node) for node in moving), default=0)
    convolves = any(node.target is passes.aten.convolution.default and passes.value_of(node).ndim == 4 for node in moving)
    if watch.stopped:  # only the code itself knows where gradients stop
        before = extract(module, inputs[:num_given], inputs[:num_given])
        return Forward(before, value, num_names, tuple(range(num_names)), largest, convolves)
    border = _border(module.graph, moving, inputs)
    learnt = dependents(module.graph, theta)
    phi = [node for node in border if node in learnt and passes.value_of(node).is_floating_point()]
    fixed = [node for node in border if node not in phi]
    before = extract(module, inputs[:num_given], [*phi, *fixed])
    after = extract(module, [*phi, *fixed, *rows], output_of(module.graph).args[0])
    used = tuple(theta.index(node) for node in phi) if all(node in theta for node in phi) else None
    return Forward(before, after, len(phi), used, largest, convolves)


def _border(graph: fx.Graph, moving: set[fx.Node], inputs: Sequence[fx.Node]) -> list[fx.Node]:
    """Return the nodes that do not depend on the batch and that those read which do, views taken back to their base."""
    given, output = dependents(graph, inputs), output_of(graph)
    border: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node in given and node not in moving and any(user in moving or user is output for user in node.users):
            border[base_of(node)] = None
    return list(border)


def _trace(function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    try:
        return trace(function, *inputs)
    except InputError:
        raise
    except Exception as error:  # the kinds are many, and private to the tracer
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotTraceable(reason[:120]) from error


class Linearization:
    """The curvature of the loss sum of batches of one shape at the problem's point.

    Attributes
    ----------
    graphs
        (phi, fixed, batch) -> residuals; (residuals, d phi) -> curvature in phi times d phi.
    num_elements
        Numbers in phi.
    """

    def __init__(self, problem: Problem, kind: str, batch: Batch, forward: Forward | None = None) -> None:
        self.problem, self.kind = problem, kind
        self._network = Network(problem, kind)
        self.forward = forward or trace_forward(problem, kind, batch, self._network)
        # Convolutions on the CPU run up to a third faster on channels-last tensors, in single precision only.
        convolves = self.forward.convolves and problem.device.type == "cpu" and problem.dtype == torch.float32
        self._format = torch.channels_last if convolves else torch.contiguous_format
        self._theta = list(problem.parameters.values())
        given = self.forward.before(*self._theta, *problem.constants.values())
        self._phi = [self._laid_out(t) for t in given[: self.forward.num_phi]]
        self._fixed = list(given[self.forward.num_phi :])
        if not self._phi:
            raise NotTraceable("the loss does not depend on the parameters")
        self.num_elements = sum(t.numel() for t in self._phi)
        self.graphs = self._trace_product(batch)
        self._push, self._pull = self._trace_before()
        self._slope: list[Tensor] = []

    @property
    def is_direct(self) -> bool:
        """Whether phi is part of theta, so that no map comes before."""
        return self.forward.used is not None

    def _laid_out(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self._format) if tensor.ndim == 4 else tensor

    def _trace_product(self, batch: Batch) -> Split:
        num_phi, num_fixed, rows = len(self._phi), len(self._fixed), tensors_of(batch)
        layout, value = Layout.of(batch), self.forward.value
        kind, network = self.kind, self._network

        def product(*flat: Tensor) -> tuple[Tensor, ...]:
            phi, fixed = flat[:num_phi], flat[num_phi : num_phi + num_fixed]
            given = [self._laid_out(t) for t in flat[num_phi + num_fixed : -num_phi]]
            along = flat[-num_phi:]
            if kind == "hessian":
                every = tuple(range(num_phi))
                return jvp(grad(lambda *p: value(*p, *fixed, *given)[0], argnums=every), phi, along)[1]

            def outputs(*p: Tensor) -> tuple[list[Tensor], list[Tensor]]:
                return network.divide(value(*p, *fixed, *given))

            z, pushed, others = jvp(outputs, phi, along, has_aux=True)  # type: ignore[misc]
            if kind == "ggn":
                head = grad(lambda leaves: network.loss(leaves, others, layout.batch(given)))
                pushed = jvp(head, (z,), (pushed,))[1]
            return vjp(outputs, *phi, has_aux=True)[1](pushed)  # type: ignore[misc]

        return split(_trace(product, *self._phi, *self._fixed, *rows, *self._phi), num_phi)

    def _trace_before(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the maps v -> d phi, and (v, product in phi) -> product in theta."""
        if self.forward.used is not None:
            return self._select, self._place
        before, num_phi, num_theta = self.forward.before, len(self._phi), len(self._theta)
        constants = list(self.problem.constants.values())
        num_given = num_theta + len(constants)

        def phi_of(*flat: Tensor) -> tuple[Tensor, ...]:
            return tuple(before(*flat, *constants)[:num_phi])

        def push(*flat: Tensor) -> tuple[Tensor, ...]:
            return jvp(phi_of, flat[:num_theta], flat[num_theta:])[1]

        def pull(*flat: Tensor) -> tuple[Tensor, ...]:
            theta, slope = flat[:num_theta], flat[num_theta : num_theta + num_phi]
            along, change = flat[num_theta + num_phi : -num_phi], flat[-num_phi:]

            def back(*point: Tensor) -> tuple[Tensor, ...]:
                return vjp(phi_of, *point[:num_theta])[1](tuple(point[num_theta:]))

            if self.kind != "hessian":
                return back(*theta, *change)
            return jvp(back, (*theta, *slope), (*along, *change))[1]

        del num_given
        pushing = split(_trace(push, *self._theta, *self._theta), num_theta)
        pulling = split(_trace(pull, *self._theta, *self._phi, *self._theta, *self._phi), num_theta + num_phi)
        return pushing, pulling
