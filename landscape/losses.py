"""Loss functions that return a sum and a count, so that ragged batches, class weights and padding come out right.

A loss is any callable ``loss(outputs, batch) -> (sum, count)``; the mean loss is the total sum over the total count.
The losses here also give the terms one example at a time (``per_example``), from which error bars over the data come.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from landscape.batches import Batch, target_of
from landscape.errors import InputError

Loss = Callable[[Any, Batch], tuple[Tensor, Tensor]]


class ExampleLoss(ABC):
    """A loss that is known one example at a time; calling it sums over the batch."""

    @abstractmethod
    def per_example(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss sums ``(N,)`` and counts ``(N,)`` of the examples of a batch."""

    @abstractmethod
    def hits(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Return how many targets are predicted and how many there are, or None where accuracy means nothing."""

    def __call__(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss sum and the count of a batch, both scalars."""
        sums, counts = self.per_example(outputs, batch)
        return sums.sum(), counts.sum()


def _class_last(outputs: Tensor, target: Tensor) -> Tensor:
    """Move the class axis last: ``(N, T, C)`` stays (it wins where both readings fit), ``(N, C, T)`` is turned."""
    if outputs.shape[:-1] == target.shape:
        return outputs
    if outputs.ndim >= 2 and outputs.shape[:1] + outputs.shape[2:] == target.shape:
        return outputs.movedim(1, -1)
    raise InputError(
        f"outputs of shape {tuple(outputs.shape)} do not fit class labels of shape {tuple(target.shape)}; "
        "cross entropy wants one row of class scores per label"
    )


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise InputError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but the model has {classes} classes"
        )


