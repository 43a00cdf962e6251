"""Data in a fixed order: a split, a chosen part of it, a normalisation, and a checksum of exactly that.

Named data, read from ``$LANDSCAPE_DATA`` (default ``data/cache``), downloaded where missing; ``unit`` divides by the
largest pixel value, ``standard`` then subtracts the mean and divides by the standard deviation of every channel:

===============  ==================  =======  ==========================  ==========================
name             train, test         largest  mean                        deviation
===============  ==================  =======  ==========================  ==========================
digits           1,437, 360          16       0.3054                      0.3755
mnist            60,000, 10,000      255      0.1307                      0.3081
fashion_mnist    60,000, 10,000      255      0.2860                      0.3530
cifar10          50,000, 10,000      255      0.4914, 0.4822, 0.4465      0.2470, 0.2435, 0.2616
cifar100         50,000, 10,000      255      0.5071, 0.4865, 0.4409      0.2673, 0.2564, 0.2762
===============  ==================  =======  ==========================  ==========================

``digits`` are the 8x8 digits that come with scikit-learn in stored order: the first 1,437 train, the last 360 test
(other writers). ``mnist_binary`` is MNIST with the real target 1 for digits from 5 up and 0 below, ``(N, 1)``.
The constants of files and callables are those of their training split: least and largest value, mean and deviation
over all entries.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from landscape import archives, loading, seeds
from landscape.errors import InputError

SPLITS = ("train", "test")
EXAMPLES = ("first", "random", "stratified")
NORMALIZE = ("none", "unit", "standard")
UNLIKELY = 1e-6
DIGITS_TRAIN = 1437
# Statistics are summed over so many examples at a time.
PART = 1000

Arrays = tuple[Tensor, Tensor]


class NoTestSplitError(InputError):
    """The source has training examples only."""


@dataclass(frozen=True)
class Constants:
    """Constants of ``unit``, (x - low) / (high - low), and after that of ``standard``, (x - mean) / deviation."""

    low: float
    high: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


_GREY = {
    "digits": Constants(0, 16, (0.3054,), (0.3755,)),
    "mnist": Constants(0, 255, (0.1307,), (0.3081,)),
    "fashion_mnist": Constants(0, 255, (0.2860,), (0.3530,)),
}
CONSTANTS = {
    **_GREY,
    "mnist_binary": _GREY["mnist"],
    "cifar10": Constants(0, 255, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Constants(0, 255, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
NAMES = tuple(CONSTANTS)


@dataclass(frozen=True)
class Sample:
    """Which examples of a split are used.

    Parameters
    ----------
    num_examples
        How many; all where None.
    examples
        ``first`` in stored order, ``random``, or ``stratified`` (every label in its proportion). A smaller sample is
        part of a larger one with the same seed; the stored order is kept. Where None: ``first`` for named data,
        ``random`` for files and callables, whose order often means something.
    seed
        Names the random choice.
    """

    num_examples: int | None = None
    examples: str | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Data:
    """Examples in a fixed order.

    Attributes
    ----------
    x
        Inputs ``(N, ...)``, normalised; float32 (float64 if stored so), or int64 as stored (tokens).
    y
        Labels ``(N,)`` or ``(N, T)`` as int64, or real targets.
    num_classes
        Number of classes of integer labels; None for real targets.
    name, split, normalize
        What was asked for, with defaults filled in.
    index
        Positions of the examples in the split, ``(N,)`` int64, ascending.
    split_size
        Number of examples of the whole split.
    label_p_value
        Chi-square p-value of the label histogram against that of the whole split; None without labels.
    sha256
        Of the stored values of these examples, their positions and the normalisation.
    """

    x: Tensor
    y: Tensor
    num_classes: int | None
    name: str
    split: str
    normalize: str
    index: Tensor
    split_size: int
    label_p_value: float | None
    sha256: str

    def __len__(self) -> int:
        return len(self.x)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.x.shape[1:])

    @property
    def num_outputs(self) -> int:
        """The number of outputs that a network for these targets has."""
        return self.num_classes or (self.y.shape[1] if self.y.ndim > 1 else 1)


def load(
    source: str | Callable[..., Any],
    split: str = "train",
    sample: Sample | None = None,
    normalize: str | None = None,
    root: str | Path | None = None,
) -> Data:
    """Load (a part of) a split.

    Parameters
    ----------
    source
        A built-in name, ``FILE.npz`` (arrays ``x``, ``y`` and, optionally, ``x_test``, ``y_test``), or
        ``MODULE:CALLABLE`` (or a callable) that returns ``(x, y)``, a mapping with the same names, or an iterable of
        batches ``(x, y)``. It is called with ``split=`` if it has such a parameter.
    normalize
        ``none``, ``unit`` or ``standard``; where None: ``standard`` for named data, else ``none``.
    root
        Directory of the named data.

    Raises
    ------
    InputError
        If there are no such data, they are empty, hold NaN, have the wrong dtype or unequal lengths, or fewer examples
        than are asked for.

    Warns
    -----
    UserWarning
        If the labels of the sample are far from those of the split (p < 1e-6).
    """
    if split not in SPLITS:
        raise InputError(f"unknown --split {split!r}; use train or test")
    if normalize not in (*NORMALIZE, None):
        raise InputError(f"unknown --normalize {normalize!r}; use one of {', '.join(NORMALIZE)}")
    sample = sample or Sample()
    named = isinstance(source, str) and source in CONSTANTS
    name = source if isinstance(source, str) else getattr(source, "__name__", type(source).__name__)
    read = _reader(source, Path(root) if root else archives.data_root())
    x, y = _checked(*read(split), name)
    normalize = normalize or ("standard" if named else "none")
    index = choose(y, sample, "first" if named else "random")
    probability = label_probability(y, index)
    chosen, targets = (x, y) if len(index) == len(x) else (x[index], y[index])
    if normalize == "none":
        inputs = chosen.float() if chosen.dtype == torch.uint8 else chosen
    else:
        constants = CONSTANTS[name] if named else _measured(*read("train"), name)
        inputs = _normalized(chosen, constants, normalize)
    if name == "mnist_binary":
        targets = (targets >= 5).float()[:, None]
    classes = None if targets.is_floating_point() else int(y.max()) + 1
    digest = _sha256(chosen, targets, index, normalize)
    return Data(inputs, targets, classes, name, split, normalize, index, len(x), probability, digest)


def choose(labels: Tensor, sample: Sample, default: str = "first") -> Tensor:
    """Return the ascending positions ``(N,)`` of the examples of a sample."""
    total, kind = len(labels), sample.examples or default
    number = total if sample.num_examples is None else sample.num_examples
    if kind not in EXAMPLES:
        raise InputError(f"unknown --examples {kind!r}; use one of {', '.join(EXAMPLES)}")
    if not 1 <= number <= total:
        raise InputError(f"--num-examples must lie between 1 and {total} (the size of the split), not {number}")
    if kind == "first":
        return torch.arange(number)
    order = torch.from_numpy(seeds.numpy_generator(sample.seed, "examples").permutation(total))
    if kind == "stratified":
        if labels.is_floating_point() or labels.ndim != 1:
            raise InputError("--examples stratified needs one class label per example; use first or random")
        order = order[torch.argsort(_rank_in_class(labels[order]), stable=True)]
    return order[:number].sort().values


def _rank_in_class(labels: Tensor) -> Tensor:
    """Return (r + 1/2) / n_c for the r-th of the n_c examples of its class: its N least values are in proportion."""
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        places = (labels == label).nonzero().squeeze(1)
        rank[places] = (torch.arange(len(places), dtype=torch.float64) + 0.5) / len(places)
    return rank


def label_probability(labels: Tensor, index: Tensor) -> float | None:
    """Return the chi-square p-value of the label histogram of a sample against that of its split, and warn if tiny."""
    if labels.is_floating_point():
        return None
    _, place = labels.unique(return_inverse=True)
    whole = torch.bincount(place.flatten()).double()
    part = torch.bincount(place[index].flatten(), minlength=len(whole)).double()
    if len(whole) < 2:
        return 1.0
    p = float(stats.chisquare(part.numpy(), (whole * (part.sum() / whole.sum())).numpy()).pvalue)
    if p < UNLIKELY:
        warnings.warn(
            f"the labels of these {len(index)} examples are far from those of the split (chi-square p = {p:.1g}); "
            "use --examples stratified",
            stacklevel=3,
        )
    return p


def _normalized(x: Tensor, constants: Constants, normalize: str) -> Tensor:
    """Return the inputs under ``unit`` or ``standard``, in float32 unless they are float64."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = x.to(dtype, copy=True).sub_(constants.low).div_(constants.high - constants.low)
    if normalize == "standard":
        shape = (-1, *[1] * (x.ndim - 2)) if len(constants.mean) > 1 else ()
        x.sub_(torch.tensor(constants.mean, dtype=dtype).reshape(shape))
        x.div_(torch.tensor(constants.deviation, dtype=dtype).reshape(shape))
    return x


