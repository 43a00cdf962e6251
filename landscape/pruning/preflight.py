"""What can be refused before a run is created or anything is trained; messages name the flag that was given."""

from __future__ import annotations

from landscape import models
from landscape.checkpoints.problems import check_inputs
from landscape.datasets import Data
from landscape.errors import InputError
from landscape.pruning import criteria
from landscape.pruning.methods import PruneOptions, Recipe
from landscape.training import TrainOptions
from landscape.training.loop import check_augment, loss_of
from landscape.training.options import check as check_training


def num_steps(options: TrainOptions, data: Data) -> int:
    """Return the number of steps of a training."""
    return options.epochs * -(-len(data) // options.batch_size)


def check_pruning(options: PruneOptions) -> None:
    """Refuse options of pruning that mean nothing for any network.

    Raises
    ------
    InputError
        With the name of the option.
    """
    criteria.num_removed(1, options.fraction)  # for its check
    if options.scope not in criteria.SCOPES:
        raise InputError(f"unknown --scope {options.scope!r}; use one of {', '.join(criteria.SCOPES)}")
    if options.rewind_step < 0:
        raise InputError(f"--rewind-step must not be negative, but is {options.rewind_step}")


def check(recipe: Recipe, data: Data) -> None:
    """Refuse a recipe that would fail only after the dense network is trained.

    Parameters
    ----------
    data
        The training data.

    Raises
    ------
    InputError
        With the name of the option, and what there is.
    """
    training, pruning = recipe.training, recipe.pruning
    check_training(training)
    check_pruning(pruning)
    loss_of(training.loss)
    arguments = {"input_shape": data.input_shape, "num_outputs": data.num_outputs}
    model = models.build(training.model, training.seed, **(arguments | models.parse_arguments(training.model_arg)))
    check_inputs(model, training.model, data)
    check_augment(training, data.x)
    criteria.prunable(dict(model.named_parameters()), pruning.prunable)
    last = num_steps(training, data)
    if pruning.rewind_step > last:
        raise InputError(f"--rewind-step {pruning.rewind_step}: the training has {last} steps")
    for step in training.checkpoint_steps:
        if not 0 <= step <= last:
            raise InputError(f"--checkpoint-steps {step}: the training goes from step 0 to step {last}")
