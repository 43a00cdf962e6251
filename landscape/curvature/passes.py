"""Rewriting of traced graphs: no zeros, nothing twice, BatchNorm inside the convolution, sums in place.

All passes keep the values up to rounding and the graphs free of mutations, except ``in_place``, which comes last.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

_ZEROS = {aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default, aten._efficientzerotensor.default}
_FULL = {aten.full.default, aten.full_like.default, aten.new_full.default, aten.scalar_tensor.default}
_LINEAR = {  # zero if the first argument is
    aten.neg.default, aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.t.default,
    aten.transpose.int, aten.permute.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims,
    aten.slice.Tensor, aten.select.int, aten.clone.default, aten._to_copy.default, aten.alias.default,
    aten.sum.dim_IntList, aten.div.Scalar, aten.mul.Scalar,
}  # fmt: skip
_BILINEAR = {
    aten.mul.Tensor,
    aten.mm.default,
    aten.bmm.default,
    aten.convolution.default,
}  # zero if one of two arguments is
_BATCH_NORMS = {aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default}
if hasattr(torch.ops.aten, "cudnn_batch_norm"):
    _BATCH_NORMS.add(aten.cudnn_batch_norm.default)


def value_of(node: fx.Node) -> Any:
    """Return the fake tensor (or tuple of them) that tracing recorded for a node."""
    return node.meta.get("val")


def is_view(node: fx.Node) -> bool:
    """Tell whether a node returns memory of its first argument."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    returns = node.target._schema.returns
    return len(returns) == 1 and returns[0].alias_info is not None and not mutates(node)


def is_fresh(node: fx.Node) -> bool:
    """Tell whether a node returns memory that belongs to it alone."""
    if node.target is operator.getitem:
        source = node.args[0]
        return isinstance(source, fx.Node) and is_fresh(source)
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    return not mutates(node) and all(r.alias_info is None for r in node.target._schema.returns)


def mutates(node: fx.Node) -> bool:
    """Tell whether a node changes one of its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def is_random(graph: fx.Graph) -> bool:
    """Tell whether a graph draws random numbers."""
    return any(
        isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags
        for node in graph.nodes
    )


def simplify(module: fx.GraphModule) -> None:
    """Drop copies that change nothing, additions of zero, repetitions, and what nobody uses."""
    graph = module.graph
    zeros: set[fx.Node] = set()
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if _is_zero(node, zeros):
            zeros.add(node)
        same = _same_as(node, zeros)
        if same is None:
            continue
        if not _alike(same, node):
            node.target, node.args, node.kwargs = aten.expand.default, (same, list(value_of(node).shape)), {}
        else:
            node.replace_all_uses_with(same)
    graph.eliminate_dead_code()
    _once(graph)
    _narrow(graph)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()


def _is_zero(node: fx.Node, zeros: set[fx.Node]) -> bool:
    if node.target in _ZEROS:
        return True
    if node.target in _FULL:
        fill = node.args[0] if node.target is aten.scalar_tensor.default else node.args[-1]
        return isinstance(fill, (int, float)) and fill == 0
    if node.target in _LINEAR:
        return node.args[0] in zeros
    if node.target is aten.convolution.default and node.args[2] is not None:
        return False
    return node.target in _BILINEAR and (node.args[0] in zeros or node.args[1] in zeros)


def _same_as(node: fx.Node, zeros: set[fx.Node]) -> fx.Node | None:
    """Return the argument that a node's value equals, up to an expansion, if it is one."""
    if not node.args or not isinstance(node.args[0], fx.Node) or not isinstance(value_of(node), Tensor):
        return None
    first = node.args[0]
    if node.target in (aten.alias.default, aten.detach.default):
        return first
    if node.target in (aten.expand.default, aten.view.default, aten._to_copy.default, aten._unsafe_view.default):
        return first if _alike(first, node) else None
    if node.target is aten.addmm.default and (node.args[1] in zeros or node.args[2] in zeros):
        return first
    if node.target in (aten.add.Tensor, aten.sub.Tensor) and isinstance(node.args[1], fx.Node):
        second = node.args[1]
        if second in zeros and _expands(first, node):
            return first
        if first in zeros and node.target is aten.add.Tensor and not node.kwargs and _expands(second, node):
            return second
    return None


def _expands(one: fx.Node, other: fx.Node) -> bool:
    """Tell whether one value is the other up to an expansion: of its dtype, and not of its shape but another layout."""
    a, b = value_of(one), value_of(other)
    return a.dtype == b.dtype and (a.shape != b.shape or a.stride() == b.stride())


def _alike(one: fx.Node, other: fx.Node) -> bool:
    """Tell whether two values have the same shape, strides, dtype and device."""
    a, b = value_of(one), value_of(other)
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    return (a.shape, a.stride(), a.dtype, a.device) == (b.shape, b.stride(), b.dtype, b.device)