@dataclass(frozen=True, eq=False)
class CrossEntropy(ExampleLoss):
    """Cross entropy in nats: sum of w nll over sum of w, over the targets that are not ignored.

    Parameters
    ----------
    weight
        Class weights ``(C,)``, or None for ones.
    ignore_index
        The label that marks padding.
    label_smoothing
        Mass that is spread evenly over the classes, as ``torch.nn.CrossEntropyLoss`` defines it.
    """

    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0

    def _labels(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        target = target_of(batch)
        if target.is_floating_point():
            raise InputError(
                "cross entropy wants integer class labels; the targets are floating-point (use mse or bce?)"
            )
        scores = _class_last(outputs, target)
        if self.weight is not None and len(self.weight) != scores.shape[-1]:
            raise InputError(f"there are {len(self.weight)} class weights for {scores.shape[-1]} classes")
        return scores, target

    def per_example(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return weighted nll sums and weight sums per example, ``(N,)`` each (tokens of an example are summed)."""
        scores, target = self._labels(outputs, batch)
        weight = None if self.weight is None else self.weight.to(scores)
        nll = functional.cross_entropy(
            scores.flatten(0, -2),
            target.flatten(),
            weight=weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        valid = target != self.ignore_index
        counts = valid.to(scores.dtype)
        if weight is not None:
            counts = counts * weight[target.where(valid, torch.zeros_like(target))]
        return nll.reshape(target.shape[0], -1).sum(1), counts.reshape(target.shape[0], -1).sum(1)

    def hits(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Count the labels that have the highest score, after checking that each names a class."""
        scores, target = self._labels(outputs, batch)
        valid = target != self.ignore_index
        _check_labels(target[valid], scores.shape[-1])
        return ((scores.argmax(-1) == target) & valid).sum(), valid.sum()


@dataclass(frozen=True, eq=False)
class MeanSquaredError(ExampleLoss):
    """Half the squared error, (1/2N) sum_n |f(x_n) - y_n|^2, so that linear regression has the Hessian X'X / N.

    Integer class labels stand for one-hot targets.
    """

    def _target(self, outputs: Tensor, batch: Batch) -> Tensor:
        target = target_of(batch)
        if not target.is_floating_point() and outputs.ndim == target.ndim + 1:
            target = functional.one_hot(target, outputs.shape[-1])
        if target.shape != outputs.shape:
            raise InputError(
                f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(target.shape)}"
            )
        return target.to(outputs.dtype)

    def per_example(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return half the squared error summed over the outputs, and ones, ``(N,)`` each."""
        error = outputs - self._target(outputs, batch)
        return 0.5 * error.square().reshape(error.shape[0], -1).sum(1), torch.ones_like(
            error.reshape(len(error), -1)[:, 0]
        )

    def hits(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Count the one-hot targets whose class has the largest output; None for real-valued targets."""
        target = target_of(batch)
        if target.is_floating_point() or outputs.ndim != target.ndim + 1:
            return None
        _check_labels(target, outputs.shape[-1])
        return (outputs.argmax(-1) == target).sum(), torch.tensor(target.numel(), device=outputs.device)


@dataclass(frozen=True, eq=False)
class BinaryCrossEntropy(ExampleLoss):
    """Binary cross entropy of logits in nats, summed over the outputs of an example, mean over all targets."""

    def _target(self, outputs: Tensor, batch: Batch) -> Tensor:
        target = target_of(batch)
        if target.numel() != outputs.numel():
            raise InputError(
                f"outputs of shape {tuple(outputs.shape)} do not fit targets of shape {tuple(target.shape)}"
            )
        return target

    def per_example(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the sums and the numbers of targets per example, ``(N,)`` each."""
        target = self._target(outputs, batch)
        logits = outputs.reshape(outputs.shape[0], -1)
        nll = functional.binary_cross_entropy_with_logits(
            logits, target.reshape(logits.shape).to(logits.dtype), reduction="none"
        )
        return nll.sum(1), torch.full_like(nll[:, 0], nll.shape[1])

    def hits(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Count the targets on whose side the logit lies."""
        target = self._target(outputs, batch).reshape(outputs.shape)
        return ((outputs > 0) == (target > 0.5)).sum(), torch.tensor(target.numel(), device=outputs.device)


def by_name(
    name: str, weight: Tensor | None = None, ignore_index: int = -100, label_smoothing: float = 0.0
) -> ExampleLoss:
    """Return the loss called ``cross_entropy``, ``mse`` or ``bce``; options that it cannot honour are refused."""
    if name == "cross_entropy":
        return CrossEntropy(weight, ignore_index, label_smoothing)
    if weight is not None or ignore_index != -100 or label_smoothing:
        raise InputError(f"class weights, ignored labels and label smoothing belong to cross_entropy, not to {name}")
    if name == "mse":
        return MeanSquaredError()
    if name == "bce":
        return BinaryCrossEntropy()
    raise InputError(f"unknown loss {name!r}; use cross_entropy, mse, bce or MODULE:CALLABLE")


class PerCallLoss:
    """Adapter of a user's plain ``loss(outputs, target) -> mean`` (such as ``torch.nn.CrossEntropyLoss()``).

    The mean is turned into a sum with the number of examples as its count, which is right exactly when the mean weights
    all examples equally. Losses with class weights or ignored labels do not; for these ``of`` returns our own.
    """

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        self.function = function

    def __call__(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss sum and the number of examples."""
        target = target_of(batch)
        value = self.function(outputs, target)
        count = torch.tensor(float(target.shape[0]), dtype=value.dtype, device=value.device)
        return value * count, count


def of(loss: Any) -> Loss:
    """Return the (sum, count) loss that a name, a ``torch.nn`` loss module or a callable stands for."""
    if isinstance(loss, str):
        return by_name(loss)
    if isinstance(loss, torch.nn.CrossEntropyLoss) and loss.reduction == "mean":
        return CrossEntropy(loss.weight, loss.ignore_index, loss.label_smoothing)
    if (
        isinstance(loss, torch.nn.BCEWithLogitsLoss)
        and loss.reduction == "mean"
        and loss.weight is loss.pos_weight is None
    ):
        return BinaryCrossEntropy()
    if isinstance(loss, torch.nn.modules.loss._Loss):
        if loss.reduction != "mean" or getattr(loss, "weight", None) is not None or hasattr(loss, "ignore_index"):
            raise InputError(
                f"{type(loss).__name__} with weights, ignored labels or a reduction other than 'mean' has no defined "
                "count; pass a function loss(outputs, batch) -> (sum, count)"
            )
        return PerCallLoss(loss)
    if not callable(loss):
        raise InputError(f"a loss must be a name or a callable loss(outputs, batch) -> (sum, count), not {loss!r}")
    return loss
