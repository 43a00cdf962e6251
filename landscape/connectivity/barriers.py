"""The loss along the segment between two networks, and its barrier, with an interval over the examples.

The points are embedded in R^D, pruned weights at zero. Along w(a) = (1 - a) w + a w' the loss is evaluated on an even
grid and refined around its largest excess over the straight line. Two barriers are in use:

    barrier      sup_a [L(w(a)) - (1 - a) L(w) - a L(w')]       (>= 0; zero for a convex loss)
    instability  sup_a L(w(a)) - (L(w) + L(w')) / 2             ("linear interpolation instability")

References
----------
Frankle, Dziugaite, Roy, Carbin 2020, Linear mode connectivity and the lottery ticket hypothesis, arXiv:1912.05671.
Paul, Chen, Larsen, Frankle, Ganguli, Dziugaite 2023, Unmasking the lottery ticket hypothesis, arXiv:2210.03044.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import seeds
from landscape.batches import Batch, target_of
from landscape.cli import option
from landscape.errors import InputError
from landscape.losses import BinaryCrossEntropy, CrossEntropy, ExampleLoss
from landscape.problem import Problem


@dataclass(frozen=True)
class PathOptions:
    """How a segment is walked."""

    num_positions: int = option(30, metavar="P", help="points of the even grid on the segment, ends included")
    num_refinements: int = option(
        8, metavar="R", help="further points around the largest excess of the train loss over the straight line"
    )
    num_bootstrap: int = option(
        200, metavar="B", help="resamples of the examples behind the intervals; 0 leaves intervals out"
    )
    confidence: float = option(0.95, metavar="P", help="coverage of the intervals")
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_positions < 3 or self.num_refinements < 0 or self.num_bootstrap < 0:
            raise InputError("connectivity needs at least 3 positions, and no negative number of anything")
        if not 0 < self.confidence < 1:
            raise InputError(f"the confidence must lie between 0 and 1, not {self.confidence}")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says about every example: loss sums and counts, errors (or None), outputs.

    ``judged`` is 1 for an example whose label counts towards the errors and 0 for one whose label is ignored (None: all
    count); an ignored one has no error.
    """

    sums: np.ndarray
    counts: np.ndarray
    errors: np.ndarray | None
    outputs: Tensor
    judged: np.ndarray | None = None

    @property
    def loss(self) -> float:
        """The mean loss."""
        return float(self.sums.sum() / self.counts.sum())

    @property
    def error(self) -> float | None:
        """The fraction of errors among the labels that count, or None without classes (NaN where none counts)."""
        if self.errors is None:
            return None
        num_labels = self.num_labels.sum()
        return float(self.errors.sum() / num_labels) if num_labels else float("nan")

    @property
    def num_labels(self) -> np.ndarray:
        """How much every example counts towards the errors, ``(N,)``."""
        return np.ones(len(self.sums)) if self.judged is None else self.judged


@torch.no_grad()
def predict(problem: Problem, batches: Sequence[Batch]) -> Predictions:
    """Return loss, error and outputs of every example. Cost: one forward pass."""
    loss = problem.loss_function
    if not isinstance(loss, ExampleLoss):
        raise InputError("connectivity needs a loss that is known one example at a time: cross_entropy, mse or bce")
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    judged: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        outputs = problem.outputs(problem.parameters, batch)
        rows.append((*loss.per_example(outputs, batch), outputs))
        if (found := _errors(loss, outputs, batch)) is not None:
            judged.append(found)
    sums, counts, out = (torch.cat(column) for column in zip(*rows, strict=True))
    flat = [part.double().cpu().numpy() for part in (sums, counts)]
    if len(judged) < len(rows):
        return Predictions(flat[0], flat[1], None, out.cpu())
    errors, valid = (torch.cat(column).double().cpu().numpy() for column in zip(*judged, strict=True))
    return Predictions(flat[0], flat[1], errors, out.cpu(), valid)


