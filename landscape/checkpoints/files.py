"""Checkpoint files: the own format, and what other people's programs write.

The own format is one dict of plain values and tensors, written with ``torch.save`` and read with
``weights_only=True``: ``format``, ``state_dict``, ``mask`` (parameter name -> bool tensor, or None), ``model``,
``model_args``, ``data``, ``normalize``, ``loss``, ``method``, ``level``, ``replicate``, ``epoch``, ``step``, ``seed``,
``versions``, and, where the trainer wrote it, ``options`` (JSON) and ``fingerprint``.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

import landscape
from landscape import loading, masks, store
from landscape.errors import InputError

FORMAT = "landscape-checkpoint-1"
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.")

_TEXTS = ("model", "data", "normalize", "loss", "method", "options", "fingerprint")
_NUMBERS = ("level", "replicate", "epoch", "step", "seed")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights of a network, and what is known about them (None where the file does not say).

    Attributes
    ----------
    state_dict
        Parameters and buffers by name; pruned weights are zero.
    mask
        Parameter name -> bool tensor, True where kept; None for a network that is not pruned.
    model, model_args
        Name of the network and the arguments of its factory.
    data, normalize, loss
        What it was trained on.
    method, level, replicate, epoch, step, seed
        Where in a study it belongs (``contracts``: words of the glossary).
    versions
        Versions of the programs that wrote it.
    options, fingerprint
        The training options as JSON, and the name of all that decided the tensors.
    sha256
        Of the file, when it was read from one.
    """

    state_dict: dict[str, Tensor]
    mask: dict[str, Tensor] | None = None
    model: str | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    data: str | None = None
    normalize: str | None = None
    loss: str | None = None
    method: str | None = None
    level: int | None = None
    replicate: int | None = None
    epoch: int | None = None
    step: int | None = None
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    options: str | None = None
    fingerprint: str | None = None
    sha256: str | None = None


def save(path: str | Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint in the own format, whole or not at all; what stands at ``path`` is replaced.

    Raises
    ------
    InputError
        If the path cannot be written.
    """
    content: dict[str, Any] = {"format": FORMAT}
    content |= {f.name: getattr(checkpoint, f.name) for f in fields(checkpoint) if f.name != "sha256"}
    content["state_dict"] = _detached(checkpoint.state_dict)
    content["mask"] = None if checkpoint.mask is None else {n: m.bool() for n, m in _detached(checkpoint.mask).items()}
    content["versions"] = {
        "landscape": landscape.__version__,
        "torch": version("torch"),
        "python": platform.python_version(),
    }
    with store.atomic_path(path) as temporary:
        torch.save(content, temporary)
    return Path(path)


def _detached(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors on the CPU, each with a storage of its own size (a view would drag its base along)."""
    return {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint of any known format without running code from it.

    Known are the own format; a state_dict, or a dict that holds one under ``state_dict``, ``model_state_dict``,
    ``model`` or ``net``, with or without the prefixes ``module.`` and ``_orig_mod.``; state_dicts of modules pruned
    with ``torch.nn.utils.prune``, whose mask is taken; and ``.safetensors`` files.

    Raises
    ------
    InputError
        If the file is missing, truncated, of no known format, damaged, or could run code; in the last case the message
        says how to convert it.
    """
    file = Path(path)
    if file.suffix == ".safetensors":
        content: Any = _safetensors(file)
    else:
        content = loading.torch_file(file)
    sha256 = store.file_sha256(file)
    if isinstance(content, Mapping) and "format" in content:
        return _own(content, file, sha256)
    state, mask = _foreign_state(content, file)
    return Checkpoint(state, mask, sha256=sha256)


def _safetensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f"there is no checkpoint {file}")
    try:
        return safetensors.torch.load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{file} is not a checkpoint: it is truncated or no safetensors file ({error})") from error


def _own(content: Mapping[str, Any], file: Path, sha256: str) -> Checkpoint:
    """Return a checkpoint of the own format after checking the type of every entry."""
    if content["format"] != FORMAT:
        raise InputError(f"{file} has the format {content['format']!r}; this version reads {FORMAT}")
    known = {f.name for f in fields(Checkpoint)} - {"sha256"}
    values = {name: value for name, value in content.items() if name in known}
    right = {
        "state_dict": _are_tensors(values.get("state_dict")),
        "mask": values.get("mask") is None or _are_tensors(values["mask"]),
        "model_args": _is_plain(values.get("model_args", {})),
        "versions": isinstance(values.get("versions", {}), dict),
    }
    right |= {name: isinstance(values.get(name), str | None) for name in _TEXTS}
    right |= {name: values.get(name) is None or type(values[name]) is int for name in _NUMBERS}
    damaged = [name for name, fine in right.items() if not fine]
    if damaged:
        raise InputError(f"{file} is damaged: its entry {damaged[0]!r} is missing or not what it should be")
    return Checkpoint(**values, sha256=sha256)


def _are_tensors(value: Any) -> bool:
    """Tell a dict of named tensors, with at least one."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(t, Tensor) for name, t in value.items())
    )


def _is_plain(value: Any) -> bool:
    """Tell a dict of plain arguments: text, numbers, and lists, tuples and dicts of them."""

    def plain(item: Any) -> bool:
        if isinstance(item, tuple | list):
            return all(map(plain, item))
        return isinstance(item, str | int | float | None) or _is_plain(item)

    return isinstance(value, dict) and all(isinstance(name, str) and plain(item) for name, item in value.items())


def _foreign_state(content: Any, file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Find the state_dict in what another program wrote, and the mask if there is one."""
    found, given = content, None
    if isinstance(content, Mapping) and not _are_tensors(content):
        inner = next((content[key] for key in WRAPPERS if _are_tensors(content.get(key))), None)
        if inner is None:
            keys = ", ".join(map(str, list(content)[:6])) or "none"
            raise InputError(f"{file} holds no state_dict: its keys are {keys}; save model.state_dict()")
        found, given = inner, content.get("mask")
    if not _are_tensors(found):
        raise InputError(f"{file} holds a {type(content).__name__}, not a state_dict; save model.state_dict()")
    state, mask = masks.from_pruned_modules(without_prefix(found))
    if given is not None and _are_tensors(given):
        mask = {**without_prefix(given), **mask}
    return state, mask or None


def without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the prefixes that wrappers (data parallel, compiled) put before every name."""
    names = {name: name for name in tensors}
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in names.values())), None):
        names = {old: name.removeprefix(prefix) for old, name in names.items()}
    return {names[old]: tensor for old, tensor in tensors.items()}
