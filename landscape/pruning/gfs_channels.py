"""``python -m landscape.pruning gfs_channels``: prune the channels of a convolutional network to a share of its work.

Layer by layer in the order of computation, each on the features of the network as pruned so far. How many channels a
layer keeps follows from one tolerance for all: the relative error of its imitation, chosen by bisection so that the
multiplications left meet the target. BatchNorm statistics are measured anew afterwards, and the result can be
fine-tuned.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from landscape import checkpoints, cli, losses, masks, networks
from landscape.checkpoints import Checkpoint, ProblemOptions
from landscape.checkpoints.problems import DEVICES
from landscape.cli import option
from landscape.datasets import EXAMPLES, NORMALIZE
from landscape.errors import InputError
from landscape.pruning import gfs_layers, gfs_metric
from landscape.pruning.gfs import Floats, SelectOptions
from landscape.pruning.gfs_layers import LossOptions
from landscape.pruning.gfs_sites import Network, Site, Suffix
from landscape.training import Branch, TrainOptions, evaluate, train
from landscape.training.files import Control

DESCRIPTION = "Prune the channels of a convolutional network by greedy forward selection, layer by layer."
EXAMPLE = "python -m landscape.pruning gfs_channels ckpt.pt --flops 0.6 --out pruned.pt --fine-tune-epochs 5"
PICKS = 4  # for each channel of a layer: the longest selection from which its subset is taken


@dataclass(frozen=True)
class ChannelOptions:
    """Channels."""

    flops: float = option(0.6, help="fraction of the multiplications that is kept", metavar="F")
    by: str = option(
        "imitate",
        help="what a selection keeps: pre-activations, those that the loss notices (weights are free), or the loss",
        choices=("imitate", "curvature", "loss"),
    )
    batch: int = option(512, help="training examples on which channels are selected", metavar="B")
    screen: int = option(8, help="channels tried exactly at each step of --by loss", metavar="S")
    recalibrate: bool = option(True, help="measure the BatchNorm statistics anew after pruning")

    def __post_init__(self) -> None:
        """Refuse shares outside (0, 1]."""
        if not 0 < self.flops <= 1:
            raise InputError(f"--flops must lie in (0, 1], not {self.flops}")


@dataclass(frozen=True)
class TuneOptions:
    """Fine-tuning."""

    fine_tune_epochs: int = option(0, help="passes over the training data after pruning; 0: none", metavar="E")
    lr: float = option(0.01, help="its learning rate, falling to 0 along a cosine")
    momentum: float = option(0.9, help="its momentum")
    train_batch_size: int = option(128, help="its examples in one step", metavar="B")


@dataclass(frozen=True)
class InputOptions:
    """Network and data."""

    model: str | None = option(None, help="network (default: the checkpoint's)", metavar="NAME|MODULE:FACTORY")
    model_arg: tuple[str, ...] = option((), help="arguments of the network", metavar="K=V")
    data: str | None = option(None, help="data (default: the checkpoint's)", metavar="NAME|FILE.npz|MODULE:CALLABLE")
    num_examples: int | None = option(None, help="training examples (default: all)", metavar="M")
    examples: str | None = option(None, help="which (default: first for named data, else random)", choices=EXAMPLES)
    normalize: str | None = option(None, help="scaling of the inputs (default: the checkpoint's)", choices=NORMALIZE)
    device: str = option("auto", help="device", choices=DEVICES)
    seed: int = option(0, help="names the order of fine-tuning and random examples", metavar="S")


@dataclass(frozen=True)
class Arguments:
    """All options."""

    checkpoint: Path = option(help="checkpoint of a convolutional network", flag="CKPT")
    inputs: InputOptions = InputOptions()
    channels: ChannelOptions = ChannelOptions()
    tuning: TuneOptions = TuneOptions()
    out: Path | None = option(None, help="pruned checkpoint (default: CKPTSTEM.gfs.pt)", metavar="FILE.pt")
    threads: int | None = option(None, help="CPU threads (default: as torch decides)", metavar="N")
    force: bool = option(False, help="replace an existing file")
    quiet: bool = option(False, help="print nothing but the paths")


@dataclass(frozen=True, eq=False)
class Layer:
    """What became of one site: its channels, how many distinct ones are kept, the error and its certificate.

    Attributes
    ----------
    error
        Half the mean squared error of the next pre-activations over half their mean square (``imitate``; in the metric
        of the loss for ``curvature``), or the cross entropy on the batch (``loss``).
    certificate
        The bound V / 2k on the former, in the same unit; NaN for the other two.
    """

    site: Site
    kept: int
    error: float
    certificate: float


@dataclass(frozen=True, eq=False)
class Pruned:
    """A network with fewer channels.

    Attributes
    ----------
    model
        The pruned network, in its old shapes; what is pruned is zero.
    mask
        Parameter name -> bool tensor, for all parameters of pruned channels.
    layers
        The sites.
    flops
        Fraction of the multiplications that is left, counted from the distinct channels.
    """

    model: nn.Module
    mask: dict[str, Tensor]
    layers: list[Layer]
    flops: float


def prune(model: nn.Module, x: Tensor, y: Tensor, options: ChannelOptions) -> Pruned:
    """Prune the channels of all sites of a network; the caller's model is untouched.

    Parameters
    ----------
    x, y
        A batch to select on, ``(B, ...)`` and class labels ``(B,)``.
    """
    network = Network(copy.deepcopy(model).eval())
    sites = network.sites()
    if not sites:
        raise InputError("the network has no convolution whose channels are read by one layer alone")
    counts = gfs_layers.multiplications(network.model, x)
    sizes = plan(network, sites, x, counts, options.flops)
    layers, found = [], []
    for site in sites:
        suffix = Suffix.of(network, site, x)
        weight, layer = _choose(suffix, y, sizes[site.producer], options)
        found.append(gfs_layers.fold(network, site, weight))
        layers.append(layer)
    mask = _joined(found)
    with torch.no_grad():
        for name, kept in mask.items():
            parameter = network.model.get_parameter(name)
            parameter.mul_(kept.to(parameter.device))
    kept_channels = {layer.site.producer: layer.kept for layer in layers}
    return Pruned(network.model, mask, layers, gfs_layers.remaining(counts, sites, kept_channels))


def plan(network: Network, sites: Sequence[Site], x: Tensor, counts: dict[str, int], flops: float) -> dict[str, int]:
    """Return how many channels each site keeps, by producer: the same relative error of imitation everywhere."""
    ladders: dict[str, list[tuple[float, int]]] = {}
    for site in sites:
        path, products = gfs_layers.imitate(Suffix.of(network, site, x), SelectOptions(PICKS * site.num_channels))
        scale = max(products.target_norm2 / 2, np.finfo(float).tiny)
        best, steps = np.minimum.accumulate(path.loss / scale), path.num_distinct
        ladders[site.producer] = [(float(e), int(n)) for e, n in zip(best, steps, strict=True)]

    def kept(tolerance: float) -> dict[str, int]:
        return {name: next((n for e, n in steps if e <= tolerance), steps[-1][1]) for name, steps in ladders.items()}

    tolerances = sorted({e for steps in ladders.values() for e, _ in steps})
    low, high = 0, len(tolerances) - 1
    if gfs_layers.remaining(counts, list(sites), kept(tolerances[high])) > flops:
        least = gfs_layers.remaining(counts, list(sites), kept(tolerances[high]))
        raise InputError(f"--flops {flops} cannot be reached: with one channel a layer {least:.3f} are left")
    while low < high:
        middle = (low + high) // 2
        if gfs_layers.remaining(counts, list(sites), kept(tolerances[middle])) <= flops:
            high = middle
        else:
            low = middle + 1
    return kept(tolerances[high])


def _choose(suffix: Suffix, y: Tensor, number: int, options: ChannelOptions) -> tuple[Floats, Layer]:
    """Return the mask of a site that keeps at most ``number`` distinct channels, and its description."""
    channels = suffix.site.num_channels
    if options.by == "loss":
        path = gfs_layers.select_by_loss(suffix, y, LossOptions(number, options.screen))
        size, error, certificate = len(path.picks), float(path.loss[-1]), float("nan")
    elif options.by == "curvature":
        products = gfs_metric.sensitive_imitation(suffix)
        weight, left = gfs_metric.pursue(products, number)
        error = left / max(products.target_norm2 / 2, np.finfo(float).tiny)
        return weight, Layer(suffix.site, int(np.count_nonzero(weight)), error, float("nan"))
    else:
        path, products = gfs_layers.imitate(suffix, SelectOptions(PICKS * channels))
        allowed = np.flatnonzero(path.num_distinct <= number)
        size = int(allowed[np.argmin(path.loss[allowed])]) + 1
        scale = max(products.target_norm2 / 2, np.finfo(float).tiny)
        variance = float(products.norm2.mean()) - products.target_norm2
        error, certificate = float(path.loss[size - 1]) / scale, variance / (2 * size) / scale
    return path.weight(size), Layer(suffix.site, int(path.num_distinct[size - 1]), error, certificate)


def _joined(found: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the intersection of masks: a layer may be the consumer of one site and the producer of the next."""
    mask: dict[str, Tensor] = {}
    for part in found:
        for name, kept in part.items():
            mask[name] = mask[name] & kept if name in mask else kept
    return mask