def _measured(x: Any, y: Any, name: str) -> Constants:
    """Return the constants of data that have none of their own, from all entries of their training split."""
    x = _checked(x, y, name)[0]
    low, high = float(x.min()), float(x.max())
    mean = sum(float(part.double().sum()) for part in x.split(PART)) / x.numel()
    deviation = (sum(float((part.double() - mean).square().sum()) for part in x.split(PART)) / x.numel()) ** 0.5
    if low == high:
        raise InputError(f"the inputs of {name} are all {low:g}, so they cannot be normalised; use --normalize none")
    return Constants(low, high, ((mean - low) / (high - low),), (deviation / (high - low),))


def _sha256(x: Tensor, y: Tensor, index: Tensor, normalize: str) -> str:
    digest = hashlib.sha256(normalize.encode())
    for tensor in (x, y, index):
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _checked(x: Any, y: Any, name: str) -> Arrays:
    """Return inputs and targets as tensors of the dtypes that :class:`Data` promises."""
    inputs, targets = _tensor(x, "inputs", name), _tensor(y, "targets", name)
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
        raise InputError(f"the inputs and targets of {name} have the shapes {inputs.shape} and {targets.shape}")
    if inputs.numel() == 0:
        raise InputError(f"the data {name} are empty")
    if inputs.dtype in (torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32):
        inputs = inputs.long()
    elif inputs.dtype not in (torch.uint8, torch.int64, torch.float32, torch.float64):
        inputs = inputs.float()
    if not targets.is_floating_point():
        targets = targets.long()
    elif targets.dtype != torch.float64:
        targets = targets.float()
    for what, tensor in (("inputs", inputs), ("targets", targets)):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"the {what} of {name} hold NaN or infinite values")
    return inputs, targets


