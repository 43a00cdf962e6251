"""Pruning masks: read, validate, nest, kept fraction, flat index of the active coordinates.

A mask is parameter name -> bool tensor, True where a weight is kept; a parameter that it does not name is unpruned.
Which weights go is decided by :mod:`landscape.pruning.criteria`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import loading
from landscape.errors import InputError

Mask = dict[str, Tensor]


def read(path: str | Path) -> dict[str, Tensor]:
    """Read a mask file: a ``.pt`` of 0/1 tensors (or a checkpoint that holds a mask), or an ``.npz`` of 0/1 arrays.

    Neither can run code. The entries are as stored; :func:`validate` checks them against the parameters.

    Raises
    ------
    InputError
        If the file is missing, truncated, would run code, or holds something else than named arrays.
    """
    file = Path(path)
    if file.suffix == ".npz":
        return _read_npz(file)
    content = loading.torch_file(file, "mask")
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content.get("mask")
        if content is None:
            raise InputError(f"the checkpoint {file} holds no mask")
    if not isinstance(content, Mapping) or not content or not all(isinstance(m, Tensor) for m in content.values()):
        raise InputError(f"{file} is not a mask: it must hold a dict of parameter names and 0/1 tensors")
    return {str(name): m for name, m in content.items()}


def _read_npz(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f"there is no mask {file}")
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
            return {name: torch.from_numpy(content[name]) for name in content.files}
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file} is not a mask: it must be an .npz file of 0/1 arrays named like parameters"
        ) from error


def validate(mask: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> Mask:
    """Return the mask as bool tensors on the CPU, after checking it against the shapes of the parameters.

    Raises
    ------
    InputError
        If it names an unknown parameter, has another shape, holds anything but 0 and 1, or keeps no weight.
    """
    unknown = sorted(name for name in mask if name not in shapes)
    if unknown:
        raise InputError(f"the mask names {unknown[0]!r}, but the parameters are {', '.join(list(shapes)[:4])}, ...")
    valid: Mask = {}
    for name, values in mask.items():
        tensor = torch.as_tensor(values).detach().cpu()
        if tensor.shape != shapes[name]:
            raise InputError(
                f"the mask of {name} has the shape {tuple(tensor.shape)}, the parameter {tuple(shapes[name])}"
            )
        if tensor.dtype != torch.bool and not bool(((tensor == 0) | (tensor == 1)).all()):
            raise InputError(f"the mask of {name} holds values other than 0 and 1")
        valid[name] = tensor.bool()
    if valid and not any(bool(m.any()) for m in valid.values()):
        raise InputError("the mask is zero everywhere, so that no weight of the layers it names is left")
    return valid


def kept(mask: Mapping[str, Tensor] | None, shapes: Mapping[str, torch.Size]) -> float:
    """Return the fraction of the weights that is kept.

    Weights are the entries of the parameters with two or more axes, and of those that the mask names; biases and
    normalisation count only if they can be pruned.
    """
    mask = mask or {}
    total = sum(shape.numel() for name, shape in shapes.items() if len(shape) >= 2 or name in mask)
    removed = sum(int((~m.bool()).sum()) for m in mask.values())
    return 1.0 - removed / total if total else 1.0


def layer_counts(mask: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the number of kept weights of every parameter that the mask names."""
    return {name: int(m.sum()) for name, m in mask.items()}


def nests(inner: Mapping[str, Tensor] | None, outer: Mapping[str, Tensor] | None) -> bool:
    """Tell whether every weight that ``inner`` keeps is kept by ``outer`` too (None and missing names keep all)."""
    inner = inner or {}
    for name, m in (outer or {}).items():
        mine = inner.get(name, torch.ones_like(m))
        if bool((mine.bool() & ~m.bool()).any()):
            return False
    return True


def active_index(mask: Mapping[str, Tensor] | None, shapes: Mapping[str, torch.Size]) -> Tensor | None:
    """Return the flat positions of the kept coordinates.

    Parameters
    ----------
    shapes
        The parameters in their flat order: one after the other, each row by row.

    Returns
    -------
    Sorted int64 positions ``(n,)`` in the concatenated parameters, or None where the mask prunes nothing.
    """
    if not mask or all(bool(m.all()) for m in mask.values()):
        return None
    flags = [
        mask[name].reshape(-1).bool().cpu() if name in mask else torch.ones(shape.numel(), dtype=torch.bool)
        for name, shape in shapes.items()
    ]
    return torch.cat(flags).nonzero().squeeze(1)


def apply(tensors: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the tensors with every pruned entry exactly zero (also where it was infinite or NaN)."""
    mask = mask or {}
    return {
        name: t.masked_fill(~mask[name].to(t.device).bool(), 0) if name in mask else t for name, t in tensors.items()
    }


def from_pruned_modules(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Mask]:
    """Take apart a state_dict of modules that are pruned with ``torch.nn.utils.prune``.

    ``NAME_orig`` and ``NAME_mask`` become ``NAME = NAME_orig * NAME_mask`` and an entry of the mask; everything else is
    as it was. Without such pairs the mask is empty.
    """
    pruned = [name.removesuffix("_orig") for name in state if name.endswith("_orig")]
    pruned = [name for name in pruned if f"{name}_mask" in state]
    drop = {f"{name}{end}" for name in pruned for end in ("_orig", "_mask")}
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        base = name.removesuffix("_orig")
        if name not in drop:
            plain[name] = tensor
        elif name.endswith("_orig"):
            plain[base] = tensor * state[f"{base}_mask"].to(tensor.dtype)
    return plain, {name: state[f"{name}_mask"] for name in pruned}