@torch.no_grad()
def recalibrate(model: nn.Module, x: Tensor, batch_size: int = 500) -> None:
    """Measure the BatchNorm statistics of a network anew, as the average over batches of ``x (N, ...)``."""
    norms = networks.batchnorms(model, "recalibrate")
    momenta = {name: norm.momentum for name, norm in norms.items()}
    networks.start_recalibration(norms)
    if norms:
        for part in x.split(batch_size):
            model(part)
    for name, norm in norms.items():
        norm.momentum = momenta[name]
    model.eval()


def main(argv: Sequence[str]) -> int:
    """Prune a checkpoint, fine-tune it if asked to, and print what is left of it."""
    arguments, _ = cli.parse_arguments(cli.Parser("pruning gfs_channels", DESCRIPTION, EXAMPLE), Arguments, argv)
    cli.apply_threads(arguments.threads)
    inputs = arguments.inputs
    out = arguments.out or arguments.checkpoint.with_name(f"{arguments.checkpoint.stem}.gfs.pt")
    tuned = out.with_name(f"{out.stem}.tuned.pt")
    if out.exists() and not arguments.force:
        raise InputError(f"{out} exists; choose another --out, or --force to replace it")
    checkpoint = checkpoints.read(arguments.checkpoint)
    names = ("model", "model_arg", "data", "num_examples", "examples", "normalize", "seed")
    asked = ProblemOptions(**{name: getattr(inputs, name) for name in names})
    data = checkpoints.open_data(checkpoint, asked)
    if data.num_classes is None:
        raise InputError("channels are selected for classification; the targets are real numbers")
    device = checkpoints.resolve_device(inputs.device)
    model = checkpoints.model_of(checkpoint, asked, data).to(device)
    x, y = data.x.to(device), data.y.to(device)
    before = evaluate(model, losses.by_name("cross_entropy"), x, y)
    cli.log(f"dense: loss {before[0]:.4f}, accuracy {before[1]:.4f} on {len(x)} examples", arguments.quiet)
    count = arguments.channels.batch
    pruned = prune(model, x[:count], y[:count], arguments.channels)
    if arguments.channels.recalibrate:
        recalibrate(pruned.model, x)
    after = evaluate(pruned.model, losses.by_name("cross_entropy"), x, y)
    cli.show(describe(pruned, before, after), arguments.quiet)
    shapes = {name: p.shape for name, p in pruned.model.named_parameters()}
    state = {name: tensor.cpu() for name, tensor in pruned.model.state_dict().items()}
    mask = masks.validate(pruned.mask, shapes)
    checkpoints.save(
        out, replace(checkpoint, state_dict=state, mask=mask, method="gfs", fingerprint=None, options=None)
    )
    paths = [out]
    if arguments.tuning.fine_tune_epochs:
        paths.append(_fine_tune(arguments, checkpoint, state, mask, tuned))
    cli.show_paths(*paths)
    return cli.DONE