def _once(graph: fx.Graph) -> None:
    """Compute what occurs twice only once."""
    known: dict[tuple[Any, str, str], fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or mutates(node):
            continue
        key = (node.target, repr(node.args), repr(node.kwargs))
        if key in known:
            node.replace_all_uses_with(known[key])
            graph.erase_node(node)
        else:
            known[key] = node


def _narrow(graph: fx.Graph) -> None:
    """Compute only those gradients of a layer that somebody uses."""
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if not any(argument.name == "output_mask" for argument in node.target._schema.arguments):
            continue
        if not all(user.target is operator.getitem for user in node.users):
            continue
        used = {user.args[1] for user in node.users}
        place = [argument.name for argument in node.target._schema.arguments].index("output_mask")
        if place < len(node.args):
            wanted = [bool(on) and i in used for i, on in enumerate(node.args[place])]
            node.update_arg(place, wanted)


def fold_batchnorm(module: fx.GraphModule) -> None:
    """Turn BatchNorm with fixed statistics into the weights of the convolution before it, or a scale and a shift.

    The curvature in the parameters follows by the chain rule through these weights, once per product and not per batch,
    and the normalised activations need not be kept.
    """
    graph = module.graph
    for node in list(graph.nodes):
        arguments = _fixed_batchnorm(node)
        if arguments is None or not all(u.target is operator.getitem and u.args[1] == 0 for u in node.users):
            continue
        x, weight, bias, mean, variance, eps = arguments
        with graph.inserting_before(node):

            def call(target: Callable[..., Any], *args: Any) -> fx.Node:
                made = graph.call_function(target, args)
                made.meta["val"] = target(*fx.map_arg(args, value_of))
                return made

            scale = call(aten.rsqrt.default, call(aten.add.Scalar, variance, eps))
            scale = scale if weight is None else call(aten.mul.Tensor, scale, weight)
            shift = call(aten.neg.default, call(aten.mul.Tensor, mean, scale))
            shift = shift if bias is None else call(aten.add.Tensor, bias, shift)
            replaced = _scaled(call, x, scale, shift)
        for user in list(node.users):
            user.replace_all_uses_with(replaced)
            graph.erase_node(user)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()


def _fixed_batchnorm(node: fx.Node) -> tuple[Any, ...] | None:
    """Return input, weight, bias, mean, variance and eps of a BatchNorm that uses stored statistics."""
    if node.target not in _BATCH_NORMS:
        return None
    if node.target is aten._native_batch_norm_legit_no_training.default:
        x, weight, bias, mean, variance, _, eps = node.args
        return x, weight, bias, mean, variance, eps
    x, weight, bias, mean, variance, training, _, eps = node.args
    return None if training else (x, weight, bias, mean, variance, eps)


def _scaled(call: Callable[..., fx.Node], x: fx.Node, scale: fx.Node, shift: fx.Node) -> fx.Node:
    """Return scale * x + shift by channel, inside the convolution that made x where there is one."""
    dim = value_of(x).ndim
    foldable = x.target is aten.convolution.default and len(x.users) == 1 and not x.args[6]
    if not foldable:
        shape = [1, -1] + [1] * (dim - 2)
        scaled = call(aten.mul.Tensor, x, call(aten.view.default, scale, shape))
        return call(aten.add.Tensor, scaled, call(aten.view.default, shift, shape))
    source, weight, bias, *geometry = x.args
    folded = call(aten.mul.Tensor, weight, call(aten.view.default, scale, [-1] + [1] * (dim - 1)))
    if bias is not None:
        shift = call(aten.add.Tensor, shift, call(aten.mul.Tensor, bias, scale))
    return call(aten.convolution.default, source, folded, shift, *geometry)


def in_place(module: fx.GraphModule) -> None:
    """Let sums and masks overwrite an operand that nobody needs any more, and matrix products add to it.

    Layouts stay as they are, so the results keep their bits where no product is merged.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs:
            _add_in_place(node)
        elif node.target is aten.threshold_backward.default:
            gradient = node.args[0]
            if isinstance(gradient, fx.Node) and _is_spare(gradient, node):
                node.target = aten.threshold_backward.grad_input
                node.kwargs = {"grad_input": gradient}
    graph.lint()
    module.recompile()


def _is_spare(operand: fx.Node, node: fx.Node) -> bool:
    """Tell whether ``node``, which is of its kind, is the only one to read the memory of ``operand``."""
    fresh = is_fresh(operand) or operand.target in (
        aten.add_.Tensor,
        aten.addmm_.default,
        aten.threshold_backward.grad_input,
    )
    return fresh and len(operand.users) == 1 and _alike(operand, node)


def _add_in_place(node: fx.Node) -> None:
    one, other = node.args
    if not isinstance(one, fx.Node) or not isinstance(other, fx.Node) or one is other:
        return
    for base, product in ((one, other), (other, one)):
        if product.target is not aten.mm.default or len(product.users) > 1 or not _alike(product, node):
            continue
        if _is_spare(base, node):
            node.target, node.args = aten.addmm_.default, (base, *product.args)
        elif value_of(base).dtype == value_of(node).dtype and value_of(base).ndim <= 2:
            node.target, node.args = aten.addmm.default, (base, *product.args)
        else:
            continue
        node.graph.erase_node(product)
        return
    for base, product in ((one, other), (other, one)):
        if _is_spare(base, node):
            node.target, node.args = aten.add_.Tensor, (base, product)
            return
