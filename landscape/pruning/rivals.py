"""The pruning methods that IMC is compared with, all at exact counts under one trainer.

======================  ==========================================  ====================================================
method                  order of the weights                        made at
======================  ==========================================  ====================================================
``one_shot``            |w|                                         end of the dense training
``obd``                 G_ii w^2 / 2                                end of the dense training
``early_bird``          |w|                                         first epoch whose masks of the last five differ in
                                                                    less than 0.1 of the bits (You et al. 2020, for
                                                                    single weights; the last epoch if there is none)
``snip, grasp``         see ``landscape.pruning.scores``            rewind point
``synflow``             100 rounds                                  rewind point
``random_layerwise``    random, the same share of every layer
``random_global``       random over all layers together
======================  ==========================================  ====================================================

A function of the user's, ``score(problem) -> Tensor``, is one more: the weights of smallest score go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from landscape import loading
from landscape.errors import InputError
from landscape.problem import Problem
from landscape.pruning import criteria, early_bird, methods, scores
from landscape.pruning import settings as shared
from landscape.pruning.criteria import Mask
from landscape.pruning.flow import Flow
from landscape.pruning.imc_masks import evenly
from landscape.pruning.imc_steps import base_point
from landscape.pruning.scores import Scores
from landscape.pruning.settings import Settings, Start
from landscape.runs import Cell, Run

RIVALS = (
    "one_shot", "random_layerwise", "random_global", "snip", "obd", "early_bird", "grasp", "synflow",
)  # fmt: skip
# Those whose scores are taken on the sample of the curvature, so that its size decides their masks.
FROM_CURVATURE_SAMPLE = ("snip", "obd", "grasp")


@dataclass(frozen=True, eq=False)
class Pruned:
    """A mask, the weights it was made at, and its cost.

    Attributes
    ----------
    mask
        Parameter name -> bool tensor.
    made_at
        Weights of the network at which it was made, from which the start ``base_point`` trains.
    num_gradients, num_products
        Gradients and curvature products on the sample of the curvature.
    steps
        Training steps that the mask needs before it can be made.
    """

    mask: Mask
    made_at: Start
    num_gradients: int = 0
    num_products: int = 0
    steps: int = 0


@dataclass(frozen=True)
class UserScore:
    """A criterion of the user's.

    Parameters
    ----------
    function
        ``MODULE:CALLABLE``, from the command line or an API call: Problem -> scores, ``(n,)`` or by parameter name.
    iterative
        Score anew in each of 100 rounds, under the mask of the round before.
    """

    function: str
    iterative: bool = False

    @property
    def method(self) -> str:
        """Name of the method in a run."""
        return f"score_{self.function.partition(':')[2].lower()}{'_iterative' if self.iterative else ''}"


def prune(run: Run, settings: Settings, replicate: int, name: str, kept: int) -> Pruned:
    """Return the mask of a rival (one of ``RIVALS``) that keeps ``kept`` weights."""
    if name in ("one_shot", "obd", "early_bird"):
        return _from_training(run, settings, replicate, name, kept)
    start = shared.rewind(run, settings, replicate)
    full = shared.everything(settings, start.state)
    away = criteria.num_kept(full) - kept
    seed = settings.recipe.training.seed
    if name.startswith("random"):
        draw = criteria.uniform(full, seed, name, replicate, kept)
        mask = evenly(draw, full, kept) if name == "random_layerwise" else criteria.remove_smallest(draw, full, away)
        return Pruned(mask, start)
    if name == "synflow":
        data = shared.load_data(settings.recipe.training)[0]
        flow = Flow(shared.network(settings, start.state, data), data.input_shape)
        return Pruned(scores.synflow(flow, {n: start.state[n] for n in full}, full, kept), start)
    problem = shared.problem_at(settings, start.state)
    found = (scores.snip if name == "snip" else scores.grasp)(problem, list(full))
    return _ranked(found, full, kept, start, start.first_step)


def _ranked(found: Scores, full: Mask, kept: int, made_at: Start, steps: int) -> Pruned:
    mask = criteria.remove_smallest(found.values, full, criteria.num_kept(full) - kept)
    return Pruned(mask, made_at, found.num_gradients, found.num_products, steps)


def _from_training(run: Run, settings: Settings, replicate: int, name: str, kept: int) -> Pruned:
    """Return the mask of a rival that needs the dense training."""
    end = shared.dense(run, settings, replicate)
    full = shared.everything(settings, end.state_dict)
    if name == "early_bird":
        return _early_bird(run, settings, replicate, full, kept)
    if name == "one_shot":
        found = Scores(criteria.magnitude(end.state_dict, full))
    else:
        problem = shared.problem_at(settings, end.state_dict)
        found = scores.obd(problem, list(full), settings.recipe.training.loss, seed=settings.recipe.training.seed)
    return _ranked(found, full, kept, Start(end.state_dict), end.step or 0)


def _early_bird(run: Run, settings: Settings, replicate: int, full: Mask, kept: int) -> Pruned:
    cell, away = Cell(replicate, "imp", 0), criteria.num_kept(full) - kept
    epochs = run.epochs(cell)
    found = [methods.read(run.epoch(cell, epoch)) for epoch in epochs]
    drawn = [criteria.remove_smallest(criteria.magnitude(c.state_dict, full), full, away) for c in found]
    flat = [np.concatenate([m.numpy().ravel() for m in mask.values()]) for mask in drawn]
    position = early_bird.first_stable(flat)
    chosen = len(found) - 1 if position is None else position
    return Pruned(drawn[chosen], Start(found[chosen].state_dict), steps=found[chosen].step or 0)


def prune_by(run: Run, settings: Settings, replicate: int, score: UserScore, kept: int) -> Pruned:
    """Return the mask of a user's score at the base point.

    Raises
    ------
    InputError
        If the function cannot be imported, or its scores do not fit the weights or are NaN.
    """
    function = loading.import_object(score.function, "score")
    point = base_point(run, settings, replicate)
    full = shared.everything(settings, point.state)
    made_at = Start(point.state, point.step if settings.base.base_point == "k_steps" else 0)
    if not score.iterative:
        found = Scores(asked(function, point.problem, full), num_gradients=1)
        return _ranked(found, full, kept, made_at, point.step)

    def under(mask: Mask) -> dict[str, Tensor]:
        return asked(function, shared.problem_at(settings, point.state, mask), full)

    mask, rounds = scores.iterate(under, full, kept)
    return Pruned(mask, made_at, num_gradients=rounds, steps=point.step)


def asked(function: Callable[[Problem], Any], problem: Problem, full: Mask) -> dict[str, Tensor]:
    """Return the scores of a user's function as tensors of the prunable weights, checked."""
    given = function(problem)
    if isinstance(given, Tensor) and given.shape == (problem.num_params,):
        given = problem.unflatten(given.detach().to(problem.device))
    if not isinstance(given, Mapping):
        raise InputError(
            f"a score must be a tensor of {problem.num_params} numbers or a dict of tensors by parameter name, "
            f"not {type(given).__name__}"
        )
    for name, m in full.items():
        if name not in given or given[name].shape != m.shape:
            raise InputError(f"the score has no tensor {name!r} of shape {tuple(m.shape)}")
    return {name: given[name].detach().double().cpu() for name in full}


def chosen(names: tuple[str, ...]) -> list[str]:
    """Return the rivals that were asked for, by name or ``all``.

    Raises
    ------
    InputError
        If one is unknown.
    """
    wanted = [part for text in names for part in text.split(",") if part]
    wanted = list(RIVALS) if "all" in wanted else list(dict.fromkeys(wanted))
    for name in wanted:
        if name not in RIVALS:
            raise InputError(f"unknown rival {name!r}; use {', '.join(RIVALS)} or all")
    return wanted