def _errors(loss: ExampleLoss, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
    """Return the error of every example, 0 or 1 (a fraction for several targets), and which labels count.

    None without classes. An ignored label is no error, as in ``CrossEntropy.hits``.
    """
    target = target_of(batch)
    if loss.hits(outputs, batch) is None:
        return None
    if isinstance(loss, BinaryCrossEntropy):
        wrong = (outputs > 0) != (target.reshape(outputs.shape) > 0.5)
        share = wrong.reshape(len(wrong), -1).double().mean(1)
        return share, torch.ones_like(share)
    if outputs.ndim != 2:
        return None
    valid = torch.ones_like(target, dtype=torch.bool)
    if isinstance(loss, CrossEntropy):
        valid = target != loss.ignore_index
    return ((outputs.argmax(1) != target) & valid).double(), valid.double()


def between(first: Problem, second: Problem, position: float) -> Problem:
    """Return the network at the position a on the segment; the ends are met exactly."""
    start, end = first.tensors(), second.tensors()
    return first.with_tensors({name: torch.lerp(start[name], end[name], position) for name in start})


def barrier(positions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return sup_a [E_a - (1 - a) E_0 - a E_1] over the last axis; ``positions`` sorted, with both ends."""
    line = (1 - positions) * values[..., :1] + positions * values[..., -1:]
    return (values - line).max(-1)


def instability(positions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return sup_a E_a - (E_0 + E_1) / 2 over the last axis."""
    del positions  # the same call as `barrier`
    return values.max(-1) - (values[..., 0] + values[..., -1]) / 2


BARRIERS = {"barrier": barrier, "instability": instability}


def next_position(positions: np.ndarray, values: np.ndarray) -> float:
    """Return where to evaluate next: the vertex of the parabola through the largest excess and its neighbours.

    Where the parabola says nothing new (flat, or its vertex is already known) it is the middle of the wider interval
    beside the maximum. The excess is 0 at both ends, so a maximum at an end is moved inside.
    """
    excess = values - (1 - positions) * values[0] - positions * values[-1]
    top = int(np.clip(excess.argmax(), 1, len(positions) - 2))
    left, middle, right = positions[top - 1 : top + 2]
    rise, fall = (excess[top] - excess[top - 1]) / (middle - left), (excess[top + 1] - excess[top]) / (right - middle)
    halves = ((left + middle) / 2, (middle + right) / 2)
    widest = halves[int(right - middle > middle - left)]
    if rise <= fall:
        return float(widest)
    vertex = halves[0] + rise * (right - left) / 2 / (rise - fall)
    known = min(abs(vertex - middle), vertex - left, right - vertex) < 1e-3 * (right - left)
    return float(widest if known else vertex)


def walk(first: Problem, second: Problem, splits: Mapping[str, Sequence[Batch]], options: PathOptions) -> Any:
    """Return the sorted positions ``(node,)`` and, by split, the predictions at every node."""
    found: dict[float, dict[str, Predictions]] = {}

    def visit(position: float) -> None:
        point = between(first, second, position)
        seen = {name: predict(point, batches) for name, batches in splits.items()}
        found[position] = {name: replace(p, outputs=p.outputs[:0]) for name, p in seen.items()}

    for position in np.linspace(0, 1, options.num_positions).tolist():
        visit(position)
    for _ in range(options.num_refinements):
        positions = np.array(sorted(found))
        visit(next_position(positions, np.array([found[a]["train"].loss for a in positions.tolist()])))
    positions = np.array(sorted(found))
    return positions, {name: [found[a][name] for a in positions.tolist()] for name in splits}


def _resampled(sums: np.ndarray, counts: np.ndarray, options: PathOptions) -> np.ndarray:
    """Return the means at every node of ``num_bootstrap`` resamples of the examples, ``(bootstrap, node)``.

    ``sums`` is ``(node, N)``, ``counts`` ``(N,)``. Every pair and split draws the same examples, so differences are
    paired.
    """
    stream = seeds.numpy_generator(options.seed, "bootstrap")
    size = sums.shape[1]
    rows = []
    for _ in range(options.num_bootstrap):
        times = np.bincount(stream.integers(size, size=size), minlength=size).astype(float)
        rows.append(sums @ times / (counts @ times))
    return np.array(rows)


def summarise(positions: np.ndarray, nodes: Sequence[Predictions], options: PathOptions) -> dict[str, Any]:
    """Return path, barriers and their intervals of one pair on one split."""
    result: dict[str, Any] = {}
    quantities = {"loss": (np.stack([node.sums for node in nodes]), nodes[0].counts)}
    if nodes[0].errors is not None:
        errors = np.stack([node.errors for node in nodes if node.errors is not None])
        quantities["error"] = (errors, nodes[0].num_labels)
    tail = (1 - options.confidence) / 2
    for quantity, (sums, counts) in quantities.items():
        means = sums.sum(1) / counts.sum()
        result[f"path_{quantity}"] = means
        resampled = _resampled(sums, counts, options) if options.num_bootstrap else None
        for kind, function in BARRIERS.items():
            result[f"{kind}_{quantity}"] = function(positions, means)
            if resampled is not None:
                draws = function(positions, resampled)
                result[f"{kind}_{quantity}_se"] = draws.std(ddof=1)
                result[f"{kind}_{quantity}_lo"], result[f"{kind}_{quantity}_hi"] = np.quantile(draws, [tail, 1 - tail])
    return result
