"""Reference networks by name, with an initialisation that depends on nothing but its seed.

==================  ====================================================================================================
name                network (arguments with their defaults)
==================  ====================================================================================================
``lenet_300_100``   784-300-100-10 for MNIST, 266,610 parameters (``activation=relu``)
``mlp``             fully connected (``widths=(64,32) activation=tanh bias=True``)
``two_layer``       f(x) = (1/N) sum_i b_i s(a_i x) without biases (``width=1000 activation=gelu``)
``conv_2 4 6``      blocks of two 3x3 convolutions with max pooling, then 256-256 (``width=64 dense=256``)
``resnet20``        the CIFAR ResNet with BatchNorm, 272,474 parameters (``width=16 shortcut=projection``);
                    ``shortcut=pad`` is the parameter-free option A of He et al., 269,722 parameters
``vgg16``           thirteen 3x3 convolutions with BatchNorm, mean pooling, one linear layer (``width=64``)
==================  ====================================================================================================

Activations: ``relu``, ``gelu``, ``tanh``. Every network flattens its input itself.

Initialisation: each tensor draws from its own stream, named by seed and parameter name. Linear layers, and the
convolutions of ``conv_*``: normal with variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010, as Frankle & Carbin
2019); convolutions of networks with BatchNorm: normal with variance 2 / fan_out (He et al. 2015); ``two_layer``:
a_i ~ N(0, 1/d), b_i ~ N(0, 1); biases 0, BatchNorm scale 1. A ``MODULE:FACTORY`` keeps its own initialisation, made
under the same seed.

References: LeCun et al. 1998; Frankle & Carbin 2019, arXiv 1803.03635; He et al. 2016, arXiv 1512.03385; Simonyan &
Zisserman 2015, arXiv 1409.1556.
"""

from __future__ import annotations

import ast
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape import loading, seeds
from landscape.errors import InputError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def activation_of(name: str) -> nn.Module:
    """Return a new activation layer."""
    if name not in ACTIVATIONS:
        raise InputError(f"unknown activation {name!r}; use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def mlp(
    input_shape: tuple[int, ...],
    num_outputs: int,
    widths: tuple[int, ...] = (64, 32),
    activation: str = "tanh",
    bias: bool = True,
) -> nn.Module:
    """Return a fully connected network with layers ``fc1``, ``fc2``, ..., ``output``."""
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    before = prod(input_shape)
    for number, width in enumerate(_at_least_one(widths, "widths"), start=1):
        layers += [(f"fc{number}", nn.Linear(before, width, bias)), (f"activation{number}", activation_of(activation))]
        before = width
    return nn.Sequential(OrderedDict([*layers, ("output", nn.Linear(before, num_outputs, bias))]))


def lenet_300_100(input_shape: tuple[int, ...], num_outputs: int, activation: str = "relu") -> nn.Module:
    """Return the fully connected network with hidden layers of 300 and 100 units."""
    return mlp(input_shape, num_outputs, (300, 100), activation)


