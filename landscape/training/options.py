"""What decides a training, and the learning rate at every step of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from landscape import datasets
from landscape.checkpoints.problems import DEVICES
from landscape.cli import option, parse_integer_list
from landscape.errors import InputError

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("constant", "cosine", "milestones")
AUGMENTATIONS = ("none", "flip_crop")


@dataclass(frozen=True)
class TrainOptions:
    """Training."""

    model: str = option(help="network", metavar="NAME|MODULE:FACTORY")
    data: str = option(help="data", metavar="NAME|FILE.npz|MODULE:CALLABLE")
    model_arg: tuple[str, ...] = option((), help="arguments of the network", metavar="K=V")
    num_examples: int | None = option(None, help="training examples (default: all)", metavar="N")
    examples: str | None = option(
        None, help="which examples (default: first for named data, else random)", choices=datasets.EXAMPLES
    )
    normalize: str | None = option(
        None, help="scaling of the inputs (default: standard for named data, else none)", choices=datasets.NORMALIZE
    )
    loss: str = option("cross_entropy", help="loss", metavar="cross_entropy|mse|bce|MODULE:CALLABLE")
    epochs: int = option(10, help="passes over the data", metavar="E")
    batch_size: int = option(128, help="examples in one step (the last of an epoch may have fewer)", metavar="B")
    optimizer: str = option("sgd", help="optimiser", choices=OPTIMIZERS)
    lr: float = option(0.1, help="learning rate")
    momentum: float = option(0.0, help="momentum of sgd")
    weight_decay: float = option(0.0, help="C adds C/2 |w|^2 over all parameters to the loss", metavar="C")
    schedule: str = option("constant", help="learning rate over time; cosine ends at 0", choices=SCHEDULES)
    warmup: float = option(0.0, help="epochs over which the learning rate first rises linearly", metavar="E")
    milestones: tuple[int, ...] = option(
        (), help="epochs after which the learning rate drops", metavar="E,E,...", parse=parse_integer_list
    )
    lr_drop: float = option(0.1, help="factor of the learning rate at each milestone", metavar="F")
    augment: str = option(
        "none", help="flip_crop: mirrored at random and shifted by up to 4 pixels over zeros", choices=AUGMENTATIONS
    )
    checkpoint_steps: tuple[int, ...] = option(
        (), help="training steps after which to save (--out RUN/)", metavar="S,S,...", parse=parse_integer_list
    )
    device: str = option("auto", help="device", choices=DEVICES)
    seed: int = option(0, help="names initialisation, order of the data and augmentation", metavar="S")


def check(options: TrainOptions) -> None:
    """Refuse options that mean nothing, or that others leave without effect.

    Raises
    ------
    InputError
        With the name of the option and what to do.
    """
    for name, choices in (
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("augment", AUGMENTATIONS),
    ):
        if getattr(options, name) not in choices:
            raise InputError(f"unknown --{name} {getattr(options, name)!r}; use one of {', '.join(choices)}")
    for name, least in (("epochs", 0), ("batch_size", 1), ("momentum", 0), ("weight_decay", 0), ("warmup", 0)):
        value = getattr(options, name)
        if not least <= value < math.inf:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if not 0 < options.lr < math.inf or not 0 < options.lr_drop < math.inf:
        raise InputError(f"--lr and --lr-drop must be positive, not {options.lr} and {options.lr_drop}")
    if options.momentum and options.optimizer != "sgd":
        raise InputError("--momentum belongs to --optimizer sgd")
    if (options.schedule == "milestones") != bool(options.milestones):
        raise InputError("--milestones and --schedule milestones need each other")
    if options.schedule != "milestones" and options.lr_drop != TrainOptions.lr_drop:
        raise InputError("--lr-drop belongs to --schedule milestones")


class Schedule:
    """The learning rate of every step.

    Parameters
    ----------
    options
        Of the training.
    steps_per_epoch
        Number of steps in an epoch.
    """

    def __init__(self, options: TrainOptions, steps_per_epoch: int) -> None:
        self.options = options
        self.total = options.epochs * steps_per_epoch
        self.warmup = round(options.warmup * steps_per_epoch)
        self.milestones = [epoch * steps_per_epoch for epoch in options.milestones]

    def __call__(self, step: int) -> float:
        """Return the learning rate of the step that follows ``step`` finished ones."""
        lr = self.options.lr
        if step < self.warmup:
            return lr * (step + 1) / self.warmup
        if self.options.schedule == "cosine":
            done = (step - self.warmup) / max(1, self.total - self.warmup)
            return lr * 0.5 * (1 + math.cos(math.pi * done))
        return lr * self.options.lr_drop ** sum(step >= milestone for milestone in self.milestones)


@dataclass(frozen=True)
class OutputOptions:
    """Output."""

    out: Path = option(help="FILE.pt for the end of training, or a directory for every epoch", metavar="FILE.pt|RUN/")
    threads: int | None = option(None, help="CPU threads (default: as torch decides)", metavar="N")
    resume: bool = option(False, help="continue an interrupted training from its last finished epoch")
    force: bool = option(False, help="replace what another training wrote there")
    quiet: bool = option(False, help="print nothing but the paths of what was written")
