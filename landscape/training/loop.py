"""The inner loop: tensors in memory, one gather per step, no synchronisation before the end of an epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from landscape import loading, losses, seeds
from landscape.errors import InputError
from landscape.losses import ExampleLoss, Loss
from landscape.training.options import Schedule, TrainOptions

PAD = 4
EVALUATION_BATCH = 1000


@dataclass(frozen=True, eq=False)
class Subspace:
    """A linear subspace in which all parameters move: a span, or its orthogonal complement.

    Parameters
    ----------
    vectors
        Orthonormal ``(n, K)``, over all parameters in the order of the model, each row by row.
    complement
        Whether they are the directions that are left out.
    """

    vectors: Tensor
    complement: bool = False

    def project(self, gradients: Sequence[Tensor]) -> None:
        """Project the gradients of all parameters onto the subspace, in place."""
        flat = torch.cat([g.reshape(-1) for g in gradients])
        vectors = self.vectors.to(flat)
        inside = vectors @ (vectors.T @ flat)
        parts = (flat - inside if self.complement else inside).split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


@dataclass(eq=False)
class Loop:
    """A network in training.

    Parameters
    ----------
    model
        The network, on its device; it is changed.
    data
        Inputs and targets on the same device.
    mask
        Parameter name -> bool tensor; pruned weights are zero and stay exactly so.
    data_seed
        Names the order of the data, the augmentation and dropout; each epoch has streams of its own.
    first_step
        Steps that count as done: schedule and order of the data go on from there.
    subspace
        Where given, the parameters move in it only; with plain SGD, whose steps are sums of gradients.
    """

    model: nn.Module
    loss: Loss
    data: tuple[Tensor, Tensor]
    options: TrainOptions
    mask: Mapping[str, Tensor]
    data_seed: int
    first_step: int = 0
    subspace: Subspace | None = None

    def __post_init__(self) -> None:
        check_augment(self.options, self.data[0])
        parameters = dict(self.model.named_parameters())
        self.pruned = [(parameters[n], m.to(parameters[n].device, parameters[n].dtype)) for n, m in self.mask.items()]
        with torch.no_grad():
            for p, m in self.pruned:
                p.mul_(m)
        if self.subspace is not None and (self.options.optimizer != "sgd" or self.options.weight_decay or self.mask):
            raise InputError("training in a subspace needs --optimizer sgd, no --weight-decay and no mask")
        self.optimizer = self._optimizer()
        self.steps_per_epoch = -(-len(self.data[0]) // self.options.batch_size)
        self.schedule = Schedule(self.options, self.steps_per_epoch)

    def _optimizer(self) -> torch.optim.Optimizer:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        if not parameters:
            raise InputError("the model has no parameters that can be trained")
        settings: dict[str, Any] = {"lr": self.options.lr, "weight_decay": self.options.weight_decay, "fused": True}
        if self.options.optimizer == "adam":
            return torch.optim.Adam(parameters, **settings)
        return torch.optim.SGD(parameters, momentum=self.options.momentum, **settings)

    def run_epoch(self, epoch: int, after_step: Callable[[int], None]) -> None:
        """Train for one pass over the data.

        Parameters
        ----------
        epoch
            Its number, from 1.
        after_step
            Called with the number of finished steps.

        Raises
        ------
        InputError
            If the loss is NaN or infinite.
        """
        x, y = self.data
        order = torch.randperm(len(x), generator=seeds.generator(self.data_seed, "order", epoch)).to(x.device)
        augment = Augmentation(self.options.augment, len(x), self.data_seed, epoch)
        step = max(self.first_step, (epoch - 1) * self.steps_per_epoch)
        skipped = (step - (epoch - 1) * self.steps_per_epoch) * self.options.batch_size
        running = torch.zeros((), device=x.device)
        self.model.train()
        with _own_random_state(self.data_seed, epoch, x.device):
            for first in range(skipped, len(x), self.options.batch_size):
                places = order[first : first + self.options.batch_size]
                inputs = augment(x.index_select(0, places), first)
                running += self._step(step, inputs, y.index_select(0, places))
                step += 1
                after_step(step)
        if not bool(torch.isfinite(running)):
            raise InputError(f"the loss became NaN or infinite in epoch {epoch}: lower --lr, or check the data")

    def _step(self, step: int, x: Tensor, y: Tensor) -> Tensor:
        """Take one step and return the mean loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(step)
        total, count = self.loss(self.model(x), (x, y))
        mean = total / count
        self.optimizer.zero_grad(set_to_none=True)
        mean.backward()
        for p, m in self.pruned:
            if p.grad is not None:
                p.grad.mul_(m)
        if self.subspace is not None:
            self.subspace.project([torch.zeros_like(p) if p.grad is None else p.grad for p in self.model.parameters()])
        self.optimizer.step()
        return mean.detach()


