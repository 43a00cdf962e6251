"""What trainings and measurements will cost, from the time of a few passes of the untrained network on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from landscape import models
from landscape.checkpoints import Checkpoint, ProblemOptions
from landscape.problem import Problem
from landscape.pruning.imp import load_data
from landscape.pruning.methods import Recipe
from landscape.runs import Cell
from landscape.study.points import problem_of
from landscape.study.quantities import estimate_seconds
from landscape.study.requests import MeasureOptions, Request

# Examples of the pass that is timed; a pass over more takes so many times longer.
TIMED_EXAMPLES = 1000
BYTES_PER_WEIGHT = 5  # a float and its mask
BYTES_PER_RESULT = 60_000
# A step is a gradient and an update; an epoch also evaluates both splits.
UPDATE_SHARE, EVALUATION_SHARE = 1.2, 1.2


@dataclass(frozen=True)
class Costs:
    """Predicted costs of one arm of a study.

    Parameters
    ----------
    pass_seconds
        A forward pass over one example.
    step_seconds
        A training step.
    num_examples
        Training examples.
    num_weights
        Of the network.
    """

    recipe: Recipe
    pass_seconds: float
    step_seconds: float
    num_examples: int
    num_weights: int

    def training(self, cell: Cell) -> tuple[float, int]:
        """Return the seconds and bytes of a training."""
        options = self.recipe.training
        steps = options.epochs * -(-self.num_examples // options.batch_size)
        evaluations = (options.epochs + 1) * EVALUATION_SHARE * self.num_examples * self.pass_seconds
        files = options.epochs + 2 + (len(options.checkpoint_steps) if cell.method == "imp" else 0)
        return steps * self.step_seconds + evaluations, files * BYTES_PER_WEIGHT * self.num_weights

    def measurement(self, request: Request, options: MeasureOptions) -> tuple[float, int]:
        """Return the seconds and bytes of a result."""
        wanted = options.problem.num_examples
        examples = self.num_examples if wanted is None else min(wanted, self.num_examples)
        return estimate_seconds(request.quantity, options, examples * self.pass_seconds), BYTES_PER_RESULT


def measure_costs(recipe: Recipe, options: ProblemOptions) -> Costs:
    """Time a pass and a step of the untrained network."""
    size, batch = TIMED_EXAMPLES, recipe.training.batch_size
    one = untrained(recipe, replace(options, num_examples=size, batch_size=min(size, options.batch_size)))
    step = untrained(recipe, replace(options, num_examples=batch, batch_size=batch))
    return Costs(
        recipe,
        _seconds(one.loss) / one.num_examples,
        UPDATE_SHARE * _seconds(step.gradient),
        len(load_data(recipe.training)[0]),
        one.num_params_total,
    )


def untrained(recipe: Recipe, options: ProblemOptions) -> Problem:
    """Return the problem of the network at its initialisation, on at most so many examples as there are."""
    training = recipe.training
    data = load_data(training)[0]
    arguments = {"input_shape": data.input_shape, "num_outputs": data.num_outputs}
    arguments |= models.parse_arguments(training.model_arg)
    model = models.build(training.model, training.seed, **arguments)
    own = Checkpoint(model.state_dict(), data=training.data, normalize=data.normalize)
    if options.num_examples is not None:
        options = replace(options, num_examples=min(options.num_examples, len(data)))
    named = replace(options, model=training.model, model_arg=training.model_arg, data=training.data, loss=training.loss)
    return problem_of(own, named)


def _seconds(call: Callable[[], object]) -> float:
    """Return the time of the faster of two calls: the first may trace or warm up."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)
