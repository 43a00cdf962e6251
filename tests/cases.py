"""Named problems, made when asked for, with their curvature as dense matrices from the definition.

The dense twins share nothing with the package but the model: all data in one call, the mean loss as PyTorch defines it,
derivatives in reverse mode, one row at a time (``torch.func.hessian`` is wrong for layer norm in PyTorch 2.13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.nn import functional

from landscape.losses import CrossEntropy
from landscape.networks import second_order_kernels
from landscape.problem import Problem, ProblemSettings

NUM_EXAMPLES = 11
BATCH_SIZE = 4  # ragged: 4, 4, 3
CLASS_WEIGHTS = torch.tensor([1.0, 5.0, 0.3], dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A model in float64, a loss as the package takes it and as PyTorch defines its mean, data, and a mask."""

    model: nn.Module
    loss: Any
    mean_loss: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    y: Tensor
    mask: Mapping[str, Tensor] | None = None
    as_dict: bool = False
    decay: float = 0.0

    @property
    def data(self) -> Any:
        """The data as the package takes them: in ragged batches."""
        if self.as_dict:
            pairs = zip(self.x.split(BATCH_SIZE), self.y.split(BATCH_SIZE), strict=True)
            return [{"x": x, "labels": y} for x, y in pairs]
        return self.x, self.y

    @cached_property
    def problem(self) -> Problem:
        settings = ProblemSettings(batch_size=BATCH_SIZE, weight_decay=self.decay)
        return Problem.from_model(self.model, self.loss, self.data, self.mask, settings)

    @cached_property
    def names(self) -> list[str]:
        return [name for name, _ in self.model.named_parameters()]

    @cached_property
    def active(self) -> Tensor:
        """Positions of the unpruned coordinates in the concatenated parameters."""
        mask = self.mask or {}
        parts = [mask.get(name, torch.ones_like(p)).reshape(-1) != 0 for name, p in self.model.named_parameters()]
        return torch.cat(parts).nonzero()[:, 0]

    @cached_property
    def theta(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()])[self.active]

    def outputs(self, theta: Tensor) -> Tensor:
        """The outputs of all examples at once, ``(N, ...)``."""
        shapes = [p.shape for p in self.model.parameters()]
        full = torch.zeros(sum(s.numel() for s in shapes), dtype=theta.dtype).index_copy(0, self.active, theta)
        parts = full.split([s.numel() for s in shapes])
        parameters = {name: part.view(s) for name, part, s in zip(self.names, parts, shapes, strict=True)}
        outputs = functional_call(self.model, parameters, (self.x,))
        return outputs["logits"] if isinstance(outputs, dict) else outputs

    def dense(self, kind: str) -> Tensor:
        """The curvature of the mean loss, ``(n, n)``."""
        with second_order_kernels(self.model):
            if kind == "hessian":
                H = hessian(lambda theta: self.mean_loss(self.outputs(theta), self.y), self.theta)
            else:
                outputs = self.outputs(self.theta).detach()
                J = jacobian(self.outputs, self.theta).reshape(outputs.numel(), -1)
                if kind == "jtj":
                    H = J.T @ J / NUM_EXAMPLES
                else:
                    metric = hessian(lambda z: self.mean_loss(z, self.y), outputs)
                    H = J.T @ metric.reshape(J.shape[0], -1) @ J
        return H.detach() + self.decay * torch.eye(len(self.theta), dtype=torch.float64)


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape: int, classes: int = 3, seed: int = 1) -> Tensor:
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def drawn(model: nn.Module, scale: float = 0.7) -> nn.Module:
    """Give a model random parameters and statistics, in float64 and eval mode."""
    model = model.double()
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p.copy_(scale * draws(*p.shape, seed=number))
        for number, (name, b) in enumerate(model.named_buffers()):
            if b.is_floating_point():
                b.copy_(draws(*b.shape, seed=100 + number).square() + 0.5 if "var" in name else 0.3 * draws(*b.shape))
    return model.eval()


def mlp() -> nn.Module:
    return drawn(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))


# ---- losses, on a small network ------------------------------------------------------------------------------------

X4, Y3 = draws(NUM_EXAMPLES, 4, seed=7), labels(NUM_EXAMPLES)
MASK = {"0.weight": draws(5, 4, seed=3) > 0, "2.weight": draws(3, 5, seed=4) > -0.5}


def cross_entropy() -> Case:
    return Case(mlp(), "cross_entropy", functional.cross_entropy, X4, Y3)


def cross_entropy_masked() -> Case:
    return Case(mlp(), "cross_entropy", functional.cross_entropy, X4, Y3, MASK, decay=0.3)


