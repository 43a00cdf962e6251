"""The three kinds of curvature of a batch's loss sum, and the map from parameters to outputs that two of them need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.func import jvp
from torch.utils import _pytree as pytree

from landscape.batches import Batch, batch_length
from landscape.errors import InputError
from landscape.losses import ExampleLoss
from landscape.problem import Problem

KINDS = ("hessian", "ggn", "jtj")

Tensors = dict[str, Tensor]


def check_kind(kind: str) -> None:
    """Raise unless ``kind`` names a curvature."""
    if kind not in KINDS:
        raise InputError(f"unknown curvature {kind!r}; use one of {', '.join(KINDS)}")


def divisor(problem: Problem, kind: str) -> float:
    """Return what the sum over batches is divided by: the loss count, or the number of examples for J'J."""
    return float(problem.num_examples) if kind == "jtj" else problem.count


class Network:
    """The map from parameters to what is differentiated, and the loss as a function of the outputs.

    For the ``hessian`` the map gives the loss sum; else the outputs whose Jacobian is J. These are the model's output
    tensor; for the ``ggn`` of a user's loss they are all tensors that the model returns, as such a loss sees them all
    (the floating-point ones are differentiated).
    """

    def __init__(self, problem: Problem, kind: str) -> None:
        self.problem, self.kind = problem, kind
        self._whole = kind == "ggn" and not isinstance(problem.loss_function, ExampleLoss)
        self._spec: pytree.TreeSpec | None = None
        self._leaves: list[Any] = []  # what the model returned latest, with _Output and _Other in place of tensors
        self._num_outputs = 1

    def values(
        self, parameters: Mapping[str, Tensor], batch: Batch, constants: dict[str, Tensor] | None = None
    ) -> list[Tensor]:
        """Return the loss sum, or the outputs followed by the other tensors that the loss may want."""
        problem = self.problem if constants is None else replace(self.problem, constants=constants)
        if self.kind == "hessian":
            return [problem.batch_loss(parameters, batch)[0]]
        if not self._whole:
            return [problem.outputs(parameters, batch)]
        leaves, self._spec = pytree.tree_flatten(problem.raw_outputs(parameters, batch))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        outputs = [t for t in tensors if t.is_floating_point()]
        if not outputs:
            raise InputError("the model returns no floating-point tensor in any list or dictionary; wrap it")
        self._num_outputs = len(outputs)
        self._leaves = [
            leaf if not isinstance(leaf, Tensor) else _Output if leaf.is_floating_point() else _Other for leaf in leaves
        ]
        return outputs + [t for t in tensors if not t.is_floating_point()]

    def divide(self, values: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Divide the latest ``values`` into outputs and other tensors."""
        return list(values[: self._num_outputs]), list(values[self._num_outputs :])

    def loss(self, outputs: Sequence[Tensor], others: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the loss sum at given outputs, arranged as the latest ones were."""
        if not self._whole:
            return self.problem.loss_function(outputs[0], batch)[0]
        given, rest = iter(outputs), iter(others)
        filled = [next(given) if f is _Output else next(rest) if f is _Other else f for f in self._leaves]
        assert self._spec is not None
        return self.problem.loss_function(pytree.tree_unflatten(filled, self._spec), batch)[0]


class _Output:
    """Marks the place of a floating-point output."""


class _Other:
    """Marks the place of another tensor."""


def along(problem: Problem, kind: str, batch: Batch, direction: Tensors, by_example: bool = False) -> Tensor:
    """Return v'(curvature of the loss sum)v in forward mode, a scalar, or one value ``(N,)`` an example.

    Parameters
    ----------
    direction
        The vector v as full-shape tensors.
    by_example
        Only for losses that are known by example (and ``jtj``).

    Notes
    -----
    Cost: two nested forward derivatives, about eight forward passes (``hessian``) or three, and no memory for a graph.
    """
    point, vector = (problem.parameters,), (direction,)
    loss = problem.loss_function

    def head(outputs: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        if by_example and isinstance(loss, ExampleLoss):
            return loss.per_example(outputs[0], batch)[0]
        return network.loss(outputs, others, batch)

    if kind == "hessian":

        def value(parameters: Mapping[str, Tensor]) -> Tensor:
            if by_example:
                return head([problem.outputs(parameters, batch)], [])
            return problem.batch_loss(parameters, batch)[0]

        return jvp(lambda p: jvp(value, (p,), vector)[1], point, vector)[1]
    network = Network(problem, kind)
    # With has_aux, jvp returns three values, which its annotation does not say.
    outputs, pushed, others = jvp(  # type: ignore[misc]
        lambda p: network.divide(network.values(p, batch)), point, vector, has_aux=True
    )
    if kind == "jtj":
        squares = pushed[0].square()
        return squares.reshape(batch_length(batch), -1).sum(1) if by_example else squares.sum()
    change = (pushed,)
    return jvp(lambda z: jvp(lambda y: head(y, others), (z,), change)[1], (outputs,), change)[1]
