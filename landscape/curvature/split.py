"""A traced function, split by dependence on its last arguments into a primal half and a tangent half."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from landscape.curvature import passes


def trace(function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    """Return the graph of a function of tensors, found without computing anything.

    Raises
    ------
    Exception
        Of many kinds, where the function's course depends on values of its inputs.
    """
    # Only the kind of the inputs counts, and a tensor that is given twice would become one input.
    with FakeTensorMode(allow_non_fake_inputs=True):
        kinds = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in inputs]
    module = _traced(function, kinds)
    if any(passes.mutates(node) for node in module.graph.nodes):  # operations made of others hide their mutations
        module = _traced(module, kinds)
    mutating = [str(node.target) for node in module.graph.nodes if passes.mutates(node)]
    if mutating:
        raise RuntimeError(f"{mutating[0]} changes a tensor in place")
    for node in module.graph.nodes:
        if node.op == "get_attr" and "val" not in node.meta:
            node.meta["val"] = getattr(module, node.target)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _traced(function: Callable[..., Any], kinds: Sequence[Tensor]) -> fx.GraphModule:
    functional = functionalize(function, remove="mutations")
    return make_fx(functional, tracing_mode="fake")(*kinds)


def placeholders(graph: fx.Graph) -> list[fx.Node]:
    """Return the inputs of a graph, in order."""
    return [node for node in graph.nodes if node.op == "placeholder"]


def output_of(graph: fx.Graph) -> fx.Node:
    """Return the output node of a graph."""
    return next(node for node in reversed(graph.nodes) if node.op == "output")


def dependents(graph: fx.Graph, inputs: Iterable[fx.Node]) -> set[fx.Node]:
    """Return the nodes that depend on the inputs, these included, the output not."""
    found = set(inputs)
    for node in graph.nodes:
        if node.op != "output" and any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def extract(module: fx.GraphModule, inputs: Sequence[fx.Node], outputs: Any) -> fx.GraphModule:
    """Return the part of a graph that leads from given nodes, which become its inputs, to given ones."""
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        made[node] = graph.placeholder(node.name)
        made[node].meta = dict(node.meta)
    needed = _ancestors(outputs, set(inputs))
    for node in module.graph.nodes:
        if node in needed and node not in made:
            made[node] = graph.node_copy(node, lambda n: made[n])
    graph.output(fx.map_arg(outputs, lambda n: made[n]))
    part = fx.GraphModule(module, graph)
    part.graph.lint()
    return part


def _ancestors(outputs: Any, stop: set[fx.Node]) -> set[fx.Node]:
    waiting = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, fx.Node)]
    found: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in found and node not in stop:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


@dataclass(frozen=True)
class Split:
    """``function(*primal_inputs, *tangent_inputs) = tangent(*primal(*primal_inputs), *tangent_inputs)``.

    Attributes
    ----------
    primal
        Primal inputs -> residuals, the values that the tangent half reads.
    tangent
        Residuals and tangent inputs -> outputs; linear in the tangent inputs.
    residual_bytes
        Memory of the residuals that is not memory of the inputs.
    primal_bytes, tangent_bytes
        Largest memory in use within each half beside its inputs, the residuals it returns included.
    largest_bytes
        Largest single value.
    """

    primal: fx.GraphModule
    tangent: fx.GraphModule
    residual_bytes: int
    primal_bytes: int
    tangent_bytes: int
    largest_bytes: int

    def __call__(self, primal_inputs: Sequence[Tensor], tangent_inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the value of the function."""
        return self.tangent(*self.primal(*primal_inputs), *tangent_inputs)


def split(module: fx.GraphModule, num_tangents: int) -> Split:
    """Split a graph by dependence on its last ``num_tangents`` inputs.

    What does not depend on these is computed in the primal half; what the tangent half reads of that are the residuals.
    """
    passes.simplify(module)
    inputs = placeholders(module.graph)
    tangent_inputs = inputs[len(inputs) - num_tangents :]
    moving = dependents(module.graph, tangent_inputs)
    output = output_of(module.graph)
    fixed = dependents(module.graph, inputs) - moving  # what depends on no input is cheaper made anew than kept
    residuals = [
        node for node in module.graph.nodes if node in fixed and any(u in moving or u is output for u in node.users)
    ]
    primal = extract(module, inputs[: len(inputs) - num_tangents], residuals)
    tangent = extract(module, [*residuals, *tangent_inputs], output.args[0])
    residual_bytes = sum(size_of(base) for base in {base_of(node) for node in residuals} if base.op != "placeholder")
    sizes = [size_of(node) for node in module.graph.nodes if node.op == "call_function" and passes.is_fresh(node)]
    for half in (primal, tangent):
        passes.in_place(half)
    return Split(primal, tangent, residual_bytes, _peak(primal.graph), _peak(tangent.graph), max(sizes, default=0))


def base_of(node: fx.Node) -> fx.Node:
    """Return the node in whose memory the value of a node lies."""
    while passes.is_view(node) or (node.target is operator.getitem and not passes.is_fresh(node)):
        node = node.all_input_nodes[0]
    return node


def size_of(node: fx.Node) -> int:
    """Return the bytes of a node's value."""
    value = passes.value_of(node)
    if not isinstance(value, Tensor):
        return 0
    return value.numel() * value.element_size()


def _peak(graph: fx.Graph) -> int:
    """Return the largest memory in use while a graph runs, its inputs apart."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            last[_owner(source)] = node
    in_use = peak = 0
    for node in graph.nodes:
        if node.op == "call_function" and _owner(node) is node:
            in_use += size_of(node)
            peak = max(peak, in_use)
        for source in {_owner(s) for s in node.all_input_nodes}:
            if last.get(source) is node and source.op == "call_function":
                in_use -= size_of(source)
    return peak


def _owner(node: fx.Node) -> fx.Node:
    """Return the node that allocated the memory of a node's value."""
    while node.op == "call_function" and not passes.is_fresh(node):
        changed = node.kwargs.get("grad_input", node.all_input_nodes[0])
        assert isinstance(changed, fx.Node)
        node = changed
    return node
