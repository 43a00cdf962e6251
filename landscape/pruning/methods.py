"""The ways to reach a level: where each training starts, under which mask, with which randomness and learning rate.

=========================  =============================  ======================  ==========================
method                     mask                           start                   training
=========================  =============================  ======================  ==========================
``imp``                    |w| of imp's level L - 1       W_rewind                from the rewind step
``lr_rewind``              as imp                         imp's level L - 1       from the rewind step
``fine_tune``              as imp                         imp's level L - 1       all steps at the last rate
``one_shot``               |w| of the dense minimum, once W_rewind                from the rewind step
``random_init``            as imp                         fresh weights           from the first step
``random_mask_layerwise``  random, imp's layer counts     W_rewind                from the rewind step
``random_mask_global``     random, imp's total count      W_rewind                from the rewind step
``retrained``              as imp                         W_rewind                another data order
``perturbed_*``            as imp                         W_rewind + f d u        from the rewind step
=========================  =============================  ======================  ==========================

W_rewind are the weights of the dense training after ``rewind_step`` steps. All starts are multiplied by the mask; all
methods but imp branch off imp's previous level and are one level deep. Random masks are drawn from all weights of the
network, not from imp's previous mask. All methods at a level see the same data order, `retrained` excepted, so that
differences between them are paired; the orders of different levels differ, as between independent trainings.

The ``perturbed_*`` methods (half, 1, 2, 4 times f) test how far a ticket may be moved: d = |(m_L - m_{L+1}) W_rewind|
is the length of the next pruning step at the rewind point, u a uniform unit vector on the coordinates of m_L (Paul et
al. 2023, arXiv:2210.03044, section 3.2).

References: Frankle & Carbin 2019, arXiv:1803.03635; Renda, Frankle, Carbin 2020, arXiv:2003.02389 (learning-rate
rewinding); Frankle, Dziugaite, Roy, Carbin 2020, arXiv:1912.05671 (weight rewinding).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from landscape import checkpoints, masks, seeds
from landscape.checkpoints import Checkpoint
from landscape.cli import option
from landscape.errors import InputError
from landscape.pruning import criteria
from landscape.pruning.criteria import Mask
from landscape.runs import PERTURBED, Cell, Run
from landscape.training import Branch, TrainOptions
from landscape.training.options import Schedule

# Methods that start from the minimum of imp's level L - 1 instead of the rewind point.
FROM_MINIMUM = ("lr_rewind", "fine_tune")
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class PruneOptions:
    """Pruning."""

    fraction: float = option(0.2, help="fraction of the remaining weights that a level removes", metavar="P")
    scope: str = option("global", help="rank weights over all tensors or within each", choices=criteria.SCOPES)
    prunable: str = option("weights", help="weights (no biases, no normalisation), all, or a glob", metavar="NAMES")
    rewind_step: int = option(0, help="training step to whose weights a level is rewound", metavar="K")


@dataclass(frozen=True)
class Recipe:
    """All that decides the tensors of a run."""

    training: TrainOptions
    pruning: PruneOptions
    threads: int = 1


def stream(recipe: Recipe, *key: int | str) -> int:
    """Return the seed of a named random stream of the run."""
    return int(seeds.sequence(recipe.training.seed, *key).generate_state(1, np.uint64)[0]) >> 1


def training_of(recipe: Recipe, cell: Cell, steps_per_epoch: int) -> TrainOptions:
    """Return the training options of a cell."""
    options = recipe.training
    rewind = recipe.pruning.rewind_step
    if cell.method != "imp":
        options = replace(options, checkpoint_steps=())
    elif cell.level == 0 and rewind:
        options = replace(options, checkpoint_steps=tuple(sorted({*options.checkpoint_steps, rewind})))
    else:
        options = replace(options, checkpoint_steps=tuple(s for s in options.checkpoint_steps if s > rewind))
    if cell.method == "fine_tune":
        last = Schedule(options, steps_per_epoch)(options.epochs * steps_per_epoch - (steps_per_epoch + 1) // 2)
        return replace(options, lr=last, schedule="constant", milestones=(), warmup=0.0)
    return options


def branch_of(run: Run, recipe: Recipe, cell: Cell) -> Branch:
    """Return where the training of a cell starts."""
    branch = Branch(
        init_seed=stream(recipe, "init", cell.replicate),
        data_seed=stream(recipe, "retrained" if cell.method == "retrained" else "order", cell.replicate, cell.level),
        method=cell.method,
        level=cell.level,
        replicate=cell.replicate,
    )
    if cell.method == "imp" and cell.level == 0:
        return branch
    if cell.level == 0 and cell.method not in ("retrained", *PERTURBED):
        raise InputError(f"{cell.method} prunes, so that it has no level 0")
    mask = mask_of(run, recipe, cell)
    if cell.method == "random_init":
        return replace(branch, mask=mask, init_seed=stream(recipe, "init", cell.replicate, cell.level))
    if cell.method in FROM_MINIMUM:
        start = previous(run, cell).state_dict
    else:
        start = read(run.rewind(cell.replicate)).state_dict
    if cell.method in PERTURBED:
        start = perturbed(run, recipe, cell, masks.apply(start, mask))
    branch = replace(branch, start=masks.apply(start, mask), mask=mask)
    if cell.method == "fine_tune" or not recipe.pruning.rewind_step:
        return branch
    return replace(branch, first_step=recipe.pruning.rewind_step)


def perturbed(run: Run, recipe: Recipe, cell: Cell, start: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a masked start moved by a multiple of the length of the next pruning step, in a random direction."""
    imp = read(run.minimum(Cell(cell.replicate, "imp", cell.level)))
    names = list(everything(imp, recipe.pruning))
    mask = {name: (imp.mask or everything(imp, recipe.pruning))[name].bool() for name in names}
    following = criteria.step(
        criteria.magnitude(imp.state_dict, mask), mask, recipe.pruning.fraction, recipe.pruning.scope
    )
    squares = sum(float((start[n] * (mask[n] & ~following[n])).double().square().sum()) for n in names)
    stream = seeds.generator(recipe.training.seed, "perturbed", cell.replicate, cell.level)
    moved = [name for name in start if not name.endswith(_BUFFERS)]
    noise = {n: torch.randn(start[n].shape, generator=stream, dtype=torch.float64) for n in moved}
    noise = masks.apply(noise, mask)
    length = sum(float(v.square().sum()) for v in noise.values()) ** 0.5
    scale = PERTURBED[cell.method] * squares**0.5 / length
    return start | {name: start[name] + (scale * noise[name]).to(start[name]) for name in moved}


