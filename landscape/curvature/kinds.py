"""The three kinds of curvature of a batch's loss sum, and the map from parameters to outputs that two of them need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.utils import _pytree as pytree

from landscape.batches import Batch
from landscape.errors import InputError
from landscape.losses import ExampleLoss
from landscape.problem import Problem

KINDS = ("hessian", "ggn", "jtj")


def check_kind(kind: str) -> None:
    """Raise unless ``kind`` names a curvature."""
    if kind not in KINDS:
        raise InputError(f"unknown curvature {kind!r}; use one of {', '.join(KINDS)}")


def divisor(problem: Problem, kind: str) -> float:
    """Return what the sum over batches is divided by: the loss count, or the number of examples for J'J."""
    return float(problem.num_examples) if kind == "jtj" else problem.count


class Network:
    """The map from parameters to outputs whose Jacobian is J, and the loss as a function of these outputs.

    The outputs are the model's output tensor; for the ``ggn`` of a user's loss they are all floating-point tensors that
    the model returns, as such a loss sees them all.
    """

    def __init__(self, problem: Problem, kind: str) -> None:
        self.problem = problem
        self._whole = kind == "ggn" and not isinstance(problem.loss_function, ExampleLoss)
        self._spec: pytree.TreeSpec | None = None
        self._floating: list[bool] = []
        self._fixed: list[object] = []

    def __call__(self, parameters: Mapping[str, Tensor], batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return the floating-point outputs, and the other tensors that the loss may want."""
        if not self._whole:
            return [self.problem.outputs(parameters, batch)], []
        leaves, self._spec = pytree.tree_flatten(self.problem.raw_outputs(parameters, batch))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._fixed = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._floating = [isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves]
        if not any(self._floating):
            raise InputError("the model returns no floating-point tensor in any list or dictionary; wrap it")
        return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]

    def loss(self, outputs: Sequence[Tensor], others: Sequence[Tensor], batch: Batch) -> Tensor:
        """Return the loss sum at given outputs, arranged as in the latest call."""
        if not self._whole:
            return self.problem.loss_function(outputs[0], batch)[0]
        given, rest = iter(outputs), iter(others)
        leaves: list[object] = []
        for floating, fixed in zip(self._floating, self._fixed, strict=True):
            leaves.append(next(given) if floating else next(rest) if fixed is None else fixed)
        assert self._spec is not None
        return self.problem.loss_function(pytree.tree_unflatten(leaves, self._spec), batch)[0]