def check_augment(options: TrainOptions, x: Tensor) -> None:
    """Refuse mirrored and shifted examples where the examples are no images."""
    if options.augment == "flip_crop" and x.ndim != 4:
        raise InputError(
            f"--augment flip_crop needs images (channels, height, width), but an example has the shape "
            f"{tuple(x.shape[1:])}"
        )


class Augmentation:
    """Random mirror images and shifts of a batch of images; the draws of an epoch are made at once.

    Images are padded with ``PAD`` zeros (the mean, where the inputs are standardised) and cropped back.
    """

    def __init__(self, kind: str, size: int, seed: int, epoch: int) -> None:
        self.active = kind == "flip_crop"
        if self.active:
            stream = seeds.generator(seed, "augment", epoch)
            self.shifts = torch.randint(0, 2 * PAD + 1, (size, 2), generator=stream)
            self.mirrored = torch.rand(size, generator=stream) < 0.5

    def __call__(self, x: Tensor, first: int) -> Tensor:
        """Return the augmented batch ``(B, C, H, W)`` whose examples have the places ``first``, ... in the epoch."""
        if not self.active:
            return x
        size, channels, height, width = x.shape
        part = slice(first, first + size)
        down, right = self.shifts[part].T
        columns = torch.arange(width).expand(size, width)
        columns = torch.where(self.mirrored[part, None], columns.flip(1), columns) + right[:, None]
        rows = torch.arange(height) + down[:, None]
        padded = nn.functional.pad(x, (PAD, PAD, PAD, PAD))
        places = rows[:, :, None] * (width + 2 * PAD) + columns[:, None, :]
        flat = places.reshape(size, 1, -1).expand(size, channels, -1).to(x.device)
        return padded.flatten(2).gather(2, flat).reshape(x.shape)


@contextlib.contextmanager
def _own_random_state(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Give random layers (dropout) a stream of their own, and the caller its global state back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seeds.generator(seed, "layers", epoch).initial_seed())
        yield


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Choose the deterministic kernels of cuDNN, without TF32, for this scope."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@torch.no_grad()
def evaluate(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> tuple[float, float | None]:
    """Return the mean loss and the accuracy (None where the loss knows none), in eval mode; the mode is restored."""
    sums = torch.zeros(4, dtype=torch.float64, device=x.device)
    mode = model.training
    model.eval()
    try:
        for inputs, targets in zip(x.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True):
            outputs = model(inputs)
            hits = loss.hits(outputs, (inputs, targets)) if isinstance(loss, ExampleLoss) else None
            values = [*loss(outputs, (inputs, targets)), *(hits or (torch.zeros(()), torch.zeros(())))]
            sums += torch.stack([torch.as_tensor(value, device=x.device).double() for value in values])
    finally:
        model.train(mode)
    total, count, right, targets_seen = sums.tolist()
    if not count > 0:
        raise InputError("no target counts towards the loss")
    return total / count, right / targets_seen if targets_seen else None


def loss_of(name: str) -> Loss:
    """Return the loss of a name or of ``MODULE:CALLABLE``."""
    return losses.of(loading.import_object(name, "loss") if loading.is_code(name) else name)