def _fine_tune(
    arguments: Arguments, checkpoint: Checkpoint, state: dict[str, Tensor], mask: dict[str, Tensor], out: Path
) -> Path:
    """Train the pruned network on, under its mask, and return the path of its end."""
    inputs, tuning = arguments.inputs, arguments.tuning
    model, data = inputs.model or checkpoint.model, inputs.data or checkpoint.data
    if model is None or data is None:
        raise InputError("the checkpoint does not say its model and data; give --model and --data")
    own = {name: value for name, value in checkpoint.model_args.items() if name not in ("input_shape", "num_outputs")}
    options = TrainOptions(
        model=model,
        data=data,
        model_arg=(*(f"{name}={value!r}" for name, value in own.items()), *inputs.model_arg),
        num_examples=inputs.num_examples,
        examples=inputs.examples,
        normalize=inputs.normalize or checkpoint.normalize,
        epochs=tuning.fine_tune_epochs,
        batch_size=tuning.train_batch_size,
        lr=tuning.lr,
        momentum=tuning.momentum,
        schedule="cosine",
        device=inputs.device,
        seed=inputs.seed,
    )
    trained = train(
        options, out, Branch(start=state, mask=mask, method="gfs"), control=Control(force=arguments.force, quiet=True)
    )
    last = trained.curves.isel(epoch=-1)
    text = ", ".join(f"{str(n).replace('_', ' ')} {float(v):.4f}" for n, v in last.data_vars.items())
    cli.show(f"after fine-tuning: {text}", arguments.quiet)
    return out


def describe(pruned: Pruned, before: tuple[float, float | None], after: tuple[float, float | None]) -> str:
    """Return the table of the sites and what pruning did."""
    lines = [f"{'layer':24s} {'channels':>8s} {'kept':>6s} {'error':>11s} {'certificate':>11s}"]
    for layer in pruned.layers:
        numbers = f"{layer.site.num_channels:8d} {layer.kept:6d} {layer.error:11.4g} {layer.certificate:11.4g}"
        lines.append(f"{layer.site.producer:24s} {numbers}")
    lines.append(f"multiplications left  {pruned.flops:.4f}")
    lines.append(f"loss                  {before[0]:.4f} -> {after[0]:.4f}")
    if before[1] is not None and after[1] is not None:
        lines.append(f"accuracy              {before[1]:.4f} -> {after[1]:.4f}")
    return "\n".join(lines)