def _tensor(values: Any, what: str, name: str) -> Tensor:
    try:
        tensor = (
            values.detach().cpu()
            if isinstance(values, Tensor)
            else torch.from_numpy(np.require(values, None, ["C", "W"]))
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"the {what} of {name} are not numbers in one rectangular array") from error
    if tensor.is_complex():
        raise InputError(f"the {what} of {name} are complex; use real numbers")
    return tensor


def _reader(source: str | Callable[..., Any], root: Path) -> Callable[[str], tuple[Any, Any]]:
    """Return the function split -> (x, y) of a source."""
    if not isinstance(source, str):
        return lambda split: _call(source, split, getattr(source, "__name__", "the callable"))
    if source in CONSTANTS:
        return lambda split: _read_named(source, split, root)
    if source.endswith(".npz"):
        return lambda split: _read_npz(Path(source), split)
    if loading.is_code(source):
        function = loading.import_object(source, "data")
        return lambda split: _call(function, split, source)
    raise InputError(f"unknown data {source!r}; use one of {', '.join(NAMES)}, FILE.npz or MODULE:CALLABLE")


def _read_named(name: str, split: str, root: Path) -> Arrays:
    if name == "digits":
        from sklearn.datasets import load_digits

        bunch = load_digits()
        part = slice(None, DIGITS_TRAIN) if split == "train" else slice(DIGITS_TRAIN, None)
        pixels, labels = bunch.images[part, None].astype(np.uint8), bunch.target[part]
    else:
        archive = archives.ARCHIVES[name.removesuffix("_binary")]
        pixels, labels = archives.images(archive, split, root)
    return torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64))


def _read_npz(path: Path, split: str) -> tuple[Any, Any]:
    if not path.is_file():
        raise InputError(f"there is no data file {path}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            return _of_split(content, split, str(path))
    except InputError:
        raise
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is truncated or holds more than plain arrays; write it with numpy.savez") from error


def _of_split(content: Mapping[str, Any], split: str, name: str) -> tuple[Any, Any]:
    keys = ("x", "y") if split == "train" else ("x_test", "y_test")
    missing = [key for key in keys if key not in content]
    if missing:
        kind = NoTestSplitError if split == "test" and "x_test" not in content else InputError
        raise kind(f"{name} has no {missing[0]!r} for the {split} split; it has {', '.join(sorted(content))}")
    return content[keys[0]], content[keys[1]]


def _call(function: Callable[..., Any], split: str, name: str) -> tuple[Any, Any]:
    """Call a user's function and find inputs and targets in what it returns."""
    if not callable(function):
        raise InputError(f"{name} is not callable; it must return (x, y), a mapping or an iterable of batches")
    knows_split = "split" in inspect.signature(function).parameters
    result = function(split=split) if knows_split else function()
    if isinstance(result, Mapping):
        return _of_split(result, "train" if knows_split and "x" in result else split, name)
    if not knows_split and split == "test":
        raise NoTestSplitError(
            f"{name} has no test split: give it a parameter split, or let it return x_test and y_test"
        )
    if isinstance(result, tuple | list) and len(result) == 2 and all(hasattr(part, "shape") for part in result):
        return result[0], result[1]
    if not isinstance(result, Iterable):
        raise InputError(f"{name} returned {type(result).__name__}; it must return (x, y), a mapping or batches")
    return _joined(result, name)


def _joined(batches: Iterable[Any], name: str) -> Arrays:
    pairs = [_checked(batch[0], batch[1], name) for batch in batches if isinstance(batch, tuple | list)]
    if not pairs:
        raise InputError(f"the data {name} are empty, or their batches are not pairs (x, y)")
    try:
        return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])
    except RuntimeError as error:
        raise InputError(f"the batches of {name} have different shapes") from error
