"""The points of a run as problems: which checkpoint, under which mask, softened or not.

==============  =======================================================================================
point           is
==============  =======================================================================================
``rewind``      where level L starts: m_L * W_rewind; of methods with a start of their own, that start
``minimum``     end of training at level L
``projected``   m_L * (minimum of imp's level L - 1)
``restricted``  minimum of imp's level L - 1 unmoved, curvature on the coordinates of m_L only
==============  =======================================================================================

Two controls replace the point of lower loss of a pair. The pairs are imp's minimum with `projected`, and the minimum of
any other method with imp's minimum: ``loss_matched`` softens its output layer, ``checkpoint_matched`` takes the saved
checkpoint of its own training whose loss is nearest. ``earlier_epoch`` is the minimum as it was one epoch before the
end: a claim whose sign changes in between is not about a converged point.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from landscape import checkpoints, controls, masks, runs
from landscape.checkpoints import Checkpoint, ProblemOptions
from landscape.datasets import Data
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.runs import CONTINUED, PERTURBED, Cell, Run

# Methods whose trainings start neither at m_L * W_rewind nor at a minimum.
OWN_START = ("random_init", *PERTURBED)
CONTROLS = ("raw", "loss_matched", "checkpoint_matched", "earlier_epoch")


@dataclass(frozen=True, eq=False)
class Point:
    """A problem, and how it came about.

    Parameters
    ----------
    facts
        Under a control: ``matched_method`` and ``matched_point`` (which point of the pair was replaced),
        ``target_loss``, and ``output_scale`` or ``matched_step``.
    sha256
        Of the files that it comes from, comma-separated.
    """

    problem: Problem
    sha256: str
    facts: dict[str, float | int | str]


class UnmatchableError(InputError):
    """The pair has no matched point: the loss to reach is at or above chance level."""


@functools.lru_cache(maxsize=32)
def _read(path: Path, stamp: int) -> Checkpoint:
    del stamp  # part of the key, so that a file that changed is read again
    checkpoint = checkpoints.read(path.resolve())
    known = runs.read(path.parents[3]).description
    if known.get("kind") != "adopted":
        return checkpoint
    # Files of other programs do not say what they belong to; the run does, and has their masks beside them.
    beside = sorted(path.parent.glob("mask.*"))
    mask = masks.read(beside[0].resolve()) if beside and checkpoint.mask is None else checkpoint.mask
    named = {name: known[name] for name in ("model", "model_args", "data", "normalize", "loss")}
    return replace(checkpoint, mask=mask, **named)


def read(path: Path) -> Checkpoint:
    """Read a checkpoint of a run, keeping the last few in memory."""
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; train it first (python -m landscape.pruning imp)")
    return _read(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _data(options: ProblemOptions, name: str | None, normalize: str | None, stamp: int) -> Data:
    del stamp  # as in `_read`
    return checkpoints.open_data(Checkpoint({}, data=name, normalize=normalize), options)


def open_data(checkpoint: Checkpoint, options: ProblemOptions) -> Data:
    """Return the data on which a checkpoint is measured, loaded once a process."""
    kept = ProblemOptions(
        data=options.data,
        split=options.split,
        num_examples=options.num_examples,
        examples=options.examples,
        normalize=options.normalize,
        seed=options.seed,
    )
    source = Path(options.data or checkpoint.data or "")
    stamp = source.stat().st_mtime_ns if source.is_file() else 0
    return _data(kept, checkpoint.data, checkpoint.normalize, stamp)


def problem_of(checkpoint: Checkpoint, options: ProblemOptions) -> Problem:
    """Return the problem of a checkpoint on the shared data."""
    return checkpoints.problem_of(checkpoint, options, open_data(checkpoint, options))


def exists(cell: Cell, point: str) -> bool:
    """Tell whether a point is defined for a method and a level."""
    return point in ("rewind", "minimum") or (cell.level >= 1 and cell.method in CONTINUED)


def sources(run: Run, cell: Cell, point: str) -> list[Path]:
    """Return the files that a point is made of."""
    own = run.minimum(cell)
    if point == "minimum":
        return [own]
    if point == "rewind" and cell.method in OWN_START:
        return [run.start(cell)]
    if point == "rewind":
        return [run.rewind(cell.replicate), own] if cell.level else [run.rewind(cell.replicate)]
    return [run.minimum(Cell(cell.replicate, "imp", cell.level - 1)), own]


def point_of(run: Run, cell: Cell, point: str, options: ProblemOptions) -> Point:
    """Return a point of a run as a problem.

    Raises
    ------
    InputError
        If the point is not defined there, or a checkpoint is missing.
    """
    if not exists(cell, point):
        raise InputError(f"there is no point {point!r} for {cell.method} at level {cell.level}")
    files = sources(run, cell, point)
    found = [read(path) for path in files]
    sha256 = ",".join(str(checkpoint.sha256) for checkpoint in found)
    if len(found) == 1:
        return Point(problem_of(found[0], options), sha256, {})
    first, mask = found[0], found[1].mask
    # A training in a subspace prunes nothing; an adopted network without its mask is another thing.
    if mask is None and (point != "rewind" or run.adopted):
        raise InputError(f"{files[1]} holds no mask")
    if point == "restricted" and mask is not None:
        return Point(restricted(problem_of(first, options), mask), sha256, {})
    placed = replace(first, state_dict=masks.apply(first.state_dict, mask), mask=mask)
    return Point(problem_of(placed, options), sha256, {})


def restricted(problem: Problem, mask: Mapping[str, Tensor]) -> Problem:
    """Return the same point with the coordinates that a mask keeps; parameters that it does not name stay active."""
    shapes = {name: p.shape for name, p in problem.parameters.items()}
    inner = {name: m.bool() for name, m in mask.items() if name in shapes}
    own = problem.unflatten(torch.ones_like(problem.theta))
    both = {name: inner[name] & (own[name] != 0).to(inner[name].device) for name in inner}
    both |= {name: active != 0 for name, active in own.items() if name not in both}
    index = masks.active_index(both, shapes)
    return replace(problem, index=None if index is None else index.to(problem.device))


def partner(cell: Cell, point: str) -> tuple[Cell, str] | None:
    """Return the point that a controlled point is compared with, or None."""
    if point != "minimum" or (cell.method == "imp" and cell.level == 0):
        return None
    twin = Cell(cell.replicate, "imp", cell.level)
    return (twin, "projected") if cell.method == "imp" else (twin, "minimum")


def controlled(run: Run, cell: Cell, control: str, options: ProblemOptions) -> Point:
    """Return the replacement of the point of lower loss in the pair of a cell's minimum, or its earlier epoch.

    Raises
    ------
    UnmatchableError
        If no softening reaches the higher loss, or no checkpoint of the training comes near it.
    """
    if control == "earlier_epoch":
        epochs = run.epochs(cell)
        if len(epochs) < 2:
            raise UnmatchableError(f"{cell} has no checkpoint one epoch before its end")
        checkpoint = read(run.epoch(cell, epochs[-2]))
        return Point(problem_of(checkpoint, options), str(checkpoint.sha256), {"matched_step": _step(checkpoint)})
    other = partner(cell, "minimum")
    if other is None:
        raise InputError(f"{cell.method} at level {cell.level} has nothing to be matched with")
    pair = [(cell, "minimum"), other]
    points = [point_of(run, *place, options) for place in pair]
    losses = [p.problem.loss() for p in points]
    low = int(losses[1] < losses[0])
    (owner, name), target = pair[low], losses[1 - low]
    facts: dict[str, float | int | str] = {
        "matched_method": owner.method,
        "matched_point": name,
        "target_loss": target,
    }
    if control == "loss_matched":
        matched = controls.match_loss(points[low].problem, target) if losses[low] < target else None
        if losses[low] == target:
            return replace(points[low], facts={**facts, "output_scale": 1.0})
        if matched is None:
            raise UnmatchableError(f"{owner.method} at level {owner.level}: no softening reaches the loss {target:.4g}")
        facts |= {"output_scale": matched.scale, "whole_network": int(matched.whole)}
        return Point(matched.problem, points[low].sha256, facts)
    if name != "minimum":
        raise UnmatchableError("the projected point has the lower loss, and no training of its own to match it with")
    return _nearest(run, owner, target, options, facts)


def _nearest(
    run: Run, cell: Cell, target: float, options: ProblemOptions, facts: dict[str, float | int | str]
) -> Point:
    """Return the checkpoint of a training whose loss is nearest to ``target`` in log; within 20 %, or none."""
    best: tuple[float, Point] | None = None
    for file in run.trajectory(cell):
        checkpoint = read(file)
        problem = problem_of(checkpoint, options)
        distance = abs(math.log(problem.loss() / target))
        if best is None or distance < best[0]:
            best = distance, Point(problem, str(checkpoint.sha256), {**facts, "matched_step": _step(checkpoint)})
    if best is None or best[0] > 0.2:
        raise UnmatchableError(f"no saved checkpoint of {cell} has a loss near {target:.4g}")
    return best[1]


def _step(checkpoint: Checkpoint) -> int:
    return -1 if checkpoint.step is None else checkpoint.step
