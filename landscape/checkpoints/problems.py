"""From a checkpoint and a few options to the problem that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from landscape import datasets, loading, losses, masks, models
from landscape.checkpoints.files import PREFIXES, Checkpoint, read
from landscape.datasets import Data, Sample
from landscape.errors import InputError
from landscape.problem import Problem, ProblemSettings

DTYPES = {"float32": torch.float32, "float64": torch.float64}
DEVICES = ("auto", "cpu", "cuda")
BATCH_SIZE = 250


def _flag(default: Any, text: str, **metadata: Any) -> Any:
    """Return a field that is a flag of every command that measures a problem."""
    return field(default=default, metadata={"help": text, **metadata})


@dataclass(frozen=True)
class ProblemOptions:
    """Problem."""

    model: str | None = _flag(None, "network (default: the checkpoint's)", metavar="NAME|MODULE:FACTORY")
    model_arg: tuple[str, ...] = _flag((), "arguments of the network", metavar="K=V")
    data: str | None = _flag(None, "data (default: the checkpoint's)", metavar="NAME|FILE.npz|MODULE:CALLABLE")
    split: str = _flag("train", "part of the data", choices=datasets.SPLITS)
    num_examples: int | None = _flag(None, "examples of the split (default: all)", metavar="N")
    examples: str | None = _flag(
        None, "which examples (default: first for named data, else random)", choices=datasets.EXAMPLES
    )
    normalize: str | None = _flag(
        None,
        "scaling of the inputs (default: the checkpoint's, else standard for named data)",
        choices=datasets.NORMALIZE,
    )
    loss: str | None = _flag(
        None, "loss (default: the checkpoint's, else cross_entropy)", metavar="cross_entropy|mse|bce|MODULE:CALLABLE"
    )
    weight_decay: float = _flag(0.0, "C adds C/2 |w|^2 to the measured loss", metavar="C")
    class_weights: str | None = _flag(None, "weights of the classes", metavar="FILE.npy|A,B,...")
    ignore_index: int = _flag(-100, "label that marks padding", metavar="LABEL")
    label_smoothing: float = _flag(0.0, "mass spread evenly over the classes", metavar="P")
    params: str | None = _flag(None, "measure only the parameters that match", metavar="GLOB")
    mask: str = _flag("auto", "pruning mask; auto: the checkpoint's", metavar="auto|none|FILE")
    subspace: Path | None = _flag(None, "measure only these coordinates, at the unmoved point", metavar="FILE")
    batchnorm: str = _flag(
        "running",
        "statistics of BatchNorm (default: running; between networks recalibrate)",
        choices=("running", "batch", "recalibrate"),
    )
    dtype: str = _flag("float32", "precision of the products", choices=tuple(DTYPES))
    device: str = _flag("auto", "device", choices=DEVICES)
    batch_size: int = _flag(BATCH_SIZE, "examples in one pass", metavar="B")
    seed: int = _flag(0, "names every random choice", metavar="S")


def load(path: str | Path, options: ProblemOptions | None = None) -> Problem:
    """Return the problem of a checkpoint: its network at its weights, on the chosen data, under the chosen loss.

    Parameters
    ----------
    path
        A file of any format that :func:`read` knows. Own files say which model, data and loss they belong to; for
        others the options must.

    Raises
    ------
    InputError
        In one line: the file cannot be read; the network, the data or the loss is not known, or named by the file as
        code; names or shapes of the weights differ (the first of both sides are named); the mask is wrong; weights or
        loss are NaN or infinite; the network does not take the data.
    """
    return problem_of(read(path), options)


def problem_of(checkpoint: Checkpoint, options: ProblemOptions | None = None, data: Data | None = None) -> Problem:
    """Return the problem of a checkpoint that was read; ``data`` (from :func:`open_data`) may be shared by many."""
    options = options or ProblemOptions()
    data = data or open_data(checkpoint, options)
    model = model_of(checkpoint, options, data)
    _check_options(options)
    settings = ProblemSettings(
        params=options.params,
        subspace=None if options.subspace is None else masks.read(options.subspace),
        weight_decay=options.weight_decay,
        batchnorm=options.batchnorm,
        dtype=DTYPES[options.dtype],
        device=resolve_device(options.device),
        batch_size=options.batch_size,
    )
    x = models.as_inputs(model, data.x)
    return Problem.from_model(
        model, _loss_of(checkpoint, options), (x, data.y), mask=_mask_of(checkpoint, options), settings=settings
    )


def open_data(checkpoint: Checkpoint, options: ProblemOptions) -> Data:
    """Return the data on which a checkpoint is measured."""
    source, own_path = options.data, None
    if source is None:
        source = _named_in_file(checkpoint.data, "data", "--data")
        own_path = checkpoint.data
    same = source == checkpoint.data or own_path is not None
    return datasets.load(
        source,
        options.split,
        Sample(options.num_examples, options.examples, options.seed),
        options.normalize or (checkpoint.normalize if same else None),
    )


def model_of(checkpoint: Checkpoint, options: ProblemOptions, data: Data) -> nn.Module:
    """Return the network of a checkpoint at its weights, in eval mode, after one example has passed through it."""
    name = options.model or _named_in_file(checkpoint.model, "model", "--model")
    arguments: dict[str, Any] = {"input_shape": data.input_shape, "num_outputs": data.num_outputs}
    if name == checkpoint.model:
        arguments |= checkpoint.model_args
    arguments |= models.parse_arguments(options.model_arg)
    model = models.build(name, **arguments)
    load_state(model, checkpoint.state_dict, name)
    model.eval()
    check_inputs(model, name, data)
    return model


@torch.no_grad()
def check_inputs(model: nn.Module, name: str, data: Data) -> None:
    """Let one example pass through a network in eval mode, so that data of the wrong shape are told at once."""
    x = models.as_inputs(model, data.x[:1])
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    mode = model.training
    model.eval()
    try:
        model(x.to(dtype) if x.is_floating_point() else x)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"the model {name} does not take inputs of shape {data.input_shape} ({str(error).splitlines()[0]}); "
            "check --data and --model-arg"
        ) from error
    finally:
        model.train(mode)


@torch.no_grad()
def load_state(model: nn.Module, state: Mapping[str, Tensor], name: str = "model") -> None:
    """Copy weights and buffers into a model, in the dtype in which they are stored.

    Raises
    ------
    InputError
        If names or shapes differ; the first of both sides are named.
    """
    expected = model.state_dict()
    if not set(state) & set(expected):
        prefixed = [{f"{prefix}{key}": t for key, t in state.items()} for prefix in PREFIXES]
        state = next((s for s in prefixed if set(s) & set(expected)), state)
    optional = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = [key for key in expected if key not in state and key not in optional]
    extra = [key for key in state if key not in expected]
    if missing or extra:
        raise InputError(
            f"the checkpoint does not fit {name}: the checkpoint has {_first(extra or list(state))}, the model wants "
            f"{_first(missing or list(expected))}; check --model and --model-arg"
        )
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise InputError(
                f"the checkpoint does not fit {name}: {key} has the shape {tuple(tensor.shape)} in the checkpoint and "
                f"{tuple(expected[key].shape)} in the model; check --model, --model-arg and --data"
            )
    kinds = [t.dtype for t in state.values() if t.is_floating_point()]
    if kinds:
        model.to(torch.float64 if torch.float64 in kinds else torch.float32)
    model.load_state_dict(dict(state), strict=False)


def _first(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _named_in_file(name: str | None, what: str, flag: str) -> str:
    """Return a name that the checkpoint gives, unless it is missing or would run code."""
    if name is None:
        raise InputError(f"the checkpoint does not say which {what} it belongs to; give {flag}")
    if loading.is_code(name) or ":" in name:
        raise InputError(
            f"the checkpoint names the {what} {name!r}, which is code; if you trust it, give {flag} {name}"
        )
    return name


def _mask_of(checkpoint: Checkpoint, options: ProblemOptions) -> Mapping[str, Tensor] | None:
    if options.mask == "auto":
        return checkpoint.mask
    return None if options.mask == "none" else masks.read(options.mask)


def _loss_of(checkpoint: Checkpoint, options: ProblemOptions) -> losses.Loss:
    """Return the loss, from the options or the checkpoint."""
    name = options.loss
    if name is None:
        name = "cross_entropy" if checkpoint.loss is None else _named_in_file(checkpoint.loss, "loss", "--loss")
    weight = None if options.class_weights is None else _class_weights(options.class_weights)
    if loading.is_code(name):
        if weight is not None or options.ignore_index != -100 or options.label_smoothing:
            raise InputError("--class-weights, --ignore-index and --label-smoothing belong to --loss cross_entropy")
        return losses.of(loading.import_object(name, "loss"))
    return losses.by_name(name, weight, options.ignore_index, options.label_smoothing)


def _class_weights(text: str) -> Tensor:
    """Return the class weights ``(C,)`` of a ``.npy`` file or of comma-separated numbers."""
    try:
        values = np.load(text, allow_pickle=False) if text.endswith(".npy") else [float(v) for v in text.split(",")]
        weights = torch.as_tensor(np.asarray(values, dtype=np.float64))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"--class-weights {text}: this is no .npy file and no list of numbers") from error
    if weights.ndim != 1 or not bool((weights >= 0).all()) or not bool(torch.isfinite(weights).all()):
        raise InputError(f"--class-weights {text}: these must be finite numbers >= 0, one for each class")
    return weights


def _check_options(options: ProblemOptions) -> None:
    if options.dtype not in DTYPES:
        raise InputError(f"unknown --dtype {options.dtype!r}; use float32 or float64")
    if options.batch_size < 1:
        raise InputError(f"--batch-size must be at least 1, not {options.batch_size}")
    if not 0 <= options.label_smoothing < 1:
        raise InputError(f"--label-smoothing must lie in [0, 1), not {options.label_smoothing}")
    if not 0 <= options.weight_decay < float("inf"):
        raise InputError(f"--weight-decay must be a finite number >= 0, not {options.weight_decay}")


def resolve_device(name: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` means here."""
    if name not in DEVICES:
        raise InputError(f"unknown --device {name!r}; use one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: there is no CUDA device here; use --device cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