def weighted_and_ignored() -> Case:
    y = Y3.clone()
    y[:5] = -7  # the first batch counts for nothing, the second for little
    loss = CrossEntropy(weight=CLASS_WEIGHTS, ignore_index=-7)
    return Case(mlp(), loss, lambda z, t: functional.cross_entropy(z, t, CLASS_WEIGHTS, ignore_index=-7), X4, y, MASK)


def label_smoothing() -> Case:
    loss = nn.CrossEntropyLoss(label_smoothing=0.2)
    return Case(mlp(), loss, lambda z, t: functional.cross_entropy(z, t, label_smoothing=0.2), X4, Y3)


def mse() -> Case:
    y = draws(NUM_EXAMPLES, 3, seed=8)
    return Case(mlp(), "mse", lambda z, t: 0.5 * (z - t).square().sum() / NUM_EXAMPLES, X4, y, MASK)


def bce() -> Case:
    y = labels(NUM_EXAMPLES, 3, classes=2).double()
    return Case(mlp(), "bce", functional.binary_cross_entropy_with_logits, X4, y)


def user_loss() -> Case:
    """Return a loss of the user's: (sum, count), counted in squared labels."""

    def loss(outputs: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        weight = (batch[1] + 1.0).square()
        return ((outputs.square().sum(1) + outputs[:, 0]).sinh() * weight).sum(), weight.sum()

    def mean(z: Tensor, t: Tensor) -> Tensor:
        weight = (t + 1.0).square()
        return ((z.square().sum(1) + z[:, 0]).sinh() * weight).sum() / weight.sum()

    model = drawn(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), scale=0.4)
    return Case(model, loss, mean, X4, Y3)


# ---- models --------------------------------------------------------------------------------------------------------

X_IMAGE = draws(NUM_EXAMPLES, 2, 6, 6, seed=9)
X_SEQUENCE = draws(NUM_EXAMPLES, 4, 4, seed=10)


def convolution() -> Case:
    """Return convolutions with BatchNorm behind them, a BatchNorm behind none, and max pooling."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
            self.second, self.outer = nn.Conv2d(2, 3, 3, stride=2, bias=False), nn.BatchNorm2d(3)
            self.lone, self.head = nn.BatchNorm2d(3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.max_pool2d(torch.relu(self.norm(self.first(x))), 2, 1)
            x = self.outer(self.second(x))
            return self.head((self.lone(x) + x).mean((2, 3)))

    return Case(drawn(Net(), 0.5), "cross_entropy", functional.cross_entropy, X_IMAGE, Y3)


def group_norm_gelu() -> Case:
    layers = [nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.GELU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 3)]
    return Case(drawn(nn.Sequential(*layers)), "cross_entropy", functional.cross_entropy, X_IMAGE, Y3)


def attention() -> Case:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    return Case(drawn(Net(), 0.5), "cross_entropy", functional.cross_entropy, X_SEQUENCE, Y3)


def encoder_layer() -> Case:
    """Return a fused encoder layer with one label a token, some of them padding."""
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, dropout=0.1, activation="gelu", batch_first=True)
    y = labels(NUM_EXAMPLES, 4)
    y[:3, 2:] = -100
    model = drawn(nn.Sequential(layer, nn.Linear(4, 3)), 0.5)
    return Case(
        model, "cross_entropy", lambda z, t: functional.cross_entropy(z.flatten(0, 1), t.flatten()), X_SEQUENCE, y
    )


def lstm() -> Case:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cells(x)[0][:, -1])

    return Case(drawn(Net(), 0.5), "cross_entropy", functional.cross_entropy, X_SEQUENCE, Y3)


def tied() -> Case:
    """Return an autoencoder whose decoder is its encoder, transposed by sharing the weight of a square layer."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)
            self.decode.weight = self.encode.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.decode(torch.tanh(self.encode(x)))

    return Case(drawn(Net()), "mse", lambda z, t: 0.5 * (z - t).square().sum() / NUM_EXAMPLES, X4, X4)


def dictionary() -> Case:
    """Return a model that takes and returns dictionaries, with weights that are normalised anew in each call."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = torch.tanh(self.inner(x))
            return {"logits": self.head(hidden), "hidden": hidden}

    return Case(drawn(Net()), "cross_entropy", functional.cross_entropy, X4, Y3, as_dict=True)


def stopped() -> Case:
    """Return a model that stops gradients, which a graph of its forward pass alone would forget."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.inner(x)
            return self.head(torch.tanh(hidden) / (1 + hidden.detach().square().mean(1, keepdim=True)))

    return Case(drawn(Net()), "cross_entropy", functional.cross_entropy, X4, Y3)


CASES: dict[str, Callable[[], Case]] = {
    case.__name__: case
    for case in (
        *(cross_entropy, cross_entropy_masked, weighted_and_ignored, label_smoothing, mse, bce, user_loss),
        *(convolution, group_norm_gelu, attention, encoder_layer, lstm, tied, dictionary, stopped),
    )
}
