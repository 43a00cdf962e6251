"""What the pruning commands beyond imp share: one trainer, one data order, problems at the points of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from landscape import checkpoints, masks, models
from landscape.checkpoints import Checkpoint
from landscape.datasets import Data
from landscape.errors import InputError
from landscape.problem import Problem, ProblemSettings
from landscape.pruning import methods
from landscape.pruning.criteria import Mask
from landscape.pruning.imc_options import BaseOptions
from landscape.pruning.imp import load_data
from landscape.pruning.methods import Recipe
from landscape.pruning.own_trainer import train_with
from landscape.runs import Cell, Run
from landscape.training import Branch, Trained
from landscape.training import files as trainer
from landscape.training.files import Control
from landscape.training.loop import Subspace, loss_of


@dataclass(frozen=True)
class Settings:
    """All that decides masks and trainings: the recipe of the run, the base point, and a trainer of the user's."""

    recipe: Recipe
    base: BaseOptions = BaseOptions()
    trainer: str | None = None


@dataclass(frozen=True, eq=False)
class Start:
    """Weights from which a training starts, and the steps of the schedule that count as done."""

    state: Mapping[str, Tensor]
    first_step: int = 0


def network(settings: Settings, state: Mapping[str, Tensor], data: Data) -> nn.Module:
    """Return the network at given weights, in eval mode."""
    options = settings.recipe.training
    arguments = {"input_shape": data.input_shape, "num_outputs": data.num_outputs}
    arguments |= models.parse_arguments(options.model_arg)
    model = models.build(options.model, options.seed, **arguments)
    checkpoints.load_state(model, state, options.model)
    return model.eval()


def problem_at(settings: Settings, state: Mapping[str, Tensor], mask: Mask | None = None) -> Problem:
    """Return the mean loss on the first ``curvature_examples`` training examples, at given weights.

    Raises
    ------
    InputError
        If the weights or the loss are not finite (the base point diverged), or the data do not fit.
    """
    data = load_data(settings.recipe.training)[0]
    model, number = network(settings, state, data), settings.base.curvature_examples
    device = checkpoints.resolve_device(settings.recipe.training.device)
    pair = (models.as_inputs(model, data.x[:number]), data.y[:number])
    loss = loss_of(settings.recipe.training.loss)
    return Problem.from_model(model, loss, pair, mask, ProblemSettings(device=device))


def everything(settings: Settings, state: Mapping[str, Tensor]) -> Mask:
    """Return the mask that keeps all prunable weights."""
    return methods.everything(Checkpoint(dict(state)), settings.recipe.pruning)


def dense(run: Run, settings: Settings, replicate: int) -> Checkpoint:
    """Return the end of the dense training."""
    return methods.read(run.minimum(Cell(replicate, "imp", 0)))


def rewind(run: Run, settings: Settings, replicate: int) -> Start:
    """Return the weights to which every level is rewound."""
    step = settings.recipe.pruning.rewind_step
    return Start(methods.read(run.rewind(replicate)).state_dict, step)


def steps_per_epoch(settings: Settings) -> int:
    """Return the number of training steps in an epoch."""
    return -(-len(load_data(settings.recipe.training)[0]) // settings.recipe.training.batch_size)


def after_steps(run: Run, settings: Settings, replicate: int, k: int) -> Checkpoint:
    """Return the dense training after k steps, of which the first k are those of the run's dense network.

    Raises
    ------
    InputError
        If a trainer of the user's kept no state after k steps; ours would take other steps than it did.

    Notes
    -----
    Cost: the epochs that hold these steps are trained to their end.
    """
    cell = Cell(replicate, "imp", 0)
    if k == 0:
        return methods.read(run.start(cell))
    per_epoch = steps_per_epoch(settings)
    if settings.trainer is not None:
        kept = run.epoch(cell, k // per_epoch)
        if k % per_epoch or not kept.exists():
            raise InputError(f"the trainer {settings.trainer} handed over no state after {k} steps; choose another --k")
        return methods.read(kept)
    folder = run.root / f"replicate_{replicate}" / f"steps_{k:06d}"
    file = folder / f"step_{k:06d}.pt"
    options = replace(settings.recipe.training, checkpoint_steps=(k,))
    branch = replace(methods.branch_of(run, settings.recipe, cell), method=None)
    control = Control(resume=True, on_epoch=lambda epoch, _: epoch * per_epoch >= k)
    trainer.train(options, folder, branch, load_data(settings.recipe.training), control)
    return methods.read(file)


def train(
    run: Run,
    settings: Settings,
    cell: Cell,
    mask: Mask | None,
    start: Start | None,
    subspace: Subspace | None = None,
) -> Trained:
    """Train one cell under a mask or in a subspace; data order and budget are those of all methods at its level.

    Raises
    ------
    InputError
        If the loss becomes NaN, or the user's trainer leaves a pruned weight other than zero.
    """
    recipe, data = settings.recipe, load_data(settings.recipe.training)
    branch = Branch(
        init_seed=methods.stream(recipe, "init", cell.replicate),
        data_seed=methods.stream(recipe, "order", cell.replicate, cell.level),
        method=cell.method,
        level=cell.level,
        replicate=cell.replicate,
        mask=mask,
        subspace=subspace,
    )
    if start is not None:
        branch = replace(branch, start=masks.apply(start.state, mask), first_step=start.first_step)
    options = replace(recipe.training, checkpoint_steps=())
    if settings.trainer is None:
        return trainer.train(options, run.folder(cell), branch, data, Control(resume=True))
    return train_with(settings.trainer, options, run.folder(cell), branch, data)


def describe(trained: Trained) -> str:
    """Return the last losses of a training as text."""
    last = trained.curves.isel(epoch=-1)
    return ", ".join(f"{str(name).replace('_', ' ')} {float(value):.4g}" for name, value in last.data_vars.items())
