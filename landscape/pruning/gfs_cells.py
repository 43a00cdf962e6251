"""One pre-training, selected from at every checkpoint: the cell of a study of how much pre-training is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape import datasets, losses, models, seeds
from landscape.cli import option
from landscape.datasets import Data, Sample
from landscape.errors import InputError
from landscape.models import TwoLayer
from landscape.pruning.early_bird import StableOptions, jaccard_distance, rank_distance
from landscape.pruning.gfs import Floats, Path
from landscape.pruning.gfs_measure import MeasureOptions, measure
from landscape.pruning.gfs_networks import importance_of, loss_of, neurons_of, subnetwork
from landscape.training import TrainOptions
from landscape.training.loop import EVALUATION_BATCH, Loop, deterministic

ARMS = ("data", "teacher", "random_labels")
TEACHER_WIDTH = 32
TEACHER_SCALE = 0.5  # standard deviation of the teacher's outputs: that of balanced 0/1 targets


@dataclass(frozen=True)
class PretrainOptions:
    """Pre-training."""

    data: str = option("mnist_binary", help="data", metavar="NAME|FILE.npz|MODULE:CALLABLE")
    loss: str = option("mse", help="loss", choices=("mse", "bce", "cross_entropy"))
    activation: str = option("tanh", help="activation of the neurons", choices=tuple(models.ACTIVATIONS))
    steps: int = option(8192, help="training steps; checkpoints are 0 and round(2^(j/2))", metavar="T")
    batch_size: int = option(128, help="examples in one step", metavar="B")
    lr: float = option(0.01, help="learning rate for each neuron; it is multiplied by the width", metavar="RATE")
    momentum: float = option(0.0, help="momentum")
    fine_tune_steps: int = option(0, help="steps of fine-tuning after selection; 0: none", metavar="T")
    seed: int = option(0, help="names examples, initialisation, order and labels", metavar="S")

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.steps < 2 or self.fine_tune_steps < 0:
            raise InputError("--steps must be at least 2 and --fine-tune-steps at least 0")


@dataclass(frozen=True)
class Spec:
    """Which pre-training: kind of targets, number of examples m, width N, repeat."""

    arm: str
    num_examples: int
    width: int
    replicate: int

    def __str__(self) -> str:
        """Return its name."""
        return f"{self.arm}_m{self.num_examples}_n{self.width}_r{self.replicate}"


def grid(steps: int) -> list[int]:
    """Return the checkpoints 0 and round(2^(j/2)), up to ``steps``, which is the last."""
    powers = {round(2 ** (j / 2)) for j in range(2 * steps.bit_length())}
    return sorted({0, steps, *(p for p in powers if p < steps)})


def run_cell(spec: Spec, pretraining: PretrainOptions, measuring: MeasureOptions, device: torch.device) -> xr.Dataset:
    """Pre-train once and select at every checkpoint; return a ``gfs`` Dataset of one cell.

    Notes
    -----
    Cost: ``steps`` training steps, and at each of about 2 log2(steps) checkpoints one selection.
    """
    data, test = arm_data(spec, pretraining)
    seed = int(seeds.sequence(pretraining.seed, "cell", spec.replicate).generate_state(1)[0])
    model = models.build(
        "two_layer",
        seed,
        input_shape=data.input_shape,
        num_outputs=data.num_outputs,
        width=spec.width,
        activation=pretraining.activation,
    )
    assert isinstance(model, TwoLayer)
    model.to(device)
    tensors = data.x.to(device), data.y.to(device)
    held = None if test is None else (test.x.to(device), test.y.to(device))
    checkpoints = grid(pretraining.steps)
    found: list[Measured] = []

    def after_step(step: int) -> None:
        if step in checkpoints:
            found.append(_checkpoint(model, (data, tensors, held), pretraining, measuring))

    after_step(0)
    options = _training(pretraining, spec.width, len(data), pretraining.steps)
    loop = Loop(model, losses.by_name(pretraining.loss), tensors, options, {}, seed)
    with deterministic(device):
        for epoch in range(1, options.epochs + 1):
            loop.run_epoch(epoch, after_step)
    return _assemble(spec, found, checkpoints, data, options.batch_size)


def _training(pretraining: PretrainOptions, width: int, num_examples: int, steps: int) -> TrainOptions:
    """Return the training options: full passes over the data, at least ``steps`` steps."""
    batch = min(pretraining.batch_size, num_examples)
    return TrainOptions(
        model="two_layer",
        data=pretraining.data,
        loss=pretraining.loss,
        epochs=-(-steps // -(-num_examples // batch)),
        batch_size=batch,
        lr=pretraining.lr * width,
        momentum=pretraining.momentum,
    )


def arm_data(spec: Spec, pretraining: PretrainOptions) -> tuple[Data, Data | None]:
    """Return the training examples of a cell, nested over m, and test examples where the targets allow any.

    ``data``: the targets of the data set. ``teacher``: outputs of a random ``two_layer`` network of 32 neurons, so that
    they can be realised. ``random_labels``: the targets of the data set, shuffled over the examples.
    """
    sample = Sample(spec.num_examples, _kind(pretraining), _seed(pretraining, spec.replicate))
    data = datasets.load(pretraining.data, "train", sample)
    try:
        test: Data | None = datasets.load(pretraining.data, "test")
    except datasets.NoTestSplitError:
        test = None
    if spec.arm == "data":
        return data, test
    if spec.arm == "random_labels":
        order = seeds.numpy_generator(pretraining.seed, "labels", spec.replicate).permutation(len(data))
        return replace(data, y=data.y[torch.from_numpy(order)]), None
    if spec.arm != "teacher":
        raise InputError(f"unknown arm {spec.arm!r}; use {', '.join(ARMS)}")
    if spec.width < TEACHER_WIDTH or pretraining.loss != "mse":
        raise InputError(f"the teacher arm wants --loss mse and at least {TEACHER_WIDTH} neurons")
    teacher = models.build(
        "two_layer",
        _seed(pretraining, spec.replicate),
        input_shape=data.input_shape,
        num_outputs=1,
        width=TEACHER_WIDTH,
        activation=pretraining.activation,
    )
    with torch.no_grad():
        scale = TEACHER_SCALE / teacher(data.x).std(correction=0)
        taught = [None if d is None else replace(d, y=teacher(d.x) * scale, num_classes=None) for d in (data, test)]
    assert taught[0] is not None
    return taught[0], taught[1]


def _kind(pretraining: PretrainOptions) -> str:
    """Return how examples are chosen: the named data have labels to balance."""
    return "stratified" if pretraining.data in datasets.CONSTANTS else "random"


def _seed(pretraining: PretrainOptions, replicate: int) -> int:
    return int(seeds.sequence(pretraining.seed, "examples", replicate).generate_state(1)[0])


Tensors = tuple[Data, tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]
Measured = tuple[xr.Dataset, Path, Floats]  # of a checkpoint: variables over size, the path, |Phi_i|^2


@torch.no_grad()
def _checkpoint(
    model: TwoLayer, examples: Tensors, pretraining: PretrainOptions, measuring: MeasureOptions
) -> Measured:
    """Measure the selections at the present weights."""
    data, (x, _), test = examples
    neurons = neurons_of(model, x)
    loss = loss_of(pretraining.loss, data.y, data.num_outputs, neurons.hidden)
    order = np.argsort(-importance_of(model), kind="stable")
    result, path = measure(neurons, loss, measuring, order)
    if test is not None and "accuracy" in result:
        pruned = [_accuracy(subnetwork(model, path.weight(k)), pretraining.loss, test) for k in measuring.sizes]
        dense = _accuracy(model, pretraining.loss, test)
        result = result.assign(test_accuracy=("size", np.array(pruned)), dense_test_accuracy=dense)
    if pretraining.fine_tune_steps:
        result = result.assign(_tuned(model, path, examples, pretraining, measuring.sizes))
    return result, path, neurons.norm2()


def _tuned(
    model: TwoLayer, path: Path, examples: Tensors, pretraining: PretrainOptions, sizes: Sequence[int]
) -> dict[str, tuple[str, np.ndarray]]:
    """Return accuracies of the pruned networks after fine-tuning, over ``size``."""
    data, tensors, test = examples
    loss, parts = losses.by_name(pretraining.loss), {"tuned_accuracy": tensors, "tuned_test_accuracy": test}
    found: dict[str, list[float]] = {name: [] for name, part in parts.items() if part is not None}
    for size in sizes:
        pruned = subnetwork(model, path.weight(size))
        options = _training(pretraining, pruned.hidden.out_features, len(data), pretraining.fine_tune_steps)
        loop = Loop(pruned, loss, tensors, options, {}, pretraining.seed)
        with torch.enable_grad():
            for epoch in range(1, options.epochs + 1):
                loop.run_epoch(epoch, lambda step: None)
        for name in found:
            part = parts[name]
            assert part is not None
            found[name].append(_accuracy(pruned, pretraining.loss, part))
    return {name: ("size", np.array(values)) for name, values in found.items() if np.isfinite(values).all()}


@torch.no_grad()
def _accuracy(model: TwoLayer, loss: str, part: tuple[Tensor, Tensor]) -> float:
    """Return the fraction of examples on the right side, NaN for real-valued targets."""
    outputs = torch.cat([model(x) for x in part[0].split(EVALUATION_BATCH)])
    found = loss_of(loss, part[1], outputs.shape[1], outputs).accuracy(outputs)
    return float("nan") if found is None else found


def _assemble(spec: Spec, found: list[Measured], checkpoints: list[int], data: Data, batch_size: int) -> xr.Dataset:
    """Return the Dataset of a cell from what was measured at its checkpoints."""
    joined, memory = [], StableOptions().memory - 1
    for place, (result, path, norms) in enumerate(found):
        before = found[max(0, place - memory) : place]
        enough = len(before) == memory
        ranks = max((rank_distance(norms, other[2]) for other in before), default=1.0) if enough else 1.0
        drift, overlap = [], []
        for size in result["size"].values:
            weight = path.weight(size)
            distances = [jaccard_distance(weight, other[1].weight(size)) for other in before]
            drift.append(max(distances) if enough else 1.0)
            overlap.append(1 - jaccard_distance(weight, found[-1][1].weight(size)))
        result = result.assign(pick_drift=("size", np.array(drift)), pick_overlap=("size", np.array(overlap)))
        joined.append(result.assign(score_drift=ranks))
    cell = xr.concat(joined, xr.Variable("step", checkpoints)).expand_dims(cell=[0]).transpose("cell", "step", ...)
    labels = {
        "num_examples": len(data),
        "num_neurons": spec.width,
        "replicate": spec.replicate,
        "input_size": data.x[0].numel(),
        "batch_size": batch_size,
    }
    return cell.assign({"arm": ("cell", [spec.arm])} | {n: ("cell", np.array([v])) for n, v in labels.items()})