class TwoLayer(nn.Module):
    """The mean of N neurons, f(x) = (1/N) sum_i b_i s(a_i x): the mean-field scaling."""

    def __init__(
        self, input_shape: tuple[int, ...], num_outputs: int, width: int = 1000, activation: str = "gelu"
    ) -> None:
        super().__init__()
        _at_least_one((width,), "width")
        self.hidden = nn.Linear(prod(input_shape), width, bias=False)
        self.activation = activation_of(activation)
        self.output = nn.Linear(width, num_outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs ``(N, num_outputs)``."""
        return self.output(self.activation(self.hidden(x.flatten(1)))) / self.hidden.out_features


def _convolutional(num_convolutions: int) -> Callable[..., nn.Module]:
    """Return the factory of ``conv_2``, ``conv_4`` or ``conv_6``: two convolutions, then max pooling, repeated."""

    def conv(
        input_shape: tuple[int, ...],
        num_outputs: int,
        width: int = 64,
        dense: int = 256,
        activation: str = "relu",
    ) -> nn.Module:
        _at_least_one((width, dense), "width and dense")
        channels, height, breadth = _image(input_shape, 2 ** (num_convolutions // 2))
        layers: list[tuple[str, nn.Module]] = []
        for number in range(1, num_convolutions + 1):
            after = width * 2 ** ((number - 1) // 2)
            layers += [(f"conv{number}", nn.Conv2d(channels, after, 3, padding=1))]
            layers += [(f"activation{number}", activation_of(activation))]
            if number % 2 == 0:
                layers += [(f"pool{number // 2}", nn.MaxPool2d(2))]
                height, breadth = height // 2, breadth // 2
            channels = after
        head = mlp((channels, height, breadth), num_outputs, (dense, dense), activation)
        assert isinstance(head, nn.Sequential)
        renamed = [(f"dense_{n}" if n.startswith("activation") else n, layer) for n, layer in head.named_children()]
        return nn.Sequential(OrderedDict([*layers, *renamed]))

    return conv


class Residual(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut, which is projected or padded where the shape changes."""

    def __init__(self, before: int, after: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.stride, self.extra = stride, after - before
        self.shortcut: nn.Module | None = None
        if shortcut == "projection" and (stride != 1 or self.extra):
            project = nn.Conv2d(before, after, 1, stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=project, norm=nn.BatchNorm2d(after)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the feature maps ``(N, after, H / stride, W / stride)``."""
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.extra:
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return torch.relu(x + y)


def resnet20(
    input_shape: tuple[int, ...], num_outputs: int, width: int = 16, shortcut: str = "projection"
) -> nn.Module:
    """Return the CIFAR ResNet of three stages of three blocks."""
    if shortcut not in ("projection", "pad"):
        raise InputError(f"unknown shortcut {shortcut!r}; use projection or pad")
    _at_least_one((width,), "width")
    channels = _image(input_shape, 1)[0]
    layers: list[tuple[str, nn.Module]] = [
        ("conv", nn.Conv2d(channels, width, 3, padding=1, bias=False)),
        ("norm", nn.BatchNorm2d(width)),
        ("relu", nn.ReLU()),
    ]
    before = width
    for stage in range(3):
        for block in range(3):
            after = width * 2**stage
            stride = 2 if stage and not block else 1
            layers.append((f"block{stage + 1}_{block + 1}", Residual(before, after, stride, shortcut)))
            before = after
    return nn.Sequential(OrderedDict([*layers, *_mean_head(before, num_outputs)]))


def vgg16(input_shape: tuple[int, ...], num_outputs: int, width: int = 64) -> nn.Module:
    """Return the CIFAR VGG of thirteen convolutions."""
    _at_least_one((width,), "width")
    channels = _image(input_shape, 16)[0]
    layers: list[tuple[str, nn.Module]] = []
    number = 0
    for stage, (scale, repeats) in enumerate([(1, 2), (2, 2), (4, 3), (8, 3), (8, 3)], start=1):
        for _ in range(repeats):
            number += 1
            layers += [(f"conv{number}", nn.Conv2d(channels, scale * width, 3, padding=1, bias=False))]
            layers += [(f"norm{number}", nn.BatchNorm2d(scale * width)), (f"relu{number}", nn.ReLU())]
            channels = scale * width
        if stage < 5:
            layers.append((f"pool{stage}", nn.MaxPool2d(2)))
    return nn.Sequential(OrderedDict([*layers, *_mean_head(channels, num_outputs)]))


def _mean_head(channels: int, num_outputs: int) -> list[tuple[str, nn.Module]]:
    return [("mean", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("output", nn.Linear(channels, num_outputs))]


def _image(shape: tuple[int, ...], shrink: int) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape[1:]) < shrink:
        raise InputError(f"this network wants images (C, H, W) of at least {shrink}x{shrink}; the inputs are {shape}")
    return shape[0], shape[1], shape[2]


def _at_least_one(values: tuple[int, ...], what: str) -> tuple[int, ...]:
    if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in values):
        raise InputError(f"{what} must be positive whole numbers, not {values}")
    return values


FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "lenet_300_100": lenet_300_100,
    "mlp": mlp,
    "two_layer": TwoLayer,
    "conv_2": _convolutional(2),
    "conv_4": _convolutional(4),
    "conv_6": _convolutional(6),
    "resnet20": resnet20,
    "vgg16": vgg16,
}
NAMES = tuple(FACTORIES)


def build(name: str | Callable[..., nn.Module], seed: int = 0, **arguments: Any) -> nn.Module:
    """Build a network in training mode; the global random state is as before.

    Parameters
    ----------
    name
        A built-in name, ``MODULE:FACTORY``, or a factory.
    seed
        Seed of the initialisation.
    arguments
        ``input_shape`` and ``num_outputs`` (passed to a factory of the user only if it has such parameters), and the
        network's own.

    Raises
    ------
    InputError
        If there is no such network, or an argument is missing, unknown or out of range.
    """
    factory = _factory(name)
    built_in = isinstance(name, str) and name in FACTORIES
    known = inspect.signature(factory).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in known.values())
    inferred = {"input_shape", "num_outputs"}
    chosen = {k: v for k, v in arguments.items() if k in known or takes_all or built_in or k not in inferred}
    if "widths" in chosen and isinstance(chosen["widths"], int | list):
        chosen["widths"] = tuple(chosen["widths"]) if isinstance(chosen["widths"], list) else (chosen["widths"],)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.generator(seed, "model").initial_seed())
        try:
            inspect.signature(factory).bind(**chosen)
        except TypeError as error:
            raise InputError(f"the model {name} cannot be built with {sorted(chosen)}: {error}") from error
        try:
            model = factory(**chosen)
        except (TypeError, ValueError) as error:
            if not built_in or isinstance(error, InputError):
                raise  # a mistake in the user's own factory wants its traceback
            raise InputError(f"the model {name} cannot be built with {chosen}: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"the model factory {name} returned {type(model).__name__}, not a torch.nn.Module")
    if built_in:
        initialise(model, seed)
    return model


def _factory(name: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    if not isinstance(name, str):
        return name
    if name in FACTORIES:
        return FACTORIES[name]
    if not loading.is_code(name):
        raise InputError(f"unknown model {name!r}; use one of {', '.join(NAMES)}, or MODULE:FACTORY")
    found = loading.import_object(name, "model")
    if isinstance(found, nn.Module) or not callable(found):
        raise InputError(f"{name} must be a function or class that returns a torch.nn.Module")
    return found


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """Draw all weights anew as the module's docstring says; biases and BatchNorm are as their layers make them."""
    normed = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            if name.endswith("bias"):
                parameter.zero_()
            continue
        receptive = parameter[0, 0].numel()
        fan_in, fan_out = parameter.shape[1] * receptive, parameter.shape[0] * receptive
        variance = 2 / (fan_in + fan_out)
        if normed and parameter.ndim == 4:
            variance = 2 / fan_out
        if isinstance(model, TwoLayer):
            variance = 1 / fan_in if name == "hidden.weight" else 1.0
        stream = seeds.generator(seed, "init", name)
        parameter.copy_(torch.randn(parameter.shape, generator=stream) * variance**0.5)


def parse_arguments(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the arguments of ``--model-arg K=V``; a value is a Python literal, ``64,32`` a tuple, else text."""
    arguments: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"--model-arg wants K=V, for example width=32, not {pair!r}")
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = {"true": True, "false": False}.get(value.lower(), value)
    return arguments


def as_inputs(model: nn.Module, x: Tensor) -> Tensor:
    """Return inputs in the dtype that the model takes: whole numbers stay so only where it looks them up as tokens."""
    tokens = any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in model.modules())
    return x if tokens or x.is_floating_point() else x.float()


@torch.no_grad()
def output_layer(model: nn.Module, x: Tensor) -> str | None:
    """Return the name of the linear layer whose weights and bias scale the outputs, or None.

    The last linear layer qualifies if doubling it doubles the outputs of ``x (N, ...)``. Scaling it by t is then the
    same as scaling the outputs by t, at a point that is a network. Cost: two forward passes; the model is untouched.
    """
    names = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not names:
        return None
    tensors: Mapping[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    prefix = f"{names[-1]}." if names[-1] else ""
    doubled = {n: 2 * t if n in (f"{prefix}weight", f"{prefix}bias") else t.clone() for n, t in tensors.items()}
    training = {m: m.training for m in model.modules()}
    try:
        model.eval()
        before = model(x)
        after = functional_call(model, doubled, (x,))
    finally:
        for module, mode in training.items():
            module.training = mode
    if not isinstance(before, Tensor):
        return None
    return names[-1] if torch.allclose(after, 2 * before, rtol=1e-4, atol=1e-6) else None