def previous(run: Run, cell: Cell) -> Checkpoint:
    """Return the minimum of imp one level above a cell."""
    return read(run.minimum(Cell(cell.replicate, "imp", cell.level - 1)))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint of the run; a damaged one is named, with what to do."""
    try:
        return checkpoints.read(path)
    except InputError as error:
        raise InputError(f"{error}; delete it, and the same command trains it again") from error


def mask_of(run: Run, recipe: Recipe, cell: Cell) -> Mask | None:
    """Return the mask of a cell, computed anew from the checkpoints it follows from (None: nothing is pruned)."""
    pruning = recipe.pruning
    if cell.level == 0:
        return None
    if cell.method == "one_shot":
        dense = read(run.minimum(Cell(cell.replicate, "imp", 0)))
        full = everything(dense, pruning)
        return at_level(criteria.magnitude(dense.state_dict, full), full, pruning, cell.level)
    before = previous(run, cell)
    full = everything(before, pruning)
    mask = {name: m.bool() for name, m in (before.mask or full).items()}
    following = criteria.step(criteria.magnitude(before.state_dict, mask), mask, pruning.fraction, pruning.scope)
    if not cell.method.startswith("random_mask"):
        return following
    scores = criteria.uniform(full, recipe.training.seed, "random_mask", cell.method, cell.replicate, cell.level)
    if cell.method == "random_mask_layerwise":
        return criteria.to_counts(scores, full, following)
    return criteria.remove_smallest(scores, full, criteria.num_kept(full) - criteria.num_kept(following))


def at_level(scores: dict[str, Tensor], full: Mask, pruning: PruneOptions, level: int) -> Mask:
    """Prune once, by one ranking, to the counts that ``level`` steps reach."""
    if pruning.scope == "global":
        size = criteria.num_kept(full)
        return criteria.remove_smallest(scores, full, size - criteria.counts(size, pruning.fraction, level)[-1])
    pruned: Mask = {}
    for name, kept in full.items():
        left = criteria.counts(kept.numel(), pruning.fraction, level)[-1]
        pruned |= criteria.remove_smallest(scores, {name: kept}, kept.numel() - left)
    return pruned


def everything(checkpoint: Checkpoint, pruning: PruneOptions) -> Mask:
    """Return the mask that keeps all prunable weights of a network."""
    parameters = {n: t for n, t in checkpoint.state_dict.items() if not n.endswith(_BUFFERS)}
    return criteria.dense(parameters, criteria.prunable(parameters, pruning.prunable))
