"""What "still in the basin" means: how far a displaced network is from the anchor, for many displacements at once.

Four measures of a displacement ``v``, all in nats but ``function``, all with the quadratic model ``1/2 v' A v``:

- ``kl``: mean KL(p_anchor(.|x) || p_w(.|x)); its minimum is at the anchor whatever the gradient there, and A is the
  generalised Gauss-Newton matrix, which is the Fisher matrix of the model's own predictions. For ``mse`` (a Gaussian of
  unit width) it is 1/2 mean |f_w - f_anchor|^2, for ``bce`` the Bernoulli KL, a mean over targets.
- ``function``: 1/2 mean |f_w - f_anchor|^2 / mean |f_anchor - mean_c f_anchor|^2; free of confidence, A is the
  normalised J'J.
- ``loss_relative``: L(w) - L(anchor); a worse anchor gets a larger basin, so it compares minima only.
- ``loss_absolute``: L(w) itself against one cutoff for all points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from landscape import parallel
from landscape.batches import Batch, target_of, tensors_of
from landscape.controls import output_spread
from landscape.errors import InputError
from landscape.losses import BinaryCrossEntropy, CrossEntropy, ExampleLoss, MeanSquaredError
from landscape.networks import second_order_kernels
from landscape.problem import Problem

KINDS = ("kl", "function", "loss_absolute", "loss_relative")
CHUNK_NUMBERS = 2**24  # numbers held at once by the stacked networks, estimated as parameters + 8 x the batch
MAX_STACKED = 64

Excess = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The set of displacements with ``excess(v) <= threshold`` around the problem's point.

    Parameters
    ----------
    problem
        The anchor.
    kind
        ``kl``, ``function``, ``loss_relative`` or ``loss_absolute``.
    cutoff
        In nats (a pure number for ``function``).

    Raises
    ------
    InputError
        An unknown kind, a cutoff that is not positive, ``kl`` with a loss that defines no distribution, or an anchor
        whose loss is not below the absolute cutoff (the point is not in the basin).
    """

    problem: Problem
    kind: str = "kl"
    cutoff: float = 1e-2

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown neighbourhood {self.kind!r}; use one of {', '.join(KINDS)}")
        if not 0 < self.cutoff < float("inf"):
            raise InputError(f"the cutoff must be positive and finite, not {self.cutoff}")
        known = isinstance(self.problem.loss_function, CrossEntropy | MeanSquaredError | BinaryCrossEntropy)
        if self.kind == "kl" and not known:
            raise InputError(
                "the neighbourhood kl needs cross_entropy, bce or mse, whose outputs define a distribution; "
                "use --neighbourhood loss_relative or function for other losses"
            )
        if self.threshold <= 0:
            raise InputError(
                f"the anchor is not in the basin: its loss {self._anchor_loss:.6g} is not below {self.cutoff:g}"
            )

    @property
    def threshold(self) -> float:
        """The largest excess inside: the cutoff, less the anchor's loss for ``loss_absolute``."""
        return self.cutoff - self._anchor_loss if self.kind == "loss_absolute" else self.cutoff

    @property
    def curvature_scale(self) -> float:
        """The factor between curvature and quadratic model: 1 / mean |f - mean_c f|^2 for ``function``, else 1."""
        return 1.0 / self._output_spread if self.kind == "function" else 1.0

    @cached_property
    def _anchor_loss(self) -> float:
        return self.problem.loss()

    @cached_property
    def _anchor_outputs(self) -> list[Tensor]:
        return [self.problem.outputs(self.problem.parameters, batch).double() for batch in self.problem.batches]

    @cached_property
    def _output_spread(self) -> float:
        spread = output_spread(self.problem)
        if not spread > 0:
            raise InputError("the network's outputs are constant, so the normalised output distance is undefined")
        return spread

    @torch.no_grad()
    def excess(self, displacements: Tensor) -> Tensor:
        """Return the excess of the displaced networks.

        Parameters
        ----------
        displacements
            ``(n, k)`` on the active coordinates.

        Returns
        -------
        ``(k,)`` float64, summed over examples in float64; overflow gives infinity or NaN.

        Notes
        -----
        Cost: one forward pass a column. Columns share one vectorised call of the network, as many at once as a fixed
        estimate of memory allows (fixed, so that results repeat bit by bit).
        """
        return torch.cat([self._chunk(part) for part in displacements.split(self._width, dim=1)])

    @cached_property
    def _width(self) -> int:
        batch = max(sum(t.numel() for t in tensors_of(batch)) for batch in self.problem.batches)
        return min(MAX_STACKED, max(1, CHUNK_NUMBERS // (self.problem.num_params_total + 8 * batch)))

    def _chunk(self, displacements: Tensor) -> Tensor:
        problem = self.problem
        theta = problem.theta[:, None] + displacements.to(problem.theta)
        parameters = stacked_parameters(problem, theta)
        sums = torch.zeros(displacements.shape[1], dtype=torch.float64, device=problem.device)
        with second_order_kernels(problem.model):
            for number, batch in enumerate(problem.batches):
                sums += self._batch_sum(parameters, batch, number)
        sums = parallel.sum_ranks(sums)
        if self.kind == "function":
            return 0.5 * sums / problem.num_examples / self._output_spread
        if self.kind == "kl":
            return sums / problem.count
        decay = 0.5 * problem.weight_decay * theta.double().square().sum(0)
        return sums / problem.count + decay - self._anchor_loss

    def _batch_sum(self, parameters: dict[str, Tensor], batch: Batch, number: int) -> Tensor:
        """Return the sum of a batch over its examples, for every stacked network, ``(k,)`` float64."""
        problem = self.problem
        if self.kind.startswith("loss"):
            return torch.vmap(lambda p: _loss_sum(problem, p, batch), randomness="error")(parameters)
        outputs = torch.vmap(lambda p: problem.outputs(p, batch), randomness="error")(parameters).double()
        anchor = self._anchor_outputs[number]
        if self.kind == "function":
            return (outputs - anchor).square().flatten(1).sum(1)
        return torch.vmap(lambda rows: divergence(problem.loss_function, anchor, rows, batch))(outputs)


def stacked_parameters(problem: Problem, theta: Tensor) -> dict[str, Tensor]:
    """Return name -> ``(k, *shape)`` of the networks at the points ``theta (n, k)``; inactive coordinates are kept."""
    rows = theta.T
    if problem.index is not None:
        base = torch.cat([p.reshape(-1) for p in problem.parameters.values()])
        rows = base.repeat(theta.shape[1], 1).index_copy_(1, problem.index, rows)
    sizes = [p.numel() for p in problem.parameters.values()]
    parts = rows.split(sizes, dim=1)
    return {name: part.reshape(-1, *p.shape) for (name, p), part in zip(problem.parameters.items(), parts, strict=True)}


def _loss_sum(problem: Problem, parameters: dict[str, Tensor], batch: Batch) -> Tensor:
    """Return the loss sum of a batch in float64, added up one example at a time where the loss is known so."""
    if isinstance(problem.loss_function, ExampleLoss):
        return problem.loss_function.per_example(problem.outputs(parameters, batch), batch)[0].double().sum()
    return problem.batch_loss(parameters, batch)[0].double()


def divergence(loss: object, anchor: Tensor, outputs: Tensor, batch: Batch) -> Tensor:
    """Return the sum over a batch of KL(p_anchor || p_outputs), weighted as the loss weights its targets (a scalar)."""
    if isinstance(loss, CrossEntropy):
        target = target_of(batch)
        if anchor.shape[:-1] != target.shape:
            anchor, outputs = anchor.movedim(1, -1), outputs.movedim(1, -1)
        p, q = functional.log_softmax(anchor, -1), functional.log_softmax(outputs, -1)
        return (target_weights(loss, target).to(p) * (p.exp() * (p - q)).sum(-1)).sum()
    if isinstance(loss, BinaryCrossEntropy):
        p = anchor.sigmoid()
        return (p * (functional.logsigmoid(anchor) - functional.logsigmoid(outputs))).sum() + (
            (1 - p) * (functional.logsigmoid(-anchor) - functional.logsigmoid(-outputs))
        ).sum()
    return 0.5 * (outputs - anchor).square().sum()


def target_weights(loss: CrossEntropy, target: Tensor) -> Tensor:
    """Return the weight with which each target counts: its class weight, zero where it is ignored."""
    valid = target != loss.ignore_index
    if loss.weight is None:
        return valid
    return valid * loss.weight.to(target.device)[target.where(valid, torch.zeros_like(target))]
